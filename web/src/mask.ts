/**
 * The mask of an inpainting job as the strokes that made it. Positions and sizes are fractions of the picture's width,
 * so the same strokes are drawn on the screen and, at the model's size, into the file that is sent.
 */

/** A point of a stroke: fractions of the picture's width, from its top left corner. */
export interface Point {
  x: number;
  y: number;
}

/** One press of the brush. */
export interface Stroke {
  points: Point[];
  radius: number;
  /** Takes away what earlier strokes painted. */
  erase: boolean;
}

/** What of a canvas the mask needs, so that it can be tested without one. */
export type Surface = Pick<
  CanvasRenderingContext2D,
  | "beginPath"
  | "moveTo"
  | "lineTo"
  | "stroke"
  | "lineWidth"
  | "lineCap"
  | "lineJoin"
  | "strokeStyle"
  | "globalCompositeOperation"
>;

/** The strokes so far. */
export class Mask {
  #strokes: Stroke[] = [];

  /** True when nothing would be drawn anew. Erasing alone paints nothing. */
  get empty(): boolean {
    return this.#strokes.every((stroke) => stroke.erase);
  }

  /** Starts a stroke. */
  press(point: Point, radius: number, erase: boolean): void {
    this.#strokes.push({ points: [point], radius, erase });
  }

  /** Draws the stroke on. */
  drag(point: Point): void {
    this.#strokes.at(-1)?.points.push(point);
  }

  /** Takes the last stroke back. */
  undo(): void {
    this.#strokes.pop();
  }

  /** Takes everything back. */
  clear(): void {
    this.#strokes = [];
  }

  /** Paints the strokes in one colour onto a clear surface that is `width` pixels wide. */
  paint(surface: Surface, width: number, colour: string): void {
    surface.lineCap = "round";
    surface.lineJoin = "round";
    surface.strokeStyle = colour;
    for (const { points, radius, erase } of this.#strokes) {
      const [first, ...rest] = points;
      if (!first) continue;
      surface.globalCompositeOperation = erase ? "destination-out" : "source-over";
      surface.lineWidth = 2 * radius * width;
      surface.beginPath();
      surface.moveTo(first.x * width, first.y * width);
      // A line to where it is makes the dot of a single press.
      if (rest.length === 0) surface.lineTo(first.x * width, first.y * width);
      for (const { x, y } of rest) surface.lineTo(x * width, y * width);
      surface.stroke();
    }
    surface.globalCompositeOperation = "source-over";
  }
}

/** The part of a picture that fills a frame of another shape, centred: what is cut off is outside. */
export function cover(
  width: number,
  height: number,
  frameWidth: number,
  frameHeight: number,
): { x: number; y: number; width: number; height: number } {
  const scale = Math.min(width / frameWidth, height / frameHeight);
  const part = { width: frameWidth * scale, height: frameHeight * scale };
  return { ...part, x: (width - part.width) / 2, y: (height - part.height) / 2 };
}
