/**
 * What one job looks like while it runs: a pure reducer over its events. Events may come late, twice, or again from the
 * start after a reconnect; applying them all leaves the same `Run` as applying them once.
 */

import { isOver, type Job, type JobEvent, type JobState, type ShownFrame, type Stage } from "./protocol/types";

/** One picture of the filmstrip. */
export interface Frame {
  step: number;
  src: string;
}

/** A job and what its events added to it. */
export interface Run {
  job: Job;
  /** The number of the newest event received: what a rejoin asks to continue after. */
  last: number;
  /** The previews, by growing step. */
  frames: readonly Frame[];
  /** The frames of its media that the model is shown. */
  shown: readonly ShownFrame[];
  /** The answer so far; `null` before its first word. */
  answer: string | null;
  /** The stage that has begun last, and the previews of each; of a pipeline only. */
  stage: string | null;
  previews: Readonly<Record<string, readonly Frame[]>>;
  /** When the picture should be ready, in milliseconds of the page's clock. */
  due: number | null;
}

/** A run of which no event has been seen yet. */
export function openRun(job: Job, now: number): Run {
  const answer = textOf(job);
  return { job, last: 0, frames: [], shown: [], answer, stage: null, previews: {}, due: dueAt(job, now) };
}

/** Takes over a newer view of the job; an older one (a late reply) changes nothing. */
export function withJob(run: Run, job: Job, now: number): Run {
  if (job.id !== run.job.id || job.last_event < run.job.last_event) return run;
  return { ...run, job, answer: textOf(job) ?? run.answer, due: dueAt(job, now) };
}

/** Applies one event. */
export function withEvent(run: Run, event: JobEvent, now: number): Run {
  if (event.n <= run.last) return run;
  const frames = framesAfter(run.frames, event);
  const stage = event.event === "stage" ? event.stage.name : run.stage;
  const next = {
    ...run,
    last: event.n,
    frames,
    shown: shownAfter(run, event),
    answer: textOf(run.job) ?? answerAfter(run, event),
    stage,
    // What a pipeline shows before its first stage is told belongs to that.
    previews: event.event === "preview" ? { ...run.previews, [stage ?? "understand"]: frames } : run.previews,
  };
  // The view may be ahead of the events: what it says about the state is newer than this event then.
  if (event.n <= run.job.last_event) return next;
  const job = { ...jobAfter(run.job, event), last_event: event.n };
  const tellsNoTime = ["preview", "frames", "token"].includes(event.event);
  return { ...next, job, due: tellsNoTime ? run.due : dueAt(job, now) };
}

/** As the pictures, what was shown and said goes when an attempt starts from nothing. */
function shownAfter({ shown, job }: Run, event: JobEvent): readonly ShownFrame[] {
  // A pipeline goes on with the stage that was interrupted.
  if (event.event === "queued" || event.event === "started") return job.stages ? shown : [];
  return event.event === "frames" ? event.frames : shown;
}

function answerAfter({ answer, job }: Run, event: JobEvent): string | null {
  switch (event.event) {
    case "queued":
    case "started":
      return job.stages ? answer : null;
    case "stage":
      return event.stage.result?.text ?? answer;
    case "token":
      // Piece number 0 begins the answer anew.
      return (event.index === 0 ? "" : (answer ?? "")) + event.text;
    case "finished":
      return event.result?.text ?? answer;
    default:
      return answer;
  }
}

function framesAfter(frames: readonly Frame[], event: JobEvent): readonly Frame[] {
  // An attempt starts from nothing, so the pictures of an interrupted one go.
  if (event.event === "queued" || event.event === "started" || event.event === "stage") return [];
  if (event.event !== "preview") return frames;
  const { step, src } = event;
  return [...frames.filter((frame) => frame.step !== step), { step, src }].sort((a, b) => a.step - b.step);
}

function jobAfter(job: Job, event: JobEvent): Job {
  switch (event.event) {
    case "queued":
      return { ...job, state: "queued", position: event.position, progress: null };
    case "started":
      return { ...job, state: "running", position: null, progress: null };
    case "progress":
      return { ...job, state: "running", position: null, progress: event.progress };
    case "preview":
    case "frames":
    case "token":
      return job;
    case "stage": {
      const stages = job.stages?.map((stage) => (stage.name === event.stage.name ? event.stage : stage)) ?? null;
      return { ...job, stages, progress: event.stage.state === "running" ? null : job.progress };
    }
    case "finished":
      return { ...over(job, "finished"), result: event.result ?? job.result };
    case "failed":
      return { ...over(job, "failed"), error: event.error };
    case "cancelled":
      return over(job, "cancelled");
  }
}

/** The answer, where a job or its first stage has one. */
function textOf(job: Job): string | null {
  return job.result?.text ?? job.stages?.find((stage: Stage) => stage.result?.text != null)?.result?.text ?? null;
}

function over(job: Job, state: JobState): Job {
  return { ...job, state, position: null };
}

function dueAt(job: Job, now: number): number | null {
  const eta = job.progress?.eta_ms ?? null;
  return isOver(job.state) || eta === null ? null : now + eta;
}

/**
 * The pictures of the filmstrip: the previews, and the finished picture as the last step, which servers do not send as a
 * preview too.
 */
export function framesOf(run: Run, result: string | null): readonly Frame[] {
  if (result === null || run.frames.length === 0) return run.frames;
  const step = totalSteps(run);
  return [...run.frames.filter((frame) => frame.step !== step), { step, src: result }];
}

/** How many steps the filmstrip has room for: what the job says it will take, or was asked to take. */
export function totalSteps(run: Run): number {
  const seen = run.frames.at(-1)?.step ?? 0;
  return Math.max(run.job.progress?.total ?? run.job.request.options.steps ?? 12, seen);
}

/** True when every event has arrived, so nothing is left to listen for. */
export function isComplete(run: Run): boolean {
  return isOver(run.job.state) && run.last >= run.job.last_event;
}
