/** The video, the frames that the model was shown of it, and the answer while it is made. */

import { isOver, type Job, type Media } from "../protocol/types";
import { mediaUrl } from "../protocol/urls";
import type { Run } from "../run";
import type { Chosen, State } from "../store";
import { answerHeadline, duration, size, timeLeft } from "../words";
import { ShownFrames } from "./shown";
import { byId, setText, showFacts } from "./dom";
import { Talk } from "./talk";

/** What the buttons of the scene do. */
export interface SceneActions {
  stop: () => void;
  askOn: (question: string, remember: boolean) => Promise<boolean>;
}

/** What is on the screen. */
interface Reel {
  kind: "image" | "video";
  url: string;
  name: string;
}

/** The right half of the page for questions. */
export class Scene {
  readonly #base: URL;
  readonly #scene = byId("scene", HTMLElement);
  readonly #player = byId("player", HTMLVideoElement);
  readonly #still = byId("still", HTMLImageElement);
  readonly #unplayable = byId("unplayable", HTMLElement);
  readonly #reels = byId("reels", HTMLElement);
  readonly #follow = byId("follow", HTMLFormElement);
  readonly #question = byId("follow-question", HTMLInputElement);
  readonly #talk = new Talk();
  readonly #shown: ShownFrames;
  #run: Run | null = null;
  #key = "";
  #list: readonly Reel[] = [];
  #at = 0;

  constructor(base: URL, actions: SceneActions) {
    this.#base = base;
    this.#shown = new ShownFrames((media, time) => this.#seek(media, time));
    this.#player.addEventListener("error", () => {
      this.#unplayable.hidden = this.#player.hidden;
    });
    this.#player.addEventListener("loadedmetadata", () => {
      this.#unplayable.hidden = true;
      this.#player.classList.toggle("pixels", this.#player.videoWidth < 192);
    });
    this.#player.addEventListener("timeupdate", () => this.#shown.mark(this.#at, this.#player.currentTime));
    byId("stop", HTMLButtonElement).addEventListener("click", () => actions.stop());
    byId("copy-answer", HTMLButtonElement).addEventListener("click", () => void this.#copy());
    this.#follow.addEventListener("submit", (event) => {
      event.preventDefault();
      const question = this.#question.value;
      if (question.trim() === "") return this.#question.focus();
      void actions.askOn(question, byId("remember", HTMLInputElement).checked).then((taken) => {
        if (taken) this.#question.value = "";
        this.#question.focus();
      });
    });
    setInterval(() => this.#showTimeLeft(), 250);
  }

  /** Shows the conversation, and what it is about. */
  render(state: State): void {
    const run = state.run?.job.kind === "understand" ? state.run : null;
    this.#run = run;
    this.#scene.dataset["state"] = run?.job.state ?? "empty";
    this.#scene.setAttribute("aria-busy", String(run?.job.state === "running"));
    this.#showMedia(run, state.chosen);
    this.#shown.render(run);
    this.#talk.render(run, state.jobs);
    this.#showStatus(run);
    this.#showDetails(run);
    this.#follow.hidden = run === null || !isOver(run.job.state);
    byId("follow-ask", HTMLButtonElement).disabled = state.submitting;
  }

  #showMedia(run: Run | null, chosen: readonly Chosen[]): void {
    const list = reelsOf(run?.job ?? null, chosen, this.#base);
    const key = list.map(({ url }) => url).join();
    if (key !== this.#key) {
      this.#key = key;
      this.#list = list;
      this.#reels.hidden = list.length < 2;
      this.#reels.replaceChildren(...list.map(({ name }, index) => this.#reelButton(name, index)));
      this.#show(0);
    }
    byId("scene-blank", HTMLElement).hidden = list.length > 0;
  }

  #reelButton(name: string, index: number): HTMLButtonElement {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "chip";
    button.textContent = name;
    button.addEventListener("click", () => this.#show(index));
    return button;
  }

  #show(index: number): void {
    this.#at = index;
    const reel = this.#list[index];
    [...this.#reels.children].forEach((button, n) => button.setAttribute("aria-pressed", String(n === index)));
    this.#unplayable.hidden = true;
    this.#player.hidden = reel?.kind !== "video";
    this.#still.hidden = reel?.kind !== "image";
    if (reel?.kind === "video") {
      this.#player.src = reel.url;
      this.#still.removeAttribute("src");
    } else {
      this.#player.removeAttribute("src");
      this.#player.load();
      if (reel) this.#still.src = reel.url;
      else this.#still.removeAttribute("src");
    }
  }

  #seek(media: number, time: number): void {
    if (media !== this.#at) this.#show(media);
    this.#player.pause();
    this.#player.currentTime = time;
  }

  #showStatus(run: Run | null): void {
    const job = run?.job;
    byId("scene-status", HTMLElement).hidden = run === null;
    byId("stop", HTMLButtonElement).hidden = !job || isOver(job.state);
    setText(byId("scene-headline", HTMLElement), run ? answerHeadline(run) : "");
    const bar = byId("scene-progress", HTMLProgressElement);
    bar.hidden = job?.state !== "running" || run?.answer != null;
    // Until the frames are known nobody can say how far it is.
    if (job?.progress) {
      bar.max = job.progress.total;
      bar.value = job.progress.step;
    } else {
      bar.removeAttribute("value");
    }
    this.#showTimeLeft();
  }

  #showTimeLeft(): void {
    const run = this.#run;
    const looking = run?.job.state === "running" && run.answer === null;
    setText(byId("scene-left", HTMLElement), looking ? timeLeft(run.due, Date.now()) : "");
  }

  #showDetails(run: Run | null): void {
    const answered = run !== null && isOver(run.job.state) && run.answer !== null;
    byId("scene-details", HTMLElement).hidden = !answered;
    if (!answered) return;
    showFacts("scene-facts", factsOf(run));
  }

  async #copy(): Promise<void> {
    const label = byId("copy-answer", HTMLButtonElement).querySelector("span");
    const answer = this.#run?.answer;
    if (!label || answer == null) return;
    try {
      await navigator.clipboard.writeText(answer.trim());
      setText(label, "Copied");
    } catch {
      setText(label, "Select it by hand");
    }
    setTimeout(() => setText(label, "Copy answer"), 2000);
  }
}

/** What a job is about, or what was chosen for the next one. The browser's own copy is nearer than the server's. */
function reelsOf(job: Job | null, chosen: readonly Chosen[], base: URL): Reel[] {
  const media = job?.kind === "understand" ? (job.request.asked?.media ?? null) : null;
  if (!job || !media) return chosen.map(({ kind, url, file }) => ({ kind, url, name: file.name }));
  const same = chosen.length === media.length && chosen.every(({ file }, n) => file.size === media[n]?.bytes);
  return media.map((one, index) => ({
    // The browser plays what it can play of what is a video to Sango: an animated picture is a picture to it.
    kind: one.content_type.startsWith("image/") ? "image" : "video",
    url: (same ? chosen[index]?.url : null) ?? mediaUrl(job.id, index, base),
    name: `${index + 1}: ${nameOf(one)}`,
  }));
}

function nameOf({ kind, duration: seconds, width, height }: Media): string {
  return kind === "video" && seconds !== null ? `video, ${seconds.toFixed(1)} s` : `${kind}, ${width} × ${height}`;
}

/** What the answer was made from, in short phrases. */
function factsOf({ job, shown }: Run): string[] {
  const { asked } = job.request;
  const facts: (string | false)[] = [
    job.model ?? false,
    shown.length > 0 && (shown.length === 1 ? "1 frame" : `${shown.length} frames`),
    ...(asked?.media ?? []).map((one) => `${nameOf(one)}, ${size(one.bytes)}`),
    asked?.options.seed !== undefined && `seed ${asked.options.seed}`,
    job.started_at !== null && job.finished_at !== null && duration(job.finished_at - job.started_at),
  ];
  return facts.filter((fact) => fact !== false);
}
