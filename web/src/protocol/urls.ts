/**
 * Where things are, seen from the page. Everything is relative to the folder that the page came from, so the same build
 * works at `/`, and below a prefix behind a proxy.
 */

import { MODES, type Mode } from "../store";

/** The folder of the page: the page's address without file name, query and hash. */
export function baseOf(page: string): URL {
  return new URL(".", page);
}

/** Where `phoenix` connects; the client adds `/websocket` and the protocol version. */
export function socketUrl(base: URL): string {
  const url = new URL("socket", base);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}

/** The address of a video or picture that a job is about. */
export function mediaUrl(job: string, index: number, base: URL): string {
  return new URL(`v1/jobs/${job}/media/${index}`, base).href;
}

/**
 * The address of a job's result. The server names it by an absolute path (`/v1/jobs/…`), which is meant from the root
 * that the server knows of, hence from the page's folder. Results of another origin are refused.
 */
export function resultUrl(path: string, base: URL): string | null {
  if (!URL.canParse(path.replace(/^\/+/, ""), base)) return null;
  const url = new URL(path.replace(/^\/+/, ""), base);
  return url.origin === base.origin ? url.href : null;
}

/** What the page is used for, where the address bar says it. */
export function modeInHash(hash: string): Mode | null {
  if (hash === "" || hash === "#") return "draw";
  return MODES.find((mode) => hash === `#${mode}`) ?? null;
}

const JOB_HASH = /^#job=([A-Za-z0-9_-]{1,80})$/;

/** The job that the address bar names, if any. */
export function jobInHash(hash: string): string | null {
  return JOB_HASH.exec(hash)?.[1] ?? null;
}

/** The part of the address that reopens a job. */
export function hashOfJob(id: string): string {
  return `#job=${id}`;
}
