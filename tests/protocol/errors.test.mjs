/** Every error that a client can bring about: the code, the status and the shape, over HTTP and over the socket. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { writePng } from "../support/png.mjs";
import { Sango } from "../support/sango.mjs";
import { Client } from "./support/client.mjs";
import { STATUS, assertRefusal, assertRefused } from "./support/errors.mjs";
import { ask, askExactly, form } from "./support/http.mjs";
import { PROMPT, draw, film, image, slow, submit } from "./support/work.mjs";

const UNKNOWN = "/v1/jobs/0199b2c4-5c1e-7f3a-9a55-0c8f7f1d2e3b";

let sango;
let client;
let studio;

before(async () => {
  sango = await Sango.start();
  client = await Client.open(sango);
  studio = await client.join("studio");
});

after(async () => {
  await client?.close();
  await sango?.stop();
});

/** Jobs that are refused, by code: over HTTP, and over the socket in the same words. */
const JOBS = {
  invalid_request: {
    "no kind": { prompt: PROMPT },
    "no prompt": { kind: "image" },
    "a kind that there is not": { kind: "poem", prompt: PROMPT },
    "a kind that is no text": { kind: 7, prompt: PROMPT },
    "an unknown field": { kind: "image", prompt: PROMPT, promt: PROMPT },
    "an unknown option": image({ stepz: 3 }),
    "a prompt that is a number": { kind: "image", prompt: 7 },
    "a prompt that is null": { kind: "image", prompt: null },
    "options that are a list": { kind: "image", prompt: PROMPT, options: [null, 4] },
    "options that are text": { kind: "image", prompt: PROMPT, options: "steps" },
    "steps that are text": image({ steps: "12" }),
    "steps that are no whole number": image({ steps: 1.5 }),
    "steps below zero": image({ steps: -1 }),
    "a seed below zero": image({ seed: -1 }),
    "a seed over 64 bits": image({ seed: 2 ** 64 }),
    "a temperature of one number": image({ temperature: [1] }),
    "a priority that is no whole number": image({}, { priority: 0.5 }),
    "an image that is an object": image({}, { image: { sha256: "0".repeat(64) } }),
    "a key that is a number": image({}, { idempotency_key: 1 }),
    "a video without a prompt": { kind: "video" },
    "frames of a picture": image({ frames: 9 }),
    "a temperature of a video": film({ temperature: [1, 0] }),
    "a video with a mask": film({}, { image: png(), mask: png() }),
    "a video about media": film({}, { media: [png()] }),
    "a way to weaken blocks that there is not": film({ stg_mode: "everything" }),
    "a pipeline with a prompt": { kind: "pipeline", prompt: PROMPT, media: [png()] },
    "a pipeline with options of no stage": { kind: "pipeline", media: [png()], options: { steps: 3 } },
    "a pipeline whose stage has an unknown option": { kind: "pipeline", media: [png()], options: { video: { stepz: 3 } } },
  },
  invalid_option: {
    "an empty prompt": { kind: "image", prompt: "" },
    "a prompt of blanks": { kind: "image", prompt: " \t\n" },
    "no steps": image({ steps: 0 }),
    "101 steps": image({ steps: 101 }),
    "a guidance below zero": image({ guidance_scale: -0.1 }),
    "a guidance over 50": image({ guidance_scale: 50.1 }),
    "a width that the model cannot draw": image({ width: 65 }),
    "a height of zero": image({ height: 0 }),
    "a height over the largest": image({ height: 4_096 }),
    "a temperature over 20": image({ temperature: [21, 0] }),
    "a strength without an image": image({ strength: 0.5 }),
    "a strength over 1": image({ strength: 1.1 }, { image: png() }),
    "a strength that leaves no step": image({ strength: 0.1 }, { image: png() }),
    "a mask without an image": image({}, { mask: png() }),
    "a priority of 101": image({}, { priority: 101 }),
    "a priority of -101": image({}, { priority: -101 }),
    "an empty model": image({}, { model: "" }),
    "an empty key": image({}, { idempotency_key: "" }),
    "a key of 201 characters": image({}, { idempotency_key: "k".repeat(201) }),
    "a video of no frames": film({ frames: 0 }),
    "a video of ten frames, which no model makes": film({ frames: 10 }),
    "a video of more frames than there can be": film({ frames: 2_050 }),
    "a video at no frame a second": film({ fps: 0 }),
    "a video of a width that the model cannot make": film({ width: 65 }),
    "a video with a strength and no picture": film({ strength: 0.5 }),
    "a rescaling over 1": film({ guidance_rescale: 1.5 }),
    "guidance by blocks, and no blocks": film({ stg_scale: 1 }),
    "two negative prompts": film({ negative_prompt: "a" }, { negative_prompt: "b" }),
    "a pipeline about nothing": { kind: "pipeline" },
    "a pipeline with one model for all": { kind: "pipeline", media: [png()], model: "shapes/amused" },
    "a pipeline whose video has ten frames": { kind: "pipeline", media: [png()], options: { video: { frames: 10 } } },
    "a pipeline that draws with a model for questions": { kind: "pipeline", media: [png()], models: { image: "shapes/smolvlm2" } },
  },
  invalid_media: {
    "an image that is not base64": image({}, { image: "%%%" }),
    "an image that is empty": image({}, { image: "" }),
    "an image that is a text": image({}, { image: Buffer.from("hello").toString("base64") }),
    "an image that is cut off": image({}, { image: png().slice(0, 80) }),
    "a mask that is a text": image({}, { image: png(), mask: Buffer.from("hello").toString("base64") }),
    "an address in place of an image": image({}, { image: "http://127.0.0.1/secret.png" }),
    "a data URL that is not base64": image({}, { image: "data:image/png,hello" }),
    "a first picture that is a text": film({}, { image: Buffer.from("hello").toString("base64") }),
    "a pipeline about a text": { kind: "pipeline", media: [Buffer.from("hello").toString("base64")] },
  },
  too_large: {
    "a prompt of 2,001 characters": { kind: "image", prompt: "é".repeat(2_001) },
    "a negative prompt of 2,001 characters": image({ negative_prompt: "x".repeat(2_001) }),
  },
  unknown_model: {
    "a model that there is not": image({}, { model: "no-such-model" }),
    "a path out of the models folder": image({}, { model: "../../etc" }),
    "a pipeline with a model that there is not": { kind: "pipeline", media: [png()], models: { video: "no-such-model" } },
  },
};

function png() {
  return writePng(16, 16, (x, y) => [x * 16, y * 16, 128]).toString("base64");
}

for (const [code, jobs] of Object.entries(JOBS)) {
  for (const [what, job] of Object.entries(jobs)) {
    test(`${code}: ${what}`, async () => {
      const answer = await ask(sango, "POST /v1/jobs", { json: job });
      assertRefused(answer, code);
      const refused = studio.push("submit", job).catch((error) => {
        assert.deepEqual(error.body, answer.json, "the same error on the socket");
        throw error;
      });
      await assertRefusal(refused, code);
    });
  }
}

/** Bodies of `POST /v1/jobs` that are none. */
const BODIES = {
  invalid_request: {
    "nothing": { json: "" },
    "no JSON": { json: "hello" },
    "JSON that is cut off": { json: '{"kind": "image", "prompt":' },
    "JSON and more": { json: `${JSON.stringify(image())} {}` },
    "null": { json: "null" },
    "a list": { json: JSON.stringify(["image", null, PROMPT]) },
    "bytes that are not UTF-8": {
      body: Buffer.from('{"kind": "image", "prompt": "\xff"}', "latin1"),
      headers: { "content-type": "application/json" },
    },
    "half a surrogate pair": { json: '{"kind": "image", "prompt": "\\ud800"}' },
    "a number without end": { json: '{"kind": "image", "prompt": "x", "options": {"guidance_scale": 1e999}}' },
    "a hundred thousand brackets": { json: `{"kind": "image", "prompt": ${"[".repeat(100_000)}` },
    "deep JSON": { json: `{"kind": "image", "prompt": "x", "options": ${"[".repeat(5_000)}${"]".repeat(5_000)}}` },
    "a form without a job": { body: form([["image", [Buffer.from("x"), "x.png"]]]) },
    "a form with a part that there is not": { body: form([["job", image()], ["other", "x"]]) },
    "a form with two jobs": { body: form([["job", image()], ["job", image()]]) },
    "a form whose job is no JSON": { body: form([["job", "{"]]) },
    "a form that is cut off": {
      body: '--B\r\ncontent-disposition: form-data; name="job"\r\n\r\n{"kind"',
      headers: { "content-type": "multipart/form-data; boundary=B" },
    },
    "a form without a boundary": { body: "x", headers: { "content-type": "multipart/form-data" } },
  },
  invalid_media: {
    "a form whose image is a text": { body: form([["job", image()], ["image", [Buffer.from("hello"), "x.png"]]]) },
  },
  unsupported_media_type: {
    "no content type": { body: Buffer.from(JSON.stringify(image())) },
    "text": { json: image(), headers: { "content-type": "text/plain" } },
    "a form of another kind": { body: new URLSearchParams({ kind: "image" }) },
    "a picture": { body: Buffer.from(png(), "base64"), headers: { "content-type": "image/png" } },
  },
};

for (const [code, bodies] of Object.entries(BODIES)) {
  for (const [what, init] of Object.entries(bodies)) {
    test(`${code}: a body that is ${what}`, async () => assertRefused(await ask(sango, "POST /v1/jobs", init), code));
  }
}

/** Requests that need no job to go wrong. */
const REQUESTS = {
  unknown_job: [
    `GET ${UNKNOWN}`,
    `DELETE ${UNKNOWN}`,
    `GET ${UNKNOWN}/events`,
    `GET ${UNKNOWN}/events?after=3`,
    `GET ${UNKNOWN}/result`,
    `GET /v1/jobs?before=${UNKNOWN.slice("/v1/jobs/".length)}`,
    "GET /v1/jobs/nonsense",
    "GET /v1/jobs/0199b2c45c1e7f3a9a550c8f7f1d2e3b",
    "GET /v1/jobs/%00",
    "GET /v1/jobs/nonsense/events",
    "GET /v1/jobs?before=nonsense",
  ],
  invalid_option: ["GET /v1/jobs?state=done", "GET /v1/jobs?limit=0", "GET /v1/jobs?limit=201"],
  invalid_request: ["GET /v1/jobs?limit=many", "GET /v1/jobs?limit=-1", "GET /v1/jobs?colour=red"],
  not_found: ["GET /v1", "GET /v1/nothing", "POST /v1/nothing", "GET /nothing.html", "DELETE /nothing", "GET /V1/jobs"],
  method_not_allowed: [
    "PUT /v1/jobs",
    "DELETE /v1/jobs",
    `POST ${UNKNOWN}`,
    `POST ${UNKNOWN}/events`,
    `DELETE ${UNKNOWN}/result`,
    "POST /v1/models",
    "POST /healthz",
    "DELETE /readyz",
    "POST /metrics",
    "POST /openapi.json",
  ],
};

for (const [code, targets] of Object.entries(REQUESTS)) {
  for (const target of targets) {
    test(`${code}: ${target}`, async () => assertRefused(await ask(sango, target), code));
  }
}

test("method_not_allowed says what is allowed", async () => {
  const answer = await ask(sango, "PUT /v1/jobs");
  const allowed = answer.headers.allow.split(/,\s*/);
  assert.ok(allowed.includes("GET") && allowed.includes("POST"), answer.headers.allow);
});

test("not_found: paths that climb out", async () => {
  for (const path of ["/../../etc/passwd", "/assets/../../../etc/passwd", "/assets/%2e%2e/%2e%2e/etc/passwd"]) {
    assertRefused(await askExactly(sango, `GET ${path}`, { host: `127.0.0.1:${sango.port}` }), "not_found");
  }
});

test("invalid_request: events after what is no number", async () => {
  const { id } = await draw(sango, image());
  for (const after of ["x", "-1", "1.5"]) {
    assertRefused(await ask(sango, `GET /v1/jobs/${id}/events?after=${after}`), "invalid_request");
  }
});

test("not_finished, then no_result", async () => {
  const { id } = await submit(sango, slow());
  assertRefused(await ask(sango, `GET /v1/jobs/${id}/result`), "not_finished");
  await sango.cancel(id);
  assertRefused(await ask(sango, `GET /v1/jobs/${id}/result`), "no_result");
});

test("idempotency_conflict, on the socket too", async () => {
  const request = image({}, { idempotency_key: `conflict ${Date.now()}` });
  await submit(sango, request);
  await assertRefusal(studio.push("submit", { ...request, prompt: "another" }), "idempotency_conflict");
});

/** The other codes: which test file brings them about, or why no client can. */
const ELSEWHERE = {
  forbidden_origin: "origin.test.mjs",
  unknown_topic: "frames.test.mjs",
  too_many_topics: "frames.test.mjs",
  queue_full: "limits.test.mjs",
  expired: "result.test.mjs",
  cancelled: "how a run ends that was stopped; its job is `cancelled` and has no error",
  internal: "a bug",
  interrupted: "a server that stops again and again; see crates/jobs/tests/restart.rs",
  missing_program: "a server without ffmpeg, which the tests need themselves",
  model_broken: "a damaged model; see crates/jobs/tests/model_runner.rs",
  no_model: "an empty models folder; see crates/jobs/tests/model_runner.rs",
  shutting_down: "a server that is about to be gone",
  storage: "a broken disk",
  storage_full: "a full disk; see crates/jobs/tests/disk_full.rs",
};

test("no code of docs/protocol.md is left out", () => {
  const here = ["not_finished", "no_result", "idempotency_conflict"];
  const tried = [JOBS, BODIES, REQUESTS, ELSEWHERE].flatMap(Object.keys);
  assert.deepEqual([...new Set([...here, ...tried])].sort(), [...STATUS.keys()].sort());
});
