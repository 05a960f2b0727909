/** The form for videos: prompt, first picture, options and the button. */

import { FILMS, surpriseFilm } from "../examples";
import { filmOf, nearestFrames } from "../film";
import type { Model, VideoOptions, VideoRequest } from "../protocol/types";
import { idempotencyKey, randomSeed } from "../request";
import type { State } from "../store";
import { byId, setText } from "./dom";
import { addChips, isSeed, listenForPictures, offerModels, submitOnEnter, summarize, wrongNumber } from "./form";

/** What the form does with what was typed. */
export interface DirectorActions {
  submit: (request: VideoRequest) => void;
  problem: (message: string | null) => void;
}

/** The left half of the page for videos. */
export class Director {
  readonly #form = byId("director", HTMLFormElement);
  readonly #prompt = byId("film-prompt", HTMLTextAreaElement);
  readonly #model = byId("film-model", HTMLSelectElement);
  readonly #frames = byId("film-frames", HTMLInputElement);
  readonly #fps = byId("film-fps", HTMLInputElement);
  readonly #steps = byId("film-steps", HTMLInputElement);
  readonly #guidance = byId("film-guidance", HTMLInputElement);
  readonly #seed = byId("film-seed", HTMLInputElement);
  readonly #negative = byId("film-negative", HTMLInputElement);
  readonly #strength = byId("film-strength", HTMLInputElement);
  readonly #drop = byId("film-drop", HTMLElement);
  readonly #file = byId("film-file", HTMLInputElement);
  readonly #first = byId("film-first", HTMLImageElement);
  readonly #go = byId("film-go", HTMLButtonElement);
  readonly #problem = byId("film-problem", HTMLElement);
  readonly #actions: DirectorActions;
  /** The first picture as a `data:` URL. */
  #image: string | null = null;
  #known: readonly Model[] = [];
  #models: readonly Model[] = [];

  constructor(actions: DirectorActions) {
    this.#actions = actions;
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.#form.addEventListener("input", () => this.#showSummary());
    submitOnEnter(this.#prompt, () => this.#submit());
    this.#model.addEventListener("change", () => this.#takeModel());
    this.#frames.addEventListener("change", () => this.#roundFrames());
    byId("film-surprise", HTMLButtonElement).addEventListener("click", () => {
      this.#prompt.value = surpriseFilm(Math.random);
    });
    byId("film-dice", HTMLButtonElement).addEventListener("click", () => {
      this.#seed.value = String(randomSeed());
      this.#showSummary();
    });
    this.#file.addEventListener("change", () => {
      const file = this.#file.files?.[0];
      if (file) void this.take(file);
      this.#file.value = "";
    });
    byId("film-first-remove", HTMLButtonElement).addEventListener("click", () => this.#show(null));
    listenForPictures(
      this.#form,
      this.#drop,
      () => this.#openStart(),
      (file) => void this.take(file),
      actions.problem,
    );
    addChips("film-examples", FILMS, this.#prompt);
    this.#show(null);
  }

  /** Shows the models, the state of the button and the last problem. */
  render(state: State): void {
    if (state.models !== this.#known) {
      this.#known = state.models;
      this.#showModels(state.models.filter((model) => model.tasks.includes("video")));
    }
    this.#go.disabled = state.submitting;
    setText(this.#go, state.submitting ? "Sending…" : "Make the video");
    this.#problem.hidden = state.problem === null || state.mode !== "video";
    setText(this.#problem, this.#problem.hidden ? "" : (state.problem ?? ""));
  }

  /** Fills the form with what a job was asked for, seed included. The first picture is left as it is. */
  fill(prompt: string, options: VideoOptions, model: string | null): void {
    this.#prompt.value = prompt;
    if (model !== null && this.#models.some((known) => known.name === model)) this.#model.value = model;
    this.#takeModel();
    for (const [field, value] of [
      [this.#frames, options.frames],
      [this.#fps, options.fps],
      [this.#steps, options.steps],
      [this.#guidance, options.guidance_scale],
      [this.#seed, options.seed],
    ] as const) {
      field.value = String(value ?? "");
    }
    this.#negative.value = options.negative_prompt ?? "";
    this.#showSummary();
    this.focus();
  }

  /** Takes the first picture. */
  async take(file: Blob): Promise<void> {
    try {
      (await createImageBitmap(file)).close();
      this.#show(await dataUrl(file));
      this.#actions.problem(null);
    } catch {
      this.#actions.problem("This file is not a picture that the browser can read: try a PNG, JPEG, WebP or GIF.");
    }
  }

  /** Puts the cursor into the prompt. */
  focus(): void {
    this.#prompt.focus();
  }

  #submit(): void {
    if (this.#go.disabled) return;
    const wrong = this.#wrongField();
    if (wrong !== null) {
      this.#actions.problem(wrong.message);
      wrong.field.focus();
      return;
    }
    const draft = {
      prompt: this.#prompt.value,
      negativePrompt: this.#negative.value,
      model: this.#model.value,
      frames: this.#frames.value,
      fps: this.#fps.value,
      steps: this.#steps.value,
      guidance: this.#guidance.value,
      seed: this.#seed.value,
      first: this.#image === null ? null : { image: this.#image, strength: Number(this.#strength.value) },
    };
    this.#actions.submit(filmOf(draft, randomSeed(), idempotencyKey()));
  }

  /** What the browser itself can see is wrong. Everything else is the server's to say. */
  #wrongField(): { field: HTMLElement; message: string } | null {
    if (this.#prompt.value.trim() === "") {
      return { field: this.#prompt, message: "Say first what the video should show." };
    }
    if (!isSeed(this.#seed.value)) {
      byId("film-options", HTMLDetailsElement).open = true;
      return { field: this.#seed, message: "The seed is a whole number; leave it empty for a new one each time." };
    }
    const wrong = wrongNumber([
      [this.#frames, "Frames"],
      [this.#fps, "Frames a second"],
      [this.#steps, "Steps"],
      [this.#guidance, "Guidance"],
    ]);
    if (wrong !== null) byId("film-options", HTMLDetailsElement).open = true;
    return wrong;
  }

  #showModels(models: readonly Model[]): void {
    this.#models = models;
    offerModels(this.#model, models);
    this.#takeModel();
  }

  /** The model's own settings are what an empty field means. */
  #takeModel(): void {
    const model = this.#models.find((known) => known.name === this.#model.value);
    this.#frames.placeholder = String(model?.video?.frames ?? "");
    this.#frames.step = String(model?.video?.frames_multiple_of ?? 8);
    this.#fps.placeholder = String(model?.video?.fps ?? "");
    this.#steps.placeholder = String(model?.steps ?? "");
    this.#guidance.placeholder = String(model?.guidance_scale ?? "");
    this.#showSummary();
  }

  /** A model makes a multiple, and one: what lies between is brought to the nearest. */
  #roundFrames(): void {
    const wanted = Number(this.#frames.value);
    if (this.#frames.value === "" || !Number.isFinite(wanted) || wanted < 1) return;
    this.#frames.value = String(nearestFrames(wanted, Number(this.#frames.step) || 1));
    this.#showSummary();
  }

  #showSummary(): void {
    const value = (field: HTMLInputElement) => field.value || field.placeholder;
    const frames = value(this.#frames);
    const seconds = Number(frames) / Number(value(this.#fps));
    const seed = this.#seed.value.trim();
    const parts = [
      frames === "" ? "" : `${frames} frames`,
      Number.isFinite(seconds) && seconds > 0 ? `${seconds.toFixed(1)} s` : "",
      value(this.#steps) === "" ? "" : `${value(this.#steps)} steps`,
      seed === "" ? "a new seed" : `seed ${seed}`,
    ];
    summarize("film-summary", parts);
    const strength = Math.round(Number(this.#strength.value) * 100);
    setText(byId("film-strength-value", HTMLOutputElement), `${strength} %`);
  }

  #show(image: string | null): void {
    this.#image = image;
    this.#drop.hidden = image !== null;
    byId("film-started", HTMLElement).hidden = image === null;
    if (image === null) this.#first.removeAttribute("src");
    else this.#first.src = image;
    setText(byId("film-start-summary", HTMLElement), image === null ? "optional" : "the first frame");
    if (image !== null) this.#openStart();
    this.#showSummary();
  }

  #openStart(): void {
    byId("film-start", HTMLDetailsElement).open = true;
  }
}

function dataUrl(file: Blob): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result));
    reader.onerror = () => reject(reader.error ?? new Error("the file cannot be read"));
    reader.readAsDataURL(file);
  });
}
