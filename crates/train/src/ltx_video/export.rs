//! The folder that `LTXPipeline.from_pretrained` opens.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use super::card;
use super::clips::{FPS, FRAMES, SIZE};
use super::text::config::T5Config;
use super::text::tokenizer::T5Tokenizer;
use super::train::{STATISTICS, WEIGHTS};
use super::transformer::TransformerConfig;
use super::vae::VaeConfig;
use crate::checkpoint;
use crate::files::{read_json, write_json};

const DIFFUSERS: &str = "0.35.0";
/// Name of the weights of a part that `diffusers` reads.
pub(super) const DIFFUSION: &str = "diffusion_pytorch_model.safetensors";

/// What the pipelines of this project do when a request does not say otherwise (`sango.json`), and the scheduler.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
pub struct ExportOptions {
    /// Guidance scale.
    #[arg(long, default_value_t = 2.0)]
    pub guidance_scale: f64,
    /// Steps.
    #[arg(long, default_value_t = 16)]
    pub steps: usize,
    /// The scheduler's shift.
    #[arg(long, default_value_t = 2.0)]
    pub scheduler_shift: f64,
}

/// Writes the run in `dir` as a Hugging Face folder: transformer and VAE in bf16, in which they were trained, the text
/// encoder in f32 (`transformers` opens a part in the type of its file where `diffusers` converts to f32, and the two
/// must meet). With scores in `dir/evaluation.json`, a model card is written too.
///
/// # Errors
/// When a part of the run is missing or a file cannot be written.
pub fn export(options: &ExportOptions, dir: &Path, out: &Path, seed: u64) -> Result<()> {
    let vae: VaeConfig = read_json(&dir.join("vae.json"))?;
    let transformer: TransformerConfig = read_json(&dir.join("transformer.json"))?;
    let tokenizer = T5Tokenizer::shapes()?;
    let put = |name: &str, value: Value| write_json(&out.join(name), &value);
    put("model_index.json", model_index())?;
    put(
        "sango.json",
        json!({
            "steps": options.steps, "guidance_scale": options.guidance_scale,
            "width": SIZE, "height": SIZE, "num_frames": FRAMES, "frame_rate": FPS,
        }),
    )?;
    put("scheduler/scheduler_config.json", scheduler(options.scheduler_shift))?;
    put("vae/config.json", vae.to_json())?;
    put("transformer/config.json", transformer.to_json())?;
    put("text_encoder/config.json", T5Config::shapes(tokenizer.vocab_size()).to_json("float32"))?;
    tokenizer.save(&out.join("tokenizer"))?;

    let mut weights = checkpoint::load(&dir.join("vae.safetensors"))?;
    let mut trained = checkpoint::load(&dir.join(WEIGHTS))?;
    for name in STATISTICS {
        let statistics = trained.remove(name).with_context(|| format!("{WEIGHTS} lacks {name}"))?;
        weights.insert(name.to_owned(), statistics);
    }
    // All of one type: `diffusers` does not convert the weights of a file that mixes them.
    weights.values_mut().for_each(|tensor| *tensor = tensor.to_kind(Kind::BFloat16));
    checkpoint::save_weights(&out.join("vae").join(DIFFUSION), &weights)?;
    trained.values_mut().for_each(|tensor| *tensor = tensor.to_kind(Kind::BFloat16));
    checkpoint::save_weights(&out.join("transformer").join(DIFFUSION), &trained)?;
    let text = checkpoint::load(&dir.join("text_encoder.safetensors"))?;
    checkpoint::save_weights(&out.join("text_encoder/model.safetensors"), &text)?;
    if dir.join("evaluation.json").exists() {
        std::fs::write(out.join("README.md"), card::write(dir, options, seed)?).context("writing the model card")?;
    }
    Ok(())
}

/// Takes a folder that [`export`] wrote apart into what the stages leave in `dir`, so that they train it further. The
/// optimizers begin anew.
///
/// # Errors
/// When a part of the folder is missing, or `dir` holds a run already.
pub fn import(model: &Path, dir: &Path) -> Result<()> {
    let begun = dir.join("vae.safetensors");
    ensure!(!begun.exists(), "{} is there already: import into another --dir", begun.display());
    let floats = |path: &str| -> Result<BTreeMap<String, Tensor>> {
        let weights = checkpoint::load(&model.join(path))?;
        Ok(weights.into_iter().map(|(name, tensor)| (name, tensor.to_kind(Kind::Float))).collect())
    };
    let mut vae = floats(&format!("vae/{DIFFUSION}"))?;
    let mut trained = floats(&format!("transformer/{DIFFUSION}"))?;
    for name in STATISTICS {
        trained.insert(name.into(), vae.remove(name).with_context(|| format!("the VAE lacks {name}"))?);
    }
    let config: VaeConfig = read_json(&model.join("vae/config.json"))?;
    write_json(&dir.join("vae.json"), &serde_json::to_value(config)?)?;
    let config: TransformerConfig = read_json(&model.join("transformer/config.json"))?;
    write_json(&dir.join("transformer.json"), &serde_json::to_value(config)?)?;
    checkpoint::save_weights(&dir.join(WEIGHTS), &trained)?;
    checkpoint::save_weights(&dir.join("text_encoder.safetensors"), &floats("text_encoder/model.safetensors")?)?;
    card::keep_history(model, dir)?;
    checkpoint::save_weights(&begun, &vae)
}

fn model_index() -> Value {
    json!({
        "_class_name": "LTXPipeline",
        "_diffusers_version": DIFFUSERS,
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", "LTXVideoTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLLTXVideo"],
    })
}

fn scheduler(shift: f64) -> Value {
    json!({
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "_diffusers_version": DIFFUSERS,
        "num_train_timesteps": 1000,
        "shift": shift,
        "use_dynamic_shifting": false,
        "base_shift": 0.5,
        "max_shift": 1.15,
        "base_image_seq_len": 256,
        "max_image_seq_len": 4096,
        "invert_sigmas": false,
        "shift_terminal": null,
        "use_karras_sigmas": false,
        "use_exponential_sigmas": false,
        "use_beta_sigmas": false,
        "time_shift_type": "exponential",
        "stochastic_sampling": false,
    })
}
