/** What the page says: numbers, times and states in words. */

import type { Progress } from "./protocol/types";
import type { Run } from "./run";

/** `about 3 s left`, `about 2 min left`; nothing where it is not known. */
export function timeLeft(due: number | null, now: number): string {
  if (due === null) return "";
  const seconds = Math.ceil((due - now) / 1000);
  if (seconds <= 0) return "any moment now";
  if (seconds < 90) return `about ${seconds} s left`;
  return `about ${Math.round(seconds / 60)} min left`;
}

/** `850 ms`, `1.3 s`, `2 min 5 s`. */
export function duration(ms: number): string {
  if (ms < 1000) return `${Math.max(0, Math.round(ms))} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}

/** `4.6 kB`, `1.2 MB`. */
export function size(bytes: number): string {
  if (bytes < 1000) return `${bytes} B`;
  if (bytes < 1_000_000) return `${(bytes / 1000).toFixed(1)} kB`;
  return `${(bytes / 1_000_000).toFixed(1)} MB`;
}

/** How long ago, coarsely: the history is a list, not a log. */
export function ago(then: number, now: number): string {
  const minutes = Math.floor((now - then) / 60_000);
  if (minutes < 1) return "just now";
  if (minutes < 60) return `${minutes} min ago`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return `${hours} h ago`;
  const days = Math.floor(hours / 24);
  return days === 1 ? "yesterday" : `${days} days ago`;
}

/** What the steps of a video's phases are, in words. */
const PHASES: Record<string, string> = {
  text: "Reading the prompt",
  encode: "Reading the first picture",
  denoise: "Taking shape",
  decode: "Becoming pixels",
};

/** Where a run is that makes a video: which phase, and which step of it. */
export function filming(progress: Progress | null): string {
  if (!progress) return "Reading the prompt";
  const { phase, step, total } = progress;
  const words = PHASES[phase ?? "denoise"] ?? "Working";
  return phase === "text" || step === 0 ? words : `${words}: step ${step} of ${total}`;
}

/** The one line that says where a video is. */
export function filmHeadline(run: Run): string {
  const { job } = run;
  if (job.state === "running") return filming(job.progress);
  if (job.state === "expired") return "The video is no longer kept on the server";
  return job.state === "finished" && job.result?.cached ? "Finished at once: this was made before" : headline(run);
}

/** What the stages of a pipeline do. */
const STAGES: Record<string, string> = { understand: "Watching", image: "Drawing", video: "Filming" };

/** The one line that says where a pipeline is. */
export function flowHeadline(run: Run): string {
  const { job } = run;
  if (job.state === "running") {
    const at = job.stages?.findIndex(({ state }) => state === "running") ?? -1;
    const stage = job.stages?.[at];
    return stage ? `${STAGES[stage.name] ?? stage.name}: stage ${at + 1} of ${job.stages?.length}` : "Reading what you sent";
  }
  if (job.state === "expired") return "The video is no longer kept on the server";
  return job.state === "finished" && job.result?.cached ? "Finished at once: this was made before" : headline(run);
}

/** The one line that says where a job is. */
export function headline(run: Run): string {
  const { job } = run;
  switch (job.state) {
    case "queued":
      return waiting(job.position);
    case "interrupted":
      return "Interrupted: the server will start it again by itself";
    case "running":
      return job.progress ? `Drawing: step ${job.progress.step} of ${job.progress.total}` : "Reading the prompt";
    case "finished":
      return job.result?.cached ? "Finished at once: this was drawn before" : "Finished";
    case "failed":
      return job.error?.message ?? "The job failed";
    case "cancelled":
      return "Cancelled";
    case "expired":
      return "The picture is no longer kept on the server";
  }
}

function waiting(position: number | null): string {
  if (position === null || position <= 1) return "Next in line";
  return position === 2 ? "Waiting: 1 job is ahead" : `Waiting: ${position - 1} jobs are ahead`;
}

/** The one line that says where an answer is. */
export function answerHeadline(run: Run): string {
  const { job } = run;
  switch (job.state) {
    case "running":
      if (run.answer !== null) return "Answering";
      if (job.progress) return `Looking: ${job.progress.step} of ${job.progress.total}`;
      return run.shown.length > 0 ? "Looking at the frames" : "Reading what you sent";
    case "finished":
      return job.result?.cached ? "Answered at once: this was asked before" : "Answered";
    case "cancelled":
      return "Stopped";
    case "expired":
      return "The answer is no longer kept on the server";
    default:
      return headline(run);
  }
}

/**
 * What a screen reader is told. Fewer words than the screen shows: the start, the middle and the end of the drawing,
 * rather than every step.
 */
export function announcement(run: Run): string {
  const { job } = run;
  if (job.kind === "pipeline") return job.state === "running" ? flowHeadline(run).replace(/:.*/, "") : flowHeadline(run);
  if (job.kind === "video") {
    // Which step it is would be a stammer.
    return job.state === "running" ? filming(job.progress).replace(/:.*/, "") : filmHeadline(run);
  }
  if (job.request.asked) {
    // Word by word would be a stammer: the answer is read once it is whole.
    if (job.state === "finished" && run.answer !== null) return `The answer: ${run.answer.trim()}`;
    return job.state === "running" ? (run.answer === null ? "Looking at it" : "Answering") : answerHeadline(run);
  }
  if (job.state !== "running") return headline(run);
  if (!job.progress) return "Drawing has started";
  const { step, total } = job.progress;
  return step * 2 >= total ? "Drawing, more than half done" : "Drawing has started";
}
