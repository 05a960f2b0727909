/** The npm `phoenix` client, with promises and typed errors in place of its callbacks. */

import { Socket, type Channel } from "phoenix";
import { decodeError } from "../protocol/decode";
import type { ApiError } from "../protocol/types";
import type { Line } from "../store";

/** The server refused; `message` is meant for the user. */
export class Refused extends Error {
  readonly error: ApiError;

  constructor(body: unknown) {
    const error = decodeError(body);
    super(error.message);
    this.name = "Refused";
    this.error = error;
  }
}

/** The server said nothing for too long. */
export class NoAnswer extends Error {
  constructor() {
    super("The server does not answer. Is it still running?");
    this.name = "NoAnswer";
  }
}

/** How long a reply may take. Submitting a large picture over a slow line is the longest of them. */
export const REPLY_MS = 20_000;

/** Sends `event` on a channel and waits for the reply. */
export function ask(channel: Channel, event: string, payload: object): Promise<unknown> {
  return new Promise((resolve, reject) => {
    channel
      .push(event, payload, REPLY_MS)
      .receive("ok", resolve)
      .receive("error", (body: unknown) => reject(new Refused(body)))
      .receive("timeout", () => reject(new NoAnswer()));
  });
}

/**
 * Opens the socket, which reopens itself for as long as the page lives. `onLine` hears how the line is; while it is
 * lost, pushes wait, and joined channels join again by themselves.
 */
export function openSocket(url: string, onLine: (line: Line) => void): Socket {
  const socket = new Socket(url, {
    // Quick first, for a line that hiccups; then slow enough not to hammer a server that restarts.
    reconnectAfterMs: (tries) => [100, 250, 500, 1000, 2000][tries - 1] ?? 3000,
    rejoinAfterMs: (tries) => [100, 500, 1000, 2000][tries - 1] ?? 5000,
    heartbeatIntervalMs: 15_000,
  });
  socket.onOpen(() => onLine("open"));
  socket.onClose(() => onLine("lost"));
  socket.connect();
  return socket;
}
