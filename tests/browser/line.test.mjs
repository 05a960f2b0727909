/** What happens when things go away: a job, the line, the server. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Proxy } from "../support/proxy.mjs";
import { NOT_OURS, Sango, until } from "../support/sango.mjs";
import { Studio } from "./support/browser.mjs";

/** The shipped model draws a step in milliseconds, so what must not be over too soon takes many steps. */
const LONG = 100;

let sango;
let proxy;
let studio;
let page;

before(async () => {
  sango = await Sango.start();
  proxy = await Proxy.to(sango.port);
  studio = await Studio.open(proxy.url);
  page = studio.page;
});

after(async () => {
  await studio?.close();
  await proxy?.close();
  await sango?.stop();
});

/**
 * Keeps the server busy, so that what the page draws next waits until `release`. Under their own seeds, because the
 * same work would run only once, and with priority, because clients may take turns.
 */
async function hold(count = 60) {
  const jobs = [];
  for (let seed = 0; seed < count; seed++) {
    jobs.push(await sango.submit("a small green cross on a gray background", { seed, steps: LONG }, { priority: 1 }));
  }
  return {
    jobs,
    release: () => Promise.all(jobs.map(({ id }) => sango.cancel(id))),
  };
}

/** Waits until a job is no longer in line. */
const begun = (id) => until("the job has begun", async () => (await sango.job(id)).state !== "queued");

/** Has something drawn that takes seconds, and puts it on the stage; answers its id once it runs. */
async function drawSlowly(prompt) {
  const { id } = await sango.submit(prompt, { steps: LONG, width: 256, height: 256 });
  await page.goto(`${proxy.url}#job=${id}`);
  await studio.state("running");
  return id;
}

/** The steps of which the server has a preview. */
async function previews(id) {
  const events = await sango.events(id);
  return events.filter(({ event }) => event === "preview").map(({ data }) => data.step);
}

test("a job that is being drawn stops when it is cancelled", async () => {
  const id = await drawSlowly("a large cyan ring on a black background");
  await page.getByRole("button", { name: "Cancel" }).click();
  await studio.state("cancelled");
  const job = await sango.job(id);
  assert.equal(job.state, "cancelled");
  assert.ok((job.progress?.step ?? 0) < LONG, `it had reached step ${job.progress?.step}`);
  assert.equal(await page.getByRole("button", { name: "Cancel" }).isVisible(), false);
});

test("a job that waits says how many are ahead, moves up, and can be cancelled too", async () => {
  const held = await hold();
  await studio.write("a large yellow square on a blue background", { Steps: "3" });
  const id = await studio.draw();
  const ahead = async () => Number(/^Waiting: (\d+) jobs? (is|are) ahead$/.exec(await studio.headline())?.[1]);
  const first = await ahead();
  assert.ok(first >= 5 && first < held.jobs.length, `${first} ahead`);
  for (const job of held.jobs.slice(-4)) await sango.cancel(job.id);
  await until("the job has moved up", async () => (await ahead()) <= first - 4);
  await page.getByRole("button", { name: "Cancel" }).click();
  await studio.state("cancelled");
  assert.equal((await sango.job(id)).state, "cancelled");
  await held.release();
});

test("a line that drops in the middle costs nothing", async () => {
  const held = await hold();
  await studio.write("a large purple star on a white background", { Steps: "30" });
  const id = await studio.draw();
  proxy.cut();
  await page.locator('#line[data-line="lost"]').waitFor();
  await held.release();
  await begun(id);
  proxy.mend();
  await studio.connected();
  await studio.state("finished");
  const steps = await previews(id);
  assert.ok(steps.length >= 3, `${steps.length} previews`);
  // The last frame is the finished picture, whether or not there was a preview of it. The end may be known before the
  // events that led to it have come.
  const wanted = [...new Set([...steps, 30])];
  await page.waitForFunction((count) => document.querySelectorAll("#filmstrip img").length >= count, wanted.length);
  assert.deepEqual(await studio.frames(), wanted);
});

test("a job that is submitted while the line is down is drawn once it is up", async () => {
  const prompt = "a small blue triangle on a white background";
  const count = async () =>
    (await sango.api("v1/jobs?limit=200")).jobs.filter((job) => job.request.prompt === prompt).length;
  const earlier = await count();
  proxy.cut();
  await page.locator('#line[data-line="lost"]').waitFor();
  await studio.write(prompt, { Steps: "4" });
  const drawn = studio.draw();
  await page.getByRole("button", { name: "Sending…" }).waitFor();
  proxy.mend();
  await drawn;
  await studio.state("finished");
  assert.equal(await count(), earlier + 1);
});

test("a server that crashes and comes back draws the job again by itself", { skip: NOT_OURS }, async () => {
  const id = await drawSlowly("a large green triangle on a black background");
  await sango.end("SIGKILL");
  await page.locator('#line[data-line="lost"]').waitFor();
  await sango.run();
  await studio.connected();
  await studio.state("finished");
  assert.equal(await studio.shownJob(), id);
  await page.locator(`#filmstrip [data-step="${LONG}"] img`).waitFor();
  await studio.says("Finished");
  const started = (await sango.events(id)).filter(({ event }) => event === "started");
  assert.deepEqual(started.map(({ data }) => data.attempt), [1, 2]);
});

test("the page had nothing to complain about", () => {
  assert.deepEqual(studio.complaints, []);
});
