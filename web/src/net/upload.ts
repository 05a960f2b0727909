/** Hands in a job with files: over HTTP, because a socket's frames are no way to send a video. */

import { decodeJob } from "../protocol/decode";
import type { Job } from "../protocol/types";
import { NoAnswer, Refused } from "./channel";

/** Sends the job and its files; `onProgress` hears which share of them is sent. Aborting rejects with an `AbortError`. */
export function upload(
  base: URL,
  request: object,
  files: readonly Blob[],
  onProgress: (share: number) => void,
  signal: AbortSignal,
): Promise<Job> {
  const form = new FormData();
  form.append("job", new Blob([JSON.stringify(request)], { type: "application/json" }));
  for (const file of files) form.append("media", file);
  return new Promise((resolve, reject) => {
    // `fetch` does not tell how much has been sent.
    const sending = new XMLHttpRequest();
    const abort = () => sending.abort();
    signal.addEventListener("abort", abort);
    sending.open("POST", new URL("v1/jobs", base));
    sending.responseType = "json";
    sending.upload.onprogress = (event) => onProgress(event.lengthComputable ? event.loaded / event.total : 0);
    sending.onload = () => {
      if (sending.status >= 300) return reject(new Refused(sending.response));
      try {
        resolve(decodeJob(sending.response));
      } catch (error) {
        reject(error);
      }
    };
    sending.onerror = () => reject(new NoAnswer());
    sending.onabort = () => reject(new DOMException("The upload was stopped.", "AbortError"));
    sending.onloadend = () => signal.removeEventListener("abort", abort);
    sending.send(form);
  });
}
