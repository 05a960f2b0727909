/** Jobs over HTTP: submitting, sharing, waiting in line, cancelling, listing. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Sango, until } from "../support/sango.mjs";
import { assertRefused } from "./support/errors.mjs";
import { assertJob, assertWhole } from "./support/fields.mjs";
import { ask } from "./support/http.mjs";
import { metrics } from "./support/metrics.mjs";
import { events } from "./support/sse.mjs";
import { PROMPT, draw, image, slow, submit, whileBusy } from "./support/work.mjs";

let sango;

before(async () => {
  sango = await Sango.start();
});

after(() => sango?.stop());

const post = (json, headers) => ask(sango, "POST /v1/jobs", { json, headers });

test("a job is taken in, runs and has a result", async () => {
  const answer = await post(image());
  assert.equal(answer.status, 202);
  const { id, state } = assertJob(answer.json);
  assert.equal(answer.headers.location, `/v1/jobs/${id}`);
  assert.ok(["queued", "running"].includes(state), state);
  const job = assertJob(await sango.wait(id, "finished"));
  assert.equal(job.result.cached, false);
  assert.deepEqual([job.progress.step, job.progress.total], [4, 4]);
  assert.ok(job.created_at <= job.started_at && job.started_at <= job.finished_at);
  assert.equal(job.last_event, (await sango.events(id)).at(-1).n);
});

test("the smallest request has every default filled in", async () => {
  const { models } = await sango.api("v1/models");
  const model = models.find((model) => model.default && model.tasks.includes("image"));
  const answer = await post({ kind: "image", prompt: PROMPT });
  const { request } = assertJob(answer.json);
  const { seed, ...options } = request.options;
  assert.ok(Number.isInteger(seed) && seed >= 0, "a seed was drawn");
  const { steps, guidance_scale, width, height } = model;
  const given = { steps, guidance_scale, width, height };
  assert.deepEqual(options, { ...given, negative_prompt: "", temperature: [2, 0], strength: null });
  assert.deepEqual([request.model, request.prompt, request.priority], [model.name, PROMPT, 0]);
});

for (const [what, change] of Object.entries({
  "by the model's name": (model) => ({ model: model.name }),
  "by its kind": (model) => ({ model: model.kind }),
  "with null for what is not given": () => ({ model: null, options: null, image: null, mask: null, priority: null }),
  "with a prompt in any script": () => ({ prompt: "珊瑚 🪸 коралл\n" }),
  "with a prompt of 2,000 characters": () => ({ prompt: "é".repeat(2_000) }),
})) {
  test(`a job can be asked for ${what}`, async () => {
    const { models } = await sango.api("v1/models");
    const job = await draw(sango, { kind: "image", prompt: PROMPT, ...change(models.find((model) => model.default && model.tasks.includes("image"))) });
    assert.equal(assertJob(job).model, models.find((model) => model.default && model.tasks.includes("image")).name);
  });
}

test("the largest seed comes back as it was", async () => {
  const seed = 2n ** 64n - 1n;
  const json = JSON.stringify(image({ seed: 0 })).replace('"seed":0', `"seed":${seed}`);
  const answer = await post(json);
  assert.ok(answer.status < 300, answer.text);
  // JavaScript's numbers cannot hold it, JSON's can.
  assert.equal(/"seed":\s*(\d+)/.exec(answer.text)[1], String(seed));
});

test("the same request again is finished at once", async () => {
  const request = image();
  const first = await draw(sango, request);
  const again = await post(request);
  assert.equal(again.status, 200);
  const job = assertJob(again.json);
  assert.notEqual(job.id, first.id);
  assert.deepEqual([job.state, job.result.cached], ["finished", true]);
  assert.equal(job.result.sha256, first.result.sha256);
  const told = await events(sango, job.id);
  assertWhole(told);
  assert.deepEqual(told.map(({ event }) => event), ["queued", "finished"]);

  const spelledOut = await post({ ...request, options: first.request.options, model: first.model, priority: 5 });
  assert.equal(spelledOut.json.result?.cached, true, "defaults are filled in before requests are compared");
  const other = await post(image());
  assert.equal(other.status, 202, "another seed is another picture");
});

test("the same work in flight runs once", async () => {
  const before = await metrics(sango);
  const request = slow();
  const first = await submit(sango, request);
  await sango.wait(first.id, "running");
  const second = await post(request);
  assert.equal(second.status, 202);
  assert.notEqual(second.json.id, first.id);
  assert.equal(second.json.state, "running");
  await until("both are at a step", async () => {
    const jobs = await Promise.all([first.id, second.json.id].map((id) => sango.job(id)));
    return jobs.every((job) => job.progress !== null);
  });
  // Cancelling one leaves the other alone.
  assert.equal((await sango.cancel(first.id)).state, "cancelled");
  const { step } = (await sango.job(second.json.id)).progress;
  await until("the other goes on", async () => (await sango.job(second.json.id)).progress.step > step);
  await sango.cancel(second.json.id);
  const after = await metrics(sango);
  const grown = (name) => after[name] - before[name];
  assert.deepEqual([grown("sango_runs_total"), grown("sango_jobs_shared_total")], [1, 1]);
});

test("the same work that waits in line runs once, too", async () => {
  const request = image();
  const { runs, jobs } = await whileBusy(sango, async () => ({
    jobs: await Promise.all(Array.from({ length: 5 }, () => submit(sango, request))),
    runs: (await metrics(sango)).sango_runs_total,
  }));
  const drawn = await Promise.all(jobs.map(({ id }) => sango.wait(id, "finished")));
  assert.equal(new Set(drawn.map(({ id }) => id)).size, 5);
  assert.equal(new Set(drawn.map(({ result }) => result.sha256)).size, 1);
  assert.equal((await metrics(sango)).sango_runs_total, runs + 1);
});

test("an idempotency key answers the job of the first time", async () => {
  const request = image();
  const key = `key-${request.options.seed}`;
  const first = await post({ ...request, idempotency_key: key });
  const again = await post({ ...request, idempotency_key: key });
  assert.deepEqual([first.status, again.status], [202, 200]);
  assert.equal(again.json.id, first.json.id);
  const byHeader = await post(request, { "idempotency-key": key });
  assert.deepEqual([byHeader.status, byHeader.json.id], [200, first.json.id]);
  assertRefused(await post({ ...image(), idempotency_key: key }), "idempotency_conflict");
  assertRefused(await post(image(), { "idempotency-key": key }), "idempotency_conflict");
  await sango.wait(first.json.id, "finished");
  assert.equal((await post({ ...request, idempotency_key: key })).json.result.cached, false, "it is the first job");
});

test("who waits runs by priority, then by age, and knows the position", async () => {
  const priorities = [0, 5, 0, -5, 5];
  const jobs = await whileBusy(sango, async (busy) => {
    const jobs = [];
    for (const priority of priorities) jobs.push(await submit(sango, image({}, { priority })));
    const positions = () => Promise.all(jobs.map(async ({ id }) => (await sango.job(id)).position));
    await until("the line has its order", async () => String(await positions()) === "3,1,4,5,2");
    assert.equal((await sango.job(busy)).position, null);
    await sango.cancel(jobs[1].id);
    await until("the line has moved up", async () => String(await positions()) === "2,,3,4,1");
    return jobs;
  });
  const ran = await Promise.all(jobs.filter((_, i) => i !== 1).map(({ id }) => sango.wait(id, "finished")));
  ran.sort((a, b) => a.started_at - b.started_at);
  assert.deepEqual(ran.map(({ request }) => request.priority), [5, 0, 0, -5]);
});

test("a job that waits can be cancelled, and never runs", async () => {
  const job = await whileBusy(sango, async () => {
    const { id } = await submit(sango, image());
    return sango.cancel(id);
  });
  assert.equal(assertJob(job).state, "cancelled");
  assert.equal(job.started_at, null);
  const told = await events(sango, job.id);
  assertWhole(told, "cancelled");
  assert.equal(told.some(({ event }) => event === "started"), false);
});

test("a job that runs is cancelled within a step, and the next one starts", async () => {
  const { id } = await submit(sango, slow());
  await until("the first step is done", async () => (await sango.job(id)).progress !== null);
  const cancelled = assertJob(await sango.cancel(id));
  assert.equal(cancelled.state, "cancelled");
  assert.ok(cancelled.progress.step < 100);
  assertWhole(await events(sango, id), "cancelled");
  await draw(sango, image());
  assert.equal((await sango.job(id)).last_event, cancelled.last_event, "nothing follows");
});

test("a job that has ended stays as it is", async () => {
  const finished = await draw(sango, image());
  const answer = await ask(sango, `DELETE /v1/jobs/${finished.id}`);
  assert.equal(answer.status, 200);
  assert.deepEqual(assertJob(answer.json), finished);
});

test("jobs are listed newest first, page by page, and by state", async () => {
  const drawn = await draw(sango, image());
  const newest = await whileBusy(sango, async () => {
    const jobs = [];
    for (let i = 0; i < 5; i++) jobs.unshift((await submit(sango, image())).id);
    await Promise.all(jobs.map((id) => sango.cancel(id)));
    return jobs;
  });
  const seen = [];
  let next = null;
  do {
    const page = await sango.api(`v1/jobs?limit=2&before=${next ?? ""}`);
    assert.deepEqual(Object.keys(page).sort(), ["jobs", "next"]);
    assert.ok(page.jobs.length === 2 || page.next === null);
    page.jobs.forEach(assertJob);
    seen.push(...page.jobs.map(({ id }) => id));
    next = page.next;
  } while (next !== null);
  assert.deepEqual(seen.slice(0, 5), newest);
  assert.equal(new Set(seen).size, seen.length, "no job on two pages");
  assert.ok(seen.includes(drawn.id));

  const cancelled = await sango.api("v1/jobs?state=cancelled&limit=200");
  assert.ok(newest.every((id) => cancelled.jobs.some((job) => job.id === id)));
  assert.ok(cancelled.jobs.every(({ state }) => state === "cancelled"));
  assert.deepEqual(await sango.api("v1/jobs?state=failed"), { jobs: [], next: null });
  const older = await sango.api(`v1/jobs?before=${newest.at(-1)}&limit=200`);
  assert.equal(older.jobs.some(({ id }) => newest.includes(id)), false);
});
