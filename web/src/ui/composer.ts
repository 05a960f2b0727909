/** The form: prompt, examples, options and the button. */

import { EXAMPLES, surprise } from "../examples";
import type { ImageOptions, JobRequest, Model } from "../protocol/types";
import { idempotencyKey, randomSeed, requestOf } from "../request";
import type { State } from "../store";
import { byId, setText } from "./dom";
import { addChips, isSeed, offerModels, submitOnEnter, summarize, wrongNumber } from "./form";
import { Starter } from "./starter";

/** What the form does with what was typed. */
export interface ComposerActions {
  submit: (request: JobRequest) => void;
  problem: (message: string | null) => void;
}

/** The form and what it holds. */
export class Composer {
  readonly starter: Starter;
  readonly #form = byId("composer", HTMLFormElement);
  readonly #prompt = byId("prompt", HTMLTextAreaElement);
  readonly #model = byId("model", HTMLSelectElement);
  readonly #steps = byId("steps", HTMLInputElement);
  readonly #guidance = byId("guidance", HTMLInputElement);
  readonly #seed = byId("seed", HTMLInputElement);
  readonly #negative = byId("negative", HTMLInputElement);
  readonly #draw = byId("draw", HTMLButtonElement);
  readonly #problem = byId("problem", HTMLElement);
  readonly #actions: ComposerActions;
  #models: readonly Model[] = [];
  #known: readonly Model[] = [];

  constructor(actions: ComposerActions) {
    this.#actions = actions;
    this.starter = new Starter(actions.problem);
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.#form.addEventListener("input", () => this.#showSummary());
    submitOnEnter(this.#prompt, () => this.#submit());
    this.#model.addEventListener("change", () => this.#takeModel());
    byId("surprise", HTMLButtonElement).addEventListener("click", () => {
      this.#prompt.value = surprise(Math.random);
    });
    byId("dice", HTMLButtonElement).addEventListener("click", () => {
      this.#seed.value = String(randomSeed());
      this.#showSummary();
    });
    addChips("examples", EXAMPLES, this.#prompt);
    this.#showSummary();
  }

  /** Shows the models, the state of the button and the last problem. */
  render(state: State): void {
    if (state.models !== this.#known) {
      this.#known = state.models;
      this.#showModels(state.models.filter((model) => model.tasks.includes("image")));
    }
    this.#draw.disabled = state.submitting;
    setText(this.#draw, state.submitting ? "Sending…" : "Draw");
    this.#problem.hidden = state.problem === null || state.mode !== "draw";
    setText(this.#problem, this.#problem.hidden ? "" : (state.problem ?? ""));
  }

  /** Fills the form with what a job was asked for, seed included. The starting picture is left as it is. */
  fill(prompt: string, options: ImageOptions, model: string | null): void {
    this.#prompt.value = prompt;
    if (model !== null && this.#models.some((known) => known.name === model)) this.#model.value = model;
    this.#takeModel();
    this.#steps.value = String(options.steps ?? this.#steps.value);
    this.#guidance.value = String(options.guidance_scale ?? this.#guidance.value);
    this.#seed.value = String(options.seed ?? "");
    this.#negative.value = options.negative_prompt ?? "";
    this.#showSummary();
    this.focus();
  }

  /** Puts the cursor into the prompt. */
  focus(): void {
    this.#prompt.focus();
  }

  #submit(): void {
    if (this.#draw.disabled) return;
    const wrong = this.#wrongField();
    if (wrong !== null) {
      this.#actions.problem(wrong.message);
      wrong.field.focus();
      return;
    }
    try {
      const draft = {
        prompt: this.#prompt.value,
        negativePrompt: this.#negative.value,
        model: this.#model.value,
        steps: this.#steps.value,
        guidance: this.#guidance.value,
        seed: this.#seed.value,
        start: this.starter.start(),
      };
      this.#actions.submit(requestOf(draft, randomSeed(), idempotencyKey()));
    } catch (error) {
      this.#actions.problem(error instanceof Error ? error.message : String(error));
    }
  }

  /** What the browser itself can see is wrong. Everything else is the server's to say. */
  #wrongField(): { field: HTMLElement; message: string } | null {
    const says = (field: HTMLInputElement | HTMLTextAreaElement, message: string) => ({ field, message });
    if (this.#prompt.value.trim() === "") return says(this.#prompt, "Say first what the picture should show.");
    if (!isSeed(this.#seed.value)) {
      this.#openOptions();
      return says(this.#seed, "The seed is a whole number; leave it empty for a new one each time.");
    }
    const wrong = wrongNumber([
      [this.#steps, "Steps"],
      [this.#guidance, "Guidance"],
    ]);
    if (wrong !== null) this.#openOptions();
    return wrong;
  }

  #openOptions(): void {
    byId("options", HTMLDetailsElement).open = true;
  }

  #showModels(models: readonly Model[]): void {
    this.#models = models;
    offerModels(this.#model, models);
    this.#takeModel();
  }

  /** The model's own settings are what an empty field means, and the size that a starting picture is cut to. */
  #takeModel(): void {
    const model = this.#models.find((known) => known.name === this.#model.value);
    this.#steps.placeholder = String(model?.steps ?? 12);
    this.#guidance.placeholder = String(model?.guidance_scale ?? 4);
    this.starter.setSize(model?.width ?? null, model?.height ?? null);
    this.#showSummary();
  }

  #showSummary(): void {
    const steps = this.#steps.value || this.#steps.placeholder || "12";
    const seed = this.#seed.value.trim();
    const parts = [`${steps} steps`, seed === "" ? "a new seed" : `seed ${seed}`];
    if (this.#models.length > 1) parts.unshift(this.#model.value);
    summarize("options-summary", parts);
  }
}
