/** The page's state in one place, and a way to be told when it changed. */

import type { Model, Job } from "./protocol/types";
import type { Run } from "./run";

/** What the page is used for. */
export const MODES = ["draw", "understand", "video", "pipeline"] as const;
export type Mode = (typeof MODES)[number];

/** A video or picture that somebody has chosen to ask about. */
export interface Chosen {
  file: File;
  /** Where the browser finds it. */
  url: string;
  kind: "image" | "video";
}

/** How the line to the server is. */
export type Line = "connecting" | "open" | "lost";

/** Everything that the page shows and that did not come from the form. */
export interface State {
  mode: Mode;
  line: Line;
  models: readonly Model[];
  /** The history, newest first. */
  jobs: readonly Job[];
  /** Whether the server may have older jobs than those in the history. */
  older: boolean;
  /** The job on the stage. */
  run: Run | null;
  /** The step that the user looks at; `null` follows the newest. */
  looking: number | null;
  submitting: boolean;
  /** Which share of the files has been sent, while they are. */
  sent: number | null;
  /** What a new question is about. */
  chosen: readonly Chosen[];
  /** What went wrong with the last thing that the user asked for, in the server's words. */
  problem: string | null;
}

/** The state of a page that has not heard from the server yet. */
export const EMPTY: State = {
  mode: "draw",
  line: "connecting",
  models: [],
  jobs: [],
  older: false,
  run: null,
  looking: null,
  submitting: false,
  sent: null,
  chosen: [],
  problem: null,
};

/** Holds the state. Listeners run once per turn of the event loop, however many changes it brought. */
export class Store {
  #state: State = EMPTY;
  #listeners: ((state: State) => void)[] = [];
  #scheduled = false;

  get state(): State {
    return this.#state;
  }

  /** Replaces the given fields. */
  set(change: Partial<State>): void {
    this.#state = { ...this.#state, ...change };
    if (this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      for (const listener of this.#listeners) listener(this.#state);
    });
  }

  /** Calls `listener` now and after every change. */
  listen(listener: (state: State) => void): void {
    this.#listeners.push(listener);
    listener(this.#state);
  }
}

/** Puts a job's newest view into the history: in its place when it is there, at the front when it is new. */
export function withJobInHistory(jobs: readonly Job[], job: Job): readonly Job[] {
  const known = jobs.findIndex((other) => other.id === job.id);
  if (known === -1) return [job, ...jobs].sort((a, b) => b.created_at - a.created_at);
  const old = jobs[known];
  return old && old.last_event > job.last_event ? jobs : jobs.with(known, job);
}

/** Joins two pages of the history: the first page may have moved on since it was fetched. */
export function mergeJobs(jobs: readonly Job[], more: readonly Job[]): readonly Job[] {
  return more.reduce(withJobInHistory, jobs);
}
