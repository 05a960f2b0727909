import { describe, expect, test } from "vitest";
import type { JobEvent } from "./protocol/types";
import { framesOf, isComplete, openRun, totalSteps, withEvent, withJob, type Run } from "./run";
import { job } from "./testing";

const NOW = 1000;
const RESULT = { url: "/v1/jobs/x/result", content_type: "image/png", bytes: 9, cached: false, text: null };

/** What a job of three steps sends. */
const EVENTS: readonly JobEvent[] = [
  { n: 1, event: "queued", position: 2 },
  { n: 2, event: "started" },
  { n: 3, event: "progress", progress: { step: 1, total: 3, eta_ms: 800, phase: null } },
  { n: 4, event: "preview", step: 1, src: "data:1" },
  { n: 5, event: "progress", progress: { step: 2, total: 3, eta_ms: 400, phase: null } },
  { n: 6, event: "preview", step: 2, src: "data:2" },
  { n: 7, event: "progress", progress: { step: 3, total: 3, eta_ms: 0, phase: null } },
  { n: 8, event: "preview", step: 3, src: "data:3" },
  { n: 9, event: "finished", result: RESULT },
];

const fresh = () => openRun(job({ last_event: 0 }), NOW);
const apply = (run: Run, events: readonly JobEvent[]) => events.reduce((all, event) => withEvent(all, event, NOW), run);

describe("a run", () => {
  test("goes from queued to finished", () => {
    const states = EVENTS.map((_, count) => apply(fresh(), EVENTS.slice(0, count + 1)).job.state);
    expect(states).toEqual(["queued", ...Array(7).fill("running"), "finished"]);
  });

  test("gathers a frame for every step, and the result", () => {
    const run = apply(fresh(), EVENTS);
    expect(run.frames.map((frame) => frame.src)).toEqual(["data:1", "data:2", "data:3"]);
    expect(run.job.result).toEqual(RESULT);
    expect(run.last).toBe(9);
    expect(isComplete(run)).toBe(true);
  });

  test("knows its place in the line, and when it will be ready", () => {
    expect(apply(fresh(), EVENTS.slice(0, 1)).job.position).toBe(2);
    const running = apply(fresh(), EVENTS.slice(0, 4));
    expect(running.job.position).toBeNull();
    expect(running.due).toBe(NOW + 800);
    expect(apply(fresh(), EVENTS).due).toBeNull();
  });

  test.each([3, 5, 8])("cut off after %i events and replayed from any point is the same", (cut) => {
    const whole = apply(fresh(), EVENTS);
    for (let from = 0; from <= cut; from++) {
      expect(apply(apply(fresh(), EVENTS.slice(0, cut)), EVENTS.slice(from))).toEqual(whole);
    }
  });

  test("forgets the frames of an interrupted attempt", () => {
    const again = apply(apply(fresh(), EVENTS.slice(0, 6)), [{ n: 7, event: "queued", position: 1 }]);
    expect(again.frames).toEqual([]);
    expect(again.job.state).toBe("queued");
    expect(again.job.progress).toBeNull();
  });

  test("keeps the server's words when it fails, and the frames so far", () => {
    const error = { code: "out_of_disk", message: "the disk is full", status: 507 };
    const run = apply(apply(fresh(), EVENTS.slice(0, 4)), [{ n: 5, event: "failed", error }]);
    expect(run.job.state).toBe("failed");
    expect(run.job.error).toEqual(error);
    expect(run.frames).toHaveLength(1);
  });
});

describe("a view of the job that is ahead of the events", () => {
  const ahead = job({ state: "finished", last_event: 9, result: RESULT });

  test("is not taken back by older events, which still bring their frames", () => {
    const run = apply(withJob(fresh(), ahead, NOW), EVENTS.slice(0, 4));
    expect(run.job.state).toBe("finished");
    expect(run.frames).toHaveLength(1);
    expect(isComplete(run)).toBe(false);
    expect(isComplete(apply(run, EVENTS))).toBe(true);
  });

  test("replaces an older one, never the other way round, and never another job's", () => {
    const run = withJob(fresh(), ahead, NOW);
    expect(withJob(run, job({ last_event: 4 }), NOW)).toBe(run);
    expect(withJob(run, job({ id: "other", last_event: 99 }), NOW)).toBe(run);
  });
});

test("the finished picture is the last frame, unless there is no other to put it after", () => {
  const twoSeen = apply(fresh(), EVENTS.filter(({ n }) => n !== 8));
  expect(framesOf(twoSeen, "/result").map(({ src }) => src)).toEqual(["data:1", "data:2", "/result"]);
  expect(framesOf(apply(fresh(), EVENTS), "/result").map(({ step }) => step)).toEqual([1, 2, 3]);
  expect(framesOf(twoSeen, null)).toHaveLength(2);
  expect(framesOf(fresh(), "/result")).toEqual([]);
});

test("the filmstrip has room for the steps asked for, told, or seen", () => {
  expect(totalSteps(fresh())).toBe(12);
  expect(totalSteps(apply(fresh(), EVENTS))).toBe(3);
  const seen: JobEvent = { n: 1, event: "preview", step: 20, src: "data:x" };
  expect(totalSteps(withEvent(fresh(), seen, NOW))).toBe(20);
});

test("an answer grows, begins anew with piece number 0, and is what the result says in the end", () => {
  const token = (n: number, index: number, text: string): JobEvent => ({ n, event: "token", index, text });
  const told = [
    { n: 1, event: "queued", position: 1 },
    { n: 2, event: "started" },
    { n: 3, event: "frames", frames: [{ media: 0, time: 0, timestamp: "00:00" }] },
    token(4, 0, "a "),
    token(5, 1, "red"),
  ] as JobEvent[];
  const half = told.reduce((run, event) => withEvent(run, event, 0), openRun(job({ last_event: 0 }), 0));
  expect([half.answer, half.shown.length]).toEqual(["a red", 1]);
  expect(withEvent(half, token(5, 1, "red"), 0)).toBe(half);

  const again = [{ n: 6, event: "queued", position: 1 } as JobEvent, token(7, 0, "a blue ")];
  const anew = again.reduce((run, event) => withEvent(run, event, 0), half);
  expect([anew.answer, anew.shown.length]).toEqual(["a blue ", 0]);
  const done = withEvent(anew, { n: 8, event: "finished", result: { ...RESULT, text: "a blue star" } }, 0);
  expect(done.answer).toBe("a blue star");
});
