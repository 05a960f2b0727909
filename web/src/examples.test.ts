import { expect, test } from "vitest";
import { EXAMPLES, surprise } from "./examples";

test("every prompt by chance is one of the world of shapes, and can be seen", () => {
  for (let i = 0; i < 200; i++) {
    const words = /^a (small|large) (\w+) (\w+) on a (\w+) background$/.exec(surprise(Math.random));
    expect(words).not.toBeNull();
    expect(words?.[2]).not.toBe(words?.[4]);
  }
  expect(surprise(() => 0)).toBe("a small red circle on a white background");
  expect(EXAMPLES).toContain("a large red circle on a blue background");
});
