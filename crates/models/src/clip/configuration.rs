//! `text_encoder/config.json`.

use std::path::Path;

use sango_tensor::Activation;
use serde::Deserialize;

use crate::config::Config;
use crate::error::Result;

/// The sizes of a CLIP text encoder; names and defaults are those of `transformers.CLIPTextConfig`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct CLIPTextConfig {
    /// Rows of the token table.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Width of `text_embeds`.
    pub projection_dim: usize,
    /// Transformer layers.
    pub num_hidden_layers: usize,
    /// Attention heads per layer.
    pub num_attention_heads: usize,
    /// Longest prompt in tokens.
    pub max_position_embeddings: usize,
    /// Activation of the MLP.
    pub hidden_act: String,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f32,
    /// Which token the pooled state is taken from. The value 2, which early configurations have by mistake, means "the
    /// highest id of the prompt" instead.
    pub eos_token_id: i64,
}

impl Default for CLIPTextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            projection_dim: 512,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: "quick_gelu".into(),
            layer_norm_eps: 1e-5,
            eos_token_id: 49407,
        }
    }
}

impl CLIPTextConfig {
    /// Reads and checks a configuration.
    pub(crate) fn read(path: &Path) -> Result<(Self, Activation)> {
        let config = Config::<Self>::read_class(path, "CLIPTextModelWithProjection")?;
        let c = &config.value;
        config.positive("vocab_size", c.vocab_size)?;
        config.positive("intermediate_size", c.intermediate_size)?;
        config.positive("projection_dim", c.projection_dim)?;
        config.positive("num_hidden_layers", c.num_hidden_layers)?;
        config.positive("max_position_embeddings", c.max_position_embeddings)?;
        config.positive("num_attention_heads", c.num_attention_heads)?;
        config.multiple("hidden_size", c.hidden_size, "num_attention_heads", c.num_attention_heads)?;
        config.eps("layer_norm_eps", c.layer_norm_eps)?;
        let activation = match c.hidden_act.as_str() {
            "quick_gelu" => Activation::QuickGelu,
            "gelu" => Activation::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
            "silu" | "swish" => Activation::Silu,
            other => {
                let known = "quick_gelu, gelu, gelu_new, gelu_pytorch_tanh, silu and swish";
                return Err(config.error("hidden_act", format!("is \"{other}\"; known are {known}")));
            }
        };
        Ok((config.value, activation))
    }
}
