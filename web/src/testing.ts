/** What several tests need: jobs as the server shows them. */

import type { Job } from "./protocol/types";

/** A job as it comes over the wire, with some fields changed. */
export function wireJob(change: Record<string, unknown> = {}): Record<string, unknown> {
  return {
    id: "0199b2c4-5c1e-7f3a-9a55-0c8f7f1d2e3b",
    kind: "image",
    model: "shapes",
    state: "queued",
    created_at: 1764000000000,
    started_at: null,
    finished_at: null,
    position: 1,
    progress: null,
    result: null,
    error: null,
    last_event: 1,
    request: {
      kind: "image",
      model: "shapes",
      prompt: "a large red circle on a blue background",
      options: { negative_prompt: null, steps: 12, guidance_scale: 4, seed: 7, strength: null, temperature: [2, 0] },
      image: null,
      mask: null,
      priority: 0,
    },
    ...change,
  };
}

/** The same job, decoded. */
export function job(change: Partial<Job> = {}): Job {
  return {
    id: "0199b2c4-5c1e-7f3a-9a55-0c8f7f1d2e3b",
    kind: "image",
    model: "shapes",
    state: "queued",
    created_at: 1764000000000,
    started_at: null,
    finished_at: null,
    position: 1,
    progress: null,
    result: null,
    error: null,
    last_event: 1,
    request: {
      prompt: "a large red circle on a blue background",
      options: { steps: 12, guidance_scale: 4, seed: 7 },
      image: false,
      mask: false,
      asked: null,
    },
    stages: null,
    ...change,
  };
}
