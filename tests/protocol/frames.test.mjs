/** The socket, frame by frame: what every Phoenix client relies on, and what none would send. */

import assert from "node:assert/strict";
import { after, before, beforeEach, afterEach, test } from "node:test";
import { Sango, until } from "../support/sango.mjs";
import { assertError, assertRefused } from "./support/errors.mjs";
import { ask } from "./support/http.mjs";
import { Line } from "./support/line.mjs";
import { metrics } from "./support/metrics.mjs";
import { draw, image, slow, submit } from "./support/work.mjs";

const UNKNOWN = "0199b2c4-5c1e-7f3a-9a55-0c8f7f1d2e3b";

let sango;
let line;

before(async () => {
  sango = await Sango.start();
});

after(() => sango?.stop());

beforeEach(async () => {
  line = await Line.open(sango);
});

afterEach(() => line.close());

test("a heartbeat is answered, with any reference", async () => {
  for (const ref of ["1", "any text", 7, null]) {
    line.send([null, ref, "phoenix", "heartbeat", {}]);
    assert.deepEqual(await line.next(), [null, ref, "phoenix", "phx_reply", { status: "ok", response: {} }]);
  }
});

test("a join, a push and a leave have the frames of Phoenix", async () => {
  line.send(["1", "1", "studio", "phx_join", {}]);
  const [joinRef, ref, topic, event, { status }] = await line.next();
  assert.deepEqual([joinRef, ref, topic, event, status], ["1", "1", "studio", "phx_reply", "ok"]);

  line.send(["1", "2", "studio", "submit", image()]);
  const frames = [];
  while (!frames.some(([, , , event, payload]) => event === "job" && payload.state === "finished")) {
    frames.push(await line.next());
  }
  const [reply] = frames.filter(([, , , event]) => event === "phx_reply");
  assert.deepEqual([reply[0], reply[1], reply[4].status], ["1", "2", "ok"]);
  for (const [joinRef, ref, topic] of frames.filter((frame) => frame !== reply)) {
    assert.deepEqual([joinRef, ref, topic], ["1", null, "studio"], "a push has no reference");
  }

  line.send(["1", "3", "studio", "phx_leave", {}]);
  const ok = { status: "ok", response: {} };
  assert.deepEqual(await line.next(), ["1", "3", "studio", "phx_reply", ok]);
  assert.deepEqual(await line.next(), ["1", "1", "studio", "phx_close", {}]);
  const left = await line.ask("1", "studio", "list", {});
  assert.equal(left.status, "error");
  assertError(left.response, "unknown_topic");
});

test("joining a topic twice closes the first join", async () => {
  const { id } = await submit(sango, slow());
  const topic = `job:${id}`;
  line.send(["1", "1", topic, "phx_join", { after: 0 }]);
  assert.equal((await line.next())[4].status, "ok", "the reply is first");
  assert.deepEqual((await line.next()).slice(0, 4), ["1", null, topic, "queued"]);
  line.send(["2", "2", topic, "phx_join", { after: 1 }]);
  const frames = [];
  const isStep = ([joinRef, , , event]) => joinRef === "2" && event === "progress";
  while (!frames.some(isStep)) frames.push(await line.next());
  const [first, second] = ["1", "2"].map((ref) => frames.filter(([joinRef]) => joinRef === ref));
  assert.deepEqual(first.at(-1), ["1", "1", topic, "phx_close", {}], "the first join is told nothing more");
  assert.deepEqual([second[0][1], second[0][4].status], ["2", "ok"]);
  assert.deepEqual([second[1][3], second[1][4].n], ["started", 2], "after the reply the events, from where it asked");
  const { response } = await line.ask("2", topic, "cancel", {});
  assert.equal(response.state, "cancelled");
});

const NO_FRAMES = {
  "nothing": "",
  "no JSON": "\u0000",
  "a word": '"join"',
  "null": "null",
  "an object": "{}",
  "an empty list": "[]",
  "too few elements": "[1,2,3]",
  "too many elements": '[null,"1","phoenix","heartbeat",{},{}]',
  "numbers for topic and event": "[null,null,1,2,{}]",
  "a topic that is null": '[null,"1",null,"phx_join",{}]',
  "a reference that is a list": '[[],"1","phoenix","heartbeat",{}]',
  "a frame that is cut off": '[null,"1","studio","phx_join"',
  "a hundred thousand brackets": "[".repeat(100_000),
  "half a surrogate pair": '[null,"1","studio","\\ud800",{}]',
  "bytes": Buffer.from([0, 1, 2, 255]),
  "a frame in bytes": Buffer.from('[null,"1","phoenix","heartbeat",{}]'),
  "no bytes": Buffer.alloc(0),
};

for (const [what, frame] of Object.entries(NO_FRAMES)) {
  test(`what is no frame is answered, and the socket lives on: ${what}`, async () => {
    line.send(frame);
    const [joinRef, ref, topic, event, { status, response }] = await line.next();
    assert.deepEqual([joinRef, ref, topic, event, status], [null, null, "phoenix", "phx_reply", "error"]);
    assertError(response, "invalid_request");
    assert.equal((await line.ask(null, "phoenix", "heartbeat", {})).status, "ok");
  });
}

for (const [topic, event, payload, code] of [
  ["studio", "submit", {}, "unknown_topic"],
  ["studio", "list", {}, "unknown_topic"],
  [`job:${UNKNOWN}`, "cancel", {}, "unknown_topic"],
  ["phoenix", "dance", {}, "unknown_topic"],
  ["nowhere", "phx_join", {}, "unknown_topic"],
  ["phoenix", "phx_join", {}, "unknown_topic"],
  ["", "phx_join", {}, "unknown_topic"],
  [`job:${UNKNOWN}`, "phx_join", {}, "unknown_job"],
  [`job:${UNKNOWN} `, "phx_join", {}, "unknown_job"],
]) {
  test(`${event} on a topic that is not joined, "${topic}": ${code}`, async () => {
    const { status, response } = await line.ask(null, topic, event, payload);
    assert.equal(status, "error");
    assertError(response, code);
  });
}

test("leaving what is not joined is fine", async () => {
  assert.deepEqual(await line.ask(null, "studio", "phx_leave", {}), { status: "ok", response: {} });
});

test("payloads that are no objects are refused, each in its reply", async () => {
  assert.equal((await line.join("studio", "anything")).status, "ok", "studio has no join parameters");
  for (const payload of [null, 7, "job", [], ["image", null, "x"], true]) {
    for (const event of ["submit", "list", "dance"]) {
      const { status, response } = await line.ask("1", "studio", event, payload);
      assert.equal(status, "error", `${event} ${JSON.stringify(payload)}`);
      assertError(response, "invalid_request");
    }
  }
  const { id } = await draw(sango, image());
  for (const params of [null, 7, []]) {
    assert.equal((await line.join(`job:${id}`, params)).status, "ok", `after is 0 where ${params} does not say`);
  }
});

test("only version 2 of Phoenix Channels is spoken", async () => {
  assertRefused(await Line.knock(sango, { query: "?vsn=1.0.0" }), "invalid_request");
  assertRefused(await Line.knock(sango, { query: "?vsn=3.0.0" }), "invalid_request");
  assertRefused(await ask(sango, "GET /socket/websocket?vsn=2.0.0"), "invalid_request");
});

test("one socket joins at most 256 topics", async () => {
  const request = image();
  await draw(sango, request);
  const ids = [];
  for (let i = 0; i < 256; i++) ids.push((await submit(sango, request)).id);
  assert.equal((await line.join("studio")).status, "ok");
  for (const id of ids.slice(0, 255)) assert.equal((await line.join(`job:${id}`, { after: 2 })).status, "ok");
  const { status, response } = await line.join(`job:${ids[255]}`);
  assert.equal(status, "error");
  assertError(response, "too_many_topics");
  assert.equal((await line.join(`job:${ids[0]}`, { after: 2 })).status, "ok", "again is not one more");
  assert.equal((await line.ask(null, `job:${ids[1]}`, "phx_leave", {})).status, "ok");
  assert.equal((await line.join(`job:${ids[255]}`, { after: 2 })).status, "ok");
  const other = await Line.open(sango);
  assert.equal((await other.join("studio")).status, "ok", "another socket has its own");
  await other.close();
});

test("sockets are counted, and forgotten when they are gone", async () => {
  await line.join("studio");
  const { sango_sockets: open } = await metrics(sango);
  assert.ok(open >= 1);
  await line.close();
  await until("the socket is forgotten", async () => (await metrics(sango)).sango_sockets < open);
});
