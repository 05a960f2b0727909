/** Puts the parts of the page together: state below, looks above, and the address bar beside them. */

import { App } from "./app";
import type { AskRequest, Job, MakeRequest } from "./protocol/types";
import { baseOf, hashOfJob, jobInHash, modeInHash } from "./protocol/urls";
import { MODES, Store, type Chosen, type Line, type Mode } from "./store";
import { Asker } from "./ui/asker";
import { Cinema } from "./ui/cinema";
import { Composer } from "./ui/composer";
import { Director } from "./ui/director";
import { byId, prefersStillness, setText } from "./ui/dom";
import { History } from "./ui/history";
import { Launcher } from "./ui/launcher";
import { Legs } from "./ui/legs";
import { Scene } from "./ui/scene";
import { Stage } from "./ui/stage";
import { startTheme } from "./ui/theme";
import { announcement } from "./words";

const LINES: Record<Line, string> = { connecting: "Connecting", open: "Connected", lost: "Reconnecting" };

startTheme();
const base = baseOf(document.baseURI);
const store = new Store();
const app = new App(store, base);

const composer = new Composer({
  submit: (request) => void submit(request, "stage", "easel"),
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

const asker = new Asker(base, {
  ask: (request, chosen) => void ask(request, chosen, "scene", "talk"),
  choose,
  stopSending: () => app.stopSending(),
  problem: (problem) => store.set({ problem }),
});

const scene = new Scene(base, {
  stop: () => void app.cancelShown(),
  askOn: (question, remember) => app.askOn(question, remember),
});

const director = new Director({
  submit: (request) => void submit(request, "cinema", "film-screen"),
  problem: (problem) => store.set({ problem }),
});

const cinema = new Cinema(base, {
  look: (looking) => store.set({ looking }),
  cancel: () => void app.cancelShown(),
  reroll: () => void app.rerollShown(),
  canReroll: () => app.requestOfShown() !== null,
  edit: ({ request, model }) => {
    director.fill(request.prompt, request.options, model);
    byId("director", HTMLFormElement).scrollIntoView({ block: "nearest" });
  },
});

const launcher = new Launcher(base, {
  launch: (request, chosen) => void ask(request, chosen, "legs", "legs"),
  choose,
  stopSending: () => app.stopSending(),
  problem: (problem) => store.set({ problem }),
});

const legs = new Legs(base, { cancel: () => void app.cancelShown() });

const history = new History(base, () => void app.loadOlder());

async function submit(request: MakeRequest, place: string, part: string): Promise<void> {
  if (await app.submit(request)) bringIntoSight(place, part);
}

async function ask(request: AskRequest, chosen: readonly Chosen[], place: string, part: string): Promise<void> {
  if (await app.ask(request, chosen)) bringIntoSight(place, part);
}

/** On a narrow screen the place where things happen is below the form; a part of it says whether that is out of sight. */
function bringIntoSight(place: string, part: string): void {
  const { top, bottom } = byId(part, HTMLElement).getBoundingClientRect();
  if (top >= 0 && bottom <= innerHeight) return;
  byId(place, HTMLElement).scrollIntoView({ behavior: prefersStillness() ? "auto" : "smooth" });
}

/** What was chosen is shown at once, in the place of what an earlier question was about. */
function choose(chosen: readonly Chosen[]): void {
  if (store.state.run !== null && chosen.length > 0) {
    window.history.pushState(null, "", `#${store.state.mode}`);
    named = null;
    app.open(null);
  }
  store.set({ chosen });
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
  showMode(state.mode);
  composer.render(state);
  stage.render(state);
  asker.render(state);
  scene.render(state);
  director.render(state);
  cinema.render(state);
  launcher.render(state);
  legs.render(state);
  setText(byId("announcer", HTMLElement), state.run ? announcement(state.run) : "");
  history.render(state);
  const line = byId("line", HTMLElement);
  line.dataset["line"] = state.line;
  setText(line, LINES[state.line]);
});

/** Shows the part of the page that a mode is about. */
function showMode(mode: Mode): void {
  for (const part of document.querySelectorAll<HTMLElement>("[data-mode]")) part.hidden = part.dataset["mode"] !== mode;
  for (const name of MODES) {
    const link = byId(`mode-${name}`, HTMLAnchorElement);
    if (name === mode) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

const KINDS: Record<string, Mode> = { image: "draw", understand: "understand", video: "video", pipeline: "pipeline" };
const modeOf = (job: Job): Mode => KINDS[job.kind] ?? "draw";

/** The address bar names the job on the stage, so that a reload, a bookmark and the back button find it again. */
let named: string | null = null;
store.listen(({ run, mode }) => {
  const id = run?.job.id ?? null;
  if (!run || id === null) return;
  if (modeOf(run.job) !== mode) store.set({ mode: modeOf(run.job) });
  // Whoever comes back to a mode finds what was there.
  byId(`mode-${modeOf(run.job)}`, HTMLAnchorElement).href = hashOfJob(id);
  if (id === named) return;
  named = id;
  if (jobInHash(location.hash) !== id) window.history.pushState(null, "", hashOfJob(id));
});

function openNamed(): void {
  const id = jobInHash(location.hash);
  const mode = modeInHash(location.hash);
  // An anchor within the page, such as the skip link's, says nothing about the stage.
  if (id === null && mode === null) return;
  named = id;
  if (mode !== null) store.set({ mode });
  app.open(named);
  if (named !== null) return;
  const forms = { draw: composer, understand: asker, video: director, pipeline: launcher };
  forms[mode ?? "draw"].focus();
}
window.addEventListener("hashchange", openNamed);
window.addEventListener("popstate", openNamed);
openNamed();
