//! The text part of a `config.json`.

use std::path::Path;

use sango_tensor::Activation;
use serde::Deserialize;
use serde_json::Value;

use super::rotary::LlamaRotaryEmbedding;
use crate::config::{Config, activation, from_value};
use crate::error::Result;

/// The largest head that attention takes.
const MAX_HEAD_DIM: usize = 256;

/// The sizes of a Llama decoder; names and defaults are those of `transformers.LlamaConfig`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct LlamaConfig {
    /// Always `llama`.
    pub model_type: String,
    /// Rows of the token table.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads per layer.
    pub num_attention_heads: usize,
    /// Key and value heads per layer; as many as query heads unless given.
    pub num_key_value_heads: Option<usize>,
    /// Width of a head; `hidden_size / num_attention_heads` unless given.
    pub head_dim: Option<usize>,
    /// Activation of the gate.
    pub hidden_act: String,
    /// Positions the model was made for.
    pub max_position_embeddings: usize,
    /// Epsilon of the norms.
    pub rms_norm_eps: f32,
    /// Whether the projections of attention have biases.
    pub attention_bias: bool,
    /// Whether those of the feed-forward layer have.
    pub mlp_bias: bool,
    /// How positions become angles.
    rope_parameters: Option<Value>,
    /// The older name of the same, which comes first where both are given.
    rope_scaling: Option<Value>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
}

impl Default for LlamaConfig {
    fn default() -> Self {
        Self {
            model_type: "llama".into(),
            vocab_size: 32000,
            hidden_size: 4096,
            intermediate_size: 11008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: None,
            head_dim: None,
            hidden_act: "silu".into(),
            max_position_embeddings: 2048,
            rms_norm_eps: 1e-6,
            attention_bias: false,
            mlp_bias: false,
            rope_parameters: None,
            rope_scaling: None,
            rope_theta: None,
            partial_rotary_factor: None,
            original_max_position_embeddings: None,
        }
    }
}

/// A checked configuration with what follows from it.
pub(crate) struct Checked {
    pub(crate) config: LlamaConfig,
    pub(super) activation: Activation,
    pub(super) rotary_emb: LlamaRotaryEmbedding,
}

impl LlamaConfig {
    /// Checks `json`, the part of the file `path` that describes the decoder.
    pub(crate) fn read(path: &Path, json: Value) -> Result<Checked> {
        let config = Config { path: path.to_owned(), value: from_value::<Self>(path, json)? };
        let c = &config.value;
        if c.model_type != "llama" {
            let detail = format!("is \"{}\"; the only known decoder is \"llama\"", c.model_type);
            return Err(config.error("text_config.model_type", detail));
        }
        config.positive("vocab_size", c.vocab_size)?;
        config.positive("intermediate_size", c.intermediate_size)?;
        config.positive("num_hidden_layers", c.num_hidden_layers)?;
        config.positive("num_attention_heads", c.num_attention_heads)?;
        config.positive("num_key_value_heads", c.kv_heads())?;
        config.positive("max_position_embeddings", c.max_position_embeddings)?;
        config.multiple("hidden_size", c.hidden_size, "num_attention_heads", c.num_attention_heads)?;
        config.multiple("num_attention_heads", c.num_attention_heads, "num_key_value_heads", c.kv_heads())?;
        config.eps("rms_norm_eps", c.rms_norm_eps)?;
        let head_dim = c.head_width();
        if head_dim == 0 || head_dim > MAX_HEAD_DIM || !head_dim.is_multiple_of(2) {
            let detail = format!("is {head_dim}; it must be an even number up to {MAX_HEAD_DIM}");
            return Err(config.error("head_dim", detail));
        }
        config.positive("num_attention_heads · head_dim", c.num_attention_heads * head_dim)?;
        let activation = activation(&c.hidden_act).map_err(|detail| config.error("hidden_act", detail))?;
        let rotary_emb = LlamaRotaryEmbedding::new(&c.rope(), c.max_position_embeddings, head_dim)
            .map_err(|(field, detail)| config.error(field, detail))?;
        Ok(Checked { activation, rotary_emb, config: config.value })
    }

    /// Width of a head.
    pub fn head_width(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Key and value heads.
    pub fn kv_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// The rotary parameters in the newest form, as `RotaryEmbeddingConfigMixin` standardises older ones.
    fn rope(&self) -> Value {
        let given = |value: &Option<Value>| value.clone().filter(|v| v.as_object().is_some_and(|o| !o.is_empty()));
        let mut rope = given(&self.rope_scaling)
            .or(given(&self.rope_parameters))
            .unwrap_or_else(|| Value::Object(Default::default()));
        let mut or_else = |key: &str, value: Option<Value>| {
            if let (Some(value), true) = (value, rope[key].is_null()) {
                rope[key] = value;
            }
        };
        or_else("rope_theta", Some(self.rope_theta.unwrap_or(10_000.0).into()));
        or_else("partial_rotary_factor", self.partial_rotary_factor.map(Value::from));
        if rope["rope_type"].is_null() {
            rope["rope_type"] = if rope["type"].is_null() { "default".into() } else { rope["type"].clone() };
        }
        if let Some(length) = self.original_max_position_embeddings {
            rope["original_max_position_embeddings"] = length.into();
        } else if rope["original_max_position_embeddings"].is_null() {
            rope["original_max_position_embeddings"] = self.max_position_embeddings.into();
        }
        rope
    }
}
