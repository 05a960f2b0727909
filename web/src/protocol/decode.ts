/** From what came over the wire (`unknown`) to the types of `types.ts`, or a `DecodeError` that names the field. */

import {
  JOB_STATES,
  STAGE_STATES,
  type ApiError,
  type Asked,
  type Job,
  type JobEvent,
  type JobResult,
  type JobState,
  type Media,
  type Model,
  type Progress,
  type RequestView,
  type ShownFrame,
  type Stage,
  type Turn,
  type UnderstandOptions,
  type VideoOptions,
} from "./types";

/** The server said something that the protocol does not allow. */
export class DecodeError extends Error {
  constructor(what: string) {
    super(`the server's answer is not understood: ${what}`);
    this.name = "DecodeError";
  }
}

type Json = Record<string, unknown>;

function object(value: unknown, what: string): Json {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new DecodeError(`${what} is not an object`);
  }
  return value as Json;
}

function array(value: unknown, what: string): unknown[] {
  if (!Array.isArray(value)) throw new DecodeError(`${what} is not a list`);
  return value;
}

function string(from: Json, key: string): string {
  const value = from[key];
  if (typeof value !== "string") throw new DecodeError(`${key} is not a text`);
  return value;
}

function number(from: Json, key: string): number {
  const value = from[key];
  if (typeof value !== "number" || !Number.isFinite(value)) throw new DecodeError(`${key} is not a number`);
  return value;
}

function maybeNumber(from: Json, key: string): number | null {
  return from[key] === null || from[key] === undefined ? null : number(from, key);
}

function maybe<T>(value: unknown, decode: (value: unknown) => T): T | null {
  return value === null || value === undefined ? null : decode(value);
}

function state(value: unknown): JobState {
  const found = JOB_STATES.find((known) => known === value);
  if (!found) throw new DecodeError(`state ${JSON.stringify(value)} is unknown`);
  return found;
}

function progress(value: unknown): Progress {
  const from = object(value, "progress");
  return {
    step: number(from, "step"),
    total: number(from, "total"),
    eta_ms: maybeNumber(from, "eta_ms"),
    phase: typeof from["phase"] === "string" ? from["phase"] : null,
  };
}

function result(value: unknown): JobResult {
  const from = object(value, "result");
  return {
    url: string(from, "url"),
    content_type: string(from, "content_type"),
    bytes: number(from, "bytes"),
    cached: from["cached"] === true,
    text: typeof from["text"] === "string" ? from["text"] : null,
  };
}

/** The inner part of an error body: `{"code", "message", "status"}`. */
function apiError(value: unknown): ApiError {
  const from = object(value, "error");
  return { code: string(from, "code"), message: string(from, "message"), status: number(from, "status") };
}

function options(value: unknown): VideoOptions {
  const from = object(value ?? {}, "options");
  const decoded: VideoOptions = {};
  if (typeof from["negative_prompt"] === "string") decoded.negative_prompt = from["negative_prompt"];
  for (const key of ["steps", "guidance_scale", "strength", "width", "height", "frames", "fps"] as const) {
    const given = maybeNumber(from, key);
    if (given !== null) decoded[key] = given;
  }
  // Seeds are 64 bits wide; one that JavaScript cannot hold exactly would be shown wrong, so it is not shown.
  const seed = maybeNumber(from, "seed");
  if (seed !== null && Number.isSafeInteger(seed)) decoded.seed = seed;
  return decoded;
}

function requestView(value: unknown): RequestView {
  const from = object(value, "request");
  if (from["kind"] === "understand") {
    return { prompt: string(from, "question"), options: {}, image: false, mask: false, asked: asked(from) };
  }
  if (from["kind"] === "pipeline") {
    const seed = maybeNumber(object(from["options"] ?? {}, "options"), "seed");
    const own: VideoOptions = seed !== null && Number.isSafeInteger(seed) ? { seed } : {};
    return { prompt: string(from, "question"), options: own, image: false, mask: false, asked: asked(from) };
  }
  return {
    prompt: string(from, "prompt"),
    options: options(from["options"]),
    image: maybe(from["image"], () => true) ?? false,
    mask: maybe(from["mask"], () => true) ?? false,
    asked: null,
  };
}

function asked(from: Json): Asked {
  const given = object(from["options"] ?? {}, "options");
  const options: UnderstandOptions = {};
  for (const key of ["max_tokens", "frames", "temperature", "seed"] as const) {
    const value = maybeNumber(given, key);
    if (value !== null) options[key] = value;
  }
  return {
    messages: array(from["messages"] ?? [], "messages").map(turn),
    media: array(from["media"], "media").map(media),
    options,
  };
}

function turn(value: unknown): Turn {
  const from = object(value, "a turn");
  const role = (["system", "user", "assistant"] as const).find((known) => known === from["role"]);
  if (!role) throw new DecodeError(`role ${JSON.stringify(from["role"])} is unknown`);
  return { role, content: string(from, "content") };
}

function media(value: unknown): Media {
  const from = object(value, "media");
  return {
    kind: from["kind"] === "video" ? "video" : "image",
    sha256: string(from, "sha256"),
    bytes: number(from, "bytes"),
    content_type: string(from, "content_type"),
    width: number(from, "width"),
    height: number(from, "height"),
    duration: maybeNumber(from, "duration"),
  };
}

function shownFrames(value: unknown): ShownFrame[] {
  return array(value, "frames").map((entry) => {
    const from = object(entry, "a frame");
    return { media: number(from, "media"), time: number(from, "time"), timestamp: string(from, "timestamp") };
  });
}

/** The result of an `understand` job: the frames of it, which the job's view does not have. */
export function decodeAnswer(value: unknown): { frames: ShownFrame[] } {
  return { frames: shownFrames(object(value, "the answer")["frames"]) };
}

function stage(value: unknown): Stage {
  const from = object(value, "a stage");
  const found = STAGE_STATES.find((known) => known === from["state"]);
  if (!found) throw new DecodeError(`the state ${JSON.stringify(from["state"])} of a stage is unknown`);
  return {
    name: string(from, "name"),
    state: found,
    prompt: maybe(from["prompt"], () => string(from, "prompt")),
    result: maybe(from["result"], result),
  };
}

/** One job's view. */
export function decodeJob(value: unknown): Job {
  const from = object(value, "job");
  return {
    id: string(from, "id"),
    kind: string(from, "kind"),
    model: maybe(from["model"], () => string(from, "model")),
    state: state(from["state"]),
    created_at: number(from, "created_at"),
    started_at: maybeNumber(from, "started_at"),
    finished_at: maybeNumber(from, "finished_at"),
    position: maybeNumber(from, "position"),
    progress: maybe(from["progress"], progress),
    result: maybe(from["result"], result),
    error: maybe(from["error"], apiError),
    last_event: number(from, "last_event"),
    request: requestView(from["request"]),
    stages: maybe(from["stages"], (value) => array(value, "stages").map(stage)),
  };
}

/** A page of jobs, newest first, and where the next page starts. */
export function decodeJobs(value: unknown): { jobs: Job[]; next: string | null } {
  const from = object(value, "the list of jobs");
  return {
    jobs: array(from["jobs"], "jobs").map(decodeJob),
    next: maybe(from["next"], () => string(from, "next")),
  };
}

/** The models of `GET /v1/models`, and of the `studio` topic. */
export function decodeModels(value: unknown): Model[] {
  const from = object(value, "the list of models");
  return array(from["models"], "models").map((entry) => {
    const model = object(entry, "model");
    return {
      name: string(model, "name"),
      kind: string(model, "kind"),
      tasks: array(model["tasks"] ?? ["image"], "tasks").map(String),
      default: model["default"] === true,
      width: maybeNumber(model, "width"),
      height: maybeNumber(model, "height"),
      steps: maybeNumber(model, "steps"),
      guidance_scale: maybeNumber(model, "guidance_scale"),
      understand: maybe(model["understand"], (value) => {
        const from = object(value, "understand");
        return { frames: number(from, "frames"), max_tokens: number(from, "max_tokens") };
      }),
      video: maybe(model["video"], (value) => {
        const from = object(value, "video");
        const [frames, fps] = [number(from, "frames"), number(from, "fps")];
        return { frames, fps, frames_multiple_of: number(from, "frames_multiple_of") };
      }),
    };
  });
}

const PICTURES = ["image/png", "image/jpeg", "image/webp"];

/** An event of a job; `null` for one that this page has no use for, so that newer servers can say more. */
export function decodeEvent(value: unknown): JobEvent | null {
  const from = object(value, "event");
  const n = number(from, "n");
  const event = string(from, "event");
  const data = object(from["data"] ?? {}, "data");
  switch (event) {
    case "queued":
      return { n, event, position: maybeNumber(data, "position") };
    case "progress":
      return { n, event, progress: progress(data) };
    case "preview": {
      const type = string(data, "content_type");
      // What is put into a `data:` URL is always one of these, whatever the server sends.
      if (!PICTURES.includes(type)) return null;
      return { n, event, step: number(data, "step"), src: `data:${type};base64,${string(data, "data")}` };
    }
    case "frames":
      return { n, event, frames: shownFrames(data["frames"]) };
    case "token":
      return { n, event, text: string(data, "text"), index: number(data, "index") };
    case "stage":
      return { n, event, stage: stage(data) };
    case "finished":
      return { n, event, result: maybe(data["result"], result) };
    case "failed":
      return { n, event, error: apiError(data["error"]) };
    case "started":
    case "cancelled":
      return { n, event };
    default:
      return null;
  }
}

/** What a channel's error reply or an HTTP error body says. Never throws: an unclear error is still an error. */
export function decodeError(value: unknown): ApiError {
  try {
    return apiError(object(value, "the error")["error"]);
  } catch {
    const reason = typeof value === "object" && value !== null ? (value as Json)["reason"] : value;
    const message = typeof reason === "string" ? reason : "The server refused without saying why.";
    return { code: "unknown", message, status: 0 };
  }
}
