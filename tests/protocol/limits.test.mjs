/** How much a server takes: jobs, bytes, silence. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Sango, until } from "../support/sango.mjs";
import { Client } from "./support/client.mjs";
import { assertError, assertRefusal, assertRefused } from "./support/errors.mjs";
import { ask } from "./support/http.mjs";
import { Line } from "./support/line.mjs";
import { metrics } from "./support/metrics.mjs";
import { draw, image, submit, whileBusy } from "./support/work.mjs";

const MIB = 1 << 20;
/** Seconds of silence after which a socket is closed. */
const SILENCE = 90;

let sango;
/** A socket that says nothing, and one that sends its heartbeat as seldom as it may. */
let silent;
let beating;
/** For how many seconds the first is left open. */
let silence;

before(async () => {
  sango = await Sango.start();
  [silent, beating] = [await Line.open(sango), await Line.open(sango)];
  const since = Date.now();
  silence = silent.gone((SILENCE + 60) * 1_000).then(() => (Date.now() - since) / 1_000);
  silence.catch(() => {}); // The test that waits for it is told.
  setTimeout(() => beating.send([null, "beat", "phoenix", "heartbeat", {}]), 60_000).unref();
});

after(async () => {
  await silent?.close();
  await beating?.close();
  await sango?.stop();
});

test("256 jobs may be unfinished, and one more is refused until there is room", async () => {
  const drawn = await draw(sango, image());
  const client = await Client.open(sango);
  const studio = await client.join("studio");
  await whileBusy(sango, async (busy) => {
    const ids = [];
    for (let i = 0; i < 255; i++) ids.push((await submit(sango, image())).id);
    const refused = await ask(sango, "POST /v1/jobs", { json: image() });
    assertRefused(refused, "queue_full");
    assert.ok(Number(refused.headers["retry-after"]) >= 1, refused.headers["retry-after"]);
    await assertRefusal(studio.push("submit", image()), "queue_full");
    assert.ok((await metrics(sango)).sango_jobs_refused_total >= 2);
    assert.equal((await submit(sango, drawn.request)).state, "finished", "what is there already is answered");
    const last = await sango.job(ids.at(-1));
    assert.equal(last.position, 255);

    await sango.cancel(ids.pop());
    ids.push((await studio.push("submit", image())).id);
    await assertRefusal(studio.push("submit", image()), "queue_full");
    assert.equal((await sango.job(busy)).state, "running");
    await Promise.all(ids.map((id) => sango.cancel(id)));
  });
  await draw(sango, image());
  await client.close();
});

test("the bound holds when many ask at once", async () => {
  await whileBusy(sango, async () => {
    const answers = await Promise.all(
      Array.from({ length: 300 }, () => ask(sango, "POST /v1/jobs", { json: image() })),
    );
    const taken = answers.filter(({ status }) => status === 202);
    assert.equal(taken.length, 255);
    for (const answer of answers.filter((answer) => !taken.includes(answer))) assertRefused(answer, "queue_full");
    await Promise.all(taken.map(({ json }) => sango.cancel(json.id)));
  });
});

test("a body has at most 56 MiB", async () => {
  const body = Buffer.alloc(56 * MIB + 1, " ");
  const headers = { "content-type": "application/json" };
  assertRefused(await ask(sango, "POST /v1/jobs", { body, headers }), "too_large");
  // Up to there it is read.
  const fits = Buffer.concat([body.subarray(0, 55 * MIB), Buffer.from(JSON.stringify(image()))]);
  assert.equal((await ask(sango, "POST /v1/jobs", { body: fits, headers })).status, 202);
});

test("a frame has at most 56 MiB, and one that has more ends its own socket only", async () => {
  const line = await Line.open(sango);
  const padded = (frame, length) => `${" ".repeat(length)}${JSON.stringify(frame)}`;
  line.send(padded([null, "1", "phoenix", "heartbeat", {}], 55 * MIB));
  assert.equal((await line.reply("1")).status, "ok");
  assert.equal((await line.join("studio")).status, "ok");
  const { status, response } = await line.ask("1", "studio", "submit", image({}, { image: "A".repeat(28 * MIB) }));
  assert.equal(status, "error");
  assertError(response, "too_large");
  line.send(padded([null, "9", "phoenix", "heartbeat", {}], 56 * MIB));
  await line.gone();
  const other = await Line.open(sango);
  assert.equal((await other.ask(null, "phoenix", "heartbeat", {})).status, "ok");
  await other.close();
});

test("a client that takes nothing for 30 seconds is let go, and holds nobody up until then", async () => {
  const stuck = await Line.open(sango);
  await stuck.join("studio");
  const { sango_sockets: open } = await metrics(sango);
  const since = Date.now();
  stuck.pause();
  // Far more than lies between the two: at some point the server can send no more.
  for (let i = 0; i < 400; i++) stuck.send(["1", "x", "studio", "list", { limit: 200 }]);
  await draw(sango, image());
  assert.equal((await beating.join("studio")).status, "ok");
  // The silent one may go meanwhile.
  const others = () => open - (silent.closed === null ? 1 : 2);
  await until("it is let go", async () => (await metrics(sango)).sango_sockets <= others());
  const seconds = (Date.now() - since) / 1_000;
  assert.ok(seconds > 29, `it was let go after ${seconds} s`);
  stuck.resume();
  await stuck.gone();
});

test("a socket that is silent for 90 seconds is closed, one with a heartbeat is not", async () => {
  const seconds = await silence;
  assert.ok(seconds > SILENCE - 1, `it was closed after ${seconds} s`);
  assert.equal((await beating.reply("beat")).status, "ok");
  // The second is as old as the first.
  await sleep(5_000);
  assert.equal(beating.closed, null);
  assert.equal((await beating.ask(null, "phoenix", "heartbeat", {})).status, "ok");
});
