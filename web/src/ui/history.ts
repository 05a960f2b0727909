/** The recent jobs as small pictures; each is a link that puts its job back on the stage. */

import type { Job } from "../protocol/types";
import { hashOfJob, mediaUrl, resultUrl } from "../protocol/urls";
import type { State } from "../store";
import { ago } from "../words";
import { byId, make } from "./dom";

/** What stands in the place of a picture that is not there. */
const MARKS: Record<Job["state"], string> = {
  queued: "waiting",
  running: "drawing",
  interrupted: "interrupted",
  finished: "finished",
  failed: "failed",
  cancelled: "cancelled",
  expired: "no longer kept",
};

/** What stands in the place of an answer that is not there. */
const ASKED: Record<Job["state"], string> = { ...MARKS, running: "answering", finished: "", cancelled: "stopped" };

/** The list below the stage. */
export class History {
  readonly #base: URL;
  readonly #list = byId("history", HTMLUListElement);
  readonly #older = byId("older", HTMLButtonElement);
  /** The elements, and the view of the job that each one shows. */
  readonly #shown = new Map<string, { element: HTMLLIElement; job: Job }>();

  readonly #sight = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting || !(target instanceof HTMLVideoElement)) continue;
      this.#sight.unobserve(target);
      target.preload = "metadata";
      target.src = target.dataset["src"] ?? "";
    }
  });

  constructor(base: URL, onOlder: () => void) {
    this.#base = base;
    this.#older.addEventListener("click", onOlder);
  }

  /** Shows the jobs; only those that changed are made anew. */
  render(state: State): void {
    byId("history-empty", HTMLElement).hidden = state.jobs.length > 0;
    this.#older.hidden = !state.older;
    state.jobs.forEach((job, index) => {
      const element = this.#elementOf(job);
      if (this.#list.children[index] !== element) this.#list.insertBefore(element, this.#list.children[index] ?? null);
      const link = element.querySelector("a");
      if (job.id === state.run?.job.id) link?.setAttribute("aria-current", "true");
      else link?.removeAttribute("aria-current");
    });
  }

  #elementOf(job: Job): HTMLLIElement {
    const shown = this.#shown.get(job.id);
    if (shown?.job === job) return shown.element;
    const element = shown?.element ?? make("li", "");
    if (shown && sameLook(shown.job, job)) {
      showProgress(element, job);
    } else {
      const link = this.#link(job);
      const [old, fresh] = [element.querySelector("video"), link.querySelector("video")];
      // A clip that is there already is not fetched, and blank, once more.
      if (old && fresh && old.dataset["src"] === fresh.dataset["src"]) {
        this.#sight.unobserve(fresh);
        fresh.replaceWith(old);
      }
      element.replaceChildren(link);
    }
    this.#shown.set(job.id, { element, job });
    return element;
  }

  #link(job: Job): HTMLAnchorElement {
    const link = make("a", "thumb");
    link.href = hashOfJob(job.id);
    link.title = job.request.prompt;
    link.dataset["state"] = job.state;
    const { asked } = job.request;
    link.dataset["kind"] = job.kind;
    const url = job.state === "finished" && job.result ? resultUrl(job.result.url, this.#base) : null;
    if (url !== null && job.result?.content_type.startsWith("video/")) {
      link.append(this.#clip(url));
    } else if (asked) {
      link.append(this.#mediaOf(job));
    } else if (url === null) {
      const mark = make("span", "thumb-mark", MARKS[job.state]);
      if (job.state === "running") mark.append(make("progress", ""));
      link.append(mark);
    } else {
      const image = make("img", "");
      image.loading = "lazy";
      image.alt = "";
      image.addEventListener("load", () => image.classList.toggle("pixels", image.naturalWidth < 192));
      image.src = url;
      link.append(image);
    }
    const when = make("time", "thumb-when", ago(job.created_at, Date.now()));
    when.dateTime = new Date(job.created_at).toISOString();
    link.append(make("span", "thumb-prompt", job.request.prompt));
    if (asked) link.append(make("span", "thumb-answer", job.result?.text?.trim() || ASKED[job.state]));
    link.append(when);
    showProgress(link, job);
    return link;
  }

  /** A video's first moment, fetched when it comes into sight. */
  #clip(url: string): HTMLVideoElement {
    const video = make("video", "thumb-mark");
    Object.assign(video, { muted: true, playsInline: true, loop: true, preload: "none" });
    video.ariaHidden = "true";
    video.addEventListener("loadedmetadata", () => video.classList.toggle("pixels", video.videoWidth < 192));
    video.dataset["src"] = `${url}#t=0.1`;
    this.#sight.observe(video);
    return video;
  }

  /** What a question is about, as the browser shows it. */
  #mediaOf(job: Job): HTMLElement {
    const [first] = job.request.asked?.media ?? [];
    const url = mediaUrl(job.id, 0, this.#base);
    if (first?.content_type.startsWith("image/")) {
      const image = make("img", "");
      image.loading = "lazy";
      image.alt = "";
      image.src = url;
      return image;
    }
    return this.#clip(url);
  }
}

function sameLook(a: Job, b: Job): boolean {
  return a.state === b.state && a.result?.url === b.result?.url;
}

function showProgress(element: Element, job: Job): void {
  const bar = element.querySelector("progress");
  if (bar) {
    bar.max = job.progress?.total ?? 1;
    bar.value = job.progress?.step ?? 0;
    bar.setAttribute("aria-label", "Drawing");
  }
}
