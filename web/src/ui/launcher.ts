/** The form for pipelines: a clip, and what is asked about it. */

import { pipelineOf } from "../ask";
import type { PipelineRequest } from "../protocol/types";
import { idempotencyKey, randomSeed } from "../request";
import { SAMPLES, type Sample } from "../samples";
import type { Chosen, State } from "../store";
import { byId, make, setText } from "./dom";

/** What the form does with what was chosen. */
export interface LauncherActions {
  launch: (request: PipelineRequest, chosen: readonly Chosen[]) => void;
  choose: (chosen: readonly Chosen[]) => void;
  stopSending: () => void;
  problem: (message: string | null) => void;
}

/** The top of the page for pipelines. */
export class Launcher {
  readonly #form = byId("launcher", HTMLFormElement);
  readonly #drop = byId("flow-drop", HTMLElement);
  readonly #file = byId("flow-file", HTMLInputElement);
  readonly #question = byId("flow-question", HTMLInputElement);
  readonly #go = byId("flow-go", HTMLButtonElement);
  readonly #problem = byId("flow-problem", HTMLElement);
  readonly #base: URL;
  readonly #actions: LauncherActions;
  #chosen: readonly Chosen[] = [];
  #submitting = false;
  #sending = false;

  constructor(base: URL, actions: LauncherActions) {
    this.#base = base;
    this.#actions = actions;
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#sending) actions.stopSending();
      else this.#launch();
    });
    this.#file.addEventListener("change", () => {
      const file = this.#file.files?.[0];
      if (file) this.#take(file);
      this.#file.value = "";
    });
    for (const area of [this.#form, byId("legs", HTMLElement)]) this.#listenForFiles(area);
    document.addEventListener("paste", (event) => {
      const file = event.clipboardData?.files[0];
      if (!file || this.#form.offsetParent === null) return;
      event.preventDefault();
      this.#take(file);
    });
    byId("flow-samples", HTMLElement).append(...SAMPLES.map((sample) => this.#sample(sample)));
  }

  /** Shows what was chosen, the state of the button and the last problem. */
  render(state: State): void {
    this.#chosen = state.chosen;
    this.#submitting = state.submitting;
    this.#sending = state.submitting && state.sent !== null;
    const [first] = state.chosen;
    setText(byId("flow-chosen", HTMLElement), first ? first.file.name || "pasted picture" : "Choose a clip");
    byId("flow-or", HTMLElement).hidden = first !== undefined;
    this.#drop.classList.toggle("taken", first !== undefined);
    this.#go.disabled = state.submitting && !this.#sending;
    this.#go.classList.toggle("primary", !this.#sending);
    setText(this.#go, this.#label(state));
    this.#problem.hidden = state.problem === null || state.mode !== "pipeline";
    setText(this.#problem, this.#problem.hidden ? "" : (state.problem ?? ""));
  }

  /** Puts the cursor to where a clip is chosen. */
  focus(): void {
    this.#file.focus({ preventScroll: true });
  }

  #label({ submitting, sent }: State): string {
    if (!submitting) return "Run";
    if (sent === null) return "Starting…";
    return sent < 1 ? `Sending, ${Math.floor(sent * 100)} % · stop` : "Reading…";
  }

  #launch(): void {
    if (this.#submitting) return;
    if (this.#chosen.length === 0) {
      this.#actions.problem("Choose first the clip that it begins with.");
      this.#file.focus();
      return;
    }
    this.#actions.launch(pipelineOf(this.#question.value, randomSeed(), idempotencyKey()), this.#chosen);
  }

  #take(file: File): void {
    const kind = file.type.startsWith("image/") ? "image" : "video";
    for (const { url } of this.#chosen) URL.revokeObjectURL(url);
    this.#actions.problem(null);
    this.#actions.choose([{ file, kind, url: URL.createObjectURL(file) }]);
  }

  #sample(sample: Sample): HTMLButtonElement {
    const button = make("button", "chip", sample.name);
    button.type = "button";
    button.addEventListener("click", () => void this.#takeSample(sample));
    return button;
  }

  async #takeSample(sample: Sample): Promise<void> {
    try {
      const response = await fetch(new URL(sample.path, this.#base));
      if (!response.ok) throw new Error();
      const name = sample.path.replace(/^.*\//, "");
      this.#take(new File([await response.blob()], name, { type: "video/mp4" }));
    } catch {
      this.#actions.problem("The sample clip could not be fetched.");
    }
  }

  #listenForFiles(area: HTMLElement): void {
    area.addEventListener("dragover", (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      this.#drop.classList.add("hot");
    });
    area.addEventListener("dragleave", () => this.#drop.classList.remove("hot"));
    area.addEventListener("drop", (event) => {
      const file = event.dataTransfer?.files[0];
      if (!file) return;
      event.preventDefault();
      this.#drop.classList.remove("hot");
      this.#take(file);
    });
  }
}
