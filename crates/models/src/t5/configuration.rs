//! `T5Config`, as far as the encoder needs it.

use std::path::Path;

use sango_tensor::Activation;
use serde::Deserialize;

use crate::config::{Config, activation};
use crate::error::Result;

/// The keys of `config.json`, with the defaults of `transformers`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "documented in transformers under the same names")]
pub struct T5Config {
    pub vocab_size: usize,
    pub d_model: usize,
    pub d_kv: usize,
    pub d_ff: usize,
    pub num_layers: usize,
    pub num_heads: usize,
    pub relative_attention_num_buckets: usize,
    pub relative_attention_max_distance: usize,
    pub layer_norm_epsilon: f32,
    pub feed_forward_proj: String,
}

impl Default for T5Config {
    fn default() -> Self {
        Self {
            vocab_size: 32128,
            d_model: 512,
            d_kv: 64,
            d_ff: 2048,
            num_layers: 6,
            num_heads: 8,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
            feed_forward_proj: "relu".into(),
        }
    }
}

/// What comes between the matrices of a feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DenseAct {
    Relu,
    Other(Activation),
}

/// The feed-forward layer that `feed_forward_proj` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FeedForward {
    pub(super) act: DenseAct,
    /// `act(wi_0(x)) · wi_1(x)` in place of `act(wi(x))`.
    pub(super) gated: bool,
}

impl T5Config {
    /// Reads and checks `path`.
    pub(super) fn read(path: &Path) -> Result<(Config<Self>, FeedForward)> {
        let config = Config::<Self>::read(path)?;
        let c = &config.value;
        for (field, value) in [
            ("vocab_size", c.vocab_size),
            ("d_model", c.d_model),
            ("d_kv", c.d_kv),
            ("d_ff", c.d_ff),
            ("num_layers", c.num_layers),
            ("num_heads", c.num_heads),
        ] {
            config.positive(field, value)?;
        }
        let (buckets, distance) = (c.relative_attention_num_buckets, c.relative_attention_max_distance);
        if !(4..=1 << 16).contains(&buckets) {
            let detail = format!("is {buckets}; it must be between 4 and {}", 1 << 16);
            return Err(config.error("relative_attention_num_buckets", detail));
        }
        // A quarter of the buckets counts single steps; the others stretch to the distance.
        if distance <= buckets / 4 || distance > 1 << 24 {
            let detail = format!("is {distance}; it must be more than a quarter of the {buckets} buckets");
            return Err(config.error("relative_attention_max_distance", detail));
        }
        if c.d_kv > 256 {
            return Err(config.error("d_kv", format!("is {}; heads of up to 256 are run", c.d_kv)));
        }
        config.eps("layer_norm_epsilon", c.layer_norm_epsilon)?;
        let name = c.feed_forward_proj.as_str();
        let (gated, name) = match name.split_once('-') {
            Some(("gated", act)) => (true, act),
            _ => (false, name),
        };
        let act = match name {
            "relu" => DenseAct::Relu,
            // "gated-gelu" has always meant the tanh approximation.
            "gelu" if gated => DenseAct::Other(Activation::GeluTanh),
            other => DenseAct::Other(
                activation(other).map_err(|detail| config.error("feed_forward_proj", format!("{detail}, relu")))?,
            ),
        };
        Ok((config, FeedForward { act, gated }))
    }
}
