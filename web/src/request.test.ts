import { expect, test } from "vitest";
import { job } from "./testing";
import { idempotencyKey, randomSeed, requestFrom, requestOf, reroll, type Draft } from "./request";

const DRAFT: Draft = {
  prompt: " a red circle ",
  negativePrompt: "",
  model: "",
  steps: "",
  guidance: "",
  seed: "",
  start: null,
};

test("an untouched form leaves everything but the seed to the server", () => {
  expect(requestOf(DRAFT, 42, "key")).toEqual({
    kind: "image",
    model: null,
    prompt: "a red circle",
    options: { seed: 42 },
    idempotency_key: "key",
  });
});

test("what was filled in is sent as numbers", () => {
  const draft = { ...DRAFT, model: "shapes", steps: "8", guidance: "2.5", seed: "0", negativePrompt: " blur " };
  expect(requestOf(draft, 42, "key")).toMatchObject({
    model: "shapes",
    options: { steps: 8, guidance_scale: 2.5, seed: 0, negative_prompt: "blur" },
  });
});

test("a starting picture brings its strength, and a mask only where one was painted", () => {
  const start = { image: "data:image/png;base64,AA", mask: null, strength: 0.5 };
  const whole = requestOf({ ...DRAFT, start }, 1, "key");
  expect(whole.image).toBe(start.image);
  expect(whole.options.strength).toBe(0.5);
  expect("mask" in whole).toBe(false);
  expect(requestOf({ ...DRAFT, start: { ...start, mask: "data:m" } }, 1, "key").mask).toBe("data:m");
});

test("a re-roll changes the seed and the key, and nothing else", () => {
  const first = requestOf({ ...DRAFT, steps: "8" }, 1, "a");
  expect(reroll(first, 2, "b")).toEqual({ ...first, options: { ...first.options, seed: 2 }, idempotency_key: "b" });
  expect(first.options.seed).toBe(1);
});

test("a job of the history can be sent again, unless it started from a picture", () => {
  const request = { prompt: "p", options: { steps: 12, seed: 7, strength: 0.5 }, image: false, mask: false, asked: null };
  const shown = (change: object = {}, kind = "image") => job({ kind, request: { ...request, ...change } });
  expect(requestFrom(shown(), "k")).toEqual({
    kind: "image",
    model: "shapes",
    prompt: "p",
    options: { steps: 12, seed: 7 },
    idempotency_key: "k",
  });
  expect(requestFrom(shown({}, "video"), "k")?.kind).toBe("video");
  expect(requestFrom(shown({ image: true }), "k")).toBeNull();
  expect(requestFrom(shown({ asked: { messages: [], media: [], options: {} } }), "k")).toBeNull();
});

test("seeds and keys differ, and seeds fit 32 bits", () => {
  const seeds = Array.from({ length: 50 }, randomSeed);
  expect(new Set(seeds).size).toBeGreaterThan(45);
  expect(seeds.every((seed) => Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32)).toBe(true);
  expect(idempotencyKey()).not.toBe(idempotencyKey());
  expect(idempotencyKey().length).toBeLessThanOrEqual(200);
});
