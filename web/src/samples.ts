/** Clips for those who have none at hand, and questions that suit the world of shapes that they show. */

/** A clip that the page brings along. */
export interface Sample {
  /** Its file, below the page. */
  path: string;
  /** What it is called; what happens in it is for the model to say. */
  name: string;
}

export const SAMPLES: readonly Sample[] = [
  { path: "clips/green-star.mp4", name: "A star" },
  { path: "clips/star-and-cross.mp4", name: "First one, then another" },
  { path: "clips/star-and-square.mp4", name: "Two at once" },
];

/** The questions that the page offers. */
export const QUESTIONS: readonly string[] = [
  "What happens?",
  "How many shapes are there?",
  "What colour is the background?",
  "What happens first?",
];
