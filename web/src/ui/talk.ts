/** What was asked and answered about the same media, the newest last. */

import { exchanges, type Exchange } from "../ask";
import { isOver, type Job } from "../protocol/types";
import type { Run } from "../run";
import { byId, make, setText } from "./dom";

/** The list of questions and answers. */
export class Talk {
  readonly #list = byId("talk", HTMLOListElement);

  /** Shows the run's question and answer, after what was said before. */
  render(run: Run | null, jobs: readonly Job[]): void {
    const said = run ? exchanges(run.job, run.answer, jobs) : [];
    while (this.#list.children.length > said.length) this.#list.lastElementChild?.remove();
    said.forEach((exchange, index) => {
      const element = this.#list.children[index] ?? this.#list.appendChild(exchangeElement());
      const last = index === said.length - 1;
      show(element, exchange, last && run !== null && !isOver(run.job.state), last);
    });
  }
}

function exchangeElement(): HTMLLIElement {
  return make("li", "exchange", make("p", "asked"), make("p", "answered"));
}

function show(element: Element, { question, answer, job }: Exchange, goes: boolean, newest: boolean): void {
  const [asked, answered] = element.children;
  if (!asked || !answered) return;
  element.classList.toggle("newest", newest);
  const link = newest || job === null ? null : `#job=${job}`;
  if (link === null) setText(asked, question);
  else if (asked.querySelector("a")?.getAttribute("href") !== link || asked.textContent !== question) {
    const anchor = make("a", "", question);
    anchor.href = link;
    asked.replaceChildren(anchor);
  }
  setText(answered, (answer ?? "").trim());
  answered.classList.toggle("goes", goes);
  (answered as HTMLElement).hidden = answer === null && !goes;
}
