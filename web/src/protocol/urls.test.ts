import { describe, expect, test } from "vitest";
import { baseOf, hashOfJob, jobInHash, modeInHash, resultUrl, socketUrl } from "./urls";

test.each([
  ["http://127.0.0.1:4000/", "http://127.0.0.1:4000/", "ws://127.0.0.1:4000/socket"],
  ["http://h/index.html?a=1#job=x", "http://h/", "ws://h/socket"],
  ["https://h/sango/#job=x", "https://h/sango/", "wss://h/sango/socket"],
])("from %s, the base and the socket", (page, base, socket) => {
  expect(baseOf(page).href).toBe(base);
  expect(socketUrl(baseOf(page))).toBe(socket);
});

describe("a result", () => {
  test("is below the page's folder", () => {
    expect(resultUrl("/v1/jobs/x/result", new URL("http://h/"))).toBe("http://h/v1/jobs/x/result");
    expect(resultUrl("/v1/jobs/x/result", new URL("https://h/sango/"))).toBe("https://h/sango/v1/jobs/x/result");
  });

  test.each(["javascript:alert(1)", "https://elsewhere/x", "data:text/html,x", "http://"])("at %s is refused", (url) => {
    expect(resultUrl(url, new URL("http://h/"))).toBeNull();
  });

  test("cannot leave the origin by a path with two slashes", () => {
    expect(resultUrl("//elsewhere/x", new URL("http://h/"))).toBe("http://h/elsewhere/x");
  });
});

test("the address bar names a job", () => {
  expect(jobInHash(hashOfJob("0199b2c4-5c1e"))).toBe("0199b2c4-5c1e");
  expect(jobInHash("")).toBeNull();
  expect(jobInHash("#prompt")).toBeNull();
  expect(jobInHash("#job=a/../b")).toBeNull();
});

test("the address bar names a mode", () => {
  expect(["", "#", "#draw", "#understand", "#video", "#pipeline"].map(modeInHash)).toEqual([
    "draw",
    "draw",
    "draw",
    "understand",
    "video",
    "pipeline",
  ]);
  expect(modeInHash("#prompt")).toBeNull();
});
