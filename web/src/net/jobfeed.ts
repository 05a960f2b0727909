/**
 * The `job:<id>` topic: the events of one job, from where the page left off.
 *
 * The join parameter `after` is computed at every join, so when the client joins again after a lost line, the server
 * sends exactly the events that were missed.
 */

import type { Channel, Socket } from "phoenix";
import { decodeEvent, decodeJob } from "../protocol/decode";
import type { Job, JobEvent } from "../protocol/types";
import { ask, Refused } from "./channel";

const EVENTS = ["queued", "started", "progress", "preview", "frames", "token", "stage", "finished", "failed", "cancelled"] as const;

/** What the feed asks and tells. */
export interface FeedEvents {
  /** The number of the newest event that has arrived. */
  last: () => number;
  onJob: (job: Job) => void;
  onEvent: (event: JobEvent) => void;
  onProblem: (error: unknown) => void;
}

/** Listens to one job until it is closed. */
export class JobFeed {
  readonly id: string;
  readonly #channel: Channel;
  #closed = false;

  constructor(socket: Socket, id: string, events: FeedEvents) {
    this.id = id;
    this.#channel = socket.channel(`job:${id}`, () => ({ after: events.last() }));
    const guarded = (tell: (payload: unknown) => void) => (payload: unknown) => {
      if (this.#closed) return;
      try {
        tell(payload);
      } catch (error) {
        events.onProblem(error);
      }
    };
    const onEvent = guarded((payload) => {
      const event = decodeEvent(payload);
      if (event) events.onEvent(event);
    });
    for (const name of EVENTS) this.#channel.on(name, onEvent);
    this.#channel
      .join()
      .receive("ok", guarded((payload) => events.onJob(decodeJob((payload as { job?: unknown } | null)?.job))))
      .receive("error", (body: unknown) => {
        if (this.#closed) return;
        // A job that the server does not know will not appear by asking again.
        this.close();
        events.onProblem(new Refused(body));
      });
  }

  /** Asks the server to stop the job; answers how the job stands then. */
  async cancel(): Promise<Job> {
    return decodeJob(await ask(this.#channel, "cancel", {}));
  }

  /** Leaves the topic. The job goes on. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#channel.leave();
  }
}
