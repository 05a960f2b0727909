/** From what the form holds to the job that is sent. */

import type { ImageOptions, Job, JobRequest, MakeRequest } from "./protocol/types";

/** A picture to start from, and the mask that says where to draw anew. Both are `data:` URLs of PNG files. */
export interface Start {
  image: string;
  mask: string | null;
  strength: number;
}

/** The form, as the user filled it in. An empty text means "the default". */
export interface Draft {
  prompt: string;
  negativePrompt: string;
  model: string;
  steps: string;
  guidance: string;
  seed: string;
  start: Start | null;
}

/** A seed of 32 bits from the browser's random source: long enough, and short enough to read aloud. */
export function randomSeed(): number {
  return crypto.getRandomValues(new Uint32Array(1))[0] ?? 0;
}

/** A key that names this one press of the button, so that sending it twice draws once. */
export function idempotencyKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return `studio-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

/** The number in a field, or nothing where the field is empty or holds no number. */
export function numberIn(text: string): number | undefined {
  const value = text.trim() === "" ? Number.NaN : Number(text);
  return Number.isFinite(value) ? value : undefined;
}

/** Builds the job. A seed is always sent, so that the page can show it at once; `seed` fills an empty field. */
export function requestOf(draft: Draft, seed: number, key: string): JobRequest {
  const options: ImageOptions = { seed: numberIn(draft.seed) ?? seed };
  const steps = numberIn(draft.steps);
  if (steps !== undefined) options.steps = steps;
  const guidance = numberIn(draft.guidance);
  if (guidance !== undefined) options.guidance_scale = guidance;
  const negative = draft.negativePrompt.trim();
  if (negative !== "") options.negative_prompt = negative;

  const request: JobRequest = {
    kind: "image",
    model: draft.model === "" ? null : draft.model,
    prompt: draft.prompt.trim(),
    options,
    idempotency_key: key,
  };
  if (draft.start) {
    options.strength = draft.start.strength;
    request.image = draft.start.image;
    if (draft.start.mask !== null) request.mask = draft.start.mask;
  }
  return request;
}

/** The same job once more, with another seed and another key. */
export function reroll<T extends MakeRequest>(request: T, seed: number, key: string): T {
  return { ...request, options: { ...request.options, seed }, idempotency_key: key };
}

/**
 * A request that can be sent again, made from what the server tells about a job; nothing where the job started from a
 * picture, because the server does not hand that out again, and where it is a question.
 */
export function requestFrom({ kind, request, model }: Job, key: string): MakeRequest | null {
  if (request.image || request.mask || request.asked) return null;
  const { strength: _, ...options } = request.options;
  if (kind === "video") return { kind, model, prompt: request.prompt, options, idempotency_key: key };
  return { kind: "image", model, prompt: request.prompt, options, idempotency_key: key };
}
