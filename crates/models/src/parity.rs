//! Running a model on given tensors, with given randomness, so that its outputs can be compared with the reference's.
//!
//! Inputs and outputs are safetensors files with fixed names per kind of model:
//!
//! | kind | inputs | outputs |
//! |---|---|---|
//! | amused | `prompt_ids`, `negative_prompt_ids` i64 `[1, 77]`, `micro_conds` `[1, 5]`, `steps` i64 `[1]`, `guidance_scale` `[1]`, `temperature` `[2]`, `gumbel_sample` `[steps, tokens, codebook]`, `gumbel_mask` `[steps, tokens]`; optional `image` `[1, 3, H, W]` in 0..1 with `strength` `[1]` and `mask_noise` `[tokens]`, or with `mask` `[1, 1, H, W]` | `prompt_embeds` `[1, 77, D]`, `pooled_embeds` `[1, D]`, `logits` `[1, tokens, codebook]` (first step, guided), `tokens` i64 `[steps made, tokens]`, `image` `[1, 3, H, W]` |
//! | ltx-video | `prompt_ids`, `prompt_mask`, `negative_prompt_ids`, `negative_prompt_mask` i64 `[1, S]`, `latents` `[1, C, F, h, w]` (the noise), `steps` i64 `[1]`, `guidance_scale`, `guidance_rescale`, `frame_rate`, `decode_timestep`, `decode_noise_scale` `[1]`, `decode_noise` `[1, C, F, h, w]`; optional `image` `[1, 3, H, W]` in −1..1 | `prompt_embeds` `[1, S, D]`, `velocity` `[1, C, F, h, w]` (first step, guided), `latents` `[1, C, F, h, w]` (final, normalised), `video` `[1, 3, T, H, W]` (not clamped) |
//! | smolvlm2 | `input_ids` i64 `[B, L]`, optional `pixel_values` `[B, F, 3, H, W]` and `pixel_attention_mask` `[B, F, H, W]`, `max_new_tokens` i64 `[1]` | `image_features` `[pictures that are not blank, tokens, D]`, `logits` `[B, L, V]`, `generated_ids` i64 `[B, N]` (greedy, new tokens only) |

use std::path::Path;

use sango_tensor::{DType, Tensor, Weights, save};

use crate::amused::{self, AmusedPipeline};
use crate::error::Result;
use crate::ltx_video::{self, LTXVideoPipeline};
use crate::smolvlm2::{self, SmolVLMForConditionalGeneration};
use crate::{LoadOptions, ModelKind, detect};

/// Loads the model in `model_dir`, runs it on the tensors in `inputs` and writes its outputs to `outputs`.
///
/// # Errors
/// When the model or the inputs cannot be read or do not fit each other, or the outputs cannot be written.
pub fn run(model_dir: &Path, inputs: &Path, outputs: &Path, dtype: DType) -> Result<()> {
    run_with(model_dir, inputs, outputs, &LoadOptions::new(dtype))
}

/// [`run`] for a model that is loaded with `options`.
///
/// # Errors
/// As [`run`].
pub fn run_with(model_dir: &Path, inputs: &Path, outputs: &Path, options: &LoadOptions) -> Result<()> {
    let tensors = match detect(model_dir)? {
        ModelKind::Amused => {
            let pipeline = AmusedPipeline::load(model_dir, options)?;
            amused::parity::run(&pipeline, &Weights::open_file(inputs)?)?
        }
        ModelKind::LtxVideo => {
            let pipeline = LTXVideoPipeline::load(model_dir, options)?;
            ltx_video::parity::run(&pipeline, &Weights::open_file(inputs)?)?
        }
        ModelKind::SmolVLM2 => {
            let model = SmolVLMForConditionalGeneration::load(model_dir, options)?;
            smolvlm2::parity::run(&model, &Weights::open_file(inputs)?)?
        }
    };
    let named: Vec<(&str, &Tensor)> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    Ok(save(outputs, &named, None)?)
}
