import { describe, expect, test } from "vitest";
import { cover, Mask, type Surface } from "./mask";

/** A surface that writes down what is drawn on it. */
class Recorder implements Surface {
  lineWidth = 0;
  lineCap: CanvasLineCap = "butt";
  lineJoin: CanvasLineJoin = "miter";
  strokeStyle = "";
  globalCompositeOperation: GlobalCompositeOperation = "source-over";
  readonly strokes: { path: number[][]; width: number; operation: string; colour: string }[] = [];
  #path: number[][] = [];

  beginPath(): void {
    this.#path = [];
  }
  moveTo(x: number, y: number): void {
    this.#path.push([x, y]);
  }
  lineTo(x: number, y: number): void {
    this.#path.push([x, y]);
  }
  stroke(): void {
    const { lineWidth: width, globalCompositeOperation: operation, strokeStyle: colour } = this;
    this.strokes.push({ path: this.#path, width, operation, colour });
  }
}

function painted(mask: Mask, width: number): Recorder["strokes"] {
  const recorder = new Recorder();
  mask.paint(recorder, width, "white");
  return recorder.strokes;
}

describe("a mask", () => {
  test("scales its strokes to the surface", () => {
    const mask = new Mask();
    mask.press({ x: 0.25, y: 0.5 }, 0.1, false);
    mask.drag({ x: 0.75, y: 0.5 });
    const path = [[16, 32], [48, 32]];
    expect(painted(mask, 64)).toEqual([{ path, width: 12.8, operation: "source-over", colour: "white" }]);
    expect(painted(mask, 512)[0]?.path).toEqual([[128, 256], [384, 256]]);
  });

  test("makes a dot of a single press", () => {
    const mask = new Mask();
    mask.press({ x: 0.5, y: 0.5 }, 0.1, false);
    expect(painted(mask, 10)[0]?.path).toEqual([[5, 5], [5, 5]]);
  });

  test("erases in the order of the strokes, and leaves the surface as it was", () => {
    const mask = new Mask();
    mask.press({ x: 0, y: 0 }, 0.1, false);
    mask.press({ x: 0, y: 0 }, 0.1, true);
    const recorder = new Recorder();
    mask.paint(recorder, 10, "white");
    expect(recorder.strokes.map((stroke) => stroke.operation)).toEqual(["source-over", "destination-out"]);
    expect(recorder.globalCompositeOperation).toBe("source-over");
  });

  test("is empty until something is painted, and again after taking it back", () => {
    const mask = new Mask();
    expect(mask.empty).toBe(true);
    mask.press({ x: 0, y: 0 }, 0.1, true);
    expect(mask.empty).toBe(true);
    mask.press({ x: 0, y: 0 }, 0.1, false);
    expect(mask.empty).toBe(false);
    mask.undo();
    expect(mask.empty).toBe(true);
    mask.press({ x: 0, y: 0 }, 0.1, false);
    mask.clear();
    expect(mask.empty).toBe(true);
  });
});

test.each([
  [[100, 50, 64, 64], { x: 25, y: 0, width: 50, height: 50 }],
  [[50, 100, 64, 64], { x: 0, y: 25, width: 50, height: 50 }],
  [[100, 100, 64, 32], { x: 0, y: 25, width: 100, height: 50 }],
  [[64, 64, 256, 256], { x: 0, y: 0, width: 64, height: 64 }],
] as const)("a picture and a frame of %j", ([width, height, frameWidth, frameHeight], part) => {
  expect(cover(width, height, frameWidth, frameHeight)).toEqual(part);
});
