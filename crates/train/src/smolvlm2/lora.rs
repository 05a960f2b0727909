//! Low-rank adapters on the linear layers of a model, kept in the format of PEFT.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tch::nn::{Init, Path as VarPath};
use tch::{Kind, Tensor};

use super::layers::Adapter;
use super::model::SmolVlm;
use crate::checkpoint;
use crate::files::write_json;

/// What PEFT puts before the name of a module.
const PREFIX: &str = "base_model.model.";

/// Which layers get an adapter, and of what kind.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
pub struct AdapterOptions {
    /// Rank of the adapters.
    #[arg(long, default_value_t = 8)]
    pub rank: i64,
    /// Adapters are scaled by alpha / rank.
    #[arg(long, default_value_t = 16.0)]
    pub alpha: f64,
    /// Share of an adapter's inputs that are dropped in training.
    #[arg(long, default_value_t = 0.05)]
    pub dropout: f64,
    /// The layers to tune, by the last part of their names.
    #[arg(long, value_delimiter = ',', default_value = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj")]
    pub target_modules: Vec<String>,
    /// The part of the model in which they are tuned.
    #[arg(long, value_enum, default_value_t = Part::Text)]
    pub part: Part,
}

/// A part of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The decoder.
    Text,
    /// The vision tower (its projections are q_proj, k_proj, v_proj, out_proj, fc1 and fc2).
    Vision,
    /// Everything that matches.
    All,
}

impl AdapterOptions {
    /// Whether the layer of this name is tuned.
    fn matches(&self, module: &str) -> bool {
        let part = match self.part {
            Part::Text => module.starts_with("model.text_model."),
            Part::Vision => module.starts_with("model.vision_model."),
            Part::All => true,
        };
        part && self.target_modules.iter().any(|target| {
            module == target || module.strip_suffix(target.as_str()).is_some_and(|rest| rest.ends_with('.'))
        })
    }

    /// `target_modules` as PEFT reads it: a list of endings, or one expression for the whole name.
    fn for_peft(&self) -> Value {
        let part = match self.part {
            Part::All => return json!(self.target_modules),
            Part::Text => "text_model",
            Part::Vision => "vision_model",
        };
        let escaped: Vec<String> = self.target_modules.iter().map(|target| target.replace('.', r"\.")).collect();
        json!(format!(r"model\.{part}\..*\.({})", escaped.join("|")))
    }
}

/// Adds an adapter to every layer that `options` names, with its variables below `path`; returns their names.
///
/// B starts at zero, so that the model is at first what it was.
///
/// # Errors
/// When no layer matches or a setting makes no sense.
pub fn install(model: &mut SmolVlm, path: &VarPath, options: &AdapterOptions) -> Result<Vec<String>> {
    ensure!(options.rank > 0, "--rank is {}", options.rank);
    ensure!((0.0..1.0).contains(&options.dropout), "--dropout is {}, not in 0..1", options.dropout);
    let mut names = Vec::new();
    for (name, linear) in model.linears().into_iter().filter(|(name, _)| options.matches(name)) {
        let size = linear.weight.size();
        let (outputs, inputs) = (size[0], size[1]);
        let bound = 1.0 / (inputs as f64).sqrt();
        let below = name.split('.').fold(path.clone(), |path, part| path / part);
        linear.adapter = Some(Adapter {
            a: (&below / "lora_A").var("weight", &[options.rank, inputs], Init::Uniform { lo: -bound, up: bound }),
            b: (&below / "lora_B").var("weight", &[outputs, options.rank], Init::Const(0.0)),
            scale: options.alpha / options.rank as f64,
            dropout: options.dropout,
        });
        names.push(name);
    }
    ensure!(!names.is_empty(), "no layer is called {} there", options.target_modules.join(" or "));
    Ok(names)
}

/// Writes `adapter_config.json` and `adapter_model.safetensors` for weights called `MODULE.lora_A.weight` and
/// `MODULE.lora_B.weight`.
///
/// # Errors
/// When a file cannot be written.
pub fn save(dir: &Path, base: &Path, options: &AdapterOptions, weights: Vec<(String, Tensor)>) -> Result<()> {
    let weights: BTreeMap<String, Tensor> =
        weights.into_iter().map(|(name, tensor)| (format!("{PREFIX}{name}"), tensor.to_kind(Kind::Float))).collect();
    checkpoint::save_weights(&dir.join("adapter_model.safetensors"), &weights)?;
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.to_str().context("the model's path is not Unicode")?,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": options.alpha,
        "lora_dropout": options.dropout,
        "modules_to_save": null,
        "r": options.rank,
        "target_modules": options.for_peft(),
        "use_dora": false,
        "use_rslora": false,
    });
    write_json(&dir.join("adapter_config.json"), &config)
}

/// Gives the adapters that [`install`] made the weights that [`save`] wrote.
///
/// # Errors
/// When the folder holds no adapter for these layers.
pub fn load(model: &mut SmolVlm, dir: &Path) -> Result<()> {
    let weights = checkpoint::load(&dir.join("adapter_model.safetensors"))?;
    for (name, linear) in model.linears() {
        let Some(adapter) = &mut linear.adapter else { continue };
        for (part, tensor) in [("lora_A", &mut adapter.a), ("lora_B", &mut adapter.b)] {
            let found = checkpoint::get(&weights, &format!("{PREFIX}{name}.{part}.weight"))?;
            ensure!(found.size() == tensor.size(), "{name}.{part} is of another size than the adapter");
            tensor.set_data(&found.to_kind(tensor.kind()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(part: Part) -> AdapterOptions {
        let target_modules = vec!["q_proj".to_owned(), "fc1".to_owned()];
        AdapterOptions { rank: 4, alpha: 8.0, dropout: 0.0, target_modules, part }
    }

    #[test]
    fn layers_are_chosen_as_peft_chooses_them() {
        let text = "model.text_model.layers.0.self_attn.q_proj";
        let vision = "model.vision_model.encoder.layers.0.mlp.fc1";
        for (part, expected) in [(Part::Text, [true, false]), (Part::Vision, [false, true]), (Part::All, [true, true])]
        {
            assert_eq!([text, vision].map(|name| options(part).matches(name)), expected, "{part:?}");
        }
        assert!(!options(Part::All).matches("model.text_model.layers.0.self_attn.xq_proj"));
        assert_eq!(options(Part::All).for_peft(), json!(["q_proj", "fc1"]));
        assert_eq!(options(Part::Text).for_peft(), json!(r"model\.text_model\..*\.(q_proj|fc1)"));
    }
}
