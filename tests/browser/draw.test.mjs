/** The main job: a prompt becomes a picture before one's eyes, and is there again tomorrow. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, before, test } from "node:test";
import { readPng, writePng } from "../support/png.mjs";
import { Sango } from "../support/sango.mjs";
import { Studio } from "./support/browser.mjs";

const PROMPT = "a large red circle on a blue background";

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

test("the page names every control, and offers the server's models", async () => {
  const nameless = await page.evaluate(() =>
    [...document.querySelectorAll("button, input, select, textarea, summary, a[href]")]
      .filter((control) => !control.labels?.length && !control.ariaLabel && !control.textContent.trim())
      .map((control) => control.outerHTML),
  );
  assert.deepEqual(nameless, []);
  const { models } = await sango.api("v1/models");
  await page.locator("#model option").first().waitFor({ state: "attached" });
  const offered = await page.locator("#model option").allTextContents();
  const drawing = models.filter((model) => model.tasks.includes("image"));
  assert.deepEqual(offered.sort(), drawing.map((model) => model.name).sort());
});

test("a typed prompt becomes a picture, step by step", async () => {
  await studio.watch();
  await studio.write(PROMPT);
  const id = await studio.draw();
  await studio.state("finished");

  const seen = await studio.seen();
  const grows = (key) => seen.every((one, i) => i === 0 || one.step === 0 || one[key] >= seen[i - 1][key]);
  assert.ok(new Set(seen.map(({ step }) => step).filter((step) => step > 0)).size >= 3, JSON.stringify(seen));
  assert.ok(new Set(seen.map(({ frames }) => frames).filter((frames) => frames > 0)).size >= 3, JSON.stringify(seen));
  assert.ok(grows("step") && grows("frames"), JSON.stringify(seen));

  const { steps } = (await sango.job(id)).request.options;
  assert.equal(steps, 12);
  // A frame for every preview, and the finished picture for the last step.
  const previews = (await sango.events(id)).filter(({ event }) => event === "preview").map(({ data }) => data.step);
  await page.locator('#filmstrip [data-step="12"] img').waitFor();
  assert.deepEqual(await studio.frames(), [...new Set([...previews, 12])]);
});

test("a frame of the filmstrip shows its step, and the finished picture comes back", async () => {
  const finished = await page.locator("#picture").getAttribute("src");
  const [first, second] = await studio.frames();
  await page.getByRole("button", { name: `Step ${first}`, exact: true }).click();
  await page.getByText(`Step ${first} of 12`, { exact: true }).waitFor();
  assert.match(await page.locator("#picture").getAttribute("src"), /^data:image\/png/);
  await page.keyboard.press("ArrowRight");
  await page.getByText(`Step ${second} of 12`, { exact: true }).waitFor();
  await page.getByRole("button", { name: `Step ${second}`, exact: true }).click();
  assert.equal(await page.locator("#picture").getAttribute("src"), finished);
});

test("the download is a whole PNG of the model's size", async () => {
  const [download] = await Promise.all([
    page.waitForEvent("download"),
    page.getByRole("link", { name: "Download" }).click(),
  ]);
  assert.match(download.suggestedFilename(), /^sango-.*\.png$/);
  const png = readPng(await readFile(await download.path()));
  const model = (await sango.api("v1/models")).models.find((one) => one.default);
  assert.deepEqual([png.width, png.height], [model.width, model.height]);
  assert.deepEqual(await studio.pictureSize(), [png.width, png.height]);
});

test("drawing another keeps the words and changes the seed", async () => {
  const first = await studio.shownJob();
  await page.getByRole("button", { name: "Draw another" }).click();
  await page.waitForFunction((old) => !location.hash.endsWith(old), first);
  await studio.state("finished");
  const [one, other] = await Promise.all(
    [first, await studio.shownJob()].map((id) => sango.job(id).then((job) => job.request)),
  );
  assert.equal(other.prompt, one.prompt);
  assert.notEqual(other.options.seed, one.options.seed);
});

test("a reload brings back the job on the stage, its filmstrip and the history", async () => {
  const shown = await studio.shownJob();
  // As many as the page asks for at first.
  const { jobs } = await sango.api("v1/jobs?limit=20");
  await page.locator('#filmstrip [data-step="12"] img').waitFor();
  const frames = await studio.frames();
  await page.reload();
  await studio.state("finished");
  assert.equal(await studio.shownJob(), shown);
  await page.waitForFunction((count) => document.querySelectorAll("#filmstrip img").length >= count, frames.length);
  assert.deepEqual(await studio.frames(), frames);
  assert.deepEqual(
    await page.locator("#history a").evaluateAll((all) => all.map((link) => link.getAttribute("href"))),
    jobs.map((job) => `#job=${job.id}`),
  );

  const oldest = jobs.findLast((job) => job.state === "finished" && job.id !== shown).id;
  await page.locator(`#history a[href="#job=${oldest}"]`).click();
  await page.waitForFunction((id) => location.hash === `#job=${id}`, oldest);
  await studio.state("finished");
  await page.goBack();
  await page.waitForFunction((id) => location.hash === `#job=${id}`, shown);
});

test("the same seed draws the same bytes, in an instant", async () => {
  const bytes = async (id) => Buffer.from(await (await fetch(`${sango.url}v1/jobs/${id}/result`)).arrayBuffer());
  await studio.write(PROMPT, { Seed: "7" });
  const one = await studio.draw();
  await studio.state("finished");
  const other = await studio.draw();
  await studio.state("finished");
  assert.ok((await bytes(one)).equals(await bytes(other)));
  await studio.says("Finished at once: this was drawn before");
});

test("a picture can be started from, whole or in the painted part", async () => {
  const model = (await sango.api("v1/models")).models.find((one) => one.default);
  const buffer = writePng(96, 60, (x, y) => [x * 2, y * 4, 200]);
  await page.locator("#start > summary").click();
  await page.locator("#start-file").setInputFiles({ name: "start.png", mimeType: "image/png", buffer });
  await studio.write("a small green star on a white background", { Seed: "" });
  const whole = await studio.draw();
  await studio.state("finished");
  const { request } = await sango.job(whole);
  assert.deepEqual([request.image.width, request.image.height], [model.width, model.height]);
  assert.equal(request.mask, null);
  assert.equal(request.options.strength, 0.5);

  await page.getByText("Repaint a part").click();
  await page.getByRole("button", { name: "Draw", exact: true }).click();
  await page.getByRole("alert").getByText("Paint over the part").waitFor();
  await page.locator("#mask-canvas").scrollIntoViewIfNeeded();
  const box = await page.locator("#mask-canvas").boundingBox();
  await page.mouse.move(box.x + box.width / 4, box.y + box.height / 4);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2, { steps: 8 });
  await page.mouse.up();
  const part = await studio.draw();
  await studio.state("finished");
  const painted = (await sango.job(part)).request;
  assert.deepEqual([painted.mask.width, painted.mask.height], [model.width, model.height]);
  assert.equal(painted.options.strength, 1);
});

test("nothing covers the history, however long it is", async () => {
  let last;
  for (let seed = 0; seed < 20; seed++) last = await sango.submit(PROMPT, { steps: 1, seed });
  await page.locator(`#history a[href="#job=${last.id}"]`).waitFor();
  const covered = await page.evaluate(() => {
    window.scrollTo(0, document.body.scrollHeight);
    const hidden = (link) => {
      const { left, top, width, height } = link.getBoundingClientRect();
      const [x, y] = [left + width / 2, top + height / 2];
      return y > 0 && y < window.innerHeight && !link.contains(document.elementFromPoint(x, y));
    };
    return [...document.querySelectorAll("#history a")].filter(hidden).length;
  });
  assert.equal(covered, 0);
});

test("the page had nothing to complain about", () => {
  assert.deepEqual(studio.complaints, []);
});
