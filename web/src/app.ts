/** What the user can do, and how the server's messages change the state. No element of the page is touched here. */

import type { Socket } from "phoenix";
import { followUp } from "./ask";
import { openSocket, Refused } from "./net/channel";
import { JobFeed } from "./net/jobfeed";
import { Studio } from "./net/studio";
import { upload } from "./net/upload";
import { decodeAnswer } from "./protocol/decode";
import { isOver, type AskRequest, type Job, type JobEvent, type MakeRequest } from "./protocol/types";
import { resultUrl, socketUrl } from "./protocol/urls";
import { idempotencyKey, randomSeed, requestFrom, reroll } from "./request";
import { isComplete, openRun, withEvent, withJob } from "./run";
import { mergeJobs, withJobInHistory, type Chosen, type Store } from "./store";

/** How many older jobs are fetched at a time, and how many a welcome brings. */
const PAGE = 20;
/** How many waiting jobs are looked through for the place in the line. */
const LINE = 200;

/** The page without its looks. */
export class App {
  readonly #store: Store;
  readonly #base: URL;
  readonly #socket: Socket;
  readonly #studio: Studio;
  #feed: JobFeed | null = null;
  #asking = false;
  #completed = "";
  /** What this page sent, by job: the only place that still has the starting pictures. */
  readonly #sent = new Map<string, MakeRequest>();
  /** The hashes by which the server knows files that were sent. */
  readonly #hashes = new WeakMap<File, string>();
  #sending: AbortController | null = null;

  constructor(store: Store, base: URL) {
    this.#store = store;
    this.#base = base;
    this.#socket = openSocket(socketUrl(base), (line) => store.set({ line }));
    this.#studio = new Studio(this.#socket, {
      onWelcome: (jobs, models) => {
        const known = store.state.jobs.length > 0;
        store.set({
          models,
          jobs: mergeJobs(store.state.jobs, jobs),
          older: known ? store.state.older : jobs.length >= PAGE,
        });
      },
      onJob: (job) => {
        const known = store.state.jobs.find(({ id }) => id === job.id);
        this.#onJob(job);
        if (known?.state !== job.state) void this.#askForPosition();
      },
      onProblem: (error) => this.#report(error),
    });
  }

  /** Sends a job and puts it on the stage. Answers whether the server took it. */
  async submit(request: MakeRequest): Promise<boolean> {
    this.#store.set({ submitting: true, problem: null });
    try {
      const job = await this.#studio.submit(request);
      this.#sent.set(job.id, request);
      this.#onJob(job);
      this.#show(job);
      return true;
    } catch (error) {
      this.#report(error);
      return false;
    } finally {
      this.#store.set({ submitting: false });
    }
  }

  /** Asks about files. Those that the server has had already are not sent again. */
  async ask(request: AskRequest, chosen: readonly Chosen[]): Promise<boolean> {
    const files = chosen.map(({ file }) => file);
    const known = files.map((file) => this.#hashes.get(file)).filter((hash) => hash !== undefined);
    this.#store.set({ submitting: true, problem: null });
    try {
      let job: Job | null = null;
      if (known.length === files.length) {
        job = await this.#askAboutKnown({ ...request, media: known.map((sha256) => ({ sha256 })) });
      }
      this.#sending = new AbortController();
      job ??= await upload(this.#base, request, files, (sent) => this.#store.set({ sent }), this.#sending.signal);
      job.request.asked?.media.forEach(({ sha256 }, index) => {
        const file = files[index];
        if (file) this.#hashes.set(file, sha256);
      });
      this.#onJob(job);
      this.#show(job);
      return true;
    } catch (error) {
      if (!(error instanceof DOMException && error.name === "AbortError")) this.#report(error);
      return false;
    } finally {
      this.#sending = null;
      this.#store.set({ submitting: false, sent: null });
    }
  }

  /** Stops files from being sent. */
  stopSending(): void {
    this.#sending?.abort();
  }

  /** Asks something else about what the shown job is about; `remember`: with what was said before. */
  async askOn(question: string, remember: boolean): Promise<boolean> {
    const { run } = this.#store.state;
    const request = run && followUp(run.job, run.answer, question, remember, idempotencyKey());
    if (!request) return false;
    this.#store.set({ submitting: true, problem: null });
    try {
      const job = await this.#studio.submit(request);
      this.#onJob(job);
      this.#show(job);
      return true;
    } catch (error) {
      this.#report(error);
      return false;
    } finally {
      this.#store.set({ submitting: false });
    }
  }

  /** Nothing where the server no longer has one of the files. */
  async #askAboutKnown(request: AskRequest): Promise<Job | null> {
    try {
      return await this.#studio.submit(request);
    } catch (error) {
      if (error instanceof Refused && error.error.code === "invalid_media") return null;
      throw error;
    }
  }

  /** The same picture or video again with another seed. */
  async rerollShown(): Promise<boolean> {
    const request = this.requestOfShown();
    return request !== null && this.submit(reroll(request, randomSeed(), idempotencyKey()));
  }

  /** The request of the job on the stage, where it can be sent again. */
  requestOfShown(): MakeRequest | null {
    const job = this.#store.state.run?.job;
    if (!job) return null;
    return this.#sent.get(job.id) ?? requestFrom(job, idempotencyKey());
  }

  /** Stops the job on the stage. */
  async cancelShown(): Promise<void> {
    try {
      if (this.#feed) this.#onJob(await this.#feed.cancel());
    } catch (error) {
      this.#report(error);
    }
  }

  /** Puts the job with this id on the stage; `null` clears it. */
  open(id: string | null): void {
    const { run, jobs } = this.#store.state;
    if (id === (run?.job.id ?? this.#feed?.id ?? null)) return;
    const job = jobs.find((known) => known.id === id);
    if (job) {
      this.#show(job);
    } else {
      this.#store.set({ run: null, looking: null, problem: null });
      this.#listen(id);
    }
  }

  /** Fetches the jobs that are older than the history's last. */
  async loadOlder(): Promise<void> {
    const oldest = this.#store.state.jobs.at(-1);
    if (!oldest) return;
    try {
      const { jobs, next } = await this.#studio.list({ before: oldest.id, limit: PAGE });
      this.#store.set({ jobs: mergeJobs(this.#store.state.jobs, jobs), older: next !== null });
    } catch (error) {
      this.#report(error);
    }
  }

  #show(job: Job): void {
    this.#store.set({ run: openRun(job, Date.now()), looking: null, problem: null });
    this.#listen(job.id);
  }

  /** Joins the job's topic. Everything is asked for from the start, so a job that is reopened has its filmstrip. */
  #listen(id: string | null): void {
    this.#feed?.close();
    this.#feed =
      id === null
        ? null
        : new JobFeed(this.#socket, id, {
            last: () => this.#store.state.run?.last ?? 0,
            onJob: (job) => this.#onJoined(job),
            onEvent: (event) => this.#onEvent(event),
            onProblem: (error) => this.#report(error),
          });
  }

  #onJoined(job: Job): void {
    if (this.#store.state.run?.job.id === job.id) this.#onJob(job);
    else this.#store.set({ run: openRun(job, Date.now()), looking: null });
  }

  #onJob(job: Job): void {
    const { jobs, run } = this.#store.state;
    this.#store.set({ jobs: withJobInHistory(jobs, job), run: run && withJob(run, job, Date.now()) });
    this.#closeWhenComplete();
  }

  #onEvent(event: JobEvent): void {
    const { run, jobs } = this.#store.state;
    if (!run) return;
    const next = withEvent(run, event, Date.now());
    this.#store.set({ run: next, jobs: withJobInHistory(jobs, next.job) });
    this.#closeWhenComplete();
  }

  /** A place in the line is told once, and changes when others leave the line: the job on the stage asks anew then. */
  async #askForPosition(): Promise<void> {
    const waits = () => (this.#store.state.run?.job.position ?? 0) > 1;
    if (this.#asking || !waits()) return;
    this.#asking = true;
    try {
      const { jobs } = await this.#studio.list({ state: "queued", limit: LINE });
      for (const job of jobs) this.#onJob(job);
    } catch {
      // The next change of the line asks again; meanwhile the page shows the last place it knows.
    } finally {
      this.#asking = false;
    }
  }

  #closeWhenComplete(): void {
    const { run } = this.#store.state;
    if (!run || !isOver(run.job.state) || !isComplete(run)) return;
    this.#feed?.close();
    void this.#completeShown(run.job);
  }

  /** An answer that came from the server's memory was told without its frames: they are in the result. */
  async #completeShown(job: Job): Promise<void> {
    const url = job.kind === "understand" && job.result && resultUrl(job.result.url, this.#base);
    if (!url || this.#store.state.run?.shown.length !== 0 || this.#completed === job.id) return;
    this.#completed = job.id;
    try {
      const response = await fetch(url);
      if (!response.ok) return;
      const { frames } = decodeAnswer(await response.json());
      const { run } = this.#store.state;
      if (run?.job.id === job.id) this.#store.set({ run: { ...run, shown: frames } });
    } catch {
      // The answer is there; only the strip of frames is missing.
    }
  }

  #report(error: unknown): void {
    const gone = error instanceof Refused && error.error.code === "unknown_job";
    this.#store.set({
      problem: error instanceof Error ? error.message : String(error),
      ...(gone ? { run: null } : {}),
    });
  }
}
