//! LoRA adapters in the format of PEFT: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! An adapter is added to the weights while they are read (`W + scale · B · A`), so that it costs nothing when the model
//! runs.

use std::collections::BTreeMap;
use std::path::Path;

use regex::Regex;
use sango_tensor::{LowRank, Patch, Tensor, Weights};
use serde::Deserialize;
use serde_json::Value;

use crate::config::{Config, from_value, read_json};
use crate::error::{ModelError, Result};

/// What PEFT puts before the name of a module.
const PREFIX: &str = "base_model.model.";

#[derive(Deserialize)]
#[serde(default)]
struct AdapterConfig {
    peft_type: String,
    r: usize,
    lora_alpha: f32,
    use_rslora: bool,
    rank_pattern: BTreeMap<String, usize>,
    alpha_pattern: BTreeMap<String, f32>,
}

impl Default for AdapterConfig {
    fn default() -> Self {
        Self {
            peft_type: "LORA".into(),
            r: 8,
            lora_alpha: 8.0,
            use_rslora: false,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
        }
    }
}

/// Options that make something else of the matrices than a sum.
const UNSUPPORTED: [&str; 12] = [
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "fan_in_fan_out",
    "lora_bias",
    "layer_replication",
    "alora_invocation_tokens",
    "trainable_token_indices",
    "target_parameters",
    "kasa_config",
    "monteclora_config",
    "velora_config",
];

/// An adapter: changes of a model's tensors, by their names.
pub(crate) struct Adapter {
    patches: BTreeMap<String, Patch>,
}

impl Adapter {
    /// Reads the adapter in `dir`.
    ///
    /// # Errors
    /// [`ModelError::Config`] for what is no LoRA adapter or asks for more than a sum, and for tensors without a partner.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("adapter_config.json");
        let mut json: Value = read_json(&path)?;
        // An optional pattern may be null.
        if let Some(json) = json.as_object_mut() {
            json.retain(|_, value| !value.is_null());
        }
        let config = Config { value: from_value::<AdapterConfig>(&path, json.clone())?, path };
        if config.value.peft_type != "LORA" {
            let detail = format!("is \"{}\"; only \"LORA\" is supported", config.value.peft_type);
            return Err(config.error("peft_type", detail));
        }
        for key in UNSUPPORTED {
            let unset = match &json[key] {
                Value::Null | Value::Bool(false) => true,
                Value::Array(list) => list.is_empty(),
                Value::Object(map) => map.is_empty(),
                _ => false,
            };
            if !unset {
                return Err(config.error(key, format!("is {}, which is not supported", json[key])));
            }
        }
        let weights = Weights::open(dir, "adapter_model")?;
        let scaling = Scaling::new(&config)?;
        let mut patches: BTreeMap<String, Patch> = BTreeMap::new();
        for key in weights.names() {
            let Some(name) = key.strip_prefix(PREFIX) else {
                return Err(config
                    .error("target_modules", format!("make a tensor `{key}`, which does not begin with `{PREFIX}`")));
            };
            let read = |key: &str| Ok::<_, ModelError>(weights.get_f32(key, &weights.shape(key)?)?);
            let partner =
                |suffix: &str, other: &str| read(&format!("{}{other}", key.strip_suffix(suffix).unwrap_or(key)));
            if let Some(module) = name.strip_suffix(".lora_A.weight") {
                let (a, b) = (read(key)?, partner(".lora_A.weight", ".lora_B.weight")?);
                let flat = |t: &Tensor| t.reshape(&[t.shape().first().copied().unwrap_or(0), columns(t)]);
                let (a, b) = (flat(&a)?, flat(&b)?);
                let scale = scaling.of(module, &a)?;
                patches.entry(format!("{module}.weight")).or_default().add = Some(LowRank { a, b, scale });
            } else if let Some(module) = name.strip_suffix(".lora_embedding_A") {
                // A table is looked up by row, so its matrices are the other way round.
                let (a, b) = (read(key)?, partner(".lora_embedding_A", ".lora_embedding_B")?);
                let scale = scaling.of(module, &a)?;
                let (a, b) = (b.transpose(0, 1)?, a.transpose(0, 1)?);
                patches.entry(format!("{module}.weight")).or_default().add = Some(LowRank { a, b, scale });
            } else if name.ends_with(".lora_B.weight") {
                partner(".lora_B.weight", ".lora_A.weight")?;
            } else if name.ends_with(".lora_embedding_B") {
                partner(".lora_embedding_B", ".lora_embedding_A")?;
            } else if name.contains(".lora_") {
                return Err(config.error("peft_type", format!("has a tensor `{key}`, which is not supported")));
            } else {
                // A module of `modules_to_save` or a bias that was trained whole, or a table saved along with its adapter.
                patches.entry(name.replace(".base_layer.", ".")).or_default().replace = Some(read(key)?);
            }
        }
        if patches.is_empty() {
            return Err(config.error("target_modules", "match nothing: the adapter has no tensors"));
        }
        Ok(Self { patches })
    }

    /// Takes out the change of one tensor.
    pub(crate) fn take(&mut self, name: &str) -> Option<Patch> {
        self.patches.remove(name)
    }

    /// `weights` with every change made.
    pub(crate) fn apply(self, weights: &Weights) -> Result<Weights> {
        Ok(weights.with_patches(self.patches)?)
    }
}

/// Elements of a row.
fn columns(tensor: &Tensor) -> usize {
    tensor.shape().get(1..).unwrap_or(&[]).iter().product()
}

/// What the products are multiplied by.
struct Scaling<'a> {
    config: &'a Config<AdapterConfig>,
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f32)>,
}

impl<'a> Scaling<'a> {
    fn new(config: &'a Config<AdapterConfig>) -> Result<Self> {
        let regex = |field: &'static str, key: &str| {
            Regex::new(&format!(r"^(.*\.)?({key})$"))
                .map_err(|error| config.error(field, format!("has a key {key}: {error}")))
        };
        let ranks = &config.value.rank_pattern;
        let alphas = &config.value.alpha_pattern;
        Ok(Self {
            ranks: ranks.iter().map(|(key, &r)| Ok((regex("rank_pattern", key)?, r))).collect::<Result<_>>()?,
            alphas: alphas
                .iter()
                .map(|(key, &alpha)| Ok((regex("alpha_pattern", key)?, alpha)))
                .collect::<Result<_>>()?,
            config,
        })
    }

    /// For the module `module`, whose first matrix is `a`.
    fn of(&self, module: &str, a: &Tensor) -> Result<f32> {
        let config = &self.config.value;
        let r = self.matching("rank_pattern", &self.ranks, module)?.unwrap_or(config.r);
        let alpha = self.matching("alpha_pattern", &self.alphas, module)?.unwrap_or(config.lora_alpha);
        if a.shape().first() != Some(&r) || r == 0 {
            let detail = format!("is {r} for `{module}`, but its matrix has shape {:?}", a.shape());
            return Err(self.config.error("r", detail));
        }
        Ok(if config.use_rslora { alpha / (r as f32).sqrt() } else { alpha / r as f32 })
    }

    /// What a pattern says about `module`. The first that matches counts for PEFT; the order of keys is lost here, so they
    /// must agree.
    fn matching<T: Copy + PartialEq>(
        &self,
        field: &'static str,
        patterns: &[(Regex, T)],
        module: &str,
    ) -> Result<Option<T>> {
        let mut matching = patterns.iter().filter(|(regex, _)| regex.is_match(module)).map(|(_, value)| *value);
        let first = matching.next();
        if matching.any(|other| Some(other) != first) {
            return Err(self.config.error(field, format!("has several values for `{module}`")));
        }
        Ok(first)
    }
}
