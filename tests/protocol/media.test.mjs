/** Jobs that start from a picture: in base64, as a data URL, as files of a form, with a mask. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { after, before, test } from "node:test";
import { hollowPng, readPixels, writePng } from "../support/png.mjs";
import { Sango } from "../support/sango.mjs";
import { assertRefused } from "./support/errors.mjs";
import { assertJob } from "./support/fields.mjs";
import { ask, form } from "./support/http.mjs";
import { draw, image } from "./support/work.mjs";

const PICTURE = writePng(96, 48, (x, y) => [x * 2, y * 4, 200]);
const MASK = writePng(96, 48, (x) => (x < 48 ? [255, 255, 255] : [0, 0, 0]));
const GIF = Buffer.from("R0lGODdhAQABAIAAAP///////ywAAAAAAQABAAACAkQBADs=", "base64");

let sango;

before(async () => {
  sango = await Sango.start();
});

after(() => sango?.stop());

const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");
const reference = (bytes, width, height, content_type = "image/png") => ({
  ...{ sha256: sha256(bytes), bytes: bytes.length, content_type, width, height },
});

const base64 = PICTURE.toString("base64");
const WAYS = {
  "in base64": (request) => ({ json: { ...request, image: base64 } }),
  "as a data URL": (request) => ({ json: { ...request, image: `data:image/png;base64,${base64}` } }),
  "as a file": (request) => ({ body: form([["job", request], ["image", [PICTURE, "picture.png"]]]) }),
  "as a file, before the job": (request) => ({ body: form([["image", [PICTURE, "p.png"]], ["job", request]]) }),
  "as a file, beside a field that was left empty": (request) => ({
    body: form([["job", request], ["image", [PICTURE, "picture.png"]], ["mask", [Buffer.alloc(0), ""]]]),
  }),
};

test("a picture to start from, however it is sent, is the same job", async () => {
  const request = image();
  const jobs = [];
  for (const init of Object.values(WAYS)) {
    const answer = await ask(sango, "POST /v1/jobs", init(request));
    assert.ok([200, 202].includes(answer.status), answer.text);
    jobs.push(await sango.wait(answer.json.id, "finished"));
  }
  for (const [i, way] of Object.keys(WAYS).entries()) {
    const job = assertJob(jobs[i]);
    assert.deepEqual(job.request.image, reference(PICTURE, 96, 48), way);
    assert.equal(job.request.mask, null);
    assert.equal(job.result.cached, i > 0, way);
    assert.equal(job.result.sha256, jobs[0].result.sha256);
  }
  const { options } = jobs[0].request;
  assert.deepEqual([options.width, options.height, options.strength], [64, 32, 0.5], "the picture's shape");
  assert.equal(jobs[0].progress.total, 2, "half of the steps");
});

test("a form without files is a job like any other, and its key may be a header", async () => {
  const request = image();
  const headers = { "idempotency-key": `form ${request.options.seed}` };
  const first = await ask(sango, "POST /v1/jobs", { body: form([["job", request]]), headers });
  assert.equal(first.status, 202);
  const again = await ask(sango, "POST /v1/jobs", { json: request, headers });
  assert.deepEqual([again.status, again.json.id], [200, first.json.id]);
});

test("a mask makes it inpainting, and what is black is kept", async () => {
  const picture = writePng(64, 64, () => [20, 200, 40]);
  const mask = writePng(64, 64, (x) => (x < 32 ? [255, 255, 255] : [0, 0, 0]));
  const request = image({ steps: 12, seed: 7 }, { prompt: "a large red square on a black background" });
  const body = form([["job", request], ["image", [picture, "p.png"]], ["mask", [mask, "m.png"]]]);
  const answer = await ask(sango, "POST /v1/jobs", { body });
  assert.ok(answer.status < 300, answer.text);
  const job = assertJob(await sango.wait(answer.json.id, "finished"));
  assert.deepEqual([job.request.image, job.request.mask], [reference(picture, 64, 64), reference(mask, 64, 64)]);
  assert.equal(job.request.options.strength, 1);
  const pixel = readPixels((await ask(sango, `GET ${job.result.url}`)).bytes);
  // Far from the border of the mask, where the model's own decoder blends.
  const greens = [[48, 8], [56, 32], [60, 60]].map(([x, y]) => pixel(x, y));
  for (const [r, g, b] of greens) assert.ok(g > 120 && r < 100 && b < 110, `green is kept: ${[r, g, b]}`);
  const drawn = [[8, 8], [8, 56], [16, 32]].map(([x, y]) => pixel(x, y));
  assert.ok(drawn.some(([r, g, b]) => !(g > 120 && r < 100 && b < 110)), `the rest is drawn anew: ${drawn}`);
});

test("pictures of other kinds are taken", async () => {
  const job = await draw(sango, image({}, { image: GIF.toString("base64") }));
  assert.deepEqual(assertJob(job).request.image, reference(GIF, 1, 1, "image/gif"));
});

test("the name and the type that a file is sent with do not matter, its bytes do", async () => {
  const body = new FormData();
  body.append("job", JSON.stringify(image()));
  body.append("image", new Blob([PICTURE], { type: "text/plain" }), "../../etc/passwd");
  const answer = await ask(sango, "POST /v1/jobs", { body });
  assert.equal(answer.status, 202, answer.text);
  assert.equal(answer.json.request.image.content_type, "image/png");
});

test("another picture or mask is other work", async () => {
  const request = image({}, { image: base64, mask: MASK.toString("base64") });
  const first = await draw(sango, request);
  for (const change of [{ mask: undefined }, { image: GIF.toString("base64") }]) {
    const other = await draw(sango, { ...request, ...change });
    assert.equal(other.result.cached, false);
    assert.notEqual(other.result.sha256, first.result.sha256);
  }
});

test("an image is at most 20 MiB", async () => {
  const big = Buffer.concat([PICTURE, Buffer.alloc((20 << 20) + 1 - PICTURE.length)]);
  const json = image({}, { image: big.toString("base64") });
  assertRefused(await ask(sango, "POST /v1/jobs", { json }), "too_large");
  const body = form([["job", image()], ["image", [big, "big.png"]]]);
  assertRefused(await ask(sango, "POST /v1/jobs", { body }), "too_large");
});

test("an image is at most 40 megapixels", async () => {
  const json = image({}, { image: hollowPng(8_000, 5_001).toString("base64") });
  assertRefused(await ask(sango, "POST /v1/jobs", { json }), "too_large");
  // At the limit it is read, and found to be empty.
  const allowed = image({}, { image: hollowPng(8_000, 5_000).toString("base64") });
  assertRefused(await ask(sango, "POST /v1/jobs", { json: allowed }), "invalid_media");
});
