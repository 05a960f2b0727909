/** `GET /metrics`, in the text format of Prometheus. */

import assert from "node:assert/strict";
import { ask } from "./http.mjs";

const SAMPLE = /^([a-z_]+)(\{[a-z_]+="[^"]*"(?:,[a-z_]+="[^"]*")*\})? (-?\d+(?:\.\d+)?)$/;

/** The samples by name and labels, as in `sango_jobs{state="queued"}`. */
export async function metrics(sango) {
  const answer = await ask(sango, "GET /metrics");
  assert.equal(answer.status, 200);
  assert.match(answer.headers["content-type"], /^text\/plain\b/);
  const samples = {};
  for (const line of answer.text.split("\n").filter((line) => line !== "" && !line.startsWith("#"))) {
    const [, name, labels = "", value] = SAMPLE.exec(line) ?? assert.fail(`not a sample: ${line}`);
    samples[name + labels] = Number(value);
  }
  return samples;
}
