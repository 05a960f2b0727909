/**
 * The same seed, model and options give the same bytes, on every server. `SANGO_HASHES` names a JSON file in which the
 * first server under test leaves the hashes of what it has drawn, and with which every later one is compared.
 */

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { after, before, test } from "node:test";
import { writePng } from "../support/png.mjs";
import { Sango } from "../support/sango.mjs";
import { draw, image } from "./support/work.mjs";

const PICTURE = writePng(64, 64, (x, y) => [x * 4, y * 4, 128]).toString("base64");
const MASK = writePng(64, 64, (x) => (x < 32 ? [255, 255, 255] : [0, 0, 0])).toString("base64");

const REQUESTS = {
  "the model's defaults": image({ seed: 1, steps: null }),
  "another seed": image({ seed: 2, steps: null }),
  "the largest seed that JavaScript has": image({ seed: Number.MAX_SAFE_INTEGER }),
  "few steps": image({ seed: 1, steps: 2 }),
  "a wide picture": image({ seed: 1, width: 256, height: 128 }),
  "strong guidance, and what not to show": image({ seed: 1, guidance_scale: 6.5, negative_prompt: "a circle" }),
  "another temperature": image({ seed: 1, temperature: [4, 0.5] }),
  "a prompt that is not ASCII": image({ seed: 1 }, { prompt: "珊瑚 🪸" }),
  "from a picture": image({ seed: 1, steps: 12, strength: 0.7 }, { image: PICTURE }),
  "from a picture, in part": image({ seed: 1, steps: 12 }, { image: PICTURE, mask: MASK }),
};

let sango;

before(async () => {
  sango = await Sango.start();
});

after(() => sango?.stop());

test("the same request gives the same bytes on every server", async () => {
  const hashes = {};
  for (const [what, request] of Object.entries(REQUESTS)) hashes[what] = (await draw(sango, request)).result.sha256;
  assert.equal(new Set(Object.values(hashes)).size, Object.keys(hashes).length, "each request has its own picture");

  const file = process.env.SANGO_HASHES;
  if (!file) return;
  if (existsSync(file)) assert.deepEqual(hashes, JSON.parse(await readFile(file, "utf8")));
  else await writeFile(file, `${JSON.stringify(hashes, null, 2)}\n`);
});
