/** From the form for videos to the job that is sent. */

import type { VideoOptions, VideoRequest } from "./protocol/types";
import { numberIn } from "./request";

/** The form, as the user filled it in. An empty text means "the default". */
export interface FilmDraft {
  prompt: string;
  negativePrompt: string;
  model: string;
  frames: string;
  fps: string;
  steps: string;
  guidance: string;
  seed: string;
  /** The first picture, a `data:` URL, and how strictly the video keeps to it. */
  first: { image: string; strength: number } | null;
}

/** Builds the job. A seed is always sent, so that the page can show it at once; `seed` fills an empty field. */
export function filmOf(draft: FilmDraft, seed: number, key: string): VideoRequest {
  const options: VideoOptions = { seed: numberIn(draft.seed) ?? seed };
  const fields = { frames: draft.frames, fps: draft.fps, steps: draft.steps, guidance_scale: draft.guidance };
  for (const [name, text] of Object.entries(fields) as [keyof typeof fields, string][]) {
    const value = numberIn(text);
    if (value !== undefined) options[name] = value;
  }
  const negative = draft.negativePrompt.trim();
  if (negative !== "") options.negative_prompt = negative;
  const request: VideoRequest = {
    kind: "video",
    model: draft.model === "" ? null : draft.model,
    prompt: draft.prompt.trim(),
    options,
    idempotency_key: key,
  };
  if (draft.first) {
    options.strength = draft.first.strength;
    request.image = draft.first.image;
  }
  return request;
}

/** The numbers of frames that a model makes, near to what was typed: a multiple, and one. */
export function nearestFrames(wanted: number, multiple: number): number {
  return Math.max(0, Math.round((wanted - 1) / multiple)) * multiple + 1;
}
