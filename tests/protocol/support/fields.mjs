/** Which fields things have: all of them, always, `null` where they do not apply. */

import assert from "node:assert/strict";

const TIMES = ["created_at", "started_at", "finished_at"];
const OUTCOME = ["progress", "result", "error", "last_event"];
const JOB = ["id", "kind", "model", "state", ...TIMES, "position", ...OUTCOME, "request"];
const REQUEST = ["kind", "model", "prompt", "options", "image", "mask", "priority"];
const OPTIONS = ["negative_prompt", "steps", "guidance_scale", "seed", "width", "height", "temperature", "strength"];
const MEDIA = ["sha256", "bytes", "content_type", "width", "height"];
const ASKED = ["kind", "model", "question", "messages", "options", "media", "priority"];
const DRAWS = ["temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed"];
const ANSWERS = ["max_tokens", "frames", "fps", ...DRAWS];
const FILE = ["kind", "sha256", "bytes", "content_type", "width", "height", "duration", "frames", "fps"];
const FRAME = ["media", "index", "time", "timestamp"];
const RESULT = ["url", "content_type", "bytes", "sha256", "cached"];
const PROGRESS = ["step", "total", "eta_ms"];
const FILM = ["kind", "model", "prompt", "options", "image", "priority"];
const STG = ["stg_scale", "stg_blocks", "stg_mode"];
const TAKES = ["negative_prompt", "width", "height", "frames", "fps", "steps", "guidance_scale", "guidance_rescale", ...STG, "seed", "strength"];
const PIPELINE = ["kind", "model", "question", "models", "options", "media", "priority"];
const STAGES = ["understand", "image", "video"];
const STAGE = ["name", "index", "total", "state", "prompt", "result"];
const PHASES = ["text", "encode", "denoise", "decode"];
const TYPES = { image: "image/png", understand: "application/json", video: "video/mp4", pipeline: "video/mp4" };
const LIMITS = ["width", "height", "multiple_of", "steps", "guidance_scale", "bytes"];
const MODEL = ["name", "kind", "tasks", "default", "loaded", ...LIMITS];
const ERROR = ["code", "message", "status"];
const EVENT = ["n", "job", "event", "at", "data"];
const DATA = {
  queued: ["position", "attempt"],
  started: ["attempt"],
  progress: PROGRESS,
  preview: ["step", "content_type", "data"],
  frames: ["frames"],
  token: ["text", "index"],
  stage: STAGE,
  finished: ["result"],
  failed: ["error"],
  cancelled: [],
};

/** The names of events. */
export const EVENTS = Object.keys(DATA);
/** After one of these nothing follows. */
export const LAST = ["finished", "failed", "cancelled"];

const ID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const SHA256 = /^[0-9a-f]{64}$/;

function assertFields(value, fields, what) {
  assert.ok(value !== null && typeof value === "object", `${what} is ${JSON.stringify(value)}`);
  assert.deepEqual(Object.keys(value).sort(), [...fields].sort(), what);
}

function assertTime(value, what) {
  assert.ok(Number.isInteger(value) && Math.abs(Date.now() - value) < 3_600_000, `${what} is ${value}`);
}

function assertCount(value, least, what) {
  assert.ok(Number.isInteger(value) && value >= least, `${what} is ${value}`);
}

/** Checks a job's view, and that what it says fits together. */
export function assertJob(job) {
  const staged = job.kind === "pipeline";
  assertFields(job, staged ? [...JOB, "stages"] : JOB, "a job");
  const { state } = job;
  assert.match(job.id, ID);
  assert.ok(Object.keys(TYPES).includes(job.kind), job.kind);
  assert.equal(job.request.kind, job.kind);
  if (staged) assert.equal(job.model, null);
  else assert.equal(typeof job.model, "string");
  assertTime(job.created_at, "created_at");
  const waits = ["queued", "interrupted"].includes(state);
  const ended = [...LAST, "expired"].includes(state);
  assert.ok(waits || ended || state === "running", `state is ${state}`);
  if (state === "running") assertTime(job.started_at, "started_at");
  if (ended) assertTime(job.finished_at, "finished_at");
  else assert.equal(job.finished_at, null);
  if (waits) assertCount(job.position, 1, "position");
  else assert.equal(job.position, null);
  if (job.progress !== null) assertProgress(job.progress);
  if (state === "finished") assertResult(job.result, job.id, job.kind);
  else assert.equal(job.result, null);
  if (state === "failed") assertFields(job.error, ERROR, "the error of a job");
  else assert.equal(job.error, null);
  assertCount(job.last_event, 1, "last_event");
  assertRequest(job.request);
  assert.equal(job.request.model, job.model);
  if (staged) assertStages(job);
  return job;
}

/** Checks the stages of a job: as far as it has come they have finished, in their order. */
function assertStages({ id, state, stages }) {
  stages.forEach((stage, index) => assertStage(stage, id, index));
  const states = stages.map((stage) => stage.state);
  const made = states.findIndex((name) => name !== "finished");
  if (state === "finished") assert.equal(made, -1, states.join());
  else assert.ok(states.slice(made + 1).every((name) => ["waiting", "cancelled"].includes(name)), states.join());
}

function assertStage(stage, job, index = stage.index) {
  assertFields(stage, STAGE, "a stage");
  assert.deepEqual([stage.name, stage.index, stage.total], [STAGES[index], index, STAGES.length]);
  assert.ok(["waiting", "running", "finished", "failed", "cancelled", "expired"].includes(stage.state), stage.state);
  if (stage.state !== "finished") return assert.equal(stage.result, null);
  assert.equal(typeof stage.prompt, "string");
  assertResult(stage.result, job, stage.name, `?stage=${stage.name}`);
}

function assertAsked(request) {
  assertFields(request, ASKED, "a request");
  const { options, media, messages } = request;
  assertFields(options, ANSWERS, "options");
  // Every default is filled in; what is of drawn answers alone is not of others.
  const greedy = options.temperature === 0 ? ["top_k", "top_p", "min_p", "seed"] : [];
  for (const name of ANSWERS.filter((name) => !greedy.includes(name))) assert.notEqual(options[name], null, name);
  for (const turn of messages) assertFields(turn, ["role", "content"], "a turn");
  assert.ok(media.length >= 1);
  for (const file of media) {
    assertFields(file, FILE, "what a question is about");
    assert.match(file.sha256, SHA256);
    for (const name of ["bytes", "width", "height"]) assertCount(file[name], 1, name);
    for (const name of ["duration", "frames", "fps"]) assert.equal(file[name] !== null, file.kind === "video", name);
  }
}

/** Checks the frames that a model was shown. */
export function assertFrames(frames) {
  for (const frame of frames) {
    assertFields(frame, FRAME, "a frame");
    assertCount(frame.media, 0, "media");
    assertCount(frame.index, 0, "index");
    assert.ok(frame.time >= 0);
    assert.match(frame.timestamp, /^\d\d:\d\d$/);
  }
}

function assertRequest(request) {
  if (request.kind === "understand") return assertAsked(request);
  if (request.kind === "video") return assertFilm(request);
  if (request.kind === "pipeline") return assertPipeline(request);
  assertFields(request, REQUEST, "a request");
  const { options, image, mask } = request;
  assertFields(options, OPTIONS, "options");
  // Every default is filled in; a strength is one of what starts from an image.
  for (const name of OPTIONS.filter((name) => name !== "strength")) assert.notEqual(options[name], null, name);
  assert.equal(options.strength === null, image === null);
  for (const media of [image, mask].filter((media) => media !== null)) assertImage(media);
}

function assertImage(media) {
  assertFields(media, MEDIA, "an image of a request");
  assert.match(media.sha256, SHA256);
  assert.match(media.content_type, /^image\//);
  for (const name of ["bytes", "width", "height"]) assertCount(media[name], 1, name);
}

function assertFilm(request) {
  assertFields(request, FILM, "a request");
  assertFilmOptions(request.options);
  assert.equal(request.options.strength === null, request.image === null);
  if (request.image !== null) assertImage(request.image);
}

function assertFilmOptions(options) {
  assertFields(options, TAKES, "the options of a video");
  // Every default is filled in, but for what only some ask for.
  const asked = ["guidance_rescale", ...STG, "strength"];
  for (const name of TAKES.filter((name) => !asked.includes(name))) assert.notEqual(options[name], null, name);
}

function assertPipeline({ options, models, media, ...request }) {
  assertFields({ options, models, media, ...request }, PIPELINE, "a request");
  assertFields(models, STAGES, "the models of a pipeline");
  for (const name of STAGES) assert.equal(typeof models[name], "string", name);
  assertFields(options, ["seed", ...STAGES], "the options of a pipeline");
  assertCount(options.seed, 0, "seed");
  assertFields(options.image, OPTIONS, "the options of the picture");
  assertFilmOptions(options.video);
  const { understand } = options;
  assertAsked({ kind: "understand", model: models.understand, messages: [], options: understand, media, question: "", priority: 0 });
}

function assertProgress(progress) {
  const filming = "phase" in progress;
  assertFields(progress, filming ? [...PROGRESS, "phase"] : PROGRESS, "progress");
  if (filming) assert.ok(PHASES.includes(progress.phase), progress.phase);
  assertCount(progress.step, filming ? 0 : 1, "step");
  assertCount(progress.total, progress.step, "total");
  if (progress.eta_ms !== null) assertCount(progress.eta_ms, 0, "eta_ms");
}

function assertResult(result, id, kind = null, query = "") {
  const says = kind === null ? "text" in result : ["understand", "pipeline"].includes(kind);
  assertFields(result, says ? [...RESULT, "text"] : RESULT, "a result");
  assert.equal(result.url, `/v1/jobs/${id}/result${query}`);
  if (kind === null) assert.ok(Object.values(TYPES).includes(result.content_type), result.content_type);
  else assert.equal(result.content_type, TYPES[kind]);
  if (says) assert.equal(typeof result.text, "string");
  assertCount(result.bytes, 1, "bytes");
  assert.match(result.sha256, SHA256);
  assert.equal(typeof result.cached, "boolean");
}

/** Checks one event. */
export function assertEvent(event) {
  assertFields(event, EVENT, "an event");
  const { data } = event;
  assertCount(event.n, 1, "n");
  assert.match(event.job, ID);
  assert.ok(EVENTS.includes(event.event), `event is ${event.event}`);
  assertTime(event.at, "at");
  // Checked where its fields are.
  if (event.event !== "progress") assertFields(data, DATA[event.event], event.event);
  if ("attempt" in data) assertCount(data.attempt, 1, "attempt");
  if (event.event === "queued") assertCount(data.position, 1, "position");
  if (event.event === "progress") assertProgress(data);
  if (event.event === "preview") {
    assertCount(data.step, 1, "step");
    assert.equal(data.content_type, "image/png");
  }
  if (event.event === "frames") assertFrames(data.frames);
  if (event.event === "token") {
    assertCount(data.index, 0, "index");
    assert.equal(typeof data.text, "string");
  }
  if (event.event === "stage") assertStage(data, event.job);
  if (event.event === "finished") assertResult(data.result, event.job);
  if (event.event === "failed") assertFields(data.error, ERROR, "an error");
  return event;
}

/** Checks that events are numbered without a gap from `after + 1`, and that steps only grow, each stage and phase its own. */
export function assertNumbered(events, after = 0) {
  assert.deepEqual(events.map(({ n }) => n), events.map((_, i) => after + i + 1));
  const steps = new Map();
  let stage = null;
  for (const { event, data } of events) {
    if (event === "stage") stage = data.name;
    if (event !== "progress" && event !== "preview") continue;
    const of = [event, stage, data.phase].join();
    steps.set(of, [...(steps.get(of) ?? []), data.step]);
  }
  for (const [of, told] of steps) assert.deepEqual(told, [...new Set(told)].sort((a, b) => a - b), `the steps of ${of}`);
  const times = events.map(({ at }) => at);
  assert.deepEqual(times, times.toSorted((a, b) => a - b));
}

/** Checks the events of a job from its first to its last. */
export function assertWhole(events, last = "finished") {
  events.forEach(assertEvent);
  assertNumbered(events);
  assert.equal(events[0].event, "queued");
  assert.deepEqual(events.filter(({ event }) => LAST.includes(event)), [events.at(-1)], "one last event");
  assert.equal(events.at(-1).event, last);
  assert.equal(new Set(events.map(({ job }) => job)).size, 1);
}

/** Checks a model of `/v1/models`. */
export function assertModel(model) {
  if (model.tasks.includes("understand")) {
    assertFields(model, [...MODEL, "understand"], "a model");
    assertFields(model.understand, ["frames", "fps", "max_tokens", "context"], "what answers get");
    for (const name of LIMITS.filter((name) => name !== "bytes")) assert.equal(model[name], null, name);
    return assertCount(model.bytes, 1, "bytes");
  }
  const films = model.tasks.includes("video");
  assertFields(model, films ? [...MODEL, "video"] : MODEL, "a model");
  assert.deepEqual(model.tasks, [films ? "video" : "image"]);
  if (films) {
    assertFields(model.video, ["frames", "fps", "frames_multiple_of"], "what videos get");
    assert.equal(model.video.frames % model.video.frames_multiple_of, 1 % model.video.frames_multiple_of);
  }
  for (const name of LIMITS.filter((name) => name !== "guidance_scale")) assertCount(model[name], 1, name);
  assert.equal(typeof model.guidance_scale, "number");
  assert.equal(model.width % model.multiple_of, 0);
}
