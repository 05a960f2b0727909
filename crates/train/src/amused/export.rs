//! The folder that `AmusedPipeline.from_pretrained` opens.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tch::Kind;

use super::card;
use super::uvit_2d::UVitConfig;
use super::vq_model::VqConfig;
use crate::checkpoint;
use crate::clip::model::ClipConfig;
use crate::clip::tokenizer::{POSITIONS, Tokenizer};
use crate::clip::train::{CONTEXT, tokenizer};
use crate::files::{read_json, write_json};

const DIFFUSERS: &str = "0.35.0";

/// Writes the run in `dir` (weights of all three parts) as a Hugging Face folder: the transformer in bf16, the VQ model,
/// which decides the pixels, in f32, and the text encoder in f32 too: `transformers` opens a part in the type of its
/// file where `diffusers` converts to f32, and the two must meet.
///
/// `guidance` is what the pipelines of this project use when a request names none (`sango.json`). With scores in
/// `dir/evaluation.json`, a model card is written too.
///
/// # Errors
/// When a part of the run is missing or a file cannot be written.
pub fn export(dir: &Path, out: &Path, guidance: f64) -> Result<()> {
    let vq: VqConfig = read_json(&dir.join("vq.json"))?;
    let transformer: UVitConfig = read_json(&dir.join("transformer.json"))?;
    let tokenizer = tokenizer();
    let put = |name: &str, value: Value| write_json(&out.join(name), &value);
    put("model_index.json", model_index())?;
    put("sango.json", json!({"guidance_scale": guidance, "steps": 12, "temperature": [2.0, 0.0]}))?;
    put("scheduler/scheduler_config.json", scheduler(&transformer))?;
    put("vqvae/config.json", vq_config(&vq))?;
    put("transformer/config.json", transformer_config(&transformer)?)?;
    put("text_encoder/config.json", text_config(&tokenizer))?;
    tokenizer.save(&out.join("tokenizer"), CONTEXT)?;
    let copy = |from: &str, to: &str, kind: Kind| -> Result<()> {
        let weights = checkpoint::load(&dir.join(from))?;
        let weights = weights.into_iter().map(|(name, tensor)| (name, tensor.to_kind(kind))).collect();
        checkpoint::save_weights(&out.join(to), &weights)
    };
    let weights = "diffusion_pytorch_model.safetensors";
    copy("vq.safetensors", &format!("vqvae/{weights}"), Kind::Float)?;
    copy("transformer.safetensors", &format!("transformer/{weights}"), Kind::BFloat16)?;
    copy("text_encoder.safetensors", "text_encoder/model.safetensors", Kind::Float)?;
    if dir.join("evaluation.json").exists() {
        let text = card::write(dir, guidance)?;
        std::fs::write(out.join("README.md"), text).context("writing the model card")?;
    }
    Ok(())
}

fn model_index() -> Value {
    json!({
        "_class_name": "AmusedPipeline",
        "_diffusers_version": DIFFUSERS,
        "scheduler": ["diffusers", "AmusedScheduler"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "transformer": ["diffusers", "UVit2DModel"],
        "vqvae": ["diffusers", "VQModel"],
    })
}

fn scheduler(transformer: &UVitConfig) -> Value {
    json!({
        "_class_name": "AmusedScheduler",
        "_diffusers_version": DIFFUSERS,
        "mask_token_id": transformer.vocab_size - 1,
        "masking_schedule": "cosine",
    })
}

fn vq_config(config: &VqConfig) -> Value {
    let levels = config.block_out_channels.len();
    json!({
        "_class_name": "VQModel",
        "_diffusers_version": DIFFUSERS,
        "act_fn": "silu",
        "block_out_channels": config.block_out_channels,
        "down_block_types": vec!["DownEncoderBlock2D"; levels],
        "force_upcast": false,
        "in_channels": 3,
        "latent_channels": config.latent_channels,
        "layers_per_block": config.layers_per_block,
        "lookup_from_codebook": true,
        "mid_block_add_attention": false,
        "norm_num_groups": config.norm_num_groups,
        "norm_type": "group",
        "num_vq_embeddings": config.num_vq_embeddings,
        "out_channels": 3,
        "sample_size": config.sample_size,
        "scaling_factor": 0.18215,
        "up_block_types": vec!["UpDecoderBlock2D"; levels],
        "vq_embed_dim": config.vq_embed_dim,
    })
}

fn transformer_config(config: &UVitConfig) -> Result<Value> {
    let mut value = serde_json::to_value(config)?;
    let fixed = json!({
        "_class_name": "UVit2DModel",
        "_diffusers_version": DIFFUSERS,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "layer_norm_eps": 1e-6,
        "ln_elementwise_affine": true,
        "use_bias": false,
    });
    if let (Some(map), Value::Object(fixed)) = (value.as_object_mut(), fixed) {
        map.extend(fixed);
    }
    Ok(value)
}

fn text_config(tokenizer: &Tokenizer) -> Value {
    let config = ClipConfig::default();
    json!({
        "architectures": ["CLIPTextModelWithProjection"],
        "attention_dropout": 0.0,
        "bos_token_id": tokenizer.start(),
        "dtype": "float32",
        "eos_token_id": tokenizer.end(),
        "hidden_act": "quick_gelu",
        "hidden_size": config.hidden_size,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": POSITIONS,
        "model_type": "clip_text_model",
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "pad_token_id": tokenizer.end(),
        "projection_dim": config.projection_dim,
        "vocab_size": tokenizer.vocab_size(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::Parser;
    use serde::Deserialize;
    use tch::Device;
    use tch::nn::{Path as VarPath, VarStore};

    use super::*;
    use crate::amused::train::TransformerOptions;
    use crate::amused::uvit_2d::UVit2DModel;
    use crate::amused::vq_model::VqModel;
    use crate::clip::model::TextTower;

    /// Written by `tests/reference.py` with the real classes.
    #[derive(Deserialize)]
    struct Reference {
        keys: BTreeMap<String, BTreeMap<String, Vec<i64>>>,
        ids: BTreeMap<String, Vec<i64>>,
    }

    #[derive(Parser)]
    struct Defaults {
        #[command(flatten)]
        options: TransformerOptions,
    }

    fn reference() -> Reference {
        serde_json::from_str(include_str!("../../tests/reference.json")).expect("the fixture")
    }

    fn keys<M>(build: impl FnOnce(&VarPath) -> M) -> BTreeMap<String, Vec<i64>> {
        let vs = VarStore::new(Device::Cpu);
        build(&vs.root());
        vs.variables().into_iter().map(|(name, t)| (name, t.size())).collect()
    }

    #[test]
    fn variables_are_the_keys_of_diffusers_and_transformers() {
        let reference = reference();
        let tokenizer = tokenizer();
        let clip = ClipConfig::default();
        let vq = VqConfig { num_vq_embeddings: 1024, latent_channels: 32, vq_embed_dim: 32, ..VqConfig::default() };
        assert_eq!(keys(|p| VqModel::new(p, &vq)), reference.keys["vqvae"]);
        let uvit = Defaults::parse_from(["test"]).options.config(1024, &clip);
        assert_eq!(keys(|p| UVit2DModel::new(p, &uvit, Kind::Float)), reference.keys["transformer"]);
        let text = |p: &VarPath| TextTower::new(p, &clip, tokenizer.vocab_size(), POSITIONS as i64, tokenizer.end());
        assert_eq!(keys(text), reference.keys["text_encoder"]);
    }

    #[test]
    fn ids_are_those_of_the_clip_tokenizer() {
        let tokenizer = tokenizer();
        for (prompt, expected) in reference().ids {
            let mut ids = tokenizer.encode(&prompt);
            ids.truncate(CONTEXT as usize);
            ids[CONTEXT as usize - 1] = tokenizer.end();
            assert_eq!(ids, expected, "{prompt:?}");
        }
    }

    #[test]
    fn a_run_without_its_parts_says_what_is_missing() {
        let dir = tempfile::tempdir().expect("a folder");
        let error = export(dir.path(), &dir.path().join("out"), 2.0).expect_err("nothing there");
        assert!(format!("{error:#}").contains("vq.json"), "{error:#}");
    }
}
