/** The npm `phoenix` client, as a program in Node uses it, with promises and a memory. */

import { Socket } from "phoenix";
import WebSocket from "ws";
import { PATIENCE, until } from "../../support/sango.mjs";
import { LAST } from "./fields.mjs";

/** The server has refused; `body` is its answer. */
class Refused extends Error {
  constructor(body) {
    super(`refused: ${JSON.stringify(body)}`);
    this.body = body;
  }
}

function promised(push) {
  return new Promise((resolve, reject) => {
    push
      .receive("ok", resolve)
      .receive("error", (body) => reject(new Refused(body)))
      .receive("timeout", () => reject(new Error("no reply")));
  });
}

/** A topic that was joined. */
class Topic {
  /** What was pushed on it, in order: `{name, payload}`. */
  pushes = [];
  /** Whether the server has closed it. */
  closed = false;
  /** The replies to its joins: the first, and one for each time that the line was lost. */
  welcomes = [];

  constructor(socket, name, params) {
    this.channel = socket.channel(name, typeof params === "function" ? () => params(this) : params);
    this.channel.onMessage = (event, payload) => {
      if (!/^(phx|chan)_/.test(event)) this.pushes.push({ name: event, payload });
      return payload;
    };
    this.channel.onClose(() => (this.closed = true));
  }

  /** Joins; answers the reply. */
  async join() {
    const joining = this.channel.join().receive("ok", (welcome) => this.welcomes.push(welcome));
    try {
      return await promised(joining);
    } catch (error) {
      // The client would join again and again.
      this.channel.leave();
      throw error;
    }
  }

  /** The reply to the first join. */
  get welcome() {
    return this.welcomes[0];
  }

  /** Sends an event; answers the reply. */
  push(event, payload = {}) {
    return promised(this.channel.push(event, payload));
  }

  leave() {
    return promised(this.channel.leave());
  }

  /** The payloads that were pushed under this name, or under any. */
  payloads(name) {
    return this.pushes.filter((push) => name === undefined || push.name === name).map(({ payload }) => payload);
  }

  /** Waits for a push of which this holds; answers its payload. */
  async heard(what, holds) {
    const push = await until(`${this.channel.topic} was told ${what}`, () => this.pushes.find(holds));
    return push.payload;
  }

  /** Waits for the last event of a job; answers all of them. */
  async ended() {
    await this.heard("how the job ended", ({ name }) => LAST.includes(name));
    return this.payloads();
  }
}

/** One connection to a server. */
export class Client {
  #socket;

  /** Connects to the server at this address. */
  static async open({ url }) {
    const client = new Client();
    client.#socket = new Socket(new URL("socket", url).href.replace(/^http/, "ws"), {
      transport: WebSocket,
      timeout: PATIENCE,
      reconnectAfterMs: () => 50,
      rejoinAfterMs: () => 50,
    });
    await new Promise((resolve, reject) => {
      client.#socket.onOpen(resolve);
      client.#socket.onError((error) => reject(error.error ?? error));
      client.#socket.connect();
    });
    return client;
  }

  /** Joins a topic. Parameters may be a function of it, asked at each join. */
  async join(name, params = {}) {
    const topic = new Topic(this.#socket, name, params);
    await topic.join();
    return topic;
  }

  /** Joins the topic of a job, from after this event; after a lost line, from where it was. */
  follow(id, after = 0) {
    return this.join(`job:${id}`, ({ pushes }) => ({ after: pushes.at(-1)?.payload.n ?? after }));
  }

  /** Whether the line is up. */
  get connected() {
    return this.#socket.isConnected();
  }

  /** Is gone without a goodbye, as a machine that loses its power. */
  vanish() {
    this.#socket.conn.terminate();
    this.#socket.disconnect();
  }

  close() {
    return new Promise((resolve) => this.#socket.disconnect(resolve));
  }
}
