import { expect, test } from "vitest";
import { filmOf, nearestFrames } from "./film";

const DRAFT = {
  prompt: " a star ",
  negativePrompt: "",
  model: "",
  frames: "",
  fps: "",
  steps: "",
  guidance: "",
  seed: "",
  first: null,
};

test("an empty field is the model's own, and a seed is always sent", () => {
  expect(filmOf(DRAFT, 5, "k")).toEqual({
    kind: "video",
    model: null,
    prompt: "a star",
    options: { seed: 5 },
    idempotency_key: "k",
  });
});

test("what was filled in is sent, the first picture with its strength", () => {
  const draft = { ...DRAFT, frames: "17", fps: "8", steps: "4", guidance: "3.5", seed: "0", negativePrompt: "blur", model: "m" };
  const request = filmOf({ ...draft, first: { image: "data:x", strength: 0.5 } }, 5, "k");
  expect(request.options).toEqual({
    frames: 17,
    fps: 8,
    steps: 4,
    guidance_scale: 3.5,
    seed: 0,
    negative_prompt: "blur",
    strength: 0.5,
  });
  expect([request.image, request.model]).toEqual(["data:x", "m"]);
});

test("numbers of frames are brought to those that a model makes", () => {
  expect([1, 2, 5, 8, 9, 16, 24].map((frames) => nearestFrames(frames, 8))).toEqual([1, 1, 9, 9, 9, 17, 25]);
  expect(nearestFrames(7, 1)).toBe(7);
});
