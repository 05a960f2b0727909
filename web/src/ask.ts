/** From a question to the job that is sent. */

import type { Asked, Job, PipelineRequest, Turn, UnderstandOptions, UnderstandRequest } from "./protocol/types";

/** The form for questions, as the user filled it in. An empty text means "the default". */
export interface Question {
  question: string;
  model: string;
  frames: string;
  tokens: string;
  temperature: number;
}

/** Builds the job, without what it is about. `seed` is where the randomness of a drawn answer comes from. */
export function questionOf(draft: Question, seed: number, key: string): UnderstandRequest {
  const options: UnderstandOptions = {};
  if (draft.frames.trim() !== "") options.frames = Number(draft.frames);
  if (draft.tokens.trim() !== "") options.max_tokens = Number(draft.tokens);
  options.temperature = draft.temperature;
  if (draft.temperature > 0) options.seed = seed;
  return {
    kind: "understand",
    model: draft.model === "" ? null : draft.model,
    question: draft.question.trim(),
    messages: [],
    options,
    media: [],
    idempotency_key: key,
  };
}

/** Builds a pipeline, without what it begins with. An empty question means "the default". */
export function pipelineOf(question: string, seed: number, key: string): PipelineRequest {
  const request: PipelineRequest = { kind: "pipeline", options: { seed }, media: [], idempotency_key: key };
  if (question.trim() !== "") request.question = question.trim();
  return request;
}

/** A question and its answer, as far as there is one. */
export interface Exchange {
  question: string;
  answer: string | null;
  /** The job that tells more about it, where that is known. */
  job: string | null;
}

/** How many earlier exchanges are shown. */
const REMEMBERED = 8;

/** What was asked and answered about a job's media, the job's own question last. */
export function exchanges(job: Job, answer: string | null, jobs: readonly Job[]): Exchange[] {
  const own = { question: job.request.prompt, answer, job: job.id };
  const { asked } = job.request;
  if (!asked) return [own];
  const turns = asked.messages.filter(({ role }) => role !== "system");
  if (turns.length > 0) {
    const earlier: Exchange[] = [];
    for (let n = 0; n + 1 < turns.length; n += 2) {
      earlier.push({ question: turns[n]?.content ?? "", answer: turns[n + 1]?.content ?? "", job: null });
    }
    return [...earlier, own];
  }
  // Questions that stand by themselves, about the same files.
  const files = filesOf(asked);
  const earlier = jobs
    .filter((other) => other.created_at < job.created_at && other.id !== job.id && other.result?.text != null)
    .filter((other) => other.kind === "understand" && other.request.asked && filesOf(other.request.asked) === files)
    .toSorted((a, b) => a.created_at - b.created_at)
    .map((other) => ({ question: other.request.prompt, answer: other.result?.text ?? null, job: other.id }));
  return [...earlier.slice(-REMEMBERED), own];
}

function filesOf({ media }: Asked): string {
  return media.map(({ sha256 }) => sha256).join();
}

/** Everything that was said with a job: its earlier turns, its question and its answer, as far as there is one. */
export function conversation(asked: Asked, question: string, answer: string | null): Turn[] {
  const turns: Turn[] = [...asked.messages];
  if (answer !== null && answer.trim() !== "") {
    turns.push({ role: "user", content: question }, { role: "assistant", content: answer });
  }
  return turns;
}

/** How many earlier turns are sent along: the newest ones, in whole pairs. The server takes 64. */
const MEMORY = 16;

/**
 * The next question about the same media: by itself, or as the next turn of the conversation (`remember`). The server
 * has seen the media, so either way only the new words are read.
 */
export function followUp(
  job: Job,
  answer: string | null,
  question: string,
  remember: boolean,
  key: string,
): UnderstandRequest | null {
  const { asked, prompt } = job.request;
  if (!asked || job.kind !== "understand") return null;
  const system = asked.messages.filter(({ role }) => role === "system");
  const spoken = remember ? conversation(asked, prompt, answer).filter(({ role }) => role !== "system") : [];
  return {
    kind: "understand",
    model: job.model,
    question: question.trim(),
    messages: [...system, ...spoken.slice(-MEMORY)],
    options: asked.options,
    media: asked.media.map(({ sha256 }) => ({ sha256 })),
    idempotency_key: key,
  };
}
