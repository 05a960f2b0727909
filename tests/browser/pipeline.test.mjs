/** A clip becomes words, a picture and a new clip, side by side, while one looks. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { after, before, test } from "node:test";
import { Sango } from "../support/sango.mjs";
import { Studio } from "./support/browser.mjs";

const CLIPS = path.resolve(import.meta.dirname, "../../web/public/clips");
const CLIP = { name: "mine.mp4", mimeType: "video/mp4", buffer: readFileSync(path.join(CLIPS, "star-and-square.mp4")) };

let sango;
let studio;
let page;

before(async () => {
  sango = await Sango.start();
  studio = await Studio.open(`${sango.url}#pipeline`);
  page = studio.page;
});

after(async () => {
  await studio?.close();
  await sango?.stop();
});

const run = () => studio.sends(() => page.locator("#flow-go").click());
const leg = (name, state) => page.locator(`#leg-${name}[data-state="${state}"]`);
const words = (name) => page.locator(`#leg-${name} .leg-words`).innerText();

test("without a clip nothing is sent", async () => {
  await page.locator("#flow-go").click();
  await page.getByText("Choose first the clip that it begins with.").waitFor();
  assert.equal((await sango.api("v1/jobs")).jobs.length, 0);
});

test("a sample clip goes through the three stages, and all three are seen", async () => {
  await page.locator("#flow-samples .chip").first().click();
  await studio.plays("#leg-understand video");
  // A quick machine is through a stage before a test looks.
  await page.evaluate(() => {
    window.ran = [];
    new MutationObserver((changes) => {
      for (const { target } of changes) if (target.dataset.state === "running") window.ran.push(target.id);
    }).observe(document.querySelector("#legs"), { subtree: true, attributeFilter: ["data-state"] });
  });
  const id = await run();
  for (const name of ["understand", "image", "video"]) await leg(name, "finished").waitFor();
  const ran = await page.evaluate(() => [...new Set(window.ran)]);
  assert.ok(ran.includes("leg-video"), `${ran}`);

  const job = await sango.job(id);
  const [understood, drawn, filmed] = job.stages;
  assert.equal(await words("understand"), understood.result.text.trim());
  assert.equal(await words("image"), drawn.prompt);
  assert.equal(await words("video"), filmed.prompt);
  assert.ok((await page.locator("#leg-understand .leg-frames img").count()) >= 1, "the frames are shown");
  await page.waitForFunction(() => document.querySelector("#leg-image img").naturalWidth > 0);
  const picture = await page.locator("#leg-image img").getAttribute("src");
  assert.ok(picture.endsWith("result?stage=image"), picture);
  const { width, height } = job.request.options.video;
  assert.deepEqual(await studio.plays("#leg-video video"), [width, height]);
  assert.match(await page.locator("#flow-headline").innerText(), /^Finished/);
});

test("what a stage made is downloaded by its name", async () => {
  for (const [name, ending] of [["image", "png"], ["video", "mp4"]]) {
    const pressed = page.locator(`#leg-${name} .leg-download`).click();
    const [download] = await Promise.all([page.waitForEvent("download"), pressed]);
    assert.ok(download.suggestedFilename().endsWith(`-${name}.${ending}`), download.suggestedFilename());
  }
});

test("a reload shows all of it again, and so does the history", async () => {
  const before = await Promise.all(["understand", "image", "video"].map(words));
  await page.reload();
  for (const name of ["understand", "image", "video"]) await leg(name, "finished").waitFor();
  await studio.plays("#leg-video video");
  assert.deepEqual(await Promise.all(["understand", "image", "video"].map(words)), before);
  assert.ok((await page.locator("#leg-understand .leg-frames img").count()) >= 1);
  const card = page.locator('#history .thumb[data-kind="pipeline"]').first();
  await card.scrollIntoViewIfNeeded();
  await page.waitForFunction(() => document.querySelector("#history video").videoWidth > 0);
});

test("a clip of one's own with a question of one's own is stopped in the middle", async () => {
  await page.locator("#flow-file").setInputFiles(CLIP);
  await page.locator("#flow-chosen", { hasText: "mine.mp4" }).waitFor();
  await page.locator("#flow-question").fill("Describe this clip.");
  const id = await run();
  await page.locator("#flow-cancel").click({ timeout: 20_000 }).catch(() => undefined);
  await page.waitForFunction(() => /Cancelled|Finished/.test(document.querySelector("#flow-headline").textContent));
  const job = await sango.job(id);
  assert.ok(["cancelled", "finished"].includes(job.state));
  assert.equal(job.request.question, "Describe this clip.");
});

test("on a phone the stages stand below one another, and nothing sticks out", async () => {
  await page.setViewportSize({ width: 390, height: 844 });
  const [first, second] = await page.locator(".leg").evaluateAll((legs) => legs.map((leg) => leg.getBoundingClientRect().top));
  assert.ok(second > first + 100);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.equal(wide, 0);
});

test("the page had nothing to complain about", () => assert.deepEqual(studio.complaints, []));
