/** The recent jobs as small pictures; each is a link that puts its job back on the stage. */

import type { Job } from "../protocol/types";
import { hashOfJob, resultUrl } from "../protocol/urls";
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

/** The list below the stage. */
export class History {
  readonly #base: URL;
  readonly #list = byId("history", HTMLUListElement);
  readonly #older = byId("older", HTMLButtonElement);
  /** The elements, and the view of the job that each one shows. */
  readonly #shown = new Map<string, { element: HTMLLIElement; job: Job }>();

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
      element.replaceChildren(this.#link(job));
    }
    this.#shown.set(job.id, { element, job });
    return element;
  }

  #link(job: Job): HTMLAnchorElement {
    const link = make("a", "thumb");
    link.href = hashOfJob(job.id);
    link.title = job.request.prompt;
    link.dataset["state"] = job.state;
    const url = job.state === "finished" && job.result ? resultUrl(job.result.url, this.#base) : null;
    if (url === null) {
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
    link.append(make("span", "thumb-prompt", job.request.prompt), when);
    showProgress(link, job);
    return link;
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
