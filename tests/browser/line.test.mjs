/** What happens when things go away: a job, the line, the server. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Studio } from "./support/browser.mjs";
import { Proxy } from "./support/proxy.mjs";
import { Sango } from "./support/sango.mjs";

/** Enough steps for a test to act in the middle of the drawing. */
const LONG = "100";

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

/** Draws something long, and waits until the page shows the given step. */
async function drawUntil(step, prompt) {
  await studio.write(prompt, { Steps: LONG });
  const id = await studio.draw();
  await page.waitForFunction((wanted) => {
    const now = Number(/step (\d+)/.exec(document.querySelector("#headline").textContent)?.[1] ?? 0);
    return now >= wanted;
  }, step);
  return id;
}

/** The steps of which the server has a preview. */
async function previews(id) {
  const events = await sango.events(id);
  return events.filter(({ event }) => event === "preview").map(({ data }) => data.step);
}

test("a job that is being drawn stops when it is cancelled", async () => {
  const id = await drawUntil(2, "a large cyan ring on a black background");
  await page.getByRole("button", { name: "Cancel" }).click();
  await studio.state("cancelled");
  const job = await sango.api(`v1/jobs/${id}`);
  assert.equal(job.state, "cancelled");
  assert.ok(job.progress.step < Number(LONG), `it had reached step ${job.progress.step}`);
  assert.equal(await page.getByRole("button", { name: "Cancel" }).isVisible(), false);
});

test("a job that waits says how many are ahead, moves up, and can be cancelled too", async () => {
  const ahead = [];
  for (const seed of [1, 2, 3]) {
    ahead.push(await sango.submit("a small green cross on a gray background", { seed, steps: Number(LONG) }));
  }
  await studio.write("a large yellow square on a blue background", { Steps: "3" });
  const id = await studio.draw();
  // The first of the three is being drawn already, so it is not in the line.
  await studio.says("Waiting: 2 jobs are ahead");
  await sango.api(`v1/jobs/${ahead[1].id}`, { method: "DELETE" });
  await studio.says("Waiting: 1 job is ahead");
  await page.getByRole("button", { name: "Cancel" }).click();
  await studio.state("cancelled");
  assert.equal((await sango.api(`v1/jobs/${id}`)).state, "cancelled");
  for (const job of ahead) await sango.api(`v1/jobs/${job.id}`, { method: "DELETE" });
});

test("a line that drops in the middle costs nothing", async () => {
  const id = await drawUntil(5, "a large purple star on a white background");
  proxy.cut();
  await page.locator('#line[data-line="lost"]').waitFor();
  await new Promise((resolve) => setTimeout(resolve, 700));
  proxy.mend();
  await studio.connected();
  await studio.state("finished");
  const steps = await previews(id);
  assert.ok(steps.length >= 3, `${steps.length} previews`);
  // The last frame is the finished picture, whether or not there was a preview of it.
  assert.deepEqual(await studio.frames(), [...new Set([...steps, Number(LONG)])]);
});

test("a job that is submitted while the line is down is drawn once it is up", async () => {
  const before = (await sango.api("v1/jobs?limit=200")).jobs.length;
  proxy.cut();
  await page.locator('#line[data-line="lost"]').waitFor();
  await studio.write("a small blue triangle on a white background", { Steps: "4" });
  const drawn = studio.draw();
  await page.getByRole("button", { name: "Sending…" }).waitFor();
  proxy.mend();
  await drawn;
  await studio.state("finished");
  assert.equal((await sango.api("v1/jobs?limit=200")).jobs.length, before + 1);
});

test("a server that crashes and comes back draws the job again by itself", async () => {
  const id = await drawUntil(3, "a large green triangle on a black background");
  await sango.end("SIGKILL");
  await page.locator('#line[data-line="lost"]').waitFor();
  await sango.run();
  await studio.connected();
  await studio.state("finished");
  assert.equal(await studio.shownJob(), id);
  const { steps } = (await sango.api(`v1/jobs/${id}`)).request.options;
  assert.equal((await studio.frames()).at(-1), steps);
  await studio.says("Finished");
});

test("the page had nothing to complain about", () => {
  assert.deepEqual(studio.complaints, []);
});
