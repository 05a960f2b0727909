/** A job's result: its bytes, in whole and in part, from a cache, and when they are gone. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { rm } from "node:fs/promises";
import path from "node:path";
import { after, before, test } from "node:test";
import { readPng } from "../support/png.mjs";
import { NOT_OURS, Sango } from "../support/sango.mjs";
import { assertRefused } from "./support/errors.mjs";
import { assertJob } from "./support/fields.mjs";
import { ask } from "./support/http.mjs";
import { events } from "./support/sse.mjs";
import { draw, image } from "./support/work.mjs";

let sango;
/** A finished job, and its bytes. */
let job;
let whole;

before(async () => {
  sango = await Sango.start();
  job = await draw(sango, image());
  whole = (await get()).bytes;
});

after(() => sango?.stop());

const get = (headers, query = "") => ask(sango, `GET ${job.result.url}${query}`, { headers });

test("the bytes are those that the job tells", async () => {
  const answer = await get();
  assert.equal(answer.status, 200);
  assert.equal(answer.headers["content-type"], "image/png");
  assert.equal(answer.headers["content-length"], String(job.result.bytes));
  assert.equal(answer.headers["x-content-type-options"], "nosniff");
  assert.equal(answer.bytes.length, job.result.bytes);
  assert.equal(createHash("sha256").update(answer.bytes).digest("hex"), job.result.sha256);
  const { width, height } = readPng(answer.bytes);
  assert.deepEqual([width, height], [job.request.options.width, job.request.options.height]);
});

test("a browser shows it, or saves it under a name of its own", async () => {
  const name = `filename="sango-${job.id}.png"`;
  assert.equal((await get()).headers["content-disposition"], `inline; ${name}`);
  assert.equal((await get({}, "?download=1")).headers["content-disposition"], `attachment; ${name}`);
  assert.equal((await get({}, "?download=0")).headers["content-disposition"], `inline; ${name}`);
});

test("HEAD tells the same without the bytes", async () => {
  const head = await ask(sango, `HEAD ${job.result.url}`);
  assert.deepEqual([head.status, head.bytes.length], [200, 0]);
  for (const name of ["content-type", "content-length", "etag", "content-disposition", "accept-ranges"]) {
    assert.equal(head.headers[name], (await get()).headers[name], name);
  }
});

for (const [range, from, to] of [
  ["bytes=0-0", 0, 1],
  ["bytes=10-99", 10, 100],
  ["bytes=100-", 100, Infinity],
  ["bytes=-7", -7, Infinity],
  ["bytes=10-99999999", 10, Infinity],
]) {
  test(`a part of it: ${range}`, async () => {
    const answer = await get({ range });
    const part = whole.subarray(from, Math.min(to, whole.length));
    assert.equal(answer.status, 206);
    assert.ok(answer.bytes.equals(part));
    assert.equal(answer.headers["content-length"], String(part.length));
    const first = from < 0 ? whole.length + from : from;
    assert.equal(answer.headers["content-range"], `bytes ${first}-${first + part.length - 1}/${whole.length}`);
    assert.equal(answer.headers["content-type"], "image/png");
  });
}

test("a part that there is not", async () => {
  const answer = await get({ range: `bytes=${whole.length}-` });
  assert.equal(answer.status, 416);
  assert.equal(answer.headers["content-range"], `bytes */${whole.length}`);
});

test("who has it already is not sent it again", async () => {
  const { etag, "accept-ranges": ranges } = (await get()).headers;
  assert.match(etag, /^"[0-9a-f]{64}"$/);
  assert.equal(ranges, "bytes");
  const known = await get({ "if-none-match": etag });
  assert.deepEqual([known.status, known.bytes.length, known.headers.etag], [304, 0, etag]);
  assert.equal((await get({ "if-none-match": '"other"' })).status, 200);
});

test("a download that goes on is of the same bytes, or begins anew", async () => {
  const { etag } = (await get()).headers;
  assert.equal((await get({ range: "bytes=5-", "if-range": etag })).status, 206);
  const other = await get({ range: "bytes=5-", "if-range": '"other"' });
  assert.equal(other.status, 200);
  assert.ok(other.bytes.equals(whole));
});

test("a cached result is the same bytes under the new job's address", async () => {
  const cached = await draw(sango, job.request);
  assert.equal(cached.result.cached, true);
  assert.notEqual(cached.result.url, job.result.url);
  const answer = await ask(sango, `GET ${cached.result.url}`);
  assert.ok(answer.bytes.equals(whole));
});

test("bytes that are gone are told from a job that never had any", { skip: NOT_OURS }, async () => {
  const lost = await draw(sango, image());
  await rm(path.join(sango.data, "results", lost.result.sha256));
  assertRefused(await ask(sango, `GET ${lost.result.url}`), "expired");
  const expired = assertJob(await sango.job(lost.id));
  assert.equal(expired.state, "expired");
  const { jobs } = await sango.api("v1/jobs?state=expired");
  assert.deepEqual(jobs.map(({ id }) => id), [lost.id]);
  const told = await events(sango, lost.id);
  assert.equal(told.at(-1).event, "finished", "its events stay");

  const again = await draw(sango, lost.request);
  assert.equal(again.result.cached, false, "it had to be drawn again");
  assert.equal(again.result.sha256, lost.result.sha256, "and is the same");
});
