/** What people get wrong, and what the page says then. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Sango } from "../support/sango.mjs";
import { Studio } from "./support/browser.mjs";

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

/** Waits until the form complains in these words: an earlier complaint may still stand there. */
const complains = (words) => page.getByRole("alert").filter({ hasText: words }).waitFor();

const draw = () => page.getByRole("button", { name: "Draw", exact: true }).click();

test("an empty prompt is asked for", async () => {
  await studio.write("  ");
  await draw();
  await complains(/what the picture should show/);
  assert.equal(await page.evaluate(() => document.activeElement.id), "prompt");
});

test("a prompt of 10,000 characters is refused in the server's words, and a good one works after it", async () => {
  const prompt = "a red circle ".repeat(800).slice(0, 10_000);
  const refusal = await fetch(`${sango.url}v1/jobs`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ kind: "image", prompt: prompt.trim() }),
  });
  assert.equal(refusal.ok, false);
  const { error } = await refusal.json();

  await studio.write(prompt);
  await draw();
  await complains(error.message);
  assert.equal(await studio.shownJob(), null);

  await studio.write("a large red circle on a blue background");
  await page.getByLabel("What should the picture show?").press("Enter");
  await studio.state("finished");
  assert.equal(await page.getByRole("alert").isVisible(), false);
});

for (const [label, value, says] of [
  ["Steps", "0", "Steps is a number from 1 to 100."],
  ["Guidance", "99", "Guidance is a number from 0 to 50."],
  ["Seed", "-1", "The seed is a whole number"],
]) {
  test(`${label} ${value} is not sent`, async () => {
    const { jobs } = await sango.api("v1/jobs");
    await studio.write("a large red circle on a blue background", { [label]: value });
    await draw();
    await complains(says);
    assert.equal((await sango.api("v1/jobs")).jobs.length, jobs.length);
    await studio.write("a large red circle on a blue background", { [label]: "" });
  });
}

test("a file that is no picture is refused before it is sent", async () => {
  const buffer = Buffer.from("#EXTM3U\nfile:///etc/passwd");
  await page.locator("#start > summary").click();
  await page.locator("#start-file").setInputFiles({ name: "not.png", mimeType: "image/png", buffer });
  await complains(/not a picture/);
});

test("words in a prompt are never markup", async () => {
  const prompt = '<img src=x onerror="window.hacked=1"> a red circle';
  await studio.write(prompt);
  await studio.draw();
  await page.locator("#shown-prompt").getByText(prompt, { exact: true }).waitFor();
  assert.equal(await page.evaluate(() => window.hacked), undefined);
});

test("a job that the server does not know is said to be unknown", async () => {
  await page.goto(`${sango.url}#job=0199b2c4-5c1e-7f3a-9a55-000000000000`);
  await complains(/0199b2c4-5c1e-7f3a-9a55-000000000000/);
});

test("the page had nothing to complain about", () => {
  assert.deepEqual(studio.complaints, []);
});
