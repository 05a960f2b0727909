/** From a question to the job that is sent. */

import type { Asked, Job, Turn, UnderstandOptions, UnderstandRequest } from "./protocol/types";

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

/** The next question about the same media, in the same conversation. */
export function followUp(job: Job, answer: string | null, question: string, key: string): UnderstandRequest | null {
  const { asked, prompt } = job.request;
  if (!asked) return null;
  const system = asked.messages.filter(({ role }) => role === "system");
  const spoken = conversation(asked, prompt, answer).filter(({ role }) => role !== "system");
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
