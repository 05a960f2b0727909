/** A server that is told to stop, or is killed, and comes back: what was acknowledged is still there. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { NOT_OURS, Sango } from "../support/sango.mjs";
import { Client } from "./support/client.mjs";
import { assertJob, assertWhole } from "./support/fields.mjs";
import { ask } from "./support/http.mjs";
import { Line } from "./support/line.mjs";
import { events, openEvents, read } from "./support/sse.mjs";
import { draw, image, slow, submit } from "./support/work.mjs";

/** With what a server that stops closes its sockets. */
const [GOING_AWAY, SERVICE_RESTART] = [1001, 1012];

let sango;

before(async () => {
  sango = await Sango.start();
});

after(() => sango?.stop());

const names = (told) => told.map(({ event }) => event);

for (const [signal, attempt] of [["SIGTERM", 1], ["SIGKILL", 2]]) {
  test(`after ${signal} the jobs run again by themselves`, { skip: NOT_OURS }, async () => {
    const finished = await draw(sango, image());
    const request = image({}, { idempotency_key: `before ${signal}` });
    const running = await submit(sango, slow({ steps: 10 }));
    const waiting = await submit(sango, request);
    const cancelled = await submit(sango, image());
    await sango.cancel(cancelled.id);

    const client = await Client.open(sango);
    const topic = await client.follow(running.id);
    await topic.heard("of a step", ({ name }) => name === "progress");
    await sango.end(signal);
    await sango.run();

    for (const { id } of [running, waiting]) assertJob(await sango.wait(id, "finished"));
    // The client has come back by itself and was told the rest.
    const told = await topic.ended();
    told.forEach((event, i) => assert.equal(event.n, i + 1));
    const again = names(told).lastIndexOf("queued");
    assert.ok(again > 1, "it was queued again");
    assert.deepEqual(told[again].data.attempt, attempt);
    assert.deepEqual([told[again + 1].event, told[again + 1].data.attempt], ["started", attempt]);
    const steps = told.slice(again).filter(({ event }) => event === "progress").map(({ data }) => data.step);
    assert.deepEqual(steps, Array.from({ length: 10 }, (_, i) => i + 1), "it has begun anew");
    assert.deepEqual(told, await events(sango, running.id));
    await client.close();

    assertWhole(await events(sango, finished.id));
    assert.deepEqual(await sango.job(finished.id), finished);
    assert.equal((await ask(sango, `GET ${finished.result.url}`)).status, 200);
    assert.equal((await sango.job(cancelled.id)).state, "cancelled");
    assert.equal((await submit(sango, request)).id, waiting.id, "the key is remembered");
    assert.equal((await submit(sango, finished.request)).result.cached, true, "and so is the picture");
  });
}

test("a server that stops says goodbye to its clients", { skip: NOT_OURS }, async () => {
  const { id } = await submit(sango, slow());
  const line = await Line.open(sango);
  await line.join("studio");
  const stream = read(await openEvents(sango, id));
  assert.equal((await stream.next()).value.event, "queued");
  const ended = (async () => {
    for await (const event of stream) assert.notEqual(event.event, "finished");
  })();
  await sango.end("SIGTERM");
  const code = await line.gone();
  assert.ok([GOING_AWAY, SERVICE_RESTART].includes(code), `${code}`);
  await ended;
  await sango.run();
  await sango.cancel(id);
});
