//! The model card: what made the model and how well it does, from the run's own logs.

use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use crate::card::stage_rows;
use crate::files::read_json;

/// The text of `README.md` for the run in `dir`.
///
/// # Errors
/// When the scores are missing.
pub fn write(dir: &Path, guidance: f64) -> Result<String> {
    let evaluation: Value = read_json(&dir.join("evaluation.json"))?;
    let mut text = HEAD.replace("GUIDANCE", &guidance.to_string());
    text.push_str("## Scores\n\nThe oracle of `sango-shapes` reads the pictures; seed ");
    text.push_str(&format!("{}.\n\n", evaluation["seed"]));
    text.push_str(
        "| | pictures | all right | shape | colour | size | place | background |\n|---|---|---|---|---|---|---|---|\n",
    );
    for line in evaluation["scores"].as_array().into_iter().flatten() {
        text.push_str(&format!("| {} | {} |", line["what"].as_str().unwrap_or(""), line["pictures"]));
        for name in ["all", "shape", "colour", "size", "place", "background"] {
            match line[name].as_f64() {
                Some(share) => text.push_str(&format!(" {:.1} % |", 100.0 * share)),
                None => text.push_str(" |"),
            }
        }
        text.push('\n');
    }
    text.push_str("\n## How it was made\n\n");
    text.push_str("| stage | options | steps | time |\n|---|---|---|---|\n");
    text.push_str(&stage_rows(dir, &["clip", "vq", "transformer"])?);
    text.push_str(TAIL);
    Ok(text)
}

const HEAD: &str = "---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---

# aMUSEd on shapes

A tiny aMUSEd (`AmusedPipeline`), trained by this repository's own Rust code on pictures that `sango-shapes` draws: one
coloured shape on a plain background, 64×64 pixels.

```bash
sango image --prompt \"a large red circle on a blue background\" -o circle.png
```

```python
from diffusers import AmusedPipeline
pipe = AmusedPipeline.from_pretrained(\"models/shapes/amused\")
pipe(\"a small green star at the top left on a white background\", guidance_scale=GUIDANCE).images[0]
```

It knows circle, square, triangle, star, cross and ring; red, green, blue, yellow, purple and cyan; small and large; center
and the four corners; white, black, gray and blue backgrounds. Any other word is spelled in bytes that mean nothing to it.

";

const TAIL: &str = "
Codebook, CLIP, VQ model and transformer are trained in this order (VQ and transformer side by side here) by
`sango-train amused codebook|clip|vq|transformer`, or all by `sango-train amused all`; see `docs/training.md`.
One combination of shape, colour, size and background in five is never trained on: those are the held-out prompts.
";
