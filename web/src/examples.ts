/** Prompts to begin with, in the words of the world of shapes that the shipped model knows. */

const SIZES = ["small", "large"];
const COLOURS = ["red", "green", "blue", "yellow", "purple", "cyan"];
const SHAPES = ["circle", "square", "triangle", "star", "cross", "ring"];
const BACKGROUNDS = ["white", "black", "gray", "blue"];

/** The prompts that the page offers. */
export const EXAMPLES: readonly string[] = [
  "a large red circle on a blue background",
  "a small yellow star on a black background",
  "a large green ring on a white background",
];

/** The prompts that the page offers for videos. */
export const FILMS: readonly string[] = [
  "a small green star moves left over a white background",
  "a large red circle moves down over a blue background",
  "a small yellow cross spins over a black background",
];

/** What a shape of that world can do. A circle or a ring that spins cannot be told from one that does not. */
const MOTIONS = ["moves left", "moves right", "moves up", "moves down", "grows", "shrinks", "spins"];

/** A prompt for a video that nobody wrote. */
export function surpriseFilm(random: () => number): string {
  const still = surprise(random);
  const round = /circle|ring/.test(still);
  const motions = MOTIONS.filter((motion) => !(round && motion === "spins"));
  return still.replace(" on a ", ` ${motions[Math.floor(random() * motions.length)] ?? "grows"} over a `);
}

/** A prompt that nobody wrote; `random` gives numbers from 0 to 1, as `Math.random` does. */
export function surprise(random: () => number): string {
  const pick = (words: readonly string[]) => words[Math.floor(random() * words.length)] ?? "";
  const background = pick(BACKGROUNDS);
  // A shape of its background's colour would not be seen.
  const colour = pick(COLOURS.filter((name) => name !== background));
  return `a ${pick(SIZES)} ${colour} ${pick(SHAPES)} on a ${background} background`;
}
