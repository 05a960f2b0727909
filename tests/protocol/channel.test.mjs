/** The socket, with the npm `phoenix` client: the topics `studio` and `job:<id>`. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Proxy } from "../support/proxy.mjs";
import { Sango, until } from "../support/sango.mjs";
import { Client } from "./support/client.mjs";
import { assertRefusal } from "./support/errors.mjs";
import { assertEvent, assertJob, assertModel, assertNumbered, assertWhole } from "./support/fields.mjs";
import { events } from "./support/sse.mjs";
import { draw, image, slow, submit, whileBusy } from "./support/work.mjs";

let sango;
let client;

before(async () => {
  sango = await Sango.start();
  client = await Client.open(sango);
});

after(async () => {
  await client?.close();
  await sango?.stop();
});

test("studio welcomes with the newest jobs and the models", async () => {
  const { id } = await draw(sango, image());
  const studio = await client.join("studio");
  assert.deepEqual(Object.keys(studio.welcome).sort(), ["jobs", "models"]);
  const { jobs, models } = studio.welcome;
  jobs.forEach(assertJob);
  models.forEach(assertModel);
  assert.equal(jobs[0].id, id);
  assert.deepEqual(models, (await sango.api("v1/models")).models);
  await studio.leave();
});

test("studio shows 20 jobs at first, and a list shows the others", async () => {
  const request = image();
  await draw(sango, request);
  for (let i = 0; i < 24; i++) await submit(sango, request);
  const studio = await client.join("studio");
  assert.equal(studio.welcome.jobs.length, 20);
  const page = await studio.push("list", { limit: 3, before: studio.welcome.jobs.at(-1).id, state: "finished" });
  assert.deepEqual(Object.keys(page).sort(), ["jobs", "next"]);
  page.jobs.forEach(assertJob);
  assert.equal(page.next, page.jobs[2].id);
  const { jobs } = await sango.api(`v1/jobs?limit=23`);
  assert.deepEqual([...studio.welcome.jobs, ...page.jobs].map(({ id }) => id), jobs.map(({ id }) => id));
  await studio.leave();
});

test("a job is submitted, watched and followed on one socket", async () => {
  const studio = await client.join("studio");
  const request = image({ steps: 12, width: 128, height: 128 });
  const job = assertJob(await studio.push("submit", request));
  const topic = await client.follow(job.id);
  assert.deepEqual(Object.keys(topic.welcome), ["job"]);
  assert.equal(assertJob(topic.welcome.job).id, job.id);
  const told = await topic.ended();
  assertWhole(told);
  assert.ok(told.some(({ event }) => event === "preview"));
  for (const { name, payload } of topic.pushes) assert.equal(name, payload.event);
  assert.deepEqual(told, await events(sango, job.id), "the same events as over HTTP");

  await studio.heard("that it is finished", ({ payload }) => payload.id === job.id && payload.state === "finished");
  const views = studio.payloads("job").filter(({ id }) => id === job.id);
  views.forEach(assertJob);
  const order = ["queued", "running", "finished"];
  const states = views.map(({ state }) => order.indexOf(state));
  assert.deepEqual(states, states.toSorted((a, b) => a - b));
  assert.ok(new Set(views.map(({ progress }) => progress?.step)).size > 3, "progress was shown, too");
  const again = await studio.push("submit", request);
  assert.deepEqual([again.state, again.result.cached], ["finished", true]);
  await topic.leave();
  await studio.leave();
});

test("everybody on studio sees what others submit", async () => {
  const other = await Client.open(sango);
  const studio = await other.join("studio");
  const { id } = await draw(sango, image());
  const view = await studio.heard("of it", ({ payload }) => payload.id === id && payload.state === "finished");
  assert.deepEqual(assertJob(view), await sango.job(id));
  await other.close();
});

test("two jobs are followed on one socket, and their events are kept apart", async () => {
  const jobs = await Promise.all([submit(sango, image({ steps: 10 })), submit(sango, image({ steps: 15 }))]);
  const topics = await Promise.all(jobs.map(({ id }) => client.follow(id)));
  const told = await Promise.all(topics.map((topic) => topic.ended()));
  told.forEach((events, i) => {
    assertWhole(events);
    assert.equal(events[0].job, jobs[i].id);
  });
  await Promise.all(topics.map((topic) => topic.leave()));
});

test("who joins late, or after an event, is told the rest", async () => {
  const { id } = await draw(sango, image());
  const whole = await client.follow(id);
  assert.equal(whole.welcome.job.state, "finished");
  const told = await whole.ended();
  assertWhole(told);
  await whole.leave();
  const rest = await client.follow(id, 3);
  assert.deepEqual(await rest.ended(), told.slice(3));
  await rest.leave();
  const nothing = await client.follow(id, told.length);
  assert.equal(nothing.closed, false, "the topic stays joined");
  assert.equal((await nothing.push("cancel")).state, "finished", "and answers");
  assert.deepEqual(nothing.pushes, []);
  await nothing.leave();
});

test("a line that is lost while the job runs costs no event and repeats none", async (t) => {
  const proxy = await Proxy.to(sango.port);
  const away = await Client.open(proxy);
  // Even when the test fails: a client that goes on trying would keep this process from ending.
  t.after(async () => {
    await away.close();
    await proxy.close();
  });
  const { id } = await submit(sango, slow({ steps: 12 }));
  const topic = await away.follow(id);
  await topic.heard("of a step", ({ name }) => name === "progress");
  for (let i = 0; i < 2; i++) {
    const { step } = (await sango.job(id)).progress;
    proxy.cut();
    await until("the line is lost", () => !away.connected);
    // Where the client is slow to come back, the job may have ended before the second cut.
    await until("the job has gone on", async () => {
      const { state, progress } = await sango.job(id);
      return state === "finished" || progress.step > step + 1;
    });
    proxy.mend();
    await until("it has joined again", () => topic.welcomes.length === i + 2);
  }
  const told = await topic.ended();
  assertWhole(told);
  assert.deepEqual(told, await events(sango, id));
});

test("a topic that one channel has joined can be joined by another, which takes over", async () => {
  const { id } = await submit(sango, slow());
  const first = await client.follow(id);
  await first.heard("of a step", ({ name }) => name === "progress");
  const second = await client.follow(id);
  await until("the first channel is closed", () => first.closed);
  const heard = first.pushes.length;
  await second.heard("a step more", ({ payload }) => payload.n > heard + 1);
  assert.equal((await second.push("cancel")).state, "cancelled");
  const told = await second.ended();
  assertWhole(told, "cancelled");
  assert.equal(first.pushes.length, heard);
  await second.leave();
});

test("a topic that was left says nothing more", async () => {
  const studio = await client.join("studio");
  await studio.leave();
  const heard = studio.pushes.length;
  const again = await client.join("studio");
  const { id } = await draw(sango, image());
  await again.heard("of the job", ({ payload }) => payload.id === id && payload.state === "finished");
  assert.equal(studio.pushes.length, heard);
  await again.leave();
});

test("a job that waits is cancelled over its topic", async () => {
  const told = await whileBusy(sango, async () => {
    const { id } = await submit(sango, image());
    const topic = await client.follow(id);
    const job = assertJob(await topic.push("cancel"));
    assert.deepEqual([job.id, job.state], [id, "cancelled"]);
    const told = await topic.ended();
    await topic.leave();
    return told;
  });
  assert.deepEqual(told.map(({ event }) => event), ["queued", "cancelled"]);
});

test("a job that runs is cancelled over its topic, within a step", async () => {
  const { id } = await submit(sango, slow());
  const topic = await client.follow(id);
  await topic.heard("of a step", ({ name }) => name === "progress");
  const cancelled = assertJob(await topic.push("cancel"));
  assert.equal(cancelled.state, "cancelled");
  const told = await topic.ended();
  assertWhole(told, "cancelled");
  assert.equal(told.length, cancelled.last_event);
  assert.equal((await topic.push("cancel")).state, "cancelled", "again changes nothing");
  await topic.leave();
});

test("a client that vanishes does not stop its jobs", async () => {
  const gone = await Client.open(sango);
  const studio = await gone.join("studio");
  const running = await studio.push("submit", slow({ steps: 8 }));
  const waiting = await studio.push("submit", image());
  const topic = await gone.follow(running.id);
  await topic.heard("of a step", ({ name }) => name === "progress");
  gone.vanish();
  for (const { id } of [running, waiting]) {
    await sango.wait(id, "finished");
    assertWhole(await events(sango, id));
  }
});

for (const [topic, params, code] of [
  ["nowhere", {}, "unknown_topic"],
  ["jobs", {}, "unknown_topic"],
  ["studio:1", {}, "unknown_topic"],
  ["job:", {}, "unknown_job"],
  ["job:nonsense", {}, "unknown_job"],
  ["job:0199b2c4-5c1e-7f3a-9a55-0c8f7f1d2e3b", { after: 3 }, "unknown_job"],
]) {
  test(`joining ${topic} is refused: ${code}`, () => assertRefusal(client.join(topic, params), code));
}

test("a join's `after` is a number of an event", async () => {
  const { id, last_event } = await draw(sango, image());
  for (const after of [-1, 1.5, "2", [], {}, true]) {
    await assertRefusal(client.join(`job:${id}`, { after }), "invalid_request");
  }
  const topic = await client.join(`job:${id}`, { after: null });
  assertNumbered(await topic.ended());
  topic.payloads().forEach(assertEvent);
  assert.equal(topic.pushes.length, last_event);
  await topic.leave();
});

test("what a topic does not take is refused, and the topic lives on", async () => {
  const studio = await client.join("studio");
  for (const [event, payload, code] of [
    ["dance", {}, "invalid_request"],
    ["cancel", {}, "invalid_request"],
    ["submit", {}, "invalid_request"],
    ["submit", { kind: "image", prompt: "x", promt: "y" }, "invalid_request"],
    ["submit", { kind: "video", prompt: "x", options: { frames: 10 } }, "invalid_option"],
    ["submit", { kind: "image", prompt: " " }, "invalid_option"],
    ["submit", { kind: "image", prompt: "x", model: "no-such-model" }, "unknown_model"],
    ["submit", { kind: "image", prompt: "x", image: "??" }, "invalid_media"],
    ["submit", { kind: "image", prompt: "x".repeat(2_001) }, "too_large"],
    ["list", { limit: "many" }, "invalid_request"],
    ["list", { limit: 0 }, "invalid_option"],
    ["list", { limit: 201 }, "invalid_option"],
    ["list", { state: "done" }, "invalid_option"],
    ["list", { before: "nonsense" }, "unknown_job"],
    ["list", { colour: "red" }, "invalid_request"],
  ]) {
    await assertRefusal(studio.push(event, payload), code).catch((error) => {
      throw new Error(`${event} ${JSON.stringify(payload).slice(0, 80)}: ${error.message}`, { cause: error });
    });
  }
  assert.equal((await studio.push("list")).jobs.length > 0, true);
  const { id } = await draw(sango, image());
  const topic = await client.follow(id);
  await assertRefusal(topic.push("submit", image()), "invalid_request");
  assert.equal((await topic.push("cancel")).id, id);
  await topic.leave();
  await studio.leave();
});
