/** The socket without the `phoenix` client: frames as they are, right and wrong ones. */

import { once } from "node:events";
import WebSocket from "ws";
import { PATIENCE, until } from "../../support/sango.mjs";
import { Answer } from "./http.mjs";

/** One WebSocket. */
export class Line {
  #socket;
  #refs = 0;
  /** Frames that came and were not asked for yet. */
  #frames = [];
  /** The code with which the server closed the socket; null while it is open. */
  closed = null;

  /** Opens the socket, or answers why not: an `Answer` where the server has refused. */
  static async knock(sango, { query = "?vsn=2.0.0", origin } = {}) {
    const line = new Line();
    const url = new URL(`socket/websocket${query}`, sango.url.replace(/^http/, "ws"));
    const socket = (line.#socket = new WebSocket(url, { origin, perMessageDeflate: false }));
    socket.on("message", (data, isBinary) => line.#frames.push(isBinary ? data : JSON.parse(data.toString())));
    socket.on("close", (code) => (line.closed = code));
    return new Promise((resolve, reject) => {
      socket.once("open", () => resolve(line));
      socket.once("unexpected-response", async (_, response) => {
        const bytes = Buffer.concat(await response.toArray());
        resolve(new Answer(response.statusCode, response.headers, bytes));
        socket.terminate();
      });
      // A line that breaks later is seen by its being closed.
      socket.on("error", reject);
    });
  }

  /** Opens the socket. */
  static async open(sango, options) {
    const line = await Line.knock(sango, options);
    if (line instanceof Answer) throw new Error(`the socket was refused: ${line.status} ${line.text}`);
    return line;
  }

  /** Sends a frame; text and bytes as they are. */
  send(frame) {
    const asIs = typeof frame === "string" || Buffer.isBuffer(frame);
    this.#socket.send(asIs ? frame : JSON.stringify(frame));
  }

  /** The next frame. */
  async next() {
    await until("a frame came", () => this.#frames.length > 0 || this.closed !== null);
    if (this.#frames.length === 0) throw new Error(`the server closed the socket: ${this.closed}`);
    return this.#frames.shift();
  }

  /** The next reply with this reference, passing over what else comes. */
  async reply(ref) {
    for (;;) {
      const [, reference, , event, payload] = await this.next();
      if (event === "phx_reply" && reference === ref) return payload;
    }
  }

  /** Sends an event; answers the payload of the reply. */
  ask(joinRef, topic, event, payload) {
    const ref = String(++this.#refs);
    this.send([joinRef, ref, topic, event, payload]);
    return this.reply(ref);
  }

  /** Joins a topic, with the join's own reference as join reference, as `phoenix` does. */
  join(topic, params = {}) {
    return this.ask(String(this.#refs + 1), topic, "phx_join", params);
  }

  /** Takes nothing more from the server. */
  pause() {
    this.#socket.pause();
  }

  /** Takes what has come, and what comes. */
  resume() {
    this.#socket.resume();
  }

  /** Waits until the server has closed the socket; answers the code. */
  async gone(patience = PATIENCE) {
    await until("the server closed the socket", () => this.closed !== null, patience);
    return this.closed;
  }

  async close() {
    if (this.#socket.readyState === WebSocket.CLOSED) return;
    const closed = once(this.#socket, "close");
    this.#socket.close();
    await closed;
  }
}
