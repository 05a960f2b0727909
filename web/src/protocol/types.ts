/**
 * The wire format, as `docs/protocol.md` describes it. Field names are those of the JSON, so that the two can be read
 * side by side.
 */

/** Where a job is in its life. `interrupted` is run again by the server; after the last four nothing follows. */
export const JOB_STATES = [
  "queued",
  "running",
  "interrupted",
  "finished",
  "failed",
  "cancelled",
  "expired",
] as const;
export type JobState = (typeof JOB_STATES)[number];

/** The body of every error, over HTTP and in channel replies. */
export interface ApiError {
  code: string;
  message: string;
  status: number;
}

/** How far a job has come: `step` of `total`, and the server's estimate of what is left. */
export interface Progress {
  step: number;
  total: number;
  eta_ms: number | null;
  /** What the steps are of, where a run has more than one kind of them. */
  phase: string | null;
}

/** Where the finished bytes are. */
export interface JobResult {
  url: string;
  content_type: string;
  bytes: number;
  /** The server had already made exactly this. */
  cached: boolean;
  /** The answer of an `understand` job, and of a `pipeline`. */
  text: string | null;
}

/** What can be asked of an image model. A missing field takes the model's default. */
export interface ImageOptions {
  negative_prompt?: string;
  steps?: number;
  guidance_scale?: number;
  seed?: number;
  strength?: number;
  width?: number;
  height?: number;
}

/** What can be asked of a video model. A missing field takes the model's default. */
export interface VideoOptions {
  negative_prompt?: string;
  steps?: number;
  guidance_scale?: number;
  seed?: number;
  strength?: number;
  width?: number;
  height?: number;
  frames?: number;
  fps?: number;
}

/** What can be asked of an answer. A missing field takes the model's default. */
export interface UnderstandOptions {
  max_tokens?: number;
  frames?: number;
  temperature?: number;
  seed?: number;
}

/** One thing said in a conversation. */
export interface Turn {
  role: "system" | "user" | "assistant";
  content: string;
}

/** What is sent to ask about videos and pictures. Those that the server has are named by their hash. */
export interface UnderstandRequest {
  kind: "understand";
  model: string | null;
  question: string;
  messages: readonly Turn[];
  options: UnderstandOptions;
  media: readonly { sha256: string }[];
  idempotency_key: string;
}

/** What is sent to have a clip understood, drawn and filmed anew. */
export interface PipelineRequest {
  kind: "pipeline";
  question?: string;
  options: { seed: number };
  media: readonly { sha256: string }[];
  idempotency_key: string;
}

/** What is sent with files, or with the hashes of files that the server has. */
export type AskRequest = UnderstandRequest | PipelineRequest;

/** A video or picture that a job is about, as the server knows it. */
export interface Media {
  kind: "image" | "video";
  sha256: string;
  bytes: number;
  content_type: string;
  width: number;
  height: number;
  /** Seconds; of a video only. */
  duration: number | null;
}

/** A frame that the model was shown. */
export interface ShownFrame {
  /** Which of the job's media, from 0. */
  media: number;
  /** Seconds. */
  time: number;
  /** As the model reads it, `MM:SS`. */
  timestamp: string;
}

/** What is sent to `submit`. `image` and `mask` are `data:` URLs of PNG files. */
export interface JobRequest {
  kind: "image";
  model: string | null;
  prompt: string;
  options: ImageOptions;
  image?: string;
  mask?: string;
  idempotency_key: string;
}

/** What is sent to have a video made. `image`, the first frame, is a `data:` URL. */
export interface VideoRequest {
  kind: "video";
  model: string | null;
  prompt: string;
  options: VideoOptions;
  image?: string;
  idempotency_key: string;
}

/** What is made from words. */
export type MakeRequest = JobRequest | VideoRequest;

/** What the server tells about a job's request: its defaults filled in, and whether there were pictures, not which. */
export interface RequestView {
  /** What somebody wrote: the prompt of a picture or video, or a question. */
  prompt: string;
  options: VideoOptions;
  image: boolean;
  mask: boolean;
  /** Of `understand` and `pipeline` jobs only. */
  asked: Asked | null;
}

/** What a question is about. */
export interface Asked {
  messages: readonly Turn[];
  media: readonly Media[];
  options: UnderstandOptions;
}

/** Where a stage of a pipeline is. */
export const STAGE_STATES = ["waiting", "running", "finished", "failed", "cancelled", "expired"] as const;

/** A stage of a `pipeline` job: `understand`, `image` or `video`. */
export interface Stage {
  name: string;
  state: (typeof STAGE_STATES)[number];
  prompt: string | null;
  result: JobResult | null;
}

/** A job as the server shows it. */
export interface Job {
  id: string;
  kind: string;
  model: string | null;
  state: JobState;
  created_at: number;
  started_at: number | null;
  finished_at: number | null;
  position: number | null;
  progress: Progress | null;
  result: JobResult | null;
  error: ApiError | null;
  last_event: number;
  request: RequestView;
  /** Of a `pipeline` only. */
  stages: readonly Stage[] | null;
}

interface EventBase {
  /** Grows with every event of a job; what a client that reconnects asks to continue after. */
  n: number;
}

/** One thing that happened to a job. Events that this page does not know are dropped when decoding. */
export type JobEvent = EventBase &
  (
    | { event: "queued"; position: number | null }
    | { event: "started" }
    | { event: "progress"; progress: Progress }
    | { event: "preview"; step: number; src: string }
    | { event: "frames"; frames: readonly ShownFrame[] }
    | { event: "token"; text: string; index: number }
    | { event: "stage"; stage: Stage }
    | { event: "finished"; result: JobResult | null }
    | { event: "failed"; error: ApiError }
    | { event: "cancelled" }
  );

/** A model that the server can use. */
export interface Model {
  name: string;
  kind: string;
  /** The kinds of job that it does. */
  tasks: readonly string[];
  default: boolean;
  width: number | null;
  height: number | null;
  steps: number | null;
  guidance_scale: number | null;
  /** What a question gets when it names nothing else; of models that answer only. */
  understand: { frames: number; max_tokens: number } | null;
  /** What a video gets when it names nothing else; of models that make them only. */
  video: { frames: number; fps: number; frames_multiple_of: number } | null;
}

/** True when nothing more can happen to the job. */
export function isOver(state: JobState): boolean {
  return state === "finished" || state === "failed" || state === "cancelled" || state === "expired";
}
