//! The model card: what made the model and how well it does, from the run's own logs.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::card::stage_row;
use crate::files::read_json;

/// The text of `README.md` for the run in `dir`; nothing where it has not been evaluated.
///
/// # Errors
/// When a log is missing or damaged.
pub fn write(dir: &Path, seed: u64) -> Result<Option<String>> {
    let path = dir.join("evaluation.json");
    if !path.exists() {
        return Ok(None);
    }
    let evaluation: Value = read_json(&path)?;
    let mut text = HEAD.to_owned();
    let scores = evaluation["scores"].as_array().cloned().unwrap_or_default();
    let all = scores.iter().find(|score| score["of"] == "all").context("the evaluation has no sum")?;
    text.push_str(&format!(
        "## Scores\n\n{} clips of combinations that training never shows, rendered to MP4 (17 frames of 64×64 at 8 per \
         second), decoded again; {} questions in random phrasings; an answer is right when the judge of `sango-shapes` \
         can read all of it and all of it is so. **{} of {} answers are right ({}).**\n\n",
        evaluation["clips"],
        all["asked"],
        all["right"],
        all["asked"],
        percent(all),
    ));
    for (of, title) in [("question", "question"), ("story", "clip")] {
        text.push_str(&format!("| {title} | right | asked | |\n|---|---|---|---|\n"));
        for score in scores.iter().filter(|score| score["of"] == of) {
            let name = score["name"].as_str().unwrap_or("");
            text.push_str(&format!("| {name} | {} | {} | {} |\n", score["right"], score["asked"], percent(score)));
        }
        text.push('\n');
    }
    text.push_str("## How it was made\n\n| stage | options | steps | time |\n|---|---|---|---|\n");
    let seed = format!("`--seed {seed}` ");
    for (stage, shown) in [("vision", "vision"), ("smolvlm2", "train")] {
        text.push_str(&stage_row(dir, stage, shown, &seed)?);
    }
    text.push_str(TAIL);
    Ok(Some(text))
}

fn percent(score: &Value) -> String {
    let share = score["right"].as_f64().unwrap_or(0.0) / score["asked"].as_f64().unwrap_or(1.0).max(1.0);
    format!("{:.1} %", 100.0 * share)
}

const HEAD: &str = "---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---

# SmolVLM2 on shapes

A tiny SmolVLM2 (`SmolVLMForConditionalGeneration`, 2.8 M parameters), trained by this repository's own Rust code on clips
that `sango-shapes` draws: coloured shapes that move, turn, grow, follow one another or stand together on a plain
background, 64×64 pixels.

```bash
sango understand clip.mp4 --model models/shapes/smolvlm2 --question \"What does it do first?\"
```

```python
from transformers import AutoModelForImageTextToText, AutoProcessor
processor = AutoProcessor.from_pretrained(\"models/shapes/smolvlm2\")
model = AutoModelForImageTextToText.from_pretrained(\"models/shapes/smolvlm2\")
```

It is asked what happens, and what colour, shape or size something has; what it does, which way it goes, where it stands;
what comes first or last; how many shapes there are; what the background is. It knows circle, square, triangle, star, cross
and ring; red, green, blue, yellow, purple and cyan; small and large; white, black, gray and blue backgrounds; moving in
four directions, spinning, growing and shrinking. It answers in a few words. It is shown at most eight frames, four per
second; it knows nothing but this world.

";

const TAIL: &str = "
The tokenizer is trained first, then the vision tower and the connector, then everything (the tower at first as it came),
by `sango-train smolvlm2 tokenizer|vision|train`, or all by `sango-train smolvlm2 all`; see `docs/training.md`. One
combination of shape, colour, size and background in five is never trained on; every object of the clips above is one
of those.
";
