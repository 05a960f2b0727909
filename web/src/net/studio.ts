/** The `studio` topic: submit a job, list the history, hear when any job changed. */

import type { Channel, Socket } from "phoenix";
import { decodeJob, decodeJobs, decodeModels } from "../protocol/decode";
import type { AskRequest, Job, JobState, MakeRequest, Model } from "../protocol/types";
import { ask, NoAnswer, Refused, REPLY_MS } from "./channel";

/** What the topic tells without being asked. */
export interface StudioEvents {
  /** After every join, so also after a lost line: what is there now. */
  onWelcome: (jobs: Job[], models: Model[]) => void;
  onJob: (job: Job) => void;
  onProblem: (error: unknown) => void;
}

/** A submitted job that the server has not answered yet. */
interface Pending {
  request: MakeRequest | AskRequest;
  settle: (outcome: Promise<Job>) => void;
}

/** The joined topic. */
export class Studio {
  readonly #channel: Channel;
  readonly #pending = new Set<Pending>();

  constructor(socket: Socket, events: StudioEvents) {
    this.#channel = socket.channel("studio", {});
    const guarded = (tell: (payload: unknown) => void) => (payload: unknown) => {
      try {
        tell(payload);
      } catch (error) {
        events.onProblem(error);
      }
    };
    this.#channel.on("job", guarded((payload) => events.onJob(decodeJob(payload))));
    // The client keeps these callbacks for every later join of the same channel. A join without an answer is a lost
    // line, which the page shows anyway.
    this.#channel
      .join()
      .receive("ok", () => this.#sendPending())
      .receive("ok", guarded((payload) => events.onWelcome(decodeJobs(payload).jobs, decodeModels(payload))))
      .receive("error", (body: unknown) => events.onProblem(new Refused(body)));
  }

  /**
   * Sends a job; answers how the server took it. When the line drops before the answer, the job is sent once more after
   * the next join: its idempotency key makes that the same job, even if the first one arrived.
   */
  submit(request: MakeRequest | AskRequest): Promise<Job> {
    return new Promise((resolve) => {
      const pending: Pending = {
        request,
        settle: (outcome) => {
          if (!this.#pending.delete(pending)) return;
          clearTimeout(timer);
          resolve(outcome);
        },
      };
      const timer = setTimeout(() => pending.settle(Promise.reject(new NoAnswer())), REPLY_MS);
      this.#pending.add(pending);
      if (this.#channel.state === "joined") this.#send(pending);
    });
  }

  #sendPending(): void {
    for (const pending of this.#pending) this.#send(pending);
  }

  #send(pending: Pending): void {
    ask(this.#channel, "submit", pending.request)
      .then(decodeJob)
      .then(
        (job) => pending.settle(Promise.resolve(job)),
        // Silence is left to the timer: the answer may still come to a later sending.
        (error: unknown) => error instanceof NoAnswer || pending.settle(Promise.reject(error)),
      );
  }

  /** Jobs, newest first, and whether there are older ones still: those older than `before`, or those in `state`. */
  async list(query: { limit: number; before?: string; state?: JobState }): Promise<{ jobs: Job[]; next: string | null }> {
    return decodeJobs(await ask(this.#channel, "list", query));
  }
}
