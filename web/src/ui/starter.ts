/** The picture to start from: chosen, dropped, pasted, or taken from the stage; cut to the shape that the model draws. */

import { cover } from "../mask";
import type { Start } from "../request";
import { byId, setText } from "./dom";
import { listenForPictures } from "./form";
import { Painter } from "./painter";

/** What is drawn where the model does not say its size. */
const SIDE = 256;
/** What the server takes when nothing is said, with and without a mask. */
const STRENGTH = { all: "0.5", part: "1" };

/** The "Start from a picture" part of the form. */
export class Starter {
  readonly #fold = byId("start", HTMLDetailsElement);
  readonly #drop = byId("drop", HTMLElement);
  readonly #started = byId("started", HTMLElement);
  readonly #canvas = byId("start-canvas", HTMLCanvasElement);
  readonly #maskCanvas = byId("mask-canvas", HTMLCanvasElement);
  readonly #tools = byId("mask-tools", HTMLElement);
  readonly #strength = byId("strength", HTMLInputElement);
  readonly #file = byId("start-file", HTMLInputElement);
  readonly #painter = new Painter(() => this.#show());
  readonly #onProblem: (message: string | null) => void;
  #picture: ImageBitmap | null = null;
  #width = SIDE;
  #height = SIDE;

  constructor(onProblem: (message: string | null) => void) {
    this.#onProblem = onProblem;
    this.#file.addEventListener("change", () => {
      const [file] = this.#file.files ?? [];
      if (file) void this.take(file);
      this.#file.value = "";
    });
    byId("start-remove", HTMLButtonElement).addEventListener("click", () => {
      this.remove();
      this.#file.focus();
    });
    for (const radio of document.querySelectorAll<HTMLInputElement>('input[name="change"]')) {
      radio.addEventListener("change", () => {
        this.#strength.value = STRENGTH[this.#part ? "part" : "all"];
        this.#show();
      });
    }
    this.#strength.addEventListener("input", () => this.#show());
    listenForPictures(
      byId("composer", HTMLFormElement),
      this.#drop,
      () => (this.#fold.open = true),
      (file) => void this.take(file),
      onProblem,
    );
    this.#show();
  }

  /** Takes the size that the model draws. */
  setSize(width: number | null, height: number | null): void {
    if ((width ?? SIDE) === this.#width && (height ?? SIDE) === this.#height) return;
    this.#width = width ?? SIDE;
    this.#height = height ?? SIDE;
    this.#show();
  }

  /** Takes a picture file. */
  async take(file: Blob): Promise<void> {
    try {
      const picture = await createImageBitmap(file);
      this.#picture?.close();
      this.#picture = picture;
      this.#painter.clear();
      this.#onProblem(null);
    } catch {
      this.#onProblem("This file is not a picture that the browser can read: try a PNG, JPEG, WebP or GIF.");
    }
    this.#fold.open = true;
    this.#show();
  }

  /** Starts from nothing again. */
  remove(): void {
    this.#picture?.close();
    this.#picture = null;
    this.#painter.clear();
    this.#show();
  }

  /** What the job starts from, if anything. Says what is missing by throwing. */
  start(): Start | null {
    if (!this.#picture) return null;
    if (this.#part && this.#painter.empty) {
      throw new Error("Paint over the part of the picture that should be drawn anew, or choose “Change all of it”.");
    }
    return {
      image: this.#canvas.toDataURL("image/png"),
      mask: this.#part ? this.#painter.file(this.#width, this.#height) : null,
      strength: Number(this.#strength.value),
    };
  }

  get #part(): boolean {
    return document.querySelector<HTMLInputElement>('input[name="change"]:checked')?.value === "part";
  }

  #show(): void {
    const picture = this.#picture;
    this.#drop.hidden = picture !== null;
    this.#started.hidden = picture === null;
    this.#tools.hidden = this.#maskCanvas.hidden = !this.#part;
    setText(byId("strength-value", HTMLOutputElement), `${Math.round(Number(this.#strength.value) * 100)} %`);
    setText(byId("start-summary", HTMLElement), this.#summary());
    if (!picture) return;

    const [width, height] = [this.#width, this.#height];
    if (this.#canvas.width !== width || this.#canvas.height !== height) this.#painter.fit(width, height);
    this.#canvas.width = width;
    this.#canvas.height = height;
    this.#canvas.classList.toggle("pixels", width < 192);
    const surface = this.#canvas.getContext("2d");
    if (!surface) return;
    surface.imageSmoothingQuality = "high";
    const part = cover(picture.width, picture.height, width, height);
    surface.drawImage(picture, part.x, part.y, part.width, part.height, 0, 0, width, height);
  }

  #summary(): string {
    if (!this.#picture) return "optional";
    if (!this.#part) return "change all of it";
    return this.#painter.empty ? "repaint a part: not painted yet" : "repaint a part";
  }
}
