/** `GET /v1/jobs/{id}/events`, as it comes. */

import assert from "node:assert/strict";
import { EventSourceParserStream } from "eventsource-parser/stream";

/** Opens the stream of a job's events; answers the response as it is. */
export function openEvents(sango, id, { after, last, signal } = {}) {
  const url = new URL(`v1/jobs/${id}/events`, sango.url);
  if (after !== undefined) url.searchParams.set("after", after);
  return fetch(url, { signal, headers: last === undefined ? {} : { "last-event-id": String(last) } });
}

/** The events of a response, one by one, each checked against the frame it came in. */
export async function* read(response) {
  assert.equal(response.status, 200);
  assert.match(response.headers.get("content-type"), /^text\/event-stream\b/);
  const text = response.body.pipeThrough(new TextDecoderStream());
  for await (const frame of text.pipeThrough(new EventSourceParserStream())) {
    const event = JSON.parse(frame.data);
    assert.equal(frame.id, String(event.n));
    assert.equal(frame.event, event.event);
    yield event;
  }
}

/** Every event of a job until its stream ends. */
export async function events(sango, id, options) {
  const all = [];
  for await (const event of read(await openEvents(sango, id, options))) all.push(event);
  return all;
}
