/** Opens the studio page in Chromium, and does with it what people do. */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { chromium } from "playwright-core";
import { PATIENCE } from "../../support/sango.mjs";

const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** Chromium with an empty profile and one page. */
export class Studio {
  /** What the page complained about: errors, and what its content security policy forbade. */
  complaints = [];

  static async open(url) {
    const studio = new Studio();
    studio.profile = await mkdtemp(path.join(tmpdir(), "sango-chromium-"));
    studio.context = await chromium.launchPersistentContext(studio.profile, {
      executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
      headless: true,
      args: FLAGS,
      viewport: { width: 1240, height: 900 },
      acceptDownloads: true,
    });
    studio.page = studio.context.pages()[0] ?? (await studio.context.newPage());
    studio.page.setDefaultTimeout(PATIENCE);
    studio.page.on("pageerror", (error) => studio.complaints.push(error.message));
    studio.page.on("console", (message) => {
      // A dropped line is logged by the browser itself; losing it is what some tests are about.
      if (message.type() === "error" && !/WebSocket|ERR_(CONNECTION|SOCKET|EMPTY_RESPONSE)/.test(message.text())) {
        studio.complaints.push(message.text());
      }
    });
    await studio.page.goto(url);
    await studio.connected();
    return studio;
  }

  async close() {
    await this.context.close();
    await rm(this.profile, { recursive: true, force: true });
  }

  /** Waits until the line is up. */
  connected() {
    return this.page.locator('#line[data-line="open"]').waitFor();
  }

  /** Types a prompt, and sets options where given; does not send it. */
  async write(prompt, options = {}) {
    const { page } = this;
    await page.getByLabel("What should the picture show?").fill(prompt);
    if (Object.keys(options).length === 0) return;
    if (!(await page.locator("#options").evaluate((fold) => fold.open))) await page.locator("#options > summary").click();
    const form = page.locator("#composer");
    for (const [label, value] of Object.entries(options)) await form.getByLabel(label, { exact: true }).fill(value);
  }

  /** Does what sends a job, and waits until the new job is shown; answers its id. */
  async sends(press) {
    const before = await this.shownJob();
    await press();
    await this.page.waitForFunction((old) => location.hash.startsWith("#job=") && location.hash !== old, `#job=${before}`);
    return this.shownJob();
  }

  /** Waits until a video plays: its time goes on. Answers its size. */
  async plays(selector) {
    await this.page.waitForFunction((player) => document.querySelector(player)?.currentTime > 0.2, selector);
    return this.page.locator(selector).evaluate(({ videoWidth, videoHeight }) => [videoWidth, videoHeight]);
  }

  /** Presses Draw, and waits until the new job is on the stage; answers its id. */
  async draw() {
    return this.sends(() => this.page.getByRole("button", { name: "Draw", exact: true }).click());
  }

  /** The id of the job on the stage. */
  async shownJob() {
    return /#job=(.+)$/.exec(this.page.url())?.[1] ?? null;
  }

  /** Waits until the job on the stage is in this state. */
  state(state) {
    return this.page.locator(`#stage[data-state="${state}"]`).waitFor();
  }

  /** The line that says where the job is. */
  headline() {
    return this.page.locator("#headline").innerText();
  }

  /** Waits until the line that says where the job is reads so. */
  says(text) {
    return this.page.locator("#headline", { hasText: new RegExp(`^${text}$`) }).waitFor();
  }

  /** The steps that have a picture in the filmstrip. */
  frames() {
    return this.page
      .locator("#filmstrip [data-step]:has(img)")
      .evaluateAll((frames) => frames.map((frame) => Number(frame.dataset.step)));
  }

  /** The size of the picture on the stage, in its own pixels, once it is there. */
  async pictureSize() {
    await this.page.waitForFunction(() => document.querySelector("#picture").naturalWidth > 0);
    return this.page.locator("#picture").evaluate((image) => [image.naturalWidth, image.naturalHeight]);
  }

  /**
   * Writes down, from now on, every change of the stage: the step that the page says, and how many frames it shows. The
   * job may be faster than a test that looks now and then.
   */
  async watch() {
    await this.page.evaluate(() => {
      window.seen = [];
      const note = () => {
        const step = Number(/step (\d+)/.exec(document.querySelector("#headline").textContent)?.[1] ?? 0);
        const frames = document.querySelectorAll("#filmstrip img").length;
        const last = window.seen.at(-1);
        if (!last || last.step !== step || last.frames !== frames) window.seen.push({ step, frames });
      };
      new MutationObserver(note).observe(document.querySelector("#stage"), {
        subtree: true,
        childList: true,
        characterData: true,
        attributes: true,
      });
    });
  }

  /** What `watch` wrote down. */
  seen() {
    return this.page.evaluate(() => window.seen);
  }
}
