/** The picture, how far it is, what it was made from, and what can be done with it. */

import { isOver, type Job } from "../protocol/types";
import { resultUrl } from "../protocol/urls";
import { framesOf, totalSteps, type Frame, type Run } from "../run";
import type { State } from "../store";
import { duration, headline, size, timeLeft } from "../words";
import { byId, prefersStillness, setText, showFacts } from "./dom";
import { Filmstrip } from "./filmstrip";

/** Below this width a picture is enlarged in whole pixels: its pixels are the drawing. */
const PIXEL_WIDTH = 192;
/** How long each step is shown in a replay. */
const REPLAY_MS = 170;

/** What the buttons of the stage do. */
export interface StageActions {
  look: (step: number | null) => void;
  cancel: () => void;
  reroll: () => void;
  edit: (job: Job) => void;
  continueFrom: (url: string) => void;
  /** False where the job cannot be sent again from here. */
  canReroll: () => boolean;
}

/** The right half of the page. */
export class Stage {
  readonly #base: URL;
  readonly #actions: StageActions;
  readonly #filmstrip: Filmstrip;
  readonly #stage = byId("stage", HTMLElement);
  readonly #picture = byId("picture", HTMLImageElement);
  readonly #left = byId("left", HTMLElement);
  readonly #copySeed = byId("copy-seed", HTMLButtonElement);
  readonly #reroll = byId("reroll", HTMLButtonElement);
  #run: Run | null = null;
  #frames: readonly Frame[] = [];
  #replay: ReturnType<typeof setInterval> | undefined;

  constructor(base: URL, actions: StageActions) {
    this.#base = base;
    this.#actions = actions;
    this.#filmstrip = new Filmstrip(byId("filmstrip", HTMLOListElement), (step) => {
      clearInterval(this.#replay);
      actions.look(step);
    });
    this.#picture.addEventListener("load", () => {
      this.#picture.classList.toggle("pixels", this.#picture.naturalWidth < PIXEL_WIDTH);
    });
    const onClick = (id: string, act: (run: Run) => void) =>
      byId(id, HTMLButtonElement).addEventListener("click", () => this.#run && act(this.#run));
    onClick("cancel", () => actions.cancel());
    onClick("reroll", () => actions.reroll());
    onClick("replay", () => this.#startReplay());
    onClick("again", (run) => actions.edit(run.job));
    onClick("continue", (run) => {
      const url = this.#resultOf(run.job);
      if (url !== null) actions.continueFrom(url);
    });
    onClick("copy-seed", (run) => void this.#copy(String(run.job.request.options.seed ?? "")));
    setInterval(() => this.#showTimeLeft(), 250);
  }

  /** Shows the job on the stage. */
  render(state: State): void {
    const run = state.run?.job.kind === "image" ? state.run : null;
    const { looking } = state;
    if (run?.job.id !== this.#run?.job.id) clearInterval(this.#replay);
    this.#run = run;
    this.#stage.dataset["state"] = run?.job.state ?? "empty";
    this.#stage.setAttribute("aria-busy", String(run?.job.state === "running"));
    this.#frames = run ? framesOf(run, this.#resultOf(run.job)) : [];
    this.#filmstrip.render(run, this.#frames, looking);
    this.#showPicture(run, looking);
    this.#showStatus(run);
    this.#showDetails(run, state.submitting);
  }

  #resultOf(job: Job): string | null {
    return job.state === "finished" && job.result ? resultUrl(job.result.url, this.#base) : null;
  }

  #showPicture(run: Run | null, looking: number | null): void {
    const result = run && this.#resultOf(run.job);
    const frame = this.#frames.find(({ step }) => step === looking) ?? this.#frames.at(-1);
    const src = (looking === null ? result : null) ?? frame?.src ?? null;
    this.#picture.hidden = src === null;
    byId("blank", HTMLElement).hidden = src !== null;
    if (src === null) this.#picture.removeAttribute("src");
    else if (this.#picture.src !== src) this.#picture.src = src;

    const stepShown = src === result ? null : (frame?.step ?? null);
    this.#picture.alt = run ? (stepShown === null ? "" : `Step ${stepShown}: `) + run.job.request.prompt : "";
    const label = byId("looking", HTMLElement);
    label.hidden = run === null || src === null || looking === null;
    setText(label, label.hidden ? "" : `Step ${looking} of ${run ? totalSteps(run) : 0}`);
  }

  #showStatus(run: Run | null): void {
    const job = run?.job;
    byId("status", HTMLElement).hidden = run === null;
    byId("cancel", HTMLButtonElement).hidden = !job || isOver(job.state);
    setText(byId("headline", HTMLElement), run ? headline(run) : "");
    const bar = byId("progress", HTMLProgressElement);
    bar.hidden = job?.state !== "running";
    bar.max = job?.progress?.total ?? 1;
    bar.value = job?.progress?.step ?? 0;
    this.#showTimeLeft();
  }

  #showTimeLeft(): void {
    const run = this.#run;
    setText(this.#left, run?.job.state === "running" ? timeLeft(run.due, Date.now()) : "");
  }

  #showDetails(run: Run | null, submitting: boolean): void {
    byId("details", HTMLElement).hidden = run === null;
    if (!run) return;
    const { job } = run;
    setText(byId("shown-prompt", HTMLElement), job.request.prompt);
    showFacts("facts", factsOf(job));

    const download = byId("download", HTMLAnchorElement);
    const url = this.#resultOf(job);
    download.hidden = url === null;
    if (url !== null) download.href = url;
    byId("continue", HTMLButtonElement).hidden = url === null;
    byId("replay", HTMLButtonElement).hidden = this.#frames.length < 2 || !isOver(job.state);
    this.#copySeed.hidden = job.request.options.seed === undefined;
    this.#reroll.hidden = !isOver(job.state);
    const canReroll = this.#actions.canReroll();
    this.#reroll.disabled = submitting || !canReroll;
    this.#reroll.title = canReroll ? "The same words with another seed" : "The starting picture is no longer on this page";
  }

  #startReplay(): void {
    clearInterval(this.#replay);
    const steps = this.#frames.map((frame) => frame.step);
    if (prefersStillness()) return this.#actions.look(steps[0] ?? null);
    const next = () => {
      const step = steps.shift() ?? null;
      if (step === null) clearInterval(this.#replay);
      this.#actions.look(step);
    };
    this.#replay = setInterval(next, REPLAY_MS);
    next();
  }

  async #copy(text: string): Promise<void> {
    const label = this.#copySeed.querySelector("span");
    if (!label) return;
    try {
      await navigator.clipboard.writeText(text);
      setText(label, "Copied");
    } catch {
      // No clipboard away from HTTPS and localhost: show it, so that it can be copied by hand.
      setText(label, text);
    }
    setTimeout(() => setText(label, "Copy seed"), 2000);
  }
}

/** What the picture was made from, in short phrases. */
function factsOf(job: Job): string[] {
  const { options, image, mask } = job.request;
  const facts: (string | false)[] = [
    job.model ?? false,
    options.steps !== undefined && `${options.steps} steps`,
    options.guidance_scale !== undefined && `guidance ${options.guidance_scale}`,
    options.seed !== undefined && `seed ${options.seed}`,
    mask ? "repainted in part" : image && "from a picture",
    image && options.strength !== undefined && `strength ${Math.round(options.strength * 100)} %`,
    options.negative_prompt !== undefined && options.negative_prompt !== "" && `without ${options.negative_prompt}`,
    options.width !== undefined && options.height !== undefined && `${options.width} × ${options.height}`,
    job.result !== null && size(job.result.bytes),
    job.started_at !== null && job.finished_at !== null && duration(job.finished_at - job.started_at),
  ];
  return facts.filter((fact) => fact !== false);
}
