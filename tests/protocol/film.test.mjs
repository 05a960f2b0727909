/** Videos: how they are made, what they are, and that a browser can play them. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { after, before, test } from "node:test";
import { writePng } from "../support/png.mjs";
import { Sango } from "../support/sango.mjs";
import { assertJob, assertWhole } from "./support/fields.mjs";
import { ask, form } from "./support/http.mjs";
import { events } from "./support/sse.mjs";
import { draw, film, submit } from "./support/work.mjs";

const PICTURE = writePng(96, 48, (x, y) => [x * 2, y * 4, 200]);

let sango;
let job;
let bytes;

before(async () => {
  sango = await Sango.start();
  job = await draw(sango, film({ steps: 3, frames: 9, fps: 12 }));
  bytes = (await ask(sango, `GET ${job.result.url}`)).bytes;
});

after(() => sango?.stop());

/** The boxes of an MP4 file, in their order: their types, and where each begins. */
function boxes(file, from = 0, to = file.length) {
  const found = [];
  for (let at = from; at + 8 <= to; ) {
    const size = file.readUInt32BE(at);
    found.push({ type: file.toString("latin1", at + 4, at + 8), at, size });
    at += Math.max(size, 8);
  }
  return found;
}

/** The first box of this path. */
function box(file, path) {
  let [from, to] = [0, file.length];
  let found;
  for (const type of path.split("/")) {
    found = boxes(file, from, to).find((one) => one.type === type);
    assert.ok(found, `${path}: there is no ${type}`);
    [from, to] = [found.at + 8, found.at + found.size];
  }
  return file.subarray(found.at + 8, found.at + found.size);
}

test("the job tells how the video was made", () => {
  assertJob(job);
  const { steps, frames, fps } = job.request.options;
  assert.deepEqual([steps, frames, fps], [3, 9, 12]);
  assert.deepEqual(job.progress.phase, "decode");
});

test("the result is an MP4 whose index is in front, of the frames and the rate that were asked for", () => {
  assert.equal(createHash("sha256").update(bytes).digest("hex"), job.result.sha256);
  const order = boxes(bytes).map(({ type }) => type);
  assert.equal(order[0], "ftyp");
  assert.ok(order.indexOf("moov") < order.indexOf("mdat"), order.join());
  const head = box(bytes, "moov/trak/mdia/mdhd");
  const [scale, duration] = [head.readUInt32BE(12), head.readUInt32BE(16)];
  assert.ok(Math.abs(duration / scale - 9 / 12) < 1e-3, `${duration / scale} s`);
  const sizes = box(bytes, "moov/trak/mdia/minf/stbl/stsz");
  assert.equal(sizes.readUInt32BE(8), 9, "frames");
  const described = box(bytes, "moov/trak/mdia/minf/stbl/stsd");
  assert.equal(described.toString("latin1", 12, 16), "avc1");
  assert.deepEqual([described.readUInt16BE(40), described.readUInt16BE(42)], [job.request.options.width, job.request.options.height]);
  // BT.709, as `colr` says it.
  const colour = described.indexOf("nclx");
  assert.deepEqual([4, 6, 8].map((at) => described.readUInt16BE(colour + at)), [1, 1, 1]);
});

test("it can be asked for in parts", async () => {
  const part = await ask(sango, `GET ${job.result.url}`, { headers: { range: "bytes=4-7" } });
  assert.deepEqual([part.status, part.text, part.headers["content-type"]], [206, "ftyp", "video/mp4"]);
  const whole = await ask(sango, `GET ${job.result.url}?download=1`);
  assert.match(whole.headers["content-disposition"], /^attachment; filename="sango-.*\.mp4"$/);
});

test("its events tell the phases in their order, and previews while it takes shape", async () => {
  const told = await events(sango, job.id);
  assertWhole(told);
  const phases = told.filter(({ event }) => event === "progress").map(({ data }) => data.phase);
  const order = [...new Set(phases)];
  assert.deepEqual(order, ["text", "denoise", "decode"].filter((phase) => order.includes(phase)));
  const steps = told.filter(({ event, data }) => event === "progress" && data.phase === "denoise").map(({ data }) => data.step);
  assert.deepEqual(steps, [1, 2, 3]);
  const previews = told.filter(({ event }) => event === "preview");
  assert.ok(previews.length >= 1 && previews.every(({ data }) => data.step < 3), "not after the last step");
});

test("the same again is answered at once, another seed is another video", async () => {
  const again = await submit(sango, job.request);
  assert.deepEqual([again.state, again.result.cached, again.result.sha256], ["finished", true, job.result.sha256]);
  const options = { ...job.request.options, seed: job.request.options.seed + 1 };
  assert.notEqual((await draw(sango, { ...job.request, options })).result.sha256, job.result.sha256);
});

test("it begins with a picture, in a form and in base64", async () => {
  const request = film();
  const inForm = { method: "POST", body: form([["job", request], ["image", [PICTURE, "first.png"]]]) };
  const one = assertJob(await sango.wait((await sango.api("v1/jobs", inForm)).id, "finished"));
  assert.deepEqual([one.request.image.width, one.request.image.height, one.request.options.strength], [96, 48, 1]);
  const { width, height } = one.request.options;
  assert.ok(width > height, "it has the picture's shape");
  const other = await submit(sango, { ...request, image: PICTURE.toString("base64") });
  assert.deepEqual([other.state, other.result?.cached], ["finished", true], "the same picture is the same work");
  const loose = await draw(sango, film({ strength: 0.5 }, { image: PICTURE.toString("base64") }));
  assert.equal(assertJob(loose).request.options.strength, 0.5);
});

test("a video stops within a step", async () => {
  const { id } = await submit(sango, film({ steps: 100, frames: 49 }));
  await sango.wait(id, "running");
  await sango.cancel(id);
  const told = await events(sango, id);
  assertWhole(told, "cancelled");
  // The worker is free again.
  await draw(sango, film());
});
