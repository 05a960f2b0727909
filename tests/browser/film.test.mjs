/** Videos from words: they take shape, they play, they are kept; and they begin with a picture where one is given. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { after, before, test } from "node:test";
import { writePng } from "../support/png.mjs";
import { Sango } from "../support/sango.mjs";
import { Studio } from "./support/browser.mjs";

const PROMPT = "a small green star moves left over a white background";
const PICTURE = { name: "first.png", mimeType: "image/png", buffer: writePng(64, 64, (x, y) => [x * 4, y * 4, 80]) };

let sango;
let studio;
let page;

before(async () => {
  sango = await Sango.start();
  studio = await Studio.open(`${sango.url}#video`);
  page = studio.page;
});

after(async () => {
  await studio?.close();
  await sango?.stop();
});

const make = () => studio.sends(() => page.locator("#film-go").click());
const finished = () => page.locator('#cinema[data-state="finished"]').waitFor();

async function options(values) {
  if (!(await page.locator("#film-options").evaluate((fold) => fold.open))) await page.locator("#film-options > summary").click();
  const form = page.locator("#director");
  for (const [label, value] of Object.entries(values)) await form.getByLabel(label, { exact: true }).fill(value);
  await form.getByLabel("What should the video show?").focus();
}

test("every control has a name, and the model's own settings are what an empty field means", async () => {
  const nameless = await page.evaluate(() =>
    [...document.querySelectorAll("button, input, select, textarea, summary, a[href]")]
      .filter((control) => !control.labels?.length && !control.ariaLabel && !control.textContent.trim())
      .map((control) => control.outerHTML),
  );
  assert.deepEqual(nameless, []);
  const { models } = await sango.api("v1/models");
  const model = models.find(({ tasks, default: first }) => tasks.includes("video") && first);
  assert.equal(await page.locator("#film-frames").getAttribute("placeholder"), String(model.video.frames));
  assert.match(await page.locator("#film-summary").innerText(), new RegExp(`${model.video.frames}\\sframes`));
});

test("without words nothing is sent", async () => {
  await page.locator("#film-go").click();
  await page.getByText("Say first what the video should show.").waitFor();
  assert.equal((await sango.api("v1/jobs")).jobs.length, 0);
});

test("a video takes shape step by step, and then plays", async () => {
  await page.getByLabel("What should the video show?").fill(PROMPT);
  await options({ Steps: "6", Seed: "7" });
  const id = await make();
  await finished();
  const job = await sango.job(id);
  const { width, height } = job.request.options;
  assert.deepEqual(await studio.plays("#film-player"), [width, height]);
  const { duration, loop, muted } = await page.locator("#film-player").evaluate((player) => ({
    duration: player.duration,
    loop: player.loop,
    muted: player.muted,
  }));
  assert.ok(Math.abs(duration - job.request.options.frames / job.request.options.fps) < 0.05, `${duration} s`);
  assert.deepEqual([loop, muted], [true, true]);
  const shown = (await sango.events(id)).filter(({ event }) => event === "preview").map(({ data }) => data.step);
  const strip = page.locator("#film-strip [data-step]:has(img)");
  assert.deepEqual(await strip.evaluateAll((frames) => frames.map((frame) => Number(frame.dataset.step))), shown);
  assert.ok(shown.length >= 2, "there are previews");
  assert.match(await page.locator("#film-facts").innerText(), /6 steps[\s\S]*seed 7/);
});

test("a step can be looked at, and the video comes back", async () => {
  await page.locator("#film-strip button:enabled").first().click();
  await page.locator("#film-preview").waitFor();
  assert.equal(await page.locator("#film-player").isVisible(), false);
  await page.locator("#film-strip button:enabled").first().click();
  await studio.plays("#film-player");
});

test("the video can be sought and downloaded, byte for byte", async () => {
  const job = await sango.job(await studio.shownJob());
  await page.locator("#film-player").evaluate(async (player) => {
    player.pause();
    player.currentTime = player.duration / 2;
    await new Promise((resolve) => player.addEventListener("seeked", resolve, { once: true }));
  });
  const [download] = await Promise.all([page.waitForEvent("download"), page.locator("#film-download").click()]);
  assert.match(download.suggestedFilename(), /\.mp4$/);
  const bytes = await readFile(await download.path());
  assert.equal(createHash("sha256").update(bytes).digest("hex"), job.result.sha256);
});

test("a reload and the back button find it again", async () => {
  const first = await studio.shownJob();
  await page.reload();
  await finished();
  await studio.plays("#film-player");
  await page.locator("#film-reroll").click();
  await page.waitForFunction((old) => location.hash !== `#job=${old}`, first);
  await finished();
  const second = await sango.job(await studio.shownJob());
  assert.notEqual(second.request.options.seed, 7);
  assert.equal(second.request.prompt, PROMPT);
  await page.goBack();
  await page.waitForFunction((old) => location.hash === `#job=${old}`, first);
  await studio.plays("#film-player");
});

test("a picture that is chosen becomes the first frame", async () => {
  await page.getByLabel("What should the video show?").fill(PROMPT);
  await page.locator("#film-start > summary").click();
  await page.locator("#film-file").setInputFiles(PICTURE);
  await page.waitForFunction(() => document.querySelector("#film-first").naturalWidth === 64);
  const id = await make();
  await finished();
  const { request } = await sango.job(id);
  assert.deepEqual([request.image.width, request.image.height, request.options.strength], [64, 64, 1]);
  await page.getByRole("button", { name: "Remove the first picture" }).click();
  await page.locator("#film-drop").waitFor();
});

test("frames that no model makes are brought to the nearest", async () => {
  const { models } = await sango.api("v1/models");
  const multiple = models.find(({ video }) => video).video.frames_multiple_of;
  await options({ Frames: String(2 * multiple) });
  await page.locator("#film-frames").blur();
  assert.equal(await page.locator("#film-frames").inputValue(), String(2 * multiple + 1));
  await options({ Frames: "" });
});

test("a video can be stopped", async () => {
  await options({ Steps: "100", Frames: "1025", Seed: "" });
  await make();
  await page.locator("#film-cancel").click();
  await page.locator('#cinema[data-state="cancelled"]').waitFor();
});

test("on a desktop and on a phone, nothing sticks out of the form", async () => {
  const before = page.viewportSize();
  for (const viewport of [{ width: 1280, height: 900 }, { width: 390, height: 844 }]) {
    await page.setViewportSize(viewport);
    const over = await page.evaluate(() =>
      [document.documentElement, document.querySelector("#director")].map((box) => box.scrollWidth - box.clientWidth),
    );
    assert.deepEqual(over, [0, 0], `${viewport.width} pixels wide`);
  }
  await page.setViewportSize(before);
});

test("the page had nothing to complain about", () => assert.deepEqual(studio.complaints, []));
