/** Questions about videos and pictures: sent as files, answered token by token. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { after, before, test } from "node:test";
import { writePng } from "../support/png.mjs";
import { NOT_OURS, Sango, until } from "../support/sango.mjs";
import { Client } from "./support/client.mjs";
import { assertRefused } from "./support/errors.mjs";
import { assertFrames, assertJob, assertWhole } from "./support/fields.mjs";
import { ask, form } from "./support/http.mjs";
import { metrics } from "./support/metrics.mjs";
import { events } from "./support/sse.mjs";
import { asks, CLIP, question, submit } from "./support/work.mjs";

const PICTURE = writePng(96, 48, (x, y) => [x * 2, y * 4, 200]);
const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");

let sango;
/** A question about the clip that was answered. */
let job;

before(async () => {
  sango = await Sango.start();
  job = await sango.wait((await asks(sango)).id, "finished");
});

after(() => sango?.stop());

/** What a client has read: the answer begins anew with each piece number 0. */
function read(told) {
  return told
    .filter(({ event }) => event === "token")
    .reduce((text, { data }) => (data.index === 0 ? "" : text) + data.text, "");
}

test("the job tells what the video is, and its answer", async () => {
  assertJob(job);
  const [video] = job.request.media;
  assert.deepEqual(
    [video.kind, video.sha256, video.bytes, video.content_type, video.width, video.height],
    ["video", sha256(CLIP), CLIP.length, "video/mp4", 128, 128],
  );
  assert.deepEqual([video.frames, video.fps, video.duration], [25, 8, 3.125]);
  const answer = (await ask(sango, `GET ${job.result.url}`)).json;
  assert.equal(answer.text, job.result.text);
  assertFrames(answer.frames);
  assert.ok(answer.frames.length >= 1);
  const { prompt_tokens, completion_tokens, total_tokens } = answer.usage;
  assert.equal(total_tokens, prompt_tokens + completion_tokens);
  assert.ok(["stop", "length"].includes(answer.finish_reason));
});

test("the answer was told token by token, after the frames it was made from", async () => {
  const told = await events(sango, job.id);
  assertWhole(told);
  assert.equal(read(told), job.result.text);
  const order = [...new Set(told.map(({ event }) => event))];
  assert.deepEqual(order.slice(0, 4), ["queued", "started", "frames", "preview"]);
  assert.ok(order.indexOf("token") > order.indexOf("frames"));
  const indices = told.filter(({ event }) => event === "token").map(({ data }) => data.index);
  assert.deepEqual(indices, [...new Set(indices)].sort((a, b) => a - b));
  const { frames } = told.find(({ event }) => event === "frames").data;
  assert.equal(told.filter(({ event }) => event === "preview").length, frames.length);
});

test("whoever comes back asks for what is missing", async () => {
  const client = await Client.open(sango);
  const whole = await (await client.follow(job.id)).ended();
  const half = whole[Math.floor(whole.length / 2)].n;
  const rest = await (await client.follow(job.id, half)).ended();
  assert.deepEqual(rest, whole.slice(half));
  await client.close();
});

test("the same question is answered at once, with what it was answered from", async () => {
  const { id } = await submit(sango, job.request);
  const again = assertJob(await sango.wait(id, "finished"));
  assert.deepEqual([again.result.cached, again.result.text], [true, job.result.text]);
  const names = (await events(sango, id)).map(({ event }) => event);
  assert.deepEqual([...new Set(names)], ["queued", "frames", "preview", "finished"]);
});

test("a follow-up needs no file, and reads only what is new", async () => {
  const turns = [{ role: "user", content: "What is it?" }, { role: "assistant", content: "A star." }];
  const client = await Client.open(sango);
  const studio = await client.join("studio");
  for (const messages of [[], turns]) {
    const request = question({}, { messages, media: { sha256: sha256(CLIP) } });
    const { id } = await studio.push("submit", request);
    const next = assertJob(await sango.wait(id, "finished"));
    assert.deepEqual([next.request.media, next.request.messages], [job.request.media, messages]);
    const { usage } = (await ask(sango, `GET ${next.result.url}`)).json;
    assert.ok(usage.cached_tokens > usage.prompt_tokens / 2, JSON.stringify(usage));
  }
  await client.close();
});

test("pictures and videos, in base64 and as files, in the order they are given", async () => {
  const base64 = question({}, { media: [`data:image/png;base64,${PICTURE.toString("base64")}`, CLIP.toString("base64")] });
  const mixed = question({}, { media: PICTURE.toString("base64") });
  for (const next of [await submit(sango, base64), await asks(sango, mixed), await asks(sango, question(), [PICTURE, CLIP])]) {
    const done = assertJob(await sango.wait(next.id, "finished"));
    assert.deepEqual(done.request.media.map(({ kind }) => kind), ["image", "video"]);
    const { frames } = (await ask(sango, `GET ${done.result.url}`)).json;
    assert.ok(frames.length >= 1 && frames.every(({ media }) => media === 1), JSON.stringify(frames));
  }
});

test("what a job is about is handed out, whole and in parts, and may do nothing", async () => {
  const path = `/v1/jobs/${job.id}/media/0`;
  const whole = await ask(sango, `GET ${path}`);
  assert.deepEqual([whole.status, whole.headers["content-type"]], [200, "video/mp4"]);
  assert.ok(whole.bytes.equals(CLIP));
  assert.match(whole.headers["content-security-policy"], /sandbox/);
  assert.equal(whole.headers["x-content-type-options"], "nosniff");
  const part = await ask(sango, `GET ${path}`, { headers: { range: "bytes=4-7" } });
  assert.deepEqual([part.status, part.text], [206, "ftyp"]);
  for (const other of ["1", "-1", "x"]) assertRefused(await ask(sango, `GET /v1/jobs/${job.id}/media/${other}`), "not_found");
});

test("what cannot be answered is refused, and says why", async () => {
  const about = { media: { sha256: sha256(CLIP) } };
  for (const [fields, code] of [
    [{}, "invalid_option"],
    [{ ...about, question: " " }, "invalid_option"],
    [{ ...about, question: "x".repeat(3_000) }, "too_large"],
    [{ ...about, options: { max_tokens: 0 } }, "invalid_option"],
    [{ ...about, options: { steps: 4 } }, "invalid_request"],
    [{ ...about, messages: [{ role: "user", content: "x" }] }, "invalid_option"],
    [{ ...about, prompt: "x" }, "invalid_request"],
    [{ ...about, model: "none" }, "unknown_model"],
    [{ ...about, model: "amused" }, "invalid_option"],
    [{ media: { sha256: "0".repeat(64) } }, "invalid_media"],
    [{ media: CLIP.subarray(0, 2_000).toString("base64") }, "invalid_media"],
    [{ media: "?" }, "invalid_media"],
    [{ media: 7 }, "invalid_request"],
  ]) {
    assertRefused(await ask(sango, "POST /v1/jobs", { json: question({}, fields) }), code);
  }
  const body = form([["job", question()], ["media", [Buffer.from("#EXTM3U\nfile:///etc/passwd\n"), "list.mp4"]]]);
  assertRefused(await ask(sango, "POST /v1/jobs", { body }), "invalid_media");
});

test("a file larger than what a body may hold in memory goes to disk", async () => {
  // The box that says "skip me" may be of any size.
  const skip = Buffer.alloc(60 << 20);
  skip.writeUInt32BE(skip.length);
  skip.write("free", 4);
  const { id } = await asks(sango, question(), [Buffer.concat([CLIP, skip])]);
  const done = assertJob(await sango.wait(id, "finished"));
  assert.equal(done.request.media[0].bytes, CLIP.length + skip.length);
});

test("metrics count tokens and the time to the first", async () => {
  const before = await metrics(sango);
  await sango.wait((await asks(sango)).id, "finished");
  const after = await metrics(sango);
  assert.ok(after.sango_tokens_total > before.sango_tokens_total);
  assert.equal(after.sango_first_token_seconds_count, before.sango_first_token_seconds_count + 1);
});

test("a crash in the middle of an answer leaves its words whole", { skip: NOT_OURS }, async () => {
  const jobs = [];
  for (let i = 0; i < 6; i++) jobs.push(await asks(sango, question({ max_tokens: 400, temperature: 1 })));
  await until("one is being answered", async () => (await sango.job(jobs[0].id)).state !== "queued");
  await sango.end("SIGKILL");
  await sango.run();
  for (const { id } of jobs) {
    const done = await sango.wait(id, "finished");
    assert.equal(read(await events(sango, id)), done.result.text);
  }
});
