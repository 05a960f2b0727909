import { Socket } from "phoenix";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { JobEvent, JobRequest } from "../protocol/types";
import { wireJob } from "../testing";
import { JobFeed } from "./jobfeed";
import { Studio } from "./studio";

type Frame = [joinRef: string | null, ref: string, topic: string, event: string, payload: Record<string, unknown>];

/** The other end of a WebSocket: keeps what the page sends, and sends or drops what a test says. */
class Wire {
  static lines: Wire[] = [];
  readonly frames: Frame[] = [];
  readyState = 0;
  onopen?: () => void;
  onclose?: (event: { code: number; wasClean: boolean; reason: string }) => void;
  onmessage?: (event: { data: string }) => void;
  onerror?: () => void;

  constructor(readonly url: string) {
    Wire.lines.push(this);
    setTimeout(() => {
      this.readyState = 1;
      this.onopen?.();
    });
  }
  send(text: string): void {
    this.frames.push(JSON.parse(text) as Frame);
  }
  close(): void {
    this.drop();
  }

  drop(): void {
    this.readyState = 3;
    this.onclose?.({ code: 1006, wasClean: false, reason: "" });
  }
  /** The newest frame of this event. */
  sent(event: string): Frame {
    const frame = this.frames.findLast((one) => one[3] === event);
    if (!frame) throw new Error(`no ${event} was sent`);
    return frame;
  }
  reply([joinRef, ref, topic]: Frame, status: "ok" | "error", response: unknown): void {
    this.#receive([joinRef, ref, topic, "phx_reply", { status, response }]);
  }
  push([joinRef, , topic]: Frame, event: string, payload: unknown): void {
    this.#receive([joinRef, null, topic, event, payload]);
  }
  #receive(frame: unknown): void {
    this.onmessage?.({ data: JSON.stringify(frame) });
  }
}

const REQUEST: JobRequest = { kind: "image", model: null, prompt: "p", options: {}, idempotency_key: "key-1" };

let socket: Socket;

/** The line that is open now. */
async function line(): Promise<Wire> {
  await vi.advanceTimersByTimeAsync(200);
  const newest = Wire.lines.at(-1);
  if (!newest) throw new Error("the socket did not connect");
  return newest;
}

beforeEach(() => {
  vi.useFakeTimers();
  Wire.lines = [];
  socket = new Socket("ws://h/socket", { transport: Wire, reconnectAfterMs: () => 100, rejoinAfterMs: () => 100 });
  socket.connect();
});

afterEach(() => {
  socket.disconnect();
  vi.useRealTimers();
});

function openFeed() {
  const events: JobEvent[] = [];
  const problems: unknown[] = [];
  const feed = new JobFeed(socket, "x", {
    last: () => events.at(-1)?.n ?? 0,
    onJob: () => undefined,
    onEvent: (event) => events.push(event),
    onProblem: (problem) => problems.push(problem),
  });
  return { feed, events, problems };
}

test("after a lost line, a job's events are asked for from the last that arrived", async () => {
  const { events } = openFeed();
  const first = await line();
  expect(first.url).toBe("ws://h/socket/websocket?vsn=2.0.0");
  const join = first.sent("phx_join");
  expect(join[4]).toEqual({ after: 0 });
  first.reply(join, "ok", { job: wireJob() });
  first.push(join, "queued", { n: 1, event: "queued", data: { position: 1 } });
  first.push(join, "started", { n: 2, event: "started", data: {} });
  first.drop();

  const second = await line();
  expect(second).not.toBe(first);
  const rejoin = second.sent("phx_join");
  expect(rejoin[4]).toEqual({ after: 2 });
  second.reply(rejoin, "ok", { job: wireJob() });
  second.push(rejoin, "cancelled", { n: 3, event: "cancelled", data: {} });
  expect(events.map((event) => event.n)).toEqual([1, 2, 3]);
});

test("a job that the server does not know is reported once, and not asked for again", async () => {
  const { problems } = openFeed();
  const wire = await line();
  const error = { code: "unknown_job", message: "there is no job x", status: 404 };
  wire.reply(wire.sent("phx_join"), "error", { error });
  expect(problems).toMatchObject([{ message: "there is no job x", error }]);
  const joins = wire.frames.length;
  await vi.advanceTimersByTimeAsync(60_000);
  expect(wire.frames.slice(joins).filter((frame) => frame[3] === "phx_join")).toEqual([]);
});

test("cancel answers the job", async () => {
  const { feed } = openFeed();
  const wire = await line();
  wire.reply(wire.sent("phx_join"), "ok", { job: wireJob() });
  const cancelled = feed.cancel();
  wire.reply(wire.sent("cancel"), "ok", wireJob({ state: "cancelled" }));
  expect((await cancelled).state).toBe("cancelled");
});

test("a closed feed is silent", async () => {
  const { feed, events } = openFeed();
  const wire = await line();
  const join = wire.sent("phx_join");
  wire.reply(join, "ok", { job: wireJob() });
  feed.close();
  wire.push(join, "started", { n: 1, event: "started", data: {} });
  expect(events).toEqual([]);
});

test("an event that is not understood is reported, and the next is heard", async () => {
  const { events, problems } = openFeed();
  const wire = await line();
  const join = wire.sent("phx_join");
  wire.reply(join, "ok", { job: wireJob() });
  wire.push(join, "progress", { n: 1, event: "progress", data: { step: "one" } });
  wire.push(join, "started", { n: 2, event: "started", data: {} });
  expect(problems).toMatchObject([{ name: "DecodeError" }]);
  expect(events.map((event) => event.n)).toEqual([2]);
});

function openStudio() {
  const welcomes: number[] = [];
  const studio = new Studio(socket, {
    onWelcome: (jobs) => welcomes.push(jobs.length),
    onJob: () => undefined,
    onProblem: (problem) => {
      throw problem;
    },
  });
  return { studio, welcomes };
}

test("a job whose answer was lost with the line is sent again under the same key", async () => {
  const { studio, welcomes } = openStudio();
  const first = await line();
  first.reply(first.sent("phx_join"), "ok", { jobs: [wireJob()], models: [] });
  const answer = studio.submit(REQUEST);
  expect(first.sent("submit")[4]).toEqual(REQUEST);
  first.drop();

  const second = await line();
  second.reply(second.sent("phx_join"), "ok", { jobs: [], models: [] });
  expect(second.sent("submit")[4]).toEqual(REQUEST);
  second.reply(second.sent("submit"), "ok", wireJob());
  expect((await answer).id).toBe(wireJob()["id"]);
  expect(welcomes).toEqual([1, 0]);
});

test("a job submitted while the line is down is sent once it is up, and only once", async () => {
  const { studio } = openStudio();
  const answer = studio.submit(REQUEST);
  const wire = await line();
  expect(wire.frames.some((frame) => frame[3] === "submit")).toBe(false);
  wire.reply(wire.sent("phx_join"), "ok", { jobs: [], models: [] });
  wire.reply(wire.sent("submit"), "ok", wireJob());
  await answer;
  expect(wire.frames.filter((frame) => frame[3] === "submit")).toHaveLength(1);
});

test("a refused job says why, and a silent server is given up", async () => {
  const { studio } = openStudio();
  const wire = await line();
  wire.reply(wire.sent("phx_join"), "ok", { jobs: [], models: [] });
  const refused = studio.submit(REQUEST);
  wire.reply(wire.sent("submit"), "error", { error: { code: "invalid", message: "too long", status: 400 } });
  await expect(refused).rejects.toMatchObject({ message: "too long", error: { code: "invalid" } });

  const silent = expect(studio.submit(REQUEST)).rejects.toThrow("does not answer");
  await vi.advanceTimersByTimeAsync(30_000);
  await silent;
});
