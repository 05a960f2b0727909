/** The frames that the model was shown, with their times; choosing one takes the video there. */

import type { ShownFrame } from "../protocol/types";
import type { Run } from "../run";
import { byId, make, setText } from "./dom";

/** The strip below the video. */
export class ShownFrames {
  readonly #block = byId("shown", HTMLElement);
  readonly #list = byId("shown-frames", HTMLOListElement);
  #key = "";
  #run: Run | null = null;

  constructor(onSeek: (media: number, time: number) => void) {
    this.#list.addEventListener("click", (event) => {
      const frame = this.#run?.shown[indexOf(event.target)];
      if (frame) onSeek(frame.media, frame.time);
    });
    this.#list.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
      const buttons = [...this.#list.querySelectorAll("button")];
      const at = indexOf(event.target);
      if (move === undefined || at === -1) return;
      event.preventDefault();
      const next = Math.min(buttons.length - 1, Math.max(0, at + move));
      buttons[next]?.focus();
      const frame = this.#run?.shown[next];
      if (frame) onSeek(frame.media, frame.time);
    });
  }

  /** Shows the frames of a run, if it has any. */
  render(run: Run | null): void {
    this.#run = run;
    const shown = run?.shown ?? [];
    this.#block.hidden = shown.length === 0;
    const key = `${run?.job.id} ${shown.length}`;
    if (key !== this.#key) {
      this.#key = key;
      this.#list.replaceChildren(...shown.map((_, index) => frameElement(timeOf(shown, index), index)));
      const count = shown.length === 1 ? "This frame was" : `These ${shown.length} frames were`;
      setText(byId("shown-title", HTMLElement), `${count} shown to the model. Choose one to see it in the video.`);
    }
    for (const { step, src } of run?.frames ?? []) {
      const button = this.#list.querySelector(`[data-index="${step - 1}"]`);
      if (!button || button.querySelector("img")) continue;
      const image = make("img", "");
      image.alt = "";
      image.addEventListener("load", () => image.classList.toggle("pixels", image.naturalWidth < 96));
      image.src = src;
      button.prepend(image);
    }
  }

  /** Marks the frame that is being played. */
  mark(media: number, time: number): void {
    const frames = this.#run?.shown ?? [];
    const at = frames.findLastIndex((frame) => frame.media === media && frame.time <= time + 0.02);
    this.#list.querySelectorAll("button").forEach((button, index) => {
      if (index === at) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    });
  }
}

/** Minutes and seconds, as the model is told them; where these would be alike, the seconds more precisely. */
function timeOf(shown: readonly ShownFrame[], index: number): string {
  const frame = shown[index];
  if (!frame) return "";
  const alike = shown.filter(({ media, timestamp }) => media === frame.media && timestamp === frame.timestamp);
  const precise = alike.length > 1 || shown.every(({ time }) => time < 10);
  return precise ? `${frame.time.toFixed(1)} s` : frame.timestamp;
}

function frameElement(time: string, index: number): HTMLLIElement {
  const button = make("button", "frame", make("span", "frame-time", time));
  button.type = "button";
  button.dataset["index"] = String(index);
  button.ariaLabel = `Frame ${index + 1}, at ${time}`;
  button.tabIndex = index === 0 ? 0 : -1;
  return make("li", "", button);
}

function indexOf(target: EventTarget | null): number {
  const button = target instanceof Element ? target.closest<HTMLElement>("[data-index]") : null;
  return button ? Number(button.dataset["index"]) : -1;
}
