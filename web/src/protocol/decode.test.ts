import { describe, expect, test } from "vitest";
import { job, wireJob } from "../testing";
import { decodeError, decodeEvent, decodeJob, decodeJobs, decodeModels } from "./decode";

describe("a job", () => {
  test("is read as the protocol shows it", () => {
    expect(decodeJob(wireJob())).toEqual(job());
  });

  test("keeps its progress, result and error", () => {
    const decoded = decodeJob(
      wireJob({
        state: "finished",
        progress: { step: 12, total: 12, eta_ms: 0 },
        result: { url: "/v1/jobs/x/result", content_type: "image/png", bytes: 4711, sha256: "9f", cached: true },
        error: { code: "c", message: "m", status: 500 },
      }),
    );
    expect(decoded.progress).toEqual({ step: 12, total: 12, eta_ms: 0, phase: null });
    expect(decoded.result).toEqual({ url: "/v1/jobs/x/result", content_type: "image/png", bytes: 4711, cached: true, text: null });
    expect(decoded.error?.status).toBe(500);
  });

  test("says that there was a picture and a mask", () => {
    const request = { prompt: "p", options: {}, image: { sha256: "a" }, mask: { sha256: "b" } };
    expect(decodeJob(wireJob({ request })).request).toEqual({ prompt: "p", options: {}, image: true, mask: true, asked: null });
  });

  test("that asks about media keeps the question, what it is about and what was said before", () => {
    const media = { kind: "video", sha256: "ab", bytes: 9, content_type: "video/mp4", width: 4, height: 2, duration: 1.5 };
    const messages = [{ role: "user", content: "a" }, { role: "assistant", content: "b" }];
    const options = { max_tokens: 20, frames: 8, temperature: 0, seed: null, top_k: null };
    const request = { kind: "understand", question: "q", messages, media: [{ ...media, frames: 3, fps: 2 }], options };
    const result = { url: "/r", content_type: "application/json", bytes: 4, cached: false, text: "yes" };
    const decoded = decodeJob(wireJob({ kind: "understand", request, result }));
    expect(decoded.result?.text).toBe("yes");
    expect(decoded.request.prompt).toBe("q");
    expect(decoded.request.asked).toEqual({ messages, media: [media], options: { max_tokens: 20, frames: 8, temperature: 0 } });
    const wrong = { ...request, messages: [{ role: "robot", content: "x" }] };
    expect(() => decodeJob(wireJob({ request: wrong }))).toThrow("robot");
  });

  test("drops a seed that JavaScript cannot hold exactly", () => {
    const request = { prompt: "p", options: { seed: 2 ** 60, steps: 3 } };
    expect(decodeJob(wireJob({ request })).request.options).toEqual({ steps: 3 });
  });

  test.each([
    ["id", { id: 7 }],
    ["state", { state: "melting" }],
    ["created_at", { created_at: "now" }],
    ["request", { request: null }],
    ["step", { progress: { total: 12 } }],
    ["bytes", { result: { url: "/", content_type: "image/png" } }],
  ])("with a wrong %s is refused, and the error names it", (name, change) => {
    expect(() => decodeJob(wireJob(change))).toThrow(name);
  });

  test.each([null, 3, "job", []])("that is %j is refused", (value) => {
    expect(() => decodeJob(value)).toThrow("job is not an object");
  });
});

test("a list of jobs has a next page or none", () => {
  expect(decodeJobs({ jobs: [wireJob()], next: "abc" })).toEqual({ jobs: [job()], next: "abc" });
  expect(decodeJobs({ jobs: [], models: [] })).toEqual({ jobs: [], next: null });
  expect(() => decodeJobs({ jobs: {} })).toThrow("jobs is not a list");
});

test("a model keeps what the form needs", () => {
  const model = { name: "shapes", kind: "amused", tasks: ["image"], default: true, width: 64, height: 64, steps: 12 };
  expect(decodeModels({ models: [model] })).toEqual([
    { name: "shapes", kind: "amused", tasks: ["image"], default: true, understand: null, video: null, width: 64, height: 64, steps: 12, guidance_scale: null },
  ]);
});

describe("an event", () => {
  const event = (name: string, data: unknown) => decodeEvent({ n: 3, job: "x", event: name, at: 1, data });

  test("of every kind is read", () => {
    expect(event("queued", { position: 2, attempt: 1 })).toEqual({ n: 3, event: "queued", position: 2 });
    expect(event("started", { attempt: 1 })).toEqual({ n: 3, event: "started" });
    expect(event("progress", { step: 2, total: 12, eta_ms: null })).toEqual({
      n: 3,
      event: "progress",
      progress: { step: 2, total: 12, eta_ms: null, phase: null },
    });
    expect(event("preview", { step: 2, content_type: "image/png", data: "AAAA" })).toEqual({
      n: 3,
      event: "preview",
      step: 2,
      src: "data:image/png;base64,AAAA",
    });
    expect(event("failed", { error: { code: "c", message: "m", status: 507 } })).toEqual({
      n: 3,
      event: "failed",
      error: { code: "c", message: "m", status: 507 },
    });
    expect(event("cancelled", {})).toEqual({ n: 3, event: "cancelled" });
  });

  test("that is newer than this page is dropped", () => {
    expect(event("chapter", { name: "video" })).toBeNull();
  });

  test("may not smuggle another type into a data URL", () => {
    expect(event("preview", { step: 1, content_type: "text/html", data: "AAAA" })).toBeNull();
  });

  test("without a number is refused", () => {
    expect(() => decodeEvent({ event: "started", data: {} })).toThrow("n is not a number");
  });
});

test("an error is always something to show", () => {
  const error = { code: "unknown_job", message: "there is no job x", status: 404 };
  expect(decodeError({ error })).toEqual(error);
  expect(decodeError({ reason: "unmatched topic" }).message).toBe("unmatched topic");
  expect(decodeError(undefined).message).not.toBe("");
});
