//! The sizes of the T5 encoder and its `config.json`.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What can be chosen about [`super::t5::T5EncoderModel`]; the names are those of `transformers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct T5Config {
    /// Rows of the embedding.
    pub vocab_size: i64,
    /// Width of the encoder.
    pub d_model: i64,
    /// Width of a head.
    pub d_kv: i64,
    /// Width inside the feed-forward layers.
    pub d_ff: i64,
    /// Layers.
    pub num_layers: i64,
    /// Heads.
    pub num_heads: i64,
    /// Buckets that distances between tokens are sorted into.
    pub relative_attention_num_buckets: i64,
    /// All greater distances share a bucket.
    pub relative_attention_max_distance: i64,
    /// Added to variances.
    pub layer_norm_epsilon: f64,
}

impl T5Config {
    /// The encoder of the shapes model.
    pub fn shapes(vocab_size: i64) -> Self {
        Self {
            vocab_size,
            d_model: 96,
            d_kv: 32,
            d_ff: 192,
            num_layers: 2,
            num_heads: 3,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
        }
    }

    /// The `config.json` of `transformers`.
    pub fn to_json(&self, dtype: &str) -> Value {
        json!({
            "architectures": ["T5EncoderModel"],
            "model_type": "t5",
            "vocab_size": self.vocab_size,
            "d_model": self.d_model,
            "d_kv": self.d_kv,
            "d_ff": self.d_ff,
            "num_layers": self.num_layers,
            "num_decoder_layers": self.num_layers,
            "num_heads": self.num_heads,
            "relative_attention_num_buckets": self.relative_attention_num_buckets,
            "relative_attention_max_distance": self.relative_attention_max_distance,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "dropout_rate": 0.0,
            "feed_forward_proj": "gated-gelu",
            "dense_act_fn": "gelu_new",
            "is_gated_act": true,
            "is_encoder_decoder": true,
            "tie_word_embeddings": false,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "decoder_start_token_id": 0,
            "use_cache": true,
            "dtype": dtype,
            "torch_dtype": dtype,
        })
    }
}
