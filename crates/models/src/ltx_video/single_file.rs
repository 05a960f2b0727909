//! Lightricks' single files: transformer and autoencoder in one safetensors file, with their configurations as JSON in its
//! metadata.

use std::path::{Path, PathBuf};

use sango_tensor::Weights;
use serde_json::{Value, json};

use super::checkpoint::{LtxComponent, LtxSampler};
use super::inferred_config::{infer_transformer, infer_vae};
use super::vae_blocks::VaeBlocks;
use crate::error::{ModelError, Result};

/// What stands before the names of the transformer's tensors, in most files.
const TRANSFORMER: &str = "model.diffusion_model.";
/// What stands before the names of the autoencoder's tensors.
const VAE: &str = "vae.";

/// A single file, with what it says about itself in the words of diffusers.
pub(super) struct SingleFile {
    path: PathBuf,
    weights: Weights,
    /// What stands before the names of the transformer's tensors.
    prefix: &'static str,
    vae_blocks: VaeBlocks,
    pub(super) transformer_config: Value,
    pub(super) vae_config: Value,
    /// Given where times are shifted by the number of tokens: where the last one is to be.
    pub(super) shift_terminal: Option<Option<f64>>,
    pub(super) sampler: LtxSampler,
    pub(super) causal_temporal_positioning: Option<bool>,
    /// The only times at which the model can be run.
    pub(super) steps: Option<Vec<f64>>,
}

impl SingleFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let weights = Weights::open_file(path)?;
        let unknown = |detail: &str| ModelError::UnknownModel { dir: path.to_owned(), detail: detail.into() };
        if weights.names().any(|name| name.contains("audio_")) {
            return Err(unknown("is an LTX-2 model, with sound; LTX-Video 0.9.0 to 0.9.8 can be run"));
        }
        let prefix = if weights.contains(&format!("{TRANSFORMER}patchify_proj.weight")) {
            TRANSFORMER
        } else if weights.contains("patchify_proj.weight") {
            ""
        } else {
            let detail = "is no LTX-Video model: it has no tensor `patchify_proj.weight` (0.9.0 to 0.9.8 can be run)";
            return Err(unknown(detail));
        };
        for name in weights.names() {
            if weights.stored_dtype(name)?.starts_with("F8") {
                let detail = "is in 8-bit floats, which cannot be read; use the file of the same name without `fp8`";
                return Err(unknown(detail));
            }
        }
        if !weights.contains("vae.encoder.conv_in.conv.weight") || !weights.contains("vae.decoder.conv_in.conv.weight")
        {
            return Err(unknown("has no autoencoder (`vae.encoder` and `vae.decoder`); use a file with all parts"));
        }
        let config = match weights.metadata("config") {
            Some(text) => serde_json::from_str::<Value>(text)
                .map_err(|source| ModelError::Json { path: path.join("metadata.config"), source })?,
            None => Value::Null,
        };
        let reader = ConfigReader { path };
        let transformer_config = match config.get("transformer") {
            Some(transformer) => reader.transformer(transformer)?,
            None => infer_transformer(path, &weights, prefix)?,
        };
        let vae = match config.get("vae") {
            Some(vae) => vae.clone(),
            None => infer_vae(path, &weights.pp("vae"))?,
        };
        let vae_blocks = VaeBlocks::read(&reader, &vae)?;
        let vae_config = vae_blocks.config(&reader, &vae)?;
        let (shift_terminal, sampler) = match config.get("scheduler") {
            Some(scheduler) => reader.scheduler(scheduler)?,
            // Models from 0.9.5 on choose their times without regard to the number of tokens.
            None if vae_blocks.is_095() => (None, LtxSampler::LinearQuadratic),
            None => (Some(Some(0.1)), LtxSampler::Uniform),
        };
        let causal = config["transformer"]["causal_temporal_positioning"].as_bool();
        let steps = reader.steps(&config["allowed_inference_steps"])?;
        Ok(Self {
            path: path.to_owned(),
            weights,
            prefix,
            vae_blocks,
            transformer_config,
            vae_config,
            shift_terminal,
            sampler,
            causal_temporal_positioning: causal,
            steps,
        })
    }

    pub(super) fn transformer(&self) -> Result<LtxComponent> {
        let weights = self.weights.renamed(|name| {
            let name = name.strip_prefix(self.prefix).filter(|_| !name.starts_with(VAE))?;
            let parts = name.split('.').map(|part| match part {
                "patchify_proj" => "proj_in",
                "adaln_single" => "time_embed",
                "q_norm" => "norm_q",
                "k_norm" => "norm_k",
                part => part,
            });
            Some(parts.collect::<Vec<_>>().join("."))
        })?;
        let path = self.path.join("metadata.config.transformer");
        Ok(LtxComponent { config: self.transformer_config.clone(), path, weights })
    }

    pub(super) fn vae(&self) -> Result<LtxComponent> {
        let weights = self.weights.renamed(|name| self.vae_blocks.rename(name.strip_prefix(VAE)?))?;
        let path = self.path.join("metadata.config.vae");
        Ok(LtxComponent { config: self.vae_config.clone(), path, weights })
    }
}

/// Reads Lightricks' configurations, with errors that name the file and the key.
pub(super) struct ConfigReader<'a> {
    pub(super) path: &'a Path,
}

impl ConfigReader<'_> {
    pub(super) fn error(&self, field: &'static str, detail: impl Into<String>) -> ModelError {
        ModelError::Config { path: self.path.to_owned(), field, detail: detail.into() }
    }

    /// Checks that `value`, where given, is one of `supported` (the first is what a missing one means).
    pub(super) fn only(&self, field: &'static str, value: &Value, supported: &[Value]) -> Result<()> {
        if value.is_null() || supported.contains(value) {
            return Ok(());
        }
        let supported = supported.iter().map(Value::to_string).collect::<Vec<_>>().join(" or ");
        Err(self.error(field, format!("is {value}; only {supported} can be run")))
    }

    /// A size of at most 2²⁴, or `default` where it is missing.
    pub(super) fn size(&self, field: &'static str, value: &Value, default: Option<usize>) -> Result<usize> {
        let size = match value {
            Value::Null => default,
            value => value.as_u64().and_then(|size| usize::try_from(size).ok()),
        };
        match size {
            Some(size) if (1..=1 << 24).contains(&size) => Ok(size),
            _ => Err(self.error(field, format!("is {value}; it must be a whole number between 1 and {}", 1 << 24))),
        }
    }

    /// `Transformer3DModel` → `LTXVideoTransformer3DModel`.
    fn transformer(&self, json: &Value) -> Result<Value> {
        self.only("transformer._class_name", &json["_class_name"], &[json!("Transformer3DModel")])?;
        for (field, key, supported) in [
            ("transformer.standardization_norm", "standardization_norm", json!("rms_norm")),
            ("transformer.positional_embedding_type", "positional_embedding_type", json!("rope")),
            ("transformer.positional_embedding_max_pos", "positional_embedding_max_pos", json!([20, 2048, 2048])),
            ("transformer.adaptive_norm", "adaptive_norm", json!("single_scale_shift")),
            ("transformer.qk_norm", "qk_norm", json!("rms_norm")),
        ] {
            self.only(field, &json[key], &[supported])?;
        }
        for (field, key, supported) in [
            ("transformer.positional_embedding_theta", "positional_embedding_theta", 10_000.0),
            ("transformer.timestep_scale_multiplier", "timestep_scale_multiplier", 1000.0),
        ] {
            if json[key].as_f64().unwrap_or(supported) != supported {
                return Err(self.error(field, format!("is {}; only {supported} can be run", json[key])));
            }
        }
        let size = |field, key: &str, default| self.size(field, &json[key], default);
        let in_channels = size("transformer.in_channels", "in_channels", None)?;
        let mut config = json!({
            "_class_name": "LTXVideoTransformer3DModel",
            "in_channels": in_channels,
            "out_channels": size("transformer.out_channels", "out_channels", Some(in_channels))?,
            "patch_size": 1,
            "patch_size_t": 1,
            "num_attention_heads": size("transformer.num_attention_heads", "num_attention_heads", Some(16))?,
            "attention_head_dim": size("transformer.attention_head_dim", "attention_head_dim", Some(88))?,
            "num_layers": size("transformer.num_layers", "num_layers", Some(1))?,
            "qk_norm": "rms_norm_across_heads",
            "attention_out_bias": true,
        });
        // What both name alike goes over as it is, and is checked where it is used.
        for key in [
            "cross_attention_dim",
            "caption_channels",
            "activation_fn",
            "norm_elementwise_affine",
            "norm_eps",
            "attention_bias",
        ] {
            if let Some(value) = json.get(key) {
                config[key] = value.clone();
            }
        }
        Ok(config)
    }

    /// Whether times are shifted by the number of tokens (and to where), and how they are chosen before.
    fn scheduler(&self, json: &Value) -> Result<(Option<Option<f64>>, LtxSampler)> {
        self.only("scheduler._class_name", &json["_class_name"], &[json!("RectifiedFlowScheduler")])?;
        self.only("scheduler.shifting", &json["shifting"], &[json!("SD3")])?;
        self.only("scheduler.sampler", &json["sampler"], &[json!("Uniform"), json!("LinearQuadratic")])?;
        self.only("scheduler.num_train_timesteps", &json["num_train_timesteps"], &[json!(1000)])?;
        let terminal = json["target_shift_terminal"].as_f64();
        if terminal.is_some_and(|terminal| !(terminal > 0.0 && terminal < 1.0)) {
            let detail = format!("is {}; it must be between 0 and 1", json["target_shift_terminal"]);
            return Err(self.error("scheduler.target_shift_terminal", detail));
        }
        let shifted = (json["shifting"] == "SD3").then_some(terminal);
        let quadratic = json["sampler"] == "LinearQuadratic";
        Ok((shifted, if quadratic { LtxSampler::LinearQuadratic } else { LtxSampler::Uniform }))
    }

    /// Times between 0 and 1, the largest first.
    fn steps(&self, json: &Value) -> Result<Option<Vec<f64>>> {
        let Some(list) = json.as_array() else { return Ok(None) };
        let mut steps: Vec<f64> = list.iter().filter_map(Value::as_f64).collect();
        if steps.len() != list.len() || steps.is_empty() || steps.iter().any(|step| !(*step > 0.0 && *step <= 1.0)) {
            return Err(
                self.error("allowed_inference_steps", format!("is {json}; it must list numbers between 0 and 1"))
            );
        }
        steps.sort_by(|a, b| b.total_cmp(a));
        Ok(Some(steps))
    }
}
