//! The sizes of the transformer and its `config.json`.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What can be chosen about [`super::LTXVideoTransformer3DModel`]; the names are those of `diffusers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransformerConfig {
    /// Channels of the latents.
    pub in_channels: i64,
    /// Channels of the velocity.
    pub out_channels: i64,
    /// Heads.
    pub num_attention_heads: i64,
    /// Width of a head.
    pub attention_head_dim: i64,
    /// Layers.
    pub num_layers: i64,
    /// Width of the text encoder.
    pub caption_channels: i64,
}

impl TransformerConfig {
    /// Width of the model.
    pub fn inner_dim(&self) -> i64 {
        self.num_attention_heads * self.attention_head_dim
    }

    /// The `config.json` of `diffusers`.
    pub fn to_json(&self) -> Value {
        json!({
            "_class_name": "LTXVideoTransformer3DModel",
            "_diffusers_version": "0.35.0",
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "patch_size": 1,
            "patch_size_t": 1,
            "num_attention_heads": self.num_attention_heads,
            "attention_head_dim": self.attention_head_dim,
            "cross_attention_dim": self.inner_dim(),
            "num_layers": self.num_layers,
            "activation_fn": "gelu-approximate",
            "qk_norm": "rms_norm_across_heads",
            "norm_elementwise_affine": false,
            "norm_eps": 1e-6,
            "caption_channels": self.caption_channels,
            "attention_bias": true,
            "attention_out_bias": true,
        })
    }
}
