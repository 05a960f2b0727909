/** The video: how it takes shape, then itself, what it was made from, and what can be done with it. */

import { isOver, type Job } from "../protocol/types";
import { resultUrl } from "../protocol/urls";
import { totalSteps, type Run } from "../run";
import type { State } from "../store";
import { duration, filmHeadline, size, timeLeft } from "../words";
import { byId, prefersStillness, setText, showFacts } from "./dom";
import { Filmstrip } from "./filmstrip";

/** Below this width a video is enlarged in whole pixels: its pixels are the drawing. */
const PIXEL_WIDTH = 192;

/** What the buttons of the cinema do. */
export interface CinemaActions {
  look: (step: number | null) => void;
  cancel: () => void;
  reroll: () => void;
  edit: (job: Job) => void;
  canReroll: () => boolean;
}

/** The right half of the page for videos. */
export class Cinema {
  readonly #base: URL;
  readonly #actions: CinemaActions;
  readonly #filmstrip: Filmstrip;
  readonly #cinema = byId("cinema", HTMLElement);
  readonly #screen = byId("film-screen", HTMLElement);
  readonly #player = byId("film-player", HTMLVideoElement);
  readonly #preview = byId("film-preview", HTMLImageElement);
  #run: Run | null = null;

  constructor(base: URL, actions: CinemaActions) {
    this.#base = base;
    this.#actions = actions;
    this.#filmstrip = new Filmstrip(byId("film-strip", HTMLOListElement), (step) => actions.look(step));
    this.#player.addEventListener("loadedmetadata", () => {
      this.#player.classList.toggle("pixels", this.#player.videoWidth < PIXEL_WIDTH);
    });
    this.#preview.addEventListener("load", () => {
      this.#preview.classList.toggle("pixels", this.#preview.naturalWidth < PIXEL_WIDTH);
    });
    const onClick = (id: string, act: (run: Run) => void) =>
      byId(id, HTMLButtonElement).addEventListener("click", () => this.#run && act(this.#run));
    onClick("film-cancel", () => actions.cancel());
    onClick("film-reroll", () => actions.reroll());
    onClick("film-edit", (run) => actions.edit(run.job));
    setInterval(() => this.#showTimeLeft(), 250);
  }

  /** Shows the job. */
  render(state: State): void {
    const run = state.run?.job.kind === "video" ? state.run : null;
    this.#run = run;
    this.#cinema.dataset["state"] = run?.job.state ?? "empty";
    this.#cinema.setAttribute("aria-busy", String(run?.job.state === "running"));
    this.#filmstrip.render(run, run?.frames ?? [], state.looking);
    this.#showScreen(run, state.looking);
    this.#showStatus(run);
    this.#showDetails(run, state.submitting);
  }

  #resultOf(job: Job): string | null {
    return job.state === "finished" && job.result ? resultUrl(job.result.url, this.#base) : null;
  }

  #showScreen(run: Run | null, looking: number | null): void {
    const url = run && this.#resultOf(run.job);
    const film = looking === null ? url : null;
    const frame = run?.frames.find(({ step }) => step === looking) ?? run?.frames.at(-1);
    const src = film === null ? (frame?.src ?? null) : null;
    const { width, height } = run?.job.request.options ?? {};
    this.#screen.style.aspectRatio = width && height ? `${width} / ${height}` : "1";
    play(this.#player, film);
    this.#preview.hidden = src === null;
    if (src === null) this.#preview.removeAttribute("src");
    else if (this.#preview.src !== src) this.#preview.src = src;
    this.#preview.alt = run && frame ? `The middle of the video after step ${frame.step}` : "";
    byId("film-blank", HTMLElement).hidden = film !== null || src !== null;
    const label = byId("film-looking", HTMLElement);
    label.hidden = run === null || src === null;
    setText(label, label.hidden || !run ? "" : `The middle, after step ${frame?.step ?? 0} of ${stepsOf(run)}`);
  }

  #showStatus(run: Run | null): void {
    const job = run?.job;
    byId("film-status", HTMLElement).hidden = run === null;
    byId("film-cancel", HTMLButtonElement).hidden = !job || isOver(job.state);
    setText(byId("film-headline", HTMLElement), run ? filmHeadline(run) : "");
    const bar = byId("film-progress", HTMLProgressElement);
    bar.hidden = job?.state !== "running";
    if (job?.progress && job.progress.step > 0) {
      bar.max = job.progress.total;
      bar.value = job.progress.step;
    } else {
      bar.removeAttribute("value");
    }
    this.#showTimeLeft();
  }

  #showTimeLeft(): void {
    const run = this.#run;
    setText(byId("film-left", HTMLElement), run?.job.state === "running" ? timeLeft(run.due, Date.now()) : "");
  }

  #showDetails(run: Run | null, submitting: boolean): void {
    byId("film-details", HTMLElement).hidden = run === null;
    if (!run) return;
    const { job } = run;
    setText(byId("film-shown-prompt", HTMLElement), job.request.prompt);
    showFacts("film-facts", factsOf(job));
    const download = byId("film-download", HTMLAnchorElement);
    const url = this.#resultOf(job);
    download.hidden = url === null;
    if (url !== null) download.href = `${url}?download=1`;
    const reroll = byId("film-reroll", HTMLButtonElement);
    reroll.hidden = !isOver(job.state);
    const canReroll = this.#actions.canReroll();
    reroll.disabled = submitting || !canReroll;
    reroll.title = canReroll ? "The same words with another seed" : "The first picture is no longer on this page";
  }
}

/** Plays a video, again and again; `null` takes it away. */
export function play(player: HTMLVideoElement, url: string | null): void {
  player.hidden = url === null;
  if (url === null) {
    if (player.hasAttribute("src")) {
      player.removeAttribute("src");
      player.load();
    }
  } else if (player.src !== url) {
    player.src = url;
    // Whoever asked for less movement starts it.
    if (!prefersStillness()) void player.play().catch(() => undefined);
  }
}

/** How many steps the previews are of: those of the phase in which the video takes shape. */
function stepsOf(run: Run): number {
  return run.job.request.options.steps ?? totalSteps(run);
}

/** What the video was made from, in short phrases. */
function factsOf(job: Job): string[] {
  const { options, image } = job.request;
  const facts: (string | false)[] = [
    job.model ?? false,
    options.frames !== undefined && `${options.frames} frames`,
    options.fps !== undefined && `${options.fps} a second`,
    options.width !== undefined && options.height !== undefined && `${options.width} × ${options.height}`,
    options.steps !== undefined && `${options.steps} steps`,
    options.guidance_scale !== undefined && `guidance ${options.guidance_scale}`,
    options.seed !== undefined && `seed ${options.seed}`,
    image && "from a picture",
    options.negative_prompt !== undefined && options.negative_prompt !== "" && `without ${options.negative_prompt}`,
    job.result !== null && size(job.result.bytes),
    job.started_at !== null && job.finished_at !== null && duration(job.finished_at - job.started_at),
  ];
  return facts.filter((fact) => fact !== false);
}
