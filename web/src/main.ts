/** Puts the parts of the page together: state below, looks above, and the address bar beside them. */

import { App } from "./app";
import type { JobRequest } from "./protocol/types";
import { baseOf, hashOfJob, jobInHash } from "./protocol/urls";
import { Store, type Line } from "./store";
import { Composer } from "./ui/composer";
import { byId, prefersStillness, setText } from "./ui/dom";
import { History } from "./ui/history";
import { Stage } from "./ui/stage";
import { startTheme } from "./ui/theme";

const LINES: Record<Line, string> = { connecting: "Connecting", open: "Connected", lost: "Reconnecting" };

startTheme();
const base = baseOf(document.baseURI);
const store = new Store();
const app = new App(store, base);

const composer = new Composer({
  submit: (request) => void submit(request),
  problem: (problem) => store.set({ problem }),
});

const stage = new Stage(base, {
  look: (looking) => store.set({ looking }),
  cancel: () => void app.cancelShown(),
  reroll: () => void app.rerollShown(),
  canReroll: () => app.requestOfShown() !== null,
  edit: ({ request, model }) => {
    composer.fill(request.prompt, request.options, model);
    byId("composer", HTMLFormElement).scrollIntoView({ block: "nearest" });
  },
  continueFrom: (url) => void continueFrom(url),
});

const history = new History(base, () => void app.loadOlder());

async function submit(request: JobRequest): Promise<void> {
  if (!(await app.submit(request))) return;
  // On a narrow screen the stage is below the form, out of sight.
  const easel = byId("easel", HTMLElement).getBoundingClientRect();
  if (easel.top >= 0 && easel.bottom <= innerHeight) return;
  byId("stage", HTMLElement).scrollIntoView({ behavior: prefersStillness() ? "auto" : "smooth" });
}

async function continueFrom(url: string): Promise<void> {
  try {
    const response = await fetch(url);
    if (!response.ok) throw new Error("The server no longer has this picture.");
    await composer.starter.take(await response.blob());
    byId("start", HTMLDetailsElement).scrollIntoView({ block: "nearest" });
  } catch (error) {
    store.set({ problem: error instanceof Error ? error.message : String(error) });
  }
}

store.listen((state) => {
  composer.render(state);
  stage.render(state);
  history.render(state);
  const line = byId("line", HTMLElement);
  line.dataset["line"] = state.line;
  setText(line, LINES[state.line]);
});

/** The address bar names the job on the stage, so that a reload, a bookmark and the back button find it again. */
let named: string | null = null;
store.listen(({ run }) => {
  const id = run?.job.id ?? null;
  if (id === null || id === named) return;
  named = id;
  if (jobInHash(location.hash) !== id) window.history.pushState(null, "", hashOfJob(id));
});

function openNamed(): void {
  const id = jobInHash(location.hash);
  // An anchor within the page, such as the skip link's, says nothing about the stage.
  if (id === null && location.hash !== "") return;
  named = id;
  app.open(named);
  if (named === null) composer.focus();
}
window.addEventListener("hashchange", openNamed);
window.addEventListener("popstate", openNamed);
openNamed();
