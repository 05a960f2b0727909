/**
 * A running Sango, on a loopback port with an empty data folder. Which program that is, the environment says:
 *
 * - nothing: `sango serve` as `make build` leaves it, or the binary that `SANGO_BIN` names;
 * - `SANGO_SERVER`: a shell command that becomes another server (a script ends in `exec`), which finds its settings in
 *   `PORT`, `SANGO_DATA` and `SANGO_MODELS`;
 * - `SANGO_URL`: a server that runs already and has nothing else to do. Tests that stop it or look into its data folder
 *   are left out then.
 */

import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const ROOT = path.resolve(import.meta.dirname, "../..");
const BIN =
  process.env.SANGO_BIN ?? path.join(process.env.CARGO_TARGET_DIR ?? path.join(ROOT, "target"), "release", "sango");

/** How long a job, or a server that starts, may take on a busy machine. */
export const PATIENCE = 120_000;
/** How long a server may take to put its work away. */
const GOODBYE = 30_000;

/** Given to tests that need a server of their own: why they are left out, or false. */
export const NOT_OURS = process.env.SANGO_URL ? "SANGO_URL names a server that these tests may not stop" : false;

/** A port that nothing listens on at this moment. */
async function freePort() {
  const server = net.createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Asks again and again until the answer is truthy, and gives it back; says what it waited for when that is in vain. */
export async function until(what, ask, patience = PATIENCE) {
  const deadline = Date.now() + patience;
  for (;;) {
    const answer = await ask();
    if (answer) return answer;
    if (Date.now() > deadline) throw new Error(`waited in vain until ${what}`);
    await sleep(10);
  }
}

/** Servers that must not outlive this process. */
const running = new Set();
process.once("exit", () => running.forEach(killAll));
for (const name of ["SIGINT", "SIGTERM", "SIGHUP"]) process.once(name, () => process.exit(1));

/** Ends a server and whatever it has started. */
function killAll(server) {
  try {
    process.kill(-server.pid, "SIGKILL");
  } catch (error) {
    if (error.code !== "ESRCH") throw error;
  }
}

/** A running server. */
export class Sango {
  #process = null;
  #log = "";

  /** Where jobs and results are kept; null where the server is not ours. */
  data = null;

  /** Starts the server and waits until it is ready for jobs. */
  static async start() {
    const sango = new Sango();
    if (NOT_OURS) {
      sango.url = new URL("/", process.env.SANGO_URL).href;
      sango.port = Number(new URL(sango.url).port || 80);
      return sango;
    }
    if (!process.env.SANGO_SERVER && !existsSync(BIN)) {
      throw new Error(`${BIN} is missing: run \`make build\` first, or set SANGO_BIN`);
    }
    sango.data = await mkdtemp(path.join(tmpdir(), "sango-test-"));
    sango.port = await freePort();
    sango.url = `http://127.0.0.1:${sango.port}/`;
    await sango.run();
    return sango;
  }

  /** Runs the program on the same port and data as before. */
  async run() {
    const env = {
      ...process.env,
      SANGO_BIN: BIN,
      PORT: String(this.port),
      SANGO_DATA: this.data,
      SANGO_MODELS: process.env.SANGO_MODELS ?? path.join(ROOT, "models"),
    };
    const gateway = 'exec "$SANGO_BIN" serve --addr "127.0.0.1:$PORT" --data "$SANGO_DATA" --models "$SANGO_MODELS"';
    // The leader of a group of its own, so that nothing it starts is left behind.
    const server = spawn("/bin/sh", ["-c", process.env.SANGO_SERVER ?? gateway], {
      cwd: ROOT,
      env,
      detached: true,
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#process = server;
    running.add(server);
    for (const stream of [server.stdout, server.stderr]) stream.on("data", (text) => (this.#log += text));
    const ready = async () => {
      if (server.exitCode !== null) throw new Error(`the server ended before it was ready:\n${this.#log}`);
      return fetch(`${this.url}readyz`).then((response) => response.ok, () => false);
    };
    await until("the server is ready", ready).catch((error) => {
      throw new Error(`${error.message}:\n${this.#log}`);
    });
  }

  /** Asks the HTTP API; answers the decoded body. */
  async api(pathname, init) {
    const response = await fetch(new URL(pathname, this.url), init);
    const body = await response.json();
    if (!response.ok) throw new Error(`${pathname}: ${response.status} ${JSON.stringify(body)}`);
    return body;
  }

  /** Submits a job over HTTP. */
  submit(prompt, options = {}, fields = {}) {
    return this.api("v1/jobs", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ kind: "image", prompt, options, ...fields }),
    });
  }

  /** The job as it is now. */
  job(id) {
    return this.api(`v1/jobs/${id}`);
  }

  /** Cancels a job. */
  cancel(id) {
    return this.api(`v1/jobs/${id}`, { method: "DELETE" });
  }

  /** Waits until a job is in this state; complains when it ends in another. */
  wait(id, state) {
    return until(`job ${id} is ${state}`, async () => {
      const job = await this.job(id);
      if (job.state === state) return job;
      if (job.finished_at !== null) throw new Error(`job ${id} is ${job.state}, not ${state}: ${JSON.stringify(job)}`);
      return null;
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

  /** Ends the process: `SIGTERM` as an operator would, `SIGKILL` as a crash would. */
  async end(signal) {
    const server = this.#process;
    if (!server) return;
    const ended = () => server.exitCode !== null || server.signalCode !== null;
    server.kill(signal);
    try {
      await until("the server has stopped", ended, GOODBYE);
    } catch (error) {
      throw new Error(`${error.message}:\n${this.#log}`);
    } finally {
      killAll(server);
      running.delete(server);
      this.#process = null;
    }
  }

  /** Ends the server and removes its data. */
  async stop() {
    await this.end("SIGTERM");
    if (this.data) await rm(this.data, { recursive: true, force: true });
  }
}
