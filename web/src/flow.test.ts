import { describe, expect, test } from "vitest";
import type { JobEvent, Stage } from "./protocol/types";
import { openRun, withEvent, type Run } from "./run";
import { job } from "./testing";
import { announcement, flowHeadline } from "./words";

const NAMES = ["understand", "image", "video"] as const;
const stage = (name: string, state: Stage["state"], text: string | null = null): Stage => ({
  name,
  state,
  prompt: null,
  result: state === "finished" ? { url: `/${name}`, content_type: "x/y", bytes: 1, cached: false, text } : null,
});
const waiting = () => NAMES.map((name) => stage(name, "waiting"));
const fresh = () => openRun(job({ kind: "pipeline", last_event: 0, stages: waiting() }), 0);

/** What a pipeline sends, which stops in the middle of its picture and goes on. */
const TOLD: Record<string, unknown>[] = [
  { event: "queued", position: 1 },
  { event: "started" },
  { event: "stage", stage: stage("understand", "running") },
  { event: "frames", frames: [{ media: 0, time: 0, timestamp: "00:00" }] },
  { event: "preview", step: 1, src: "clip" },
  { event: "token", text: "a red ", index: 0 },
  { event: "token", text: "star", index: 2 },
  { event: "stage", stage: stage("understand", "finished", "a red star") },
  { event: "stage", stage: stage("image", "running") },
  { event: "preview", step: 1, src: "half" },
  { event: "queued", position: 1 },
  { event: "started" },
  { event: "stage", stage: stage("image", "running") },
  { event: "preview", step: 1, src: "picture" },
  { event: "stage", stage: stage("image", "finished") },
  { event: "stage", stage: stage("video", "running") },
  { event: "progress", progress: { step: 1, total: 2, eta_ms: 5, phase: "decode" } },
];
const EVENTS = TOLD.map((event, index) => ({ n: index + 1, ...event })) as JobEvent[];
const apply = (run: Run, events: readonly JobEvent[]) => events.reduce((all, event) => withEvent(all, event, 0), run);

describe("a pipeline", () => {
  test("keeps what each stage showed and said, also when it goes on after a stop", () => {
    const run = apply(fresh(), EVENTS);
    expect(run.previews["understand"]?.map(({ src }) => src)).toEqual(["clip"]);
    expect(run.previews["image"]?.map(({ src }) => src)).toEqual(["picture"]);
    expect([run.answer, run.stage, run.shown.length]).toEqual(["a red star", "video", 1]);
    expect(run.job.stages?.map(({ state }) => state)).toEqual(["finished", "finished", "running"]);
    // A rejoin tells everything again.
    expect(apply(run, EVENTS)).toEqual(run);
  });

  test("says which stage it is in", () => {
    expect(flowHeadline(apply(fresh(), EVENTS.slice(0, 2)))).toBe("Reading what you sent");
    expect(flowHeadline(apply(fresh(), EVENTS.slice(0, 3)))).toBe("Watching: stage 1 of 3");
    expect(flowHeadline(apply(fresh(), EVENTS))).toBe("Filming: stage 3 of 3");
    expect(announcement(apply(fresh(), EVENTS))).toBe("Filming");
  });

  test("starts each stage without the steps of the one before", () => {
    const drawing = apply(fresh(), EVENTS.slice(0, 14));
    expect(drawing.frames.map(({ src }) => src)).toEqual(["picture"]);
    expect(apply(drawing, EVENTS.slice(14, 16)).frames).toEqual([]);
  });
});
