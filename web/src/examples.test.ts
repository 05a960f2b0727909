import { expect, test } from "vitest";
import { EXAMPLES, FILMS, surprise, surpriseFilm } from "./examples";

test("every prompt by chance is one of the world of shapes, and can be seen", () => {
  for (let i = 0; i < 200; i++) {
    const words = /^a (small|large) (\w+) (\w+) on a (\w+) background$/.exec(surprise(Math.random));
    expect(words).not.toBeNull();
    expect(words?.[2]).not.toBe(words?.[4]);
  }
  expect(surprise(() => 0)).toBe("a small red circle on a white background");
  expect(EXAMPLES).toContain("a large red circle on a blue background");
});

test("every film by chance moves, and what is round does not spin", () => {
  for (let i = 0; i < 200; i++) {
    const words = /^a (small|large) \w+ (\w+) (moves \w+|grows|shrinks|spins) over a \w+ background$/.exec(surpriseFilm(Math.random));
    expect(words).not.toBeNull();
    expect(["circle", "ring"].includes(words?.[2] ?? "") && words?.[3] === "spins").toBe(false);
  }
  expect(FILMS.every((film) => film.includes(" over a "))).toBe(true);
});
