import { expect, test } from "vitest";
import { openRun } from "./run";
import { job } from "./testing";
import { ago, announcement, duration, headline, size, timeLeft } from "./words";

test.each([
  [null, ""],
  [900, "any moment now"],
  [3500, "about 3 s left"],
  [100_000, "about 2 min left"],
])("due at %j, the time left at 1000 is %j", (due, words) => {
  expect(timeLeft(due, 1000)).toBe(words);
});

test("durations, sizes and ages", () => {
  expect([0, 850, 1340, 125_000].map(duration)).toEqual(["0 ms", "850 ms", "1.3 s", "2 min 5 s"]);
  expect([270, 4711, 1_200_000].map(size)).toEqual(["270 B", "4.7 kB", "1.2 MB"]);
  const hour = 3_600_000;
  expect([0, 5 * 60_000, 3 * hour, 30 * hour, 50 * hour].map((age) => ago(0, age))).toEqual([
    "just now",
    "5 min ago",
    "3 h ago",
    "yesterday",
    "2 days ago",
  ]);
});

test("a waiting job says how many are ahead", () => {
  const at = (position: number | null) => headline(openRun(job({ position }), 0));
  expect(at(null)).toBe("Next in line");
  expect(at(1)).toBe("Next in line");
  expect(at(2)).toBe("Waiting: 1 job is ahead");
  expect(at(4)).toBe("Waiting: 3 jobs are ahead");
});

test("the screen counts every step, the screen reader hears three things", () => {
  const steps = Array.from({ length: 12 }, (_, step) =>
    openRun(job({ state: "running", progress: { step: step + 1, total: 12, eta_ms: null, phase: null } }), 0),
  );
  expect(new Set(steps.map(headline)).size).toBe(12);
  expect([...new Set(steps.map(announcement))]).toEqual(["Drawing has started", "Drawing, more than half done"]);
});

test("a failed job says the server's words", () => {
  const error = { code: "x", message: "the disk is full", status: 507 };
  expect(headline(openRun(job({ state: "failed", error }), 0))).toBe("the disk is full");
});
