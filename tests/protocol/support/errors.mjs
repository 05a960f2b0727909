/** The one table of errors, read from docs/protocol.md, and the one shape that they all have. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";

/** The text of docs/protocol.md. */
export const PROTOCOL = readFileSync(path.resolve(import.meta.dirname, "../../../docs/protocol.md"), "utf8");

/** Code to HTTP status. */
export const STATUS = new Map(
  /\n## Errors\n(.*?)\n## /s
    .exec(PROTOCOL)[1]
    .split("\n")
    .flatMap((line) => {
      const [, status, codes] = /^\| (\d{3}) \| (.*) \|$/.exec(line) ?? [];
      // Only the names: what stands in brackets are remarks.
      const names = codes?.replaceAll(/\(.*?\)/g, "").matchAll(/`([a-z_]+)`/g) ?? [];
      return [...names].map(([, code]) => [code, Number(status)]);
    }),
);

/** Checks the body of an error: of an HTTP answer, a channel's reply, a failed job. */
export function assertError(body, code) {
  assert.deepEqual(Object.keys(body), ["error"], JSON.stringify(body));
  const { error } = body;
  assert.deepEqual(Object.keys(error).sort(), ["code", "message", "status"], JSON.stringify(error));
  assert.equal(error.code, code, error.message);
  assert.equal(error.status, STATUS.get(code));
  assert.ok(error.message.length > 5, "a message for people");
}

/** Checks an HTTP answer that refuses. */
export function assertRefused(answer, code) {
  assertError(answer.json, code);
  assert.equal(answer.status, STATUS.get(code));
  assert.match(answer.headers["content-type"], /^application\/json\b/);
}

/** Checks that a promise of a channel's reply is refused. */
export async function assertRefusal(promise, code) {
  const body = await promise.then(
    (reply) => assert.fail(`${code} was expected, not ${JSON.stringify(reply)}`),
    (refused) => {
      if (!refused.body) throw refused;
      return refused.body;
    },
  );
  assertError(body, code);
}
