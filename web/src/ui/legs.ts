/** The three stages of a pipeline, side by side: the clip and its words, the picture, the new video. */

import { isOver, type Job, type Stage } from "../protocol/types";
import { mediaUrl, resultUrl } from "../protocol/urls";
import type { Run } from "../run";
import type { Chosen, State } from "../store";
import { duration, filming, flowHeadline, timeLeft } from "../words";
import { play } from "./cinema";
import { byId, make, setText } from "./dom";

const NAMES = ["understand", "image", "video"] as const;
type Name = (typeof NAMES)[number];

/** What stands in a stage that shows nothing yet. */
const BLANK: Record<Name, string> = {
  understand: "Your clip plays here, and what happens in it appears below.",
  image: "A picture of what was understood forms here.",
  video: "A new clip of the words and the picture plays here.",
};

/** The stages. */
export class Legs {
  readonly #base: URL;
  readonly #legs: Record<Name, Leg>;
  #run: Run | null = null;

  constructor(base: URL, actions: { cancel: () => void }) {
    this.#base = base;
    this.#legs = { understand: new Leg("understand"), image: new Leg("image"), video: new Leg("video") };
    byId("flow-cancel", HTMLButtonElement).addEventListener("click", () => actions.cancel());
    setInterval(() => this.#showTimeLeft(), 250);
  }

  /** Shows the pipeline. */
  render(state: State): void {
    const run = state.run?.job.kind === "pipeline" ? state.run : null;
    this.#run = run;
    byId("legs", HTMLElement).setAttribute("aria-busy", String(run?.job.state === "running"));
    this.#showStatus(run);
    for (const name of NAMES) {
      const stage = run?.job.stages?.find((known) => known.name === name) ?? null;
      this.#legs[name].setState(stage?.state ?? "empty", run && stage ? this.#progressOf(run, stage) : null);
    }
    this.#showClip(run, state.chosen);
    this.#showPicture(run);
    this.#showVideo(run);
  }

  #progressOf({ job, answer }: Run, { name, state }: Stage): { words: string; share: number | null } | null {
    if (state !== "running") return null;
    const { progress } = job;
    const share = progress && progress.step > 0 ? progress.step / progress.total : null;
    if (name === "video") return { words: filming(progress), share };
    if (name === "image") return { words: progress ? `Step ${progress.step} of ${progress.total}` : "Reading the prompt", share };
    if (answer !== null) return { words: "Answering", share: null };
    return { words: progress ? `Looking: ${progress.step} of ${progress.total}` : "Reading the clip", share };
  }

  #showStatus(run: Run | null): void {
    const { job } = run ?? {};
    byId("flow-status", HTMLElement).hidden = run === null;
    byId("flow-status", HTMLElement).dataset["state"] = job?.state ?? "empty";
    byId("flow-cancel", HTMLButtonElement).hidden = !job || isOver(job.state);
    const took = job && job.started_at !== null && job.finished_at !== null && job.state === "finished";
    const time = took ? ` in ${duration((job.finished_at ?? 0) - (job.started_at ?? 0))}` : "";
    setText(byId("flow-headline", HTMLElement), run ? flowHeadline(run) + time : "");
    this.#showTimeLeft();
  }

  #showTimeLeft(): void {
    const run = this.#run;
    setText(byId("flow-left", HTMLElement), run?.job.state === "running" ? timeLeft(run.due, Date.now()) : "");
  }

  #showClip(run: Run | null, chosen: readonly Chosen[]): void {
    const leg = this.#legs.understand;
    const media = run?.job.request.asked?.media[0];
    const [own] = chosen;
    // The browser's own copy is nearer than the server's.
    const near = own && (!media || own.file.size === media.bytes) ? own : null;
    const url = near?.url ?? (run && media ? mediaUrl(run.job.id, 0, this.#base) : null);
    const still = near ? near.kind === "image" : (media?.content_type.startsWith("image/") ?? false);
    leg.show(still ? null : url, still ? url : null, "What it begins with");
    leg.setWords(run?.answer?.trim() ?? "", run !== null && !isOver(run.job.state) && leg.state === "running");
    leg.setFrames(run?.previews["understand"] ?? []);
  }

  #showPicture(run: Run | null): void {
    const leg = this.#legs.image;
    const stage = run?.job.stages?.find(({ name }) => name === "image");
    const url = this.#resultOf(stage);
    const src = url ?? run?.previews["image"]?.at(-1)?.src ?? null;
    leg.show(null, src, stage?.prompt ?? "");
    leg.setWords(stage?.prompt ?? "", false);
    leg.setDownload(url, run?.job ?? null);
  }

  #showVideo(run: Run | null): void {
    const leg = this.#legs.video;
    const stage = run?.job.stages?.find(({ name }) => name === "video");
    const url = this.#resultOf(stage);
    const preview = url === null ? (run?.previews["video"]?.at(-1)?.src ?? null) : null;
    leg.show(url, preview, stage?.prompt ?? "");
    leg.setWords(stage?.prompt ?? "", false);
    leg.setDownload(url, run?.job ?? null);
  }

  #resultOf(stage: Stage | undefined): string | null {
    return stage?.result ? resultUrl(stage.result.url, this.#base) : null;
  }
}

/** One stage: a screen, words below it, and how far it is. */
class Leg {
  readonly #root: HTMLElement;
  readonly #player = make("video", "");
  readonly #picture = make("img", "");
  readonly #blank: HTMLElement;
  readonly #frames = make("ol", "leg-frames");
  readonly #words = make("p", "leg-words");
  readonly #doing = make("p", "leg-doing");
  readonly #bar = make("progress", "");
  readonly #download = make("a", "button quiet leg-download", "Download");
  state = "empty";

  constructor(name: Name) {
    this.#root = byId(`leg-${name}`, HTMLElement);
    Object.assign(this.#player, { controls: true, playsInline: true, loop: true, muted: true, preload: "metadata" });
    this.#player.hidden = this.#picture.hidden = true;
    const pixels = (element: HTMLElement, width: number) => element.classList.toggle("pixels", width < 192);
    this.#player.addEventListener("loadedmetadata", () => pixels(this.#player, this.#player.videoWidth));
    this.#picture.addEventListener("load", () => pixels(this.#picture, this.#picture.naturalWidth));
    this.#blank = make("p", "leg-blank", BLANK[name]);
    this.#frames.hidden = true;
    this.#frames.ariaLabel = "The frames that the model was shown";
    this.#bar.ariaLabel = "Progress of this stage";
    this.#download.download = "";
    this.#download.hidden = true;
    const screen = make("div", "leg-screen", this.#player, this.#picture, this.#blank);
    const below = make("div", "leg-below", this.#words, this.#frames, this.#doing, this.#bar, this.#download);
    this.#root.append(screen, below);
    this.setState("empty", null);
  }

  setState(state: string, progress: { words: string; share: number | null } | null): void {
    this.state = state;
    this.#root.dataset["state"] = state;
    setText(this.#doing, progress?.words ?? "");
    this.#doing.hidden = this.#bar.hidden = progress === null;
    if (progress?.share != null) this.#bar.value = progress.share;
    else this.#bar.removeAttribute("value");
  }

  /** Puts a video or a picture onto the screen. */
  show(film: string | null, picture: string | null, alt: string): void {
    play(this.#player, film);
    this.#picture.hidden = picture === null;
    if (picture === null) this.#picture.removeAttribute("src");
    else if (this.#picture.src !== picture) this.#picture.src = picture;
    this.#picture.alt = picture === null ? "" : alt;
    this.#blank.hidden = film !== null || picture !== null;
  }

  setWords(text: string, goes: boolean): void {
    setText(this.#words, text);
    this.#words.classList.toggle("goes", goes);
    this.#words.hidden = text === "" && !goes;
  }

  setFrames(frames: readonly { step: number; src: string }[]): void {
    this.#frames.hidden = frames.length === 0;
    if (this.#frames.children.length === frames.length) return;
    const items = frames.map(({ src }) => {
      const image = make("img", "pixels");
      image.alt = "";
      image.src = src;
      return make("li", "", image);
    });
    this.#frames.replaceChildren(...items);
  }

  setDownload(url: string | null, job: Job | null): void {
    this.#download.hidden = url === null || job === null;
    if (url !== null) this.#download.href = `${url}&download=1`;
  }
}
