import { expect, test, vi } from "vitest";
import { mergeJobs, Store, withJobInHistory } from "./store";
import { job } from "./testing";

test("listeners hear once of many changes", async () => {
  const store = new Store();
  const listener = vi.fn();
  store.listen(listener);
  store.set({ line: "open" });
  store.set({ problem: "no" });
  await Promise.resolve();
  expect(listener).toHaveBeenCalledTimes(2);
  expect(listener.mock.lastCall?.[0]).toMatchObject({ line: "open", problem: "no" });
});

test("the history is newest first, holds a job once, and keeps the newer view", () => {
  const old = job({ id: "old", created_at: 1 });
  const newer = job({ id: "new", created_at: 2 });
  expect(mergeJobs([old], [newer]).map(({ id }) => id)).toEqual(["new", "old"]);
  expect(mergeJobs([newer], [old]).map(({ id }) => id)).toEqual(["new", "old"]);
  const running = job({ id: "old", created_at: 1, state: "running", last_event: 5 });
  expect(withJobInHistory([newer, old], running)).toEqual([newer, running]);
  expect(withJobInHistory([newer, running], old)).toEqual([newer, running]);
});
