/** One frame for each step of the drawing; choosing a frame shows it on the easel. */

import { totalSteps, type Frame, type Run } from "../run";
import { isOver } from "../protocol/types";
import { make } from "./dom";

/** The row of frames below the picture. */
export class Filmstrip {
  readonly #list: HTMLOListElement;
  readonly #onLook: (step: number | null) => void;
  #job = "";
  #looking: number | null = null;

  constructor(list: HTMLOListElement, onLook: (step: number | null) => void) {
    this.#list = list;
    this.#onLook = onLook;
    this.#list.addEventListener("click", (event) => {
      const step = stepOf(event.target);
      // Choosing the chosen frame goes back to following the newest.
      if (step !== null) onLook(step === this.#looking ? null : step);
    });
    this.#list.addEventListener("keydown", (event) => this.#onKey(event));
  }

  /** Shows the frames of a run, or nothing. */
  render(run: Run | null, frames: readonly Frame[], looking: number | null): void {
    const empty = run === null || (frames.length === 0 && isOver(run.job.state));
    this.#list.hidden = empty;
    this.#looking = looking;
    if (empty) return;
    const total = totalSteps(run);
    if (run.job.id !== this.#job || this.#list.children.length !== total) {
      this.#job = run.job.id;
      this.#list.replaceChildren(...Array.from({ length: total }, (_, index) => frameElement(index + 1)));
      this.#list.classList.toggle("many", total > 16);
    }

    const running = run.job.state === "running";
    const over = isOver(run.job.state);
    const newest = frames.at(-1)?.step ?? 0;
    const shown = looking ?? newest;
    const sources = new Map(frames.map((frame) => [frame.step, frame.src]));
    for (const button of this.#list.querySelectorAll("button")) {
      const step = stepOf(button) ?? 0;
      const src = sources.get(step);
      showPicture(button, src);
      // A server in a hurry leaves previews out; nothing will come into their places any more.
      if (button.parentElement) button.parentElement.hidden = over && src === undefined;
      button.disabled = src === undefined;
      button.tabIndex = step === shown ? 0 : -1;
      button.setAttribute("aria-pressed", String(step === looking));
      button.classList.toggle("next", running && step === newest + 1);
      button.classList.toggle("shown", step === shown && src !== undefined);
    }
  }

  #onKey(event: KeyboardEvent): void {
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    const step = stepOf(event.target);
    if (move === undefined || step === null) return;
    event.preventDefault();
    const buttons = [...this.#list.querySelectorAll<HTMLButtonElement>("button:enabled")];
    const at = buttons.findIndex((button) => stepOf(button) === step);
    const next = buttons[Math.min(buttons.length - 1, Math.max(0, at + move))];
    next?.focus();
    this.#onLook(stepOf(next ?? null));
  }
}

function frameElement(step: number): HTMLLIElement {
  const number = make("span", "frame-number", String(step));
  number.ariaHidden = "true";
  const button = make("button", "frame", number);
  button.type = "button";
  button.dataset["step"] = String(step);
  button.ariaLabel = `Step ${step}`;
  return make("li", "", button);
}

/** Gives the frame its picture, changes it, or takes it away when an attempt starts anew. */
function showPicture(button: HTMLButtonElement, src: string | undefined): void {
  const old = button.querySelector("img");
  if (src === undefined) {
    old?.remove();
  } else if (!old) {
    const image = make("img", "pixels");
    image.alt = "";
    image.src = src;
    button.append(image);
  } else if (old.src !== src) {
    old.src = src;
  }
}

function stepOf(target: EventTarget | null): number | null {
  const button = target instanceof Element ? target.closest<HTMLElement>("[data-step]") : null;
  return button ? Number(button.dataset["step"]) : null;
}
