//! The model card: what made the model and how well it does, from the run's own logs.

use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use super::export::ExportOptions;
use crate::card::stage_row;
use crate::files::read_json;

/// Over the part of a card that says how the model was made.
const MADE: &str = "## How it was made";
/// In a run that took up an exported folder: the rows of that folder's card which say how it was made.
const BEFORE: &str = "before.md";

/// Keeps from the card of the folder `model`, if it has one, how it was made, for the card of the run in `dir`.
///
/// # Errors
/// When a file cannot be written.
pub fn keep_history(model: &Path, dir: &Path) -> Result<()> {
    let card = std::fs::read_to_string(model.join("README.md")).unwrap_or_default();
    let made = card.split_once(MADE).map_or("", |(_, made)| made);
    let rows = made.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| stage |"));
    std::fs::write(dir.join(BEFORE), rows.map(|row| format!("{row}\n")).collect::<String>())?;
    Ok(())
}

/// The text of `README.md` for the run in `dir`.
///
/// # Errors
/// When the scores or a log are missing.
pub fn write(dir: &Path, options: &ExportOptions, seed: u64) -> Result<String> {
    let evaluation: Value = read_json(&dir.join("evaluation.json"))?;
    let mut text =
        HEAD.replace("GUIDANCE", &options.guidance_scale.to_string()).replace("STEPS", &options.steps.to_string());
    text.push_str(&format!(
        "## Scores\n\nThe oracle of `sango-shapes` reads the decoded clips; seed {}.\n\n",
        evaluation["seed"]
    ));
    text.push_str(
        "| | steps | guidance | clips | shape and colour | motion | shape | colour | size | background | all |\n",
    );
    text.push_str("|---|---|---|---|---|---|---|---|---|---|---|\n");
    for line in evaluation["scores"].as_array().into_iter().flatten() {
        let given = |name: &str| line[name].as_f64().map_or(String::new(), |value| value.to_string());
        text.push_str(&format!(
            "| {} | {} | {} | {} |",
            line["what"].as_str().unwrap_or(""),
            given("steps"),
            given("guidance_scale"),
            line["clips"]
        ));
        for name in ["shape and colour", "motion", "shape", "colour", "size", "background", "all"] {
            text.push_str(&format!(" {:.1} % |", 100.0 * line[name].as_f64().unwrap_or(0.0)));
        }
        text.push('\n');
    }
    text.push_str(&format!("\n{MADE}\n\nSeed {seed}.\n\n"));
    text.push_str("| stage | options | steps | time |\n|---|---|---|---|\n");
    // What a run took up came of stages of its own; of this run's, some may not have gone on.
    let (before, further) = match std::fs::read_to_string(dir.join(BEFORE)) {
        Ok(before) => (before, ", further"),
        Err(_) => (String::new(), ""),
    };
    text.push_str(&before);
    for stage in ["vae", "decoder", "text", "transformer"] {
        let optional = stage == "decoder" || !further.is_empty();
        if !optional || dir.join(format!("{stage}.jsonl")).exists() {
            text.push_str(&stage_row(dir, stage, &format!("{stage}{further}"), "")?);
        }
    }
    text.push_str(TAIL);
    Ok(text)
}

const HEAD: &str = "---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-video
---

# LTX-Video on shapes

A tiny LTX-Video (`LTXPipeline`), trained by this repository's own Rust code on clips that `sango-shapes` draws: one
coloured shape that moves, turns, grows or shrinks over a plain background; 64×64 pixels, 17 frames at 8 frames per second.

```bash
sango video --prompt \"a small green star moves left over a white background\" -o star.mp4
```

```python
from diffusers import LTXPipeline
pipe = LTXPipeline.from_pretrained(\"models/shapes/ltx_video\")
pipe(\"a small green star moves left over a white background\", width=64, height=64, num_frames=17, frame_rate=8,
     num_inference_steps=STEPS, guidance_scale=GUIDANCE).frames[0]
```

It knows circle, square, triangle, star, cross and ring; red, green, blue, yellow, purple and cyan; small and large; white,
black, gray and blue backgrounds; and what moves left, right, up or down, spins, grows or shrinks. Any other word is spelled
in letters that mean nothing to it. In a part of the training steps the first frame was given, so `LTXImageToVideoPipeline`
works with pictures of this world.

";

const TAIL: &str = "
VAE, text encoder and transformer are trained in this order by `sango-train ltx-video vae|text|transformer`, the decoder goes
on alone beside the transformer (`decoder`), and `sango-train ltx-video all` does it all. Options are those of a stage's last
start; where a stage was stopped and started again with others, `docs/training.md` says so. What went on \"further\" took up
the folder that the rows above it had made (`import`). One combination of shape, colour, size and background in five is never
trained on: those are the held-out prompts.
";
