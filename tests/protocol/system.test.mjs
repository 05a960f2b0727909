/** What operators, programs and browsers look at: models, health, metrics, the description of the API, the page. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Sango } from "../support/sango.mjs";
import { assertModel } from "./support/fields.mjs";
import { ask, askExactly } from "./support/http.mjs";
import { Line } from "./support/line.mjs";
import { metrics } from "./support/metrics.mjs";
import { Api } from "./support/openapi.mjs";
import { events } from "./support/sse.mjs";
import { CLIP, asks, draw, film, image, slow, submit } from "./support/work.mjs";

const UNKNOWN = "0199b2c4-5c1e-7f3a-9a55-0c8f7f1d2e3b";

let sango;
let api;
let job;
/** A question that was answered. */
let answered;

before(async () => {
  sango = await Sango.start();
  api = new Api((await ask(sango, "GET /openapi.json")).json);
  job = await draw(sango, image());
  answered = await sango.wait((await asks(sango)).id, "finished");
});

after(() => sango?.stop());

test("the models are listed, one of them the default for each task", async () => {
  const { models } = await sango.api("v1/models");
  models.forEach(assertModel);
  for (const [task, done] of [["image", job], ["understand", answered]]) {
    const defaults = models.filter((model) => model.default && model.tasks.includes(task));
    assert.equal(defaults.length, 1, task);
    assert.equal(defaults[0].loaded, true, "it has worked");
    assert.equal(done.model, defaults[0].name);
  }
});

test("healthy and ready", async () => {
  for (const [path, status] of [["/healthz", "ok"], ["/readyz", "ready"]]) {
    const answer = await ask(sango, `GET ${path}`);
    assert.deepEqual([answer.status, answer.json], [200, { status }]);
    assert.equal((await ask(sango, `HEAD ${path}`)).status, 200);
  }
});

test("metrics count what happens", async () => {
  const before = await metrics(sango);
  const { request } = await draw(sango, image());
  await draw(sango, request);
  const { id } = await submit(sango, slow());
  await sango.wait(id, "running");
  const line = await Line.open(sango);
  // A server may shake hands first and count then; it has counted when it answers.
  await line.ask(null, "phoenix", "heartbeat", {});
  const during = await metrics(sango);
  await line.close();
  await sango.cancel(id);
  await ask(sango, "GET /v1/nothing");
  const after = await metrics(sango);
  const grown = (name) => (after[name] ?? 0) - (before[name] ?? 0);
  assert.equal(during['sango_jobs{state="running"}'], 1);
  assert.equal(during.sango_sockets, before.sango_sockets + 1);
  for (const [name, growth] of [
    ['sango_jobs{state="finished"}', 2],
    ['sango_jobs{state="cancelled"}', 1],
    ["sango_jobs_submitted_total", 3],
    ["sango_jobs_refused_total", 0],
    ["sango_cache_hits_total", 1],
    ["sango_jobs_shared_total", 0],
    ["sango_runs_total", 2],
    ['sango_http_requests_total{status="202"}', 2],
    ['sango_http_requests_total{status="404"}', 1],
  ]) {
    assert.equal(grown(name), growth, name);
  }
  assert.ok(grown("sango_run_seconds_count") >= 1 && grown("sango_run_seconds_sum") > 0);
  assert.ok("sango_subscriptions" in after);
});

test("the description names these endpoints", () => {
  assert.match(api.document.openapi, /^3\.1\./);
  assert.deepEqual(api.endpoints.map(({ method, path }) => `${method} ${path}`).sort(), [
    "DELETE /v1/jobs/{id}",
    "GET /healthz",
    "GET /metrics",
    "GET /openapi.json",
    "GET /readyz",
    "GET /v1/jobs",
    "GET /v1/jobs/{id}",
    "GET /v1/jobs/{id}/events",
    "GET /v1/jobs/{id}/media/{index}",
    "GET /v1/jobs/{id}/result",
    "GET /v1/models",
    "POST /v1/jobs",
  ]);
});

test("every endpoint answers as it is described", async () => {
  for (const endpoint of api.endpoints) {
    const { method, path } = endpoint;
    const json = method === "POST" ? image() : undefined;
    const about = path.includes("{index}") ? answered.id : job.id;
    const at = (id) => path.replace("{id}", id).replace("{index}", "0");
    const good = await ask(sango, `${method} ${at(about)}`, { json });
    assert.ok(good.status < 300, `${method} ${path}: ${good.status}`);
    api.assertDescribed(endpoint, good);
    // A page of another site may not write, a job may be unknown.
    const headers = method === "POST" ? { origin: "https://evil.example" } : {};
    const bad = await ask(sango, `${method} ${at(UNKNOWN)}`, { json, headers });
    if (path.includes("{id}") || method === "POST") assert.ok(bad.status >= 400);
    api.assertDescribed(endpoint, bad);
  }
});

test("requests and answers that were refused are as they are described", async () => {
  const post = api.endpoints.find(({ method }) => method === "POST");
  for (const [json, status] of [
    [image(), 202],
    [job.request, 200],
    [answered.request, 200],
    [{ kind: "understand", question: "x" }, 422],
    [{}, 400],
    [{ kind: "image", prompt: "x", model: "none" }, 404],
    [{ kind: "image", prompt: "x".repeat(3_000) }, 413],
    [{ kind: "video", prompt: "x", options: { frames: 10 } }, 422],
    [film({}, { negative_prompt: "blur" }), 202],
    [{ kind: "pipeline", media: CLIP.toString("base64"), options: { video: { steps: 2, frames: 9 } } }, 202],
  ]) {
    const answer = await ask(sango, "POST /v1/jobs", { json });
    assert.equal(answer.status, status);
    api.assertDescribed(post, answer);
  }
  const result = api.endpoints.find(({ path }) => path.endsWith("/result"));
  for (const [range, status] of [["bytes=0-3", 206], ["bytes=99999999-", 416]]) {
    const answer = await ask(sango, `GET ${job.result.url}`, { headers: { range } });
    assert.equal(answer.status, status);
    api.assertDescribed(result, answer);
  }
});

test("events are as they are described", async () => {
  const told = [...(await events(sango, job.id)), ...(await events(sango, answered.id))];
  for (const event of told) api.assertSchema({ $ref: "#/components/schemas/Event" }, event, event.event);
});

test("the page is served, whole, and stays out of other sites' frames", async () => {
  const page = await ask(sango, "GET /");
  assert.equal(page.status, 200);
  assert.match(page.headers["content-type"], /^text\/html\b/);
  assert.match(page.headers["content-security-policy"], /frame-ancestors 'none'/);
  assert.equal(page.headers["cache-control"], "no-cache");
  const assets = [...page.text.matchAll(/(?:src|href)="\.\/([^"]+)"/g)].map(([, path]) => path);
  assert.ok(assets.length >= 3, `${assets}`);
  for (const path of ["", ...assets]) {
    const asset = await ask(sango, `GET /${path}`);
    assert.equal(asset.status, 200, path);
    assert.equal(asset.headers["x-content-type-options"], "nosniff", path);
    if (path.startsWith("assets/")) assert.match(asset.headers["cache-control"], /immutable/);
    if (path.endsWith(".js")) assert.match(asset.headers["content-type"], /^text\/javascript\b/);
    if (path.endsWith(".css")) assert.match(asset.headers["content-type"], /^text\/css\b/);
    const known = await ask(sango, `GET /${path}`, { headers: { "if-none-match": asset.headers.etag } });
    assert.deepEqual([known.status, known.bytes.length], [304, 0], path);
  }
});

test("a client that says nothing of itself is a client, too", async () => {
  const answer = await askExactly(sango, "GET /v1/models", { host: `localhost:${sango.port}` });
  assert.equal(answer.status, 200);
});
