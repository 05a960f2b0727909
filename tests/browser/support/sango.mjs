/** Starts and stops `sango serve` on a loopback port, with an empty data folder. */

import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";

const ROOT = path.resolve(import.meta.dirname, "../../..");

/** The program under test: `SANGO_BIN`, or what `make build` leaves. */
const PROGRAM =
  process.env.SANGO_BIN ?? path.join(process.env.CARGO_TARGET_DIR ?? path.join(ROOT, "target"), "release", "sango");

/** A port that nothing listens on at this moment. */
export async function freePort() {
  const server = net.createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** A running server. */
export class Sango {
  #process;
  #data;
  #log = "";

  /** Starts the server and waits until it is ready for jobs. */
  static async start() {
    if (!existsSync(PROGRAM)) throw new Error(`${PROGRAM} is missing: run \`make build\` first, or set SANGO_BIN`);
    const sango = new Sango();
    sango.#data = await mkdtemp(path.join(tmpdir(), "sango-browser-test-"));
    sango.port = await freePort();
    await sango.run();
    return sango;
  }

  /** Runs the program on the same port and data as before. */
  async run() {
    const models = process.env.SANGO_MODELS ?? path.join(ROOT, "models");
    this.#process = spawn(
      PROGRAM,
      ["serve", "--addr", `127.0.0.1:${this.port}`, "--data", this.#data, "--models", models],
      { stdio: ["ignore", "pipe", "pipe"] },
    );
    for (const stream of [this.#process.stdout, this.#process.stderr]) {
      stream.on("data", (text) => (this.#log += text));
    }
    const deadline = Date.now() + 60_000;
    while (!(await this.#isReady())) {
      if (this.#process.exitCode !== null || Date.now() > deadline) {
        throw new Error(`sango serve did not become ready:\n${this.#log}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  async #isReady() {
    try {
      return (await fetch(`${this.url}readyz`)).ok;
    } catch {
      return false;
    }
  }

  /** Where the page is. */
  get url() {
    return `http://127.0.0.1:${this.port}/`;
  }

  /** Asks the HTTP API; answers the decoded body. */
  async api(pathname, init) {
    const response = await fetch(new URL(pathname, this.url), init);
    const body = await response.json();
    if (!response.ok) throw new Error(`${pathname}: ${response.status} ${JSON.stringify(body)}`);
    return body;
  }

  /** Submits a job over HTTP. */
  submit(prompt, options = {}) {
    return this.api("v1/jobs", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ kind: "image", prompt, options }),
    });
  }

  /** Every event of a job that has ended, as the server keeps them. */
  async events(id) {
    const response = await fetch(`${this.url}v1/jobs/${id}/events?after=0`);
    const text = await response.text();
    return text
      .split("\n")
      .filter((line) => line.startsWith("data:"))
      .map((line) => JSON.parse(line.slice("data:".length)));
  }

  /** Stops the process where it is; what it is sent meanwhile waits. */
  freeze() {
    this.#process.kill("SIGSTOP");
  }

  /** Lets the process go on. */
  thaw() {
    this.#process.kill("SIGCONT");
  }

  /** Ends the process: `SIGTERM` as an operator would, `SIGKILL` as a crash would. */
  async end(signal) {
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return;
    const ended = new Promise((resolve) => this.#process.once("exit", resolve));
    this.#process.kill(signal);
    await ended;
  }

  /** Ends the process and removes its data. */
  async stop() {
    await this.end("SIGTERM");
    await rm(this.#data, { recursive: true, force: true });
  }
}
