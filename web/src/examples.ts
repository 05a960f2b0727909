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

/** A prompt that nobody wrote; `random` gives numbers from 0 to 1, as `Math.random` does. */
export function surprise(random: () => number): string {
  const pick = (words: readonly string[]) => words[Math.floor(random() * words.length)] ?? "";
  const background = pick(BACKGROUNDS);
  // A shape of its background's colour would not be seen.
  const colour = pick(COLOURS.filter((name) => name !== background));
  return `a ${pick(SIZES)} ${colour} ${pick(SHAPES)} on a ${background} background`;
}
