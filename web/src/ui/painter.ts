/** The canvas over the starting picture on which the mask is painted, by pointer or by keyboard. */

import { Mask, type Point } from "../mask";
import { byId } from "./dom";

/** The width of the painted canvas in pixels, whatever the size of the picture. */
const WIDTH = 512;
/** How far an arrow key moves the brush, as a fraction of the width. */
const NUDGE = 0.04;

const ARROWS: Record<string, Point> = {
  ArrowLeft: { x: -NUDGE, y: 0 },
  ArrowRight: { x: NUDGE, y: 0 },
  ArrowUp: { x: 0, y: -NUDGE },
  ArrowDown: { x: 0, y: NUDGE },
};

/** The mask and its tools. */
export class Painter {
  readonly #canvas = byId("mask-canvas", HTMLCanvasElement);
  readonly #brush = byId("brush", HTMLInputElement);
  readonly #erase = byId("erase", HTMLInputElement);
  readonly #mask = new Mask();
  readonly #onChange: () => void;
  /** Where the keyboard's brush is. */
  #cursor: Point = { x: 0.5, y: 0.5 };
  #pointer: number | null = null;

  constructor(onChange: () => void) {
    this.#onChange = onChange;
    const canvas = this.#canvas;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || this.#pointer !== null) return;
      event.preventDefault();
      this.#pointer = event.pointerId;
      canvas.setPointerCapture(event.pointerId);
      this.#press(this.#at(event));
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.pointerId !== this.#pointer) return;
      for (const each of event.getCoalescedEvents?.() ?? [event]) this.#mask.drag(this.#at(each));
      this.#draw();
    });
    for (const end of ["pointerup", "pointercancel"] as const) {
      canvas.addEventListener(end, (event) => {
        if (event.pointerId === this.#pointer) this.#pointer = null;
      });
    }
    canvas.addEventListener("keydown", (event) => this.#onKey(event));
    for (const name of ["focus", "blur"] as const) canvas.addEventListener(name, () => this.#draw());
    this.#brush.addEventListener("input", () => this.#draw());
    byId("mask-undo", HTMLButtonElement).addEventListener("click", () => this.#edit(() => this.#mask.undo()));
    byId("mask-clear", HTMLButtonElement).addEventListener("click", () => this.clear());
  }

  /** True when nothing is painted. */
  get empty(): boolean {
    return this.#mask.empty;
  }

  /** Takes the shape of a picture. The strokes stay. */
  fit(width: number, height: number): void {
    this.#canvas.width = WIDTH;
    this.#canvas.height = Math.round((WIDTH * height) / width);
    this.#draw();
  }

  /** Takes every stroke back. */
  clear(): void {
    this.#edit(() => this.#mask.clear());
  }

  /** The mask as a PNG file of the given size: white is drawn anew, black is kept. */
  file(width: number, height: number): string {
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = height;
    const surface = canvas.getContext("2d");
    if (!surface) throw new Error("This browser cannot draw on a canvas.");
    this.#mask.paint(surface, width, "#fff");
    surface.globalCompositeOperation = "destination-over";
    surface.fillStyle = "#000";
    surface.fillRect(0, 0, width, height);
    return canvas.toDataURL("image/png");
  }

  #edit(change: () => void): void {
    change();
    this.#draw();
    this.#onChange();
  }

  #press(point: Point): void {
    this.#cursor = point;
    this.#edit(() => this.#mask.press(point, this.#radius, this.#erase.checked));
  }

  #onKey(event: KeyboardEvent): void {
    const step = ARROWS[event.key];
    if (step) {
      const height = this.#canvas.height / this.#canvas.width;
      const clamp = (value: number, most: number) => Math.min(most, Math.max(0, value));
      this.#cursor = { x: clamp(this.#cursor.x + step.x, 1), y: clamp(this.#cursor.y + step.y, height) };
      this.#draw();
    } else if (event.key === " ") {
      this.#press(this.#cursor);
    } else {
      return;
    }
    event.preventDefault();
  }

  get #radius(): number {
    return Number(this.#brush.value) / 100;
  }

  #at(event: PointerEvent): Point {
    const box = this.#canvas.getBoundingClientRect();
    return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.width };
  }

  #draw(): void {
    const surface = this.#canvas.getContext("2d");
    if (!surface) return;
    surface.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
    this.#mask.paint(surface, WIDTH, "#ff5a3c");
    if (!this.#canvas.matches(":focus-visible")) return;
    surface.lineWidth = 3;
    surface.strokeStyle = "#fff";
    surface.beginPath();
    surface.arc(this.#cursor.x * WIDTH, this.#cursor.y * WIDTH, this.#radius * WIDTH, 0, 2 * Math.PI);
    surface.stroke();
  }
}
