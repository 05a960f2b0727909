/** Requests with plain `fetch`, and answers that can be compared. */

import http from "node:http";

/** An answer, read to its end. */
export class Answer {
  constructor(status, headers, bytes) {
    this.status = status;
    /** By lower-case name. */
    this.headers = headers;
    this.bytes = bytes;
  }

  get text() {
    return this.bytes.toString("utf8");
  }

  get json() {
    try {
      return JSON.parse(this.text);
    } catch {
      throw new Error(`${this.status}: not JSON: ${this.text.slice(0, 200)}`);
    }
  }
}

/** Asks, as in `ask(sango, "GET /v1/jobs")`. `json` is sent as it is where it is text. */
export async function ask(sango, target, { json, headers, ...init } = {}) {
  const [method, path] = target.split(" ");
  if (json !== undefined) {
    headers = { "content-type": "application/json", ...headers };
    init.body = typeof json === "string" ? json : JSON.stringify(json);
  }
  const response = await fetch(new URL(path, sango.url), { method, headers, redirect: "manual", ...init });
  const bytes = Buffer.from(await response.arrayBuffer());
  return new Answer(response.status, Object.fromEntries(response.headers), bytes);
}

/** Asks with the path and the headers exactly as given, which `fetch` would tidy up. */
export function askExactly(sango, target, headers = {}) {
  const [method, path] = target.split(" ");
  return new Promise((resolve, reject) => {
    const request = http.request({ host: "127.0.0.1", port: sango.port, method, path, headers, agent: false });
    request.on("error", reject);
    request.on("response", async (response) => {
      const chunks = await response.toArray();
      resolve(new Answer(response.statusCode, response.headers, Buffer.concat(chunks)));
    });
    request.end();
  });
}

/** The body of a form; files are given as `[bytes, name]`. */
export function form(parts) {
  const body = new FormData();
  for (const [name, value] of parts) {
    if (Array.isArray(value)) body.append(name, new Blob([value[0]]), value[1]);
    else body.append(name, typeof value === "string" ? value : JSON.stringify(value));
  }
  return body;
}
