/** A job's events over HTTP: Server-Sent Events that begin where one likes and end with the job. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { EventSource } from "eventsource";
import { readPng } from "../support/png.mjs";
import { Sango, until } from "../support/sango.mjs";
import { EVENTS, LAST, assertEvent, assertNumbered, assertWhole } from "./support/fields.mjs";
import { events, openEvents, read } from "./support/sse.mjs";
import { draw, image, slow, submit, whileBusy } from "./support/work.mjs";

let sango;

before(async () => {
  sango = await Sango.start();
});

after(() => sango?.stop());

const names = (told) => told.map(({ event }) => event);

test("who listens from the start is told everything, live, and the stream ends with the job", async () => {
  const { id } = await submit(sango, image({ steps: 12, width: 256, height: 256 }));
  const told = [];
  let live = 0;
  for await (const event of read(await openEvents(sango, id))) {
    told.push(event);
    if (event.event === "progress" && (await sango.job(id)).state === "running") live++;
  }
  assert.ok(live >= 3, `${live} steps were told while the job ran`);
  assertWhole(told);
  assert.deepEqual(names(told).slice(0, 2), ["queued", "started"]);
  assert.deepEqual([told[0].data.attempt, told[1].data.attempt], [1, 1]);
  const progress = told.filter(({ event }) => event === "progress").map(({ data }) => data);
  assert.deepEqual(progress.map(({ step }) => step), Array.from({ length: 12 }, (_, i) => i + 1));
  assert.ok(progress.every(({ total }) => total === 12));
  assert.equal(progress.at(-1).eta_ms, 0);
  const job = await sango.job(id);
  assert.equal(job.last_event, told.length);
  assert.deepEqual(told.at(-1).data.result, job.result);
  assert.deepEqual(await events(sango, id), told, "they are kept");
});

test("a preview is a small picture of the step that was just done", async () => {
  const told = await events(sango, (await draw(sango, image({ steps: 12, width: 256, height: 192 }))).id);
  const previews = told.filter(({ event }) => event === "preview");
  assert.ok(previews.length >= 2, `${previews.length} previews`);
  for (const preview of previews) {
    const { width, height } = readPng(Buffer.from(preview.data.data, "base64"));
    assert.deepEqual([width, height], [128, 96], "at most 128 pixels, in the picture's shape");
    const before = told[preview.n - 2];
    assert.deepEqual([before.event, before.data.step], ["progress", preview.data.step]);
    assert.ok(preview.data.step < 12, "the result follows the last step");
  }
});

test("after n come the events after n, once each and in order", async () => {
  const { id } = await draw(sango, image());
  const all = await events(sango, id);
  for (const after of [0, 1, all.length - 1]) {
    const told = await events(sango, id, { after });
    assertNumbered(told, after);
    assert.deepEqual(told, all.slice(after));
    assert.deepEqual(await events(sango, id, { last: after }), told, "Last-Event-ID works as `after`");
  }
  assert.deepEqual(await events(sango, id, { after: 0, last: 2 }), all.slice(2), "a browser repeats the address");
});

test("a client that was away while the job ran misses and repeats nothing", async () => {
  const { id } = await submit(sango, image({ steps: 30, width: 256, height: 256 }));
  const told = [];
  let reconnects = 0;
  while (!LAST.includes(told.at(-1)?.event)) {
    const leaving = new AbortController();
    const response = await openEvents(sango, id, { after: told.length, signal: leaving.signal });
    for await (const event of read(response)) {
      told.push(event);
      if (told.length % 7 === 0) break;
    }
    leaving.abort();
    reconnects++;
  }
  assert.ok(reconnects > 3);
  assertWhole(told);
});

test("there is nothing after the last event: 204, which stops an EventSource", async () => {
  const { id, last_event } = await draw(sango, image());
  for (const after of [last_event, last_event + 1, last_event + 1_000_000]) {
    const response = await openEvents(sango, id, { after });
    assert.deepEqual([response.status, await response.text()], [204, ""], `after ${after}`);
  }
  assert.equal((await openEvents(sango, id, { last: last_event })).status, 204);
});

test("an EventSource hears all of it once, and stops by itself", async () => {
  const { id } = await submit(sango, image());
  const statuses = [];
  const source = new EventSource(new URL(`v1/jobs/${id}/events?after=0`, sango.url), {
    fetch: async (url, init) => {
      const response = await fetch(url, init);
      statuses.push(response.status);
      return response;
    },
  });
  const told = [];
  for (const name of EVENTS) source.addEventListener(name, ({ data }) => told.push(JSON.parse(data)));
  try {
    await until("the EventSource has stopped", () => source.readyState === EventSource.CLOSED);
  } finally {
    source.close();
  }
  assertWhole(told);
  assert.deepEqual(statuses, [200, 204]);
});

test("a job that waits tells its position at once, and that it was cancelled", async () => {
  const told = await whileBusy(sango, async () => {
    await submit(sango, image());
    const { id } = await submit(sango, image());
    const stream = read(await openEvents(sango, id));
    const told = [(await stream.next()).value];
    await sango.cancel(id);
    for await (const event of stream) told.push(event);
    return told;
  });
  assertWhole(told, "cancelled");
  assert.deepEqual(names(told), ["queued", "cancelled"]);
  assert.deepEqual(told[0].data, { position: 2, attempt: 1 });
});

test("many listeners of one job hear the same", async () => {
  const { id } = await submit(sango, image({ steps: 20 }));
  const heard = await Promise.all(Array.from({ length: 30 }, () => events(sango, id)));
  assertWhole(heard[0]);
  for (const told of heard) assert.deepEqual(told, heard[0]);
});

test("a listener that goes away does not stop the job", async () => {
  const { id } = await submit(sango, slow({ steps: 8 }));
  const leaving = new AbortController();
  for await (const event of read(await openEvents(sango, id, { signal: leaving.signal }))) {
    assertEvent(event);
    if (event.event === "progress") break;
  }
  leaving.abort();
  await sango.wait(id, "finished");
  assertWhole(await events(sango, id));
});
