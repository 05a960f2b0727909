/** The other main job: a video plays, a question is asked, and the answer appears word by word. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { after, before, test } from "node:test";
import { writePng } from "../support/png.mjs";
import { Sango } from "../support/sango.mjs";
import { Studio } from "./support/browser.mjs";

const CLIPS = path.resolve(import.meta.dirname, "../../web/public/clips");
const CLIP = { name: "holiday.mp4", mimeType: "video/mp4", buffer: readFileSync(path.join(CLIPS, "star-and-cross.mp4")) };
const PICTURE = { name: "still.png", mimeType: "image/png", buffer: writePng(64, 48, (x, y) => [x * 4, y * 5, 80]) };

let sango;
let studio;
let page;

before(async () => {
  sango = await Sango.start();
  studio = await Studio.open(sango.url);
  page = studio.page;
});

after(async () => {
  await studio?.close();
  await sango?.stop();
});

/** Asks, and waits until the new job's answer is whole; answers the job. */
async function asked(press) {
  const before = await studio.shownJob();
  await press();
  await page.waitForFunction((old) => location.hash.startsWith("#job=") && location.hash !== old, `#job=${before}`);
  await page.locator('#scene[data-state="finished"]').waitFor();
  return sango.job(await studio.shownJob());
}

const pressAsk = () => page.locator("#ask").click();
const questions = () => page.locator("#talk .asked").allInnerTexts();
/** Waits until the newest answer reads as the job's result. */
const reads = ({ result }) =>
  page.waitForFunction(
    (text) => document.querySelector("#talk .newest .answered")?.textContent === text.trim(),
    result.text,
  );

test("the mode is in the address bar, and every control of it has a name", async () => {
  await page.getByRole("link", { name: "Understand" }).click();
  await page.getByLabel("What do you want to know?").waitFor();
  assert.match(page.url(), /#understand$/);
  assert.equal(await page.getByLabel("What should the picture show?").isVisible(), false);
  const nameless = await page.evaluate(() =>
    [...document.querySelectorAll("button, input, select, textarea, summary, a[href]")]
      .filter((control) => !control.labels?.length && !control.ariaLabel && !control.textContent.trim())
      .map((control) => control.outerHTML),
  );
  assert.deepEqual(nameless, []);
  const { models } = await sango.api("v1/models");
  const offered = await page.locator("#answer-model option").allTextContents();
  assert.deepEqual(offered, models.filter((model) => model.understand).map((model) => model.name));
});

test("asking without a file or without words says what is missing", async () => {
  await pressAsk();
  await page.getByText("Choose first the video or picture").waitFor();
  await page.locator("#media-file").setInputFiles({ name: "notes.txt", mimeType: "text/plain", buffer: Buffer.from("x") });
  await page.getByText("notes.txt is neither a video nor a picture.").waitFor();
  await page.locator("#media-file").setInputFiles(CLIP);
  await pressAsk();
  await page.getByText("Say first what you want to know.").waitFor();
});

test("the chosen video plays before anything is sent", async () => {
  await page.locator("#chosen", { hasText: "holiday.mp4" }).waitFor();
  await page.waitForFunction(() => document.querySelector("#player").videoWidth === 128);
  assert.equal((await sango.api("v1/jobs")).jobs.length, 0);
});

test("a question is answered, with the frames that the model was shown", async () => {
  await page.getByLabel("What do you want to know?").fill("What happens?");
  const job = await asked(() => page.keyboard.press("Enter"));
  assert.equal(job.request.question, "What happens?");
  await reads(job);
  const { frames } = await sango.api(`v1/jobs/${job.id}/result`);
  await page.waitForFunction(
    (count) => document.querySelectorAll("#shown-frames img").length === count,
    frames.length,
  );
  await page.locator("#scene-headline", { hasText: /^Answered$/ }).waitFor();
});

test("choosing a frame takes the video there, and arrows go on", async () => {
  const { frames } = await sango.api(`v1/jobs/${await studio.shownJob()}/result`);
  const at = (n) =>
    page.waitForFunction(
      (time) => Math.abs(document.querySelector("#player").currentTime - time) < 0.06,
      frames[n].time,
    );
  await page.getByRole("button", { name: /^Frame 3, / }).click();
  await at(2);
  await page.locator('#shown-frames [data-index="2"][aria-current]').waitFor();
  await page.keyboard.press("ArrowRight");
  await at(3);
});

test("another question about the same file sends no file again", async () => {
  const posted = [];
  page.on("request", (request) => request.method() === "POST" && posted.push(request.url()));
  await page.getByLabel("Ask something else about it").fill("What colour is the background?");
  const follow = await asked(() => page.getByRole("button", { name: "Ask", exact: true }).last().click());
  await reads(follow);
  assert.deepEqual(await questions(), ["What happens?", "What colour is the background?"]);
  assert.deepEqual(follow.request.messages, []);
  await page.getByLabel("What do you want to know?").fill("How many shapes are there?");
  await reads(await asked(pressAsk));
  assert.deepEqual(posted, []);

  await page.getByLabel("Remember what was said").check();
  await page.getByLabel("Ask something else about it").fill("Are you sure?");
  const remembered = await asked(() => page.keyboard.press("Enter"));
  const roles = remembered.request.messages.map(({ role }) => role);
  assert.ok(roles.length % 2 === 0 && roles.every((role, n) => role === ["user", "assistant"][n % 2]), `${roles}`);
});

test("a reload brings back the video, the frames and the answer", async () => {
  const job = await sango.job(await studio.shownJob());
  await page.reload();
  await studio.connected();
  await page.locator('#scene[data-state="finished"]').waitFor();
  await reads(job);
  await page.waitForFunction(() => document.querySelector("#player").videoWidth === 128);
  assert.match(await page.locator("#player").getAttribute("src"), new RegExp(`/v1/jobs/${job.id}/media/0$`));
  await page.locator("#shown-frames img").first().waitFor();
  assert.match(await page.locator(`#history a[href="#job=${job.id}"]`).innerText(), /Are you sure/);
});

test("the history leads back, and the modes remember where they were", async () => {
  const id = await studio.shownJob();
  await page.getByRole("link", { name: "Draw" }).click();
  await studio.write("a large red circle on a blue background", { Steps: "2" });
  const drawn = await studio.draw();
  await studio.state("finished");
  await page.locator(`#history a[href="#job=${id}"]`).click();
  await page.locator('#scene[data-state="finished"]').waitFor();
  await page.getByRole("link", { name: "Draw" }).click();
  await page.locator('#stage[data-state="finished"]').waitFor();
  assert.equal(await studio.shownJob(), drawn);
});

test("a sample clip and a picture can be asked about, too", async () => {
  await page.goto(`${sango.url}#understand`);
  await page.reload();
  await studio.connected();
  await page.getByRole("button", { name: "A star" }).click();
  await page.locator("#chosen", { hasText: "green-star.mp4" }).waitFor();
  await reads(await asked(pressAsk));
  await page.locator("#media-file").setInputFiles(PICTURE);
  await page.locator("#still").waitFor();
  assert.deepEqual(await questions(), [], "the picture is another matter");
  const job = await asked(pressAsk);
  assert.deepEqual(job.request.media.map(({ kind }) => kind), ["image"]);
  await reads(job);
});

test("an answer that goes on too long can be stopped", async () => {
  await page.locator("#answer-options > summary").click();
  const { models } = await sango.api("v1/models");
  const { context } = models.find((model) => model.understand).understand;
  await page.getByLabel("Tokens, at most").fill(String(Math.min(4_096, context - 1)));
  await page.locator("#temperature").fill("1.5");
  // Others wait before it, so that it can be stopped before it ends by itself.
  const busy = await sango.submit("a large red circle on a blue background", { steps: 100, width: 512, height: 512 });
  await sango.wait(busy.id, "running");
  const before = await studio.shownJob();
  await pressAsk();
  await page.waitForFunction((old) => location.hash !== old, `#job=${before}`);
  await page.getByRole("button", { name: "Stop" }).click();
  await page.locator('#scene[data-state="cancelled"]').waitFor();
  await page.locator("#scene-headline", { hasText: /^Stopped$/ }).waitFor();
  await sango.cancel(busy.id);
});

test("a file that is no video is refused in plain words", async () => {
  const broken = { ...CLIP, name: "broken.mp4", buffer: CLIP.buffer.subarray(0, 900) };
  await page.locator("#media-file").setInputFiles(broken);
  await page.getByText("This browser cannot play this format").waitFor();
  await pressAsk();
  await page.locator("#ask-problem", { hasText: "media" }).waitFor();
});

test("it fits a phone, and both colours", async () => {
  await page.setViewportSize({ width: 360, height: 780 });
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(wide <= 360, `${wide} pixels wide`);
  }
});

test("the page had nothing to complain about", () => {
  // The refusals that were asked for are answers of their own.
  assert.deepEqual(studio.complaints.filter((text) => !/422|ERR_FILE|MEDIA/.test(text)), []);
});
