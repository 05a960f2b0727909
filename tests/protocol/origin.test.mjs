/** Who may connect: this machine's programs and the server's own page, but no page of another site. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Sango } from "../support/sango.mjs";
import { assertRefused } from "./support/errors.mjs";
import { ask, askExactly } from "./support/http.mjs";
import { Line } from "./support/line.mjs";
import { image, submit } from "./support/work.mjs";

let sango;
let own;

before(async () => {
  sango = await Sango.start();
  own = new URL(sango.url).origin;
});

after(() => sango?.stop());

const STRANGERS = [
  "https://evil.example",
  "http://evil.example",
  "http://127.0.0.1:9", // another server on this machine
  "http://127.0.0.1.evil.example",
  "http://localhost.evil.example",
  "null", // a sandboxed frame, a file
];

for (const origin of STRANGERS) {
  test(`a page of ${origin} may not post, cancel or open the socket`, async () => {
    const headers = { origin };
    assertRefused(await ask(sango, "POST /v1/jobs", { json: image(), headers }), "forbidden_origin");
    const { id } = await submit(sango, image());
    assertRefused(await ask(sango, `DELETE /v1/jobs/${id}`, { headers }), "forbidden_origin");
    assertRefused(await Line.knock(sango, { origin }), "forbidden_origin");
  });

  test(`a page of ${origin} is not allowed to read an answer`, async () => {
    const answer = await ask(sango, "GET /v1/jobs", { headers: { origin } });
    assert.equal(answer.headers["access-control-allow-origin"], undefined);
  });
}

test("a page of another site is not told that it may ask first", async () => {
  const headers = { origin: "https://evil.example", "access-control-request-method": "POST" };
  const answer = await ask(sango, "OPTIONS /v1/jobs", { headers });
  assert.ok(answer.status >= 400, `${answer.status}`);
  assert.equal(answer.headers["access-control-allow-origin"], undefined);
});

test("the server's own page may do all of it", async () => {
  const headers = { origin: own };
  const answer = await ask(sango, "POST /v1/jobs", { json: image(), headers });
  assert.equal(answer.status, 202);
  assert.equal((await ask(sango, `DELETE /v1/jobs/${answer.json.id}`, { headers })).status, 200);
  const line = await Line.open(sango, { origin: own });
  assert.equal((await line.join("studio")).status, "ok");
  await line.close();
});

test("the page under this machine's other names may, too", async () => {
  for (const name of ["localhost", "studio.localhost", "127.0.0.1", "127.0.0.2", "[::1]"]) {
    const host = `${name}:${sango.port}`;
    const answer = await askExactly(sango, "DELETE /v1/jobs/nonsense", { host, origin: `http://${host}` });
    assertRefused(answer, "unknown_job");
  }
});

const REBOUND = ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "192.168.0.7", "[2001:db8::1]"];

for (const host of REBOUND) {
  test(`a name that is pointed at this machine is refused: ${host}`, async () => {
    for (const target of ["GET /v1/jobs", "GET /", "GET /v1/nothing", "DELETE /v1/jobs/nonsense"]) {
      const headers = { host: `${host}:${sango.port}`, origin: `http://${host}:${sango.port}` };
      assertRefused(await askExactly(sango, target, headers), "forbidden_origin");
    }
  });
}
