/** The form for questions: what they are about, the question itself, and how it is answered. */

import { questionOf } from "../ask";
import type { Model, UnderstandRequest } from "../protocol/types";
import { idempotencyKey, randomSeed } from "../request";
import { QUESTIONS, SAMPLES, type Sample } from "../samples";
import type { Chosen, State } from "../store";
import { size } from "../words";
import { byId, make, setText } from "./dom";
import { addChips, offerModels, submitOnEnter, summarize } from "./form";

/** What the form does with what was chosen and typed. */
export interface AskerActions {
  ask: (request: UnderstandRequest, chosen: readonly Chosen[]) => void;
  choose: (chosen: readonly Chosen[]) => void;
  stopSending: () => void;
  problem: (message: string | null) => void;
}

/** Formats that browsers give no type for. */
const VIDEO_NAMES = /\.(mkv|avi|mov|m4v|mp4|webm|ts|mts|wmv|flv|ogv|mpg|mpeg|3gp)$/i;

/** The left half of the page for questions. */
export class Asker {
  readonly #form = byId("asker", HTMLFormElement);
  readonly #drop = byId("media-drop", HTMLElement);
  readonly #file = byId("media-file", HTMLInputElement);
  readonly #list = byId("chosen", HTMLUListElement);
  readonly #question = byId("question", HTMLTextAreaElement);
  readonly #model = byId("answer-model", HTMLSelectElement);
  readonly #frames = byId("answer-frames", HTMLInputElement);
  readonly #tokens = byId("answer-tokens", HTMLInputElement);
  readonly #temperature = byId("temperature", HTMLInputElement);
  readonly #ask = byId("ask", HTMLButtonElement);
  readonly #problem = byId("ask-problem", HTMLElement);
  readonly #base: URL;
  readonly #actions: AskerActions;
  #models: readonly Model[] = [];
  #chosen: readonly Chosen[] = [];
  #submitting = false;
  #sending = false;
  #shown = false;

  constructor(base: URL, actions: AskerActions) {
    this.#base = base;
    this.#actions = actions;
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#sending) actions.stopSending();
      else this.#submit();
    });
    this.#form.addEventListener("input", () => this.#showSummary());
    submitOnEnter(this.#question, () => this.#submit());
    this.#file.addEventListener("change", () => {
      this.#take([...(this.#file.files ?? [])]);
      this.#file.value = "";
    });
    this.#model.addEventListener("change", () => this.#takeModel());
    for (const area of [this.#form, byId("scene", HTMLElement)]) this.#listenForFiles(area);
    document.addEventListener("paste", (event) => {
      const files = [...(event.clipboardData?.files ?? [])];
      if (!this.#shown || files.length === 0) return;
      event.preventDefault();
      this.#take(files);
    });
    addChips("questions", QUESTIONS, this.#question);
    this.#showSamples();
    this.#showSummary();
  }

  /** Shows what was chosen, the models, the state of the button and the last problem. */
  render(state: State): void {
    this.#shown = state.mode === "understand";
    if (state.models !== this.#models) this.#showModels(state.models);
    if (state.chosen !== this.#chosen) this.#showChosen(state.chosen);
    this.#submitting = state.submitting;
    this.#sending = state.submitting && state.sent !== null;
    this.#ask.disabled = state.submitting && !this.#sending;
    this.#ask.classList.toggle("primary", !this.#sending);
    setText(this.#ask, this.#label(state));
    this.#problem.hidden = state.problem === null || !this.#shown;
    setText(this.#problem, this.#problem.hidden ? "" : (state.problem ?? ""));
  }

  /** Puts the cursor into the question. */
  focus(): void {
    this.#question.focus();
  }

  #label({ submitting, sent }: State): string {
    if (!submitting) return "Ask";
    if (sent === null) return "Asking…";
    return sent < 1 ? `Sending, ${Math.floor(sent * 100)} % · stop` : "Reading the file…";
  }

  #submit(): void {
    if (this.#submitting) return;
    if (this.#chosen.length === 0) {
      this.#actions.problem("Choose first the video or picture that you want to ask about.");
      this.#file.focus();
      return;
    }
    if (this.#question.value.trim() === "") {
      this.#actions.problem("Say first what you want to know.");
      this.#question.focus();
      return;
    }
    for (const [field, name] of [
      [this.#frames, "Frames"],
      [this.#tokens, "Tokens"],
    ] as const) {
      if (field.validity.valid) continue;
      byId("answer-options", HTMLDetailsElement).open = true;
      this.#actions.problem(`${name} is a whole number from ${field.min} to ${field.max}.`);
      field.focus();
      return;
    }
    const draft = {
      question: this.#question.value,
      model: this.#model.value,
      frames: this.#frames.value,
      tokens: this.#tokens.value,
      temperature: Number(this.#temperature.value),
    };
    this.#actions.ask(questionOf(draft, randomSeed(), idempotencyKey()), this.#chosen);
  }

  /** Takes files instead of those that were chosen before. */
  #take(files: readonly File[]): void {
    const chosen: Chosen[] = [];
    for (const file of files) {
      const kind = kindOf(file);
      if (!kind) {
        for (const { url } of chosen) URL.revokeObjectURL(url);
        this.#actions.problem(`${file.name} is neither a video nor a picture.`);
        return;
      }
      chosen.push({ file, kind, url: URL.createObjectURL(file) });
    }
    if (chosen.length === 0) return;
    this.#actions.problem(null);
    this.#choose(chosen);
  }

  #choose(chosen: readonly Chosen[]): void {
    for (const old of this.#chosen) if (!chosen.includes(old)) URL.revokeObjectURL(old.url);
    this.#actions.choose(chosen);
  }

  #showChosen(chosen: readonly Chosen[]): void {
    this.#chosen = chosen;
    byId("samples-block", HTMLElement).hidden = chosen.length > 0;
    this.#drop.classList.toggle("slim", chosen.length > 0);
    const items = chosen.map((one) => {
      const icon = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      icon.classList.add("icon");
      icon.setAttribute("aria-hidden", "true");
      const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
      use.setAttribute("href", one.kind === "video" ? "#icon-film" : "#icon-picture");
      icon.append(use);
      const remove = make("button", "quiet square", "×");
      remove.type = "button";
      remove.ariaLabel = `Remove ${one.file.name}`;
      remove.addEventListener("click", () => {
        this.#choose(this.#chosen.filter((other) => other !== one));
        this.#file.focus();
      });
      const name = make("span", "chosen-name", one.file.name || "pasted picture");
      return make("li", "", icon, name, make("span", "hint", size(one.file.size)), remove);
    });
    this.#list.replaceChildren(...items);
  }

  #showSamples(): void {
    const samples = SAMPLES.map((sample) => {
      const clip = make("video", "");
      Object.assign(clip, { src: new URL(sample.path, this.#base).href, muted: true, loop: true, playsInline: true });
      clip.preload = "metadata";
      clip.ariaHidden = "true";
      const button = make("button", "sample", clip, make("span", "", sample.name));
      button.type = "button";
      // Shown moving only to whoever is about to take it.
      const play = () => void clip.play().catch(() => undefined);
      for (const name of ["pointerenter", "focus"]) button.addEventListener(name, play);
      for (const name of ["pointerleave", "blur"]) button.addEventListener(name, () => clip.pause());
      button.addEventListener("click", () => void this.#takeSample(sample));
      return button;
    });
    byId("samples", HTMLElement).append(...samples);
  }

  async #takeSample(sample: Sample): Promise<void> {
    try {
      const response = await fetch(new URL(sample.path, this.#base));
      if (!response.ok) throw new Error();
      const bytes = await response.blob();
      this.#take([new File([bytes], sample.path.replace(/^.*\//, ""), { type: "video/mp4" })]);
      if (this.#question.value.trim() === "") this.#question.value = QUESTIONS[0] ?? "";
      this.focus();
    } catch {
      this.#actions.problem("The sample clip could not be fetched.");
    }
  }

  #showModels(models: readonly Model[]): void {
    offerModels(this.#model, models.filter((model) => model.understand !== null));
    this.#models = models;
    this.#takeModel();
  }

  /** The model's own settings are what an empty field means. */
  #takeModel(): void {
    const model = this.#models.find((known) => known.name === this.#model.value);
    this.#frames.placeholder = String(model?.understand?.frames ?? "");
    this.#tokens.placeholder = String(model?.understand?.max_tokens ?? "");
    this.#showSummary();
  }

  #showSummary(): void {
    const temperature = Number(this.#temperature.value);
    setText(byId("temperature-value", HTMLOutputElement), temperature === 0 ? "0, the likeliest" : temperature.toFixed(1));
    const frames = this.#frames.value || this.#frames.placeholder;
    const parts = [frames === "" ? "" : `up to ${frames} frames`, temperature > 0 ? `temperature ${temperature}` : ""];
    summarize("answer-summary", parts);
  }

  #listenForFiles(area: HTMLElement): void {
    area.addEventListener("dragover", (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      this.#drop.classList.add("hot");
    });
    area.addEventListener("dragleave", () => this.#drop.classList.remove("hot"));
    area.addEventListener("drop", (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      this.#drop.classList.remove("hot");
      this.#take([...event.dataTransfer.files]);
    });
  }
}

function kindOf(file: File): Chosen["kind"] | null {
  if (file.type.startsWith("video/") || VIDEO_NAMES.test(file.name)) return "video";
  return file.type.startsWith("image/") ? "image" : null;
}
