import { expect, test } from "vitest";
import { exchanges, followUp, questionOf } from "./ask";
import type { Asked, Job } from "./protocol/types";
import { job } from "./testing";

const DRAFT = { question: "  What happens? ", model: "", frames: "", tokens: "", temperature: 0 };
const MEDIA = { kind: "video", sha256: "ab", bytes: 9, content_type: "video/mp4", width: 4, height: 2, duration: 1 } as const;

function asked(question: string, change: Partial<Asked> = {}, more: Partial<Job> = {}): Job {
  const about = { messages: [], media: [MEDIA], options: { frames: 8 }, ...change };
  return job({
    kind: "understand",
    request: { prompt: question, options: {}, image: false, mask: false, asked: about },
    ...more,
  });
}

const answered = (text: string) => ({ url: "/r", content_type: "application/json", bytes: 1, cached: false, text });

test("an empty field is the model's default, and only a drawn answer has a seed", () => {
  expect(questionOf(DRAFT, 7, "k")).toEqual({
    kind: "understand",
    model: null,
    question: "What happens?",
    messages: [],
    options: { temperature: 0 },
    media: [],
    idempotency_key: "k",
  });
  const drawn = questionOf({ ...DRAFT, model: "m", frames: "4", tokens: "9", temperature: 0.5 }, 7, "k");
  expect(drawn.options).toEqual({ frames: 4, max_tokens: 9, temperature: 0.5, seed: 7 });
  expect(drawn.model).toBe("m");
});

test("a follow-up names the media by their hash, and says what was said before only where it should", () => {
  const first = asked("What is it?");
  expect(followUp(first, "A star.", "And then?", false, "k")).toMatchObject({
    question: "And then?",
    messages: [],
    media: [{ sha256: "ab" }],
    options: { frames: 8 },
  });
  const remembered = followUp(first, "A star.", "And then?", true, "k");
  const turns = [
    { role: "user", content: "What is it?" },
    { role: "assistant", content: "A star." },
  ] as const;
  expect(remembered?.messages).toEqual(turns);
  // A question that was stopped before its first word was not answered.
  expect(followUp(first, null, "And then?", true, "k")?.messages).toEqual([]);
  const long = asked("q", { messages: Array.from({ length: 20 }, () => turns).flat() });
  expect(followUp(long, "a", "b", true, "k")?.messages).toHaveLength(16);
  expect(followUp(job(), "a", "b", true, "k")).toBeNull();
});

test("what was asked about the same files comes before a question that stands by itself", () => {
  const earlier = asked("first", {}, { id: "1", created_at: 1, result: answered("one") });
  const other = asked("other", { media: [{ ...MEDIA, sha256: "cd" }] }, { id: "2", created_at: 2, result: answered("x") });
  const own = asked("own", {}, { id: "3", created_at: 3 });
  const later = asked("later", {}, { id: "4", created_at: 4, result: answered("y") });
  expect(exchanges(own, "so f", [later, own, other, earlier])).toEqual([
    { question: "first", answer: "one", job: "1" },
    { question: "own", answer: "so f", job: "3" },
  ]);
  const turns = [
    { role: "user", content: "a" },
    { role: "assistant", content: "b" },
  ] as const;
  const talk = asked("c", { messages: turns }, { id: "5", created_at: 5 });
  expect(exchanges(talk, null, [earlier])).toEqual([
    { question: "a", answer: "b", job: null },
    { question: "c", answer: null, job: "5" },
  ]);
});
