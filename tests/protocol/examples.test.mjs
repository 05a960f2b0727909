/** The examples of docs/protocol.md do what they say. */

import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import { Socket } from "phoenix";
import WebSocket from "ws";
import { readPng, writePng } from "../support/png.mjs";
import { Sango, until } from "../support/sango.mjs";
import { PROTOCOL } from "./support/errors.mjs";
import { assertJob } from "./support/fields.mjs";
import { Line } from "./support/line.mjs";
import { CLIP, slow, submit } from "./support/work.mjs";

/** The blocks of code below "Examples", by language. */
const examples = (language) => {
  const section = PROTOCOL.slice(PROTOCOL.indexOf("\n## Examples\n"));
  return [...section.matchAll(/```(\w+)\n(.*?)```/gs)].filter(([, l]) => l === language).map(([, , code]) => code);
};
const [DRAW, REPAINT, ASK, FILM, PIPELINE, OTHERS] = examples("sh");
const [FRAMES] = examples("json").slice(-1);
const [PROGRAM] = examples("js");

const missing = ["bash", "curl", "jq"].find((program) => {
  try {
    execFileSync(program, ["--version"], { stdio: "ignore" });
    return false;
  } catch {
    return true;
  }
});
const skip = missing ? `${missing} is not installed` : false;

let sango;
let folder;

before(async () => {
  sango = await Sango.start();
  folder = await mkdtemp(path.join(tmpdir(), "sango-examples-"));
});

after(async () => {
  await sango?.stop();
  if (folder) await rm(folder, { recursive: true, force: true });
});

const here = (code) => code.replaceAll("127.0.0.1:4000", `127.0.0.1:${sango.port}`);

/** Runs commands in the folder; answers what they print. */
async function shell(code, env = {}) {
  const options = { cwd: folder, env: { ...process.env, ...env } };
  return (await promisify(execFile)("bash", ["-euo", "pipefail", "-c", here(code)], options)).stdout;
}

test("submit, wait, save", { skip }, async () => {
  const told = await shell(DRAW);
  assert.match(told, /^event: queued$/m);
  assert.match(told, /^event: finished$/m);
  assert.equal(readPng(await readFile(path.join(folder, "circle.png"))).width, 64);
});

test("start from a picture, draw half of it anew", { skip }, async () => {
  await writeFile(path.join(folder, "left-half.png"), writePng(64, 64, (x) => Array(3).fill(x < 32 ? 255 : 0)));
  const { request } = assertJob(JSON.parse(await shell(REPAINT)));
  assert.deepEqual([request.image.width, request.mask.width, request.options.strength], [64, 64, 1]);
});

test("ask about a video, and read the answer as it is made", { skip }, async () => {
  await writeFile(path.join(folder, "clip.mp4"), CLIP);
  const said = await shell(ASK);
  const { result } = assertJob((await sango.api("v1/jobs?limit=1")).jobs[0]);
  // As it was told, and once more as it is kept.
  assert.equal(said, `${result.text}${result.text}\n`);
});

test("make a video that begins with a picture", { skip }, async () => {
  const told = (await shell(FILM)).trim().split("\n").map((line) => JSON.parse(line));
  assert.ok(told.some(({ phase }) => phase === "denoise") && told.at(-1).phase === "decode", JSON.stringify(told.at(-1)));
  assert.equal((await readFile(path.join(folder, "circle.mp4"))).toString("latin1", 4, 8), "ftyp");
});

test("a clip becomes words, a picture and a new clip", { skip }, async () => {
  const told = (await shell(PIPELINE)).trim().split("\n").map((line) => JSON.parse(line));
  assert.deepEqual([told.length, told.at(-1).name, told.at(-1).state], [6, "video", "finished"]);
  assertJob((await sango.api("v1/jobs?limit=1")).jobs[0]);
  assert.equal(readPng(await readFile(path.join(folder, "picture.png"))).width, 64);
  assert.equal((await readFile(path.join(folder, "new.mp4"))).toString("latin1", 4, 8), "ftyp");
});

test("cancel, list what failed, see the models", { skip }, async () => {
  const { id } = await submit(sango, slow());
  const [job, list, models] = (await shell(`${OTHERS.replaceAll("\n", "; echo\n")}`, { id })).trim().split("\n");
  assert.equal(assertJob(JSON.parse(job)).state, "cancelled");
  assert.deepEqual(JSON.parse(list), { jobs: [], next: null });
  assert.deepEqual(JSON.parse(models), await sango.api("v1/models"));
});

test("the socket by hand", async () => {
  const line = await Line.open(sango);
  const frames = FRAMES.trim().split("\n");
  let id;
  for (const frame of frames) {
    const [joinRef, ref, topic, event] = JSON.parse(frame);
    line.send(frame.replace("PASTE-THE-ID", id));
    const { status, response } = await line.reply(ref);
    assert.equal(status, "ok", frame);
    if (event === "submit") id = assertJob(response).id;
    if (event === "cancel") assert.equal(response.id, id);
    assert.ok(joinRef !== undefined && topic, frame);
  }
  await line.close();
});

test("with the npm package", async () => {
  const sockets = [];
  class Watched extends Socket {
    constructor(url) {
      super(url, { transport: WebSocket });
      sockets.push(this);
    }
  }
  const lines = [];
  const log = { log: (...words) => lines.push(words), error: (...words) => assert.fail(words.join(" ")) };
  // It is a module that imports `Socket`; here that is given to it.
  new Function("Socket", "console", here(PROGRAM).replace(/^import .*$/m, ""))(Watched, log);
  await until("the program has told the end", () => lines.at(-1)?.[1] === "finished");
  assert.deepEqual(lines.map(([n]) => n), lines.map((_, i) => i + 1));
  assert.ok(lines.some(([, event, step]) => event === "progress" && step === 12));
  sockets.forEach((socket) => socket.disconnect());
});
