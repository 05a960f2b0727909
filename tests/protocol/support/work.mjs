/** What the tests have drawn. */

import { randomInt } from "node:crypto";
import { readFileSync } from "node:fs";
import path from "node:path";
import { form } from "./http.mjs";

export const PROMPT = "a large red circle on a blue background";

/** A step of this takes a large part of a second, so that a test can do something while it runs. */
const SLOW = { steps: 100, width: 512, height: 512 };

/** An `image` job that nobody has asked for before, so that it runs and is not found in the cache. */
export function image(options = {}, fields = {}) {
  return { kind: "image", prompt: PROMPT, options: { seed: randomInt(2 ** 47), steps: 4, ...options }, ...fields };
}

/** A `video` job that nobody has asked for before: few steps of a short video. */
export function film(options = {}, fields = {}) {
  const own = { seed: randomInt(2 ** 47), steps: 2, frames: 9, ...options };
  return { kind: "video", prompt: "a small green star moves left over a white background", options: own, ...fields };
}

/** The same, so slow that it does not end by itself before the test does. */
export function slow(options = {}, fields = {}) {
  return image({ ...SLOW, ...options }, fields);
}

/** Submits a request over HTTP; answers the job. */
export function submit(sango, request) {
  return sango.api("v1/jobs", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(request),
  });
}

/** Has a request drawn; answers the finished job. */
export async function draw(sango, request) {
  return sango.wait((await submit(sango, request)).id, "finished");
}

/** Keeps the server busy while `during` is done, so that jobs submitted meanwhile wait. */
export async function whileBusy(sango, during) {
  const { id } = await submit(sango, slow());
  await sango.wait(id, "running");
  try {
    return await during(id);
  } finally {
    await sango.cancel(id);
  }
}

/** A video: three seconds of a shape. */
export const CLIP = readFileSync(path.resolve(import.meta.dirname, "../../../web/public/clips/green-star.mp4"));

/** An `understand` job that nobody has asked for before. */
export function question(options = {}, fields = {}) {
  const words = `What happens? (${randomInt(2 ** 47)})`;
  return { kind: "understand", question: words, options: { max_tokens: 12, ...options }, ...fields };
}

/** Asks about files, of the clip unless others are given; answers the job. */
export function asks(sango, request = question(), files = [CLIP]) {
  const media = files.map((bytes) => ["media", [bytes, "file"]]);
  return sango.api("v1/jobs", { method: "POST", body: form([["job", request], ...media]) });
}
