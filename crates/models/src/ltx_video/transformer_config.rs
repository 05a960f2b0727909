//! `LTXVideoTransformer3DModel`'s configuration.

use std::path::Path;

use sango_tensor::Activation;
use serde::Deserialize;
use serde_json::Value;

use crate::config::{Config, from_value};
use crate::error::Result;

/// The keys of the transformer's `config.json`, with the defaults of `diffusers`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "documented in diffusers under the same names")]
pub struct LTXVideoTransformer3DConfig {
    pub in_channels: usize,
    pub out_channels: Option<usize>,
    pub patch_size: usize,
    pub patch_size_t: usize,
    pub num_attention_heads: usize,
    pub attention_head_dim: usize,
    pub cross_attention_dim: usize,
    pub num_layers: usize,
    pub activation_fn: String,
    pub qk_norm: String,
    pub norm_elementwise_affine: bool,
    pub norm_eps: f32,
    pub caption_channels: usize,
    pub attention_bias: bool,
    pub attention_out_bias: bool,
}

impl Default for LTXVideoTransformer3DConfig {
    fn default() -> Self {
        Self {
            in_channels: 128,
            out_channels: Some(128),
            patch_size: 1,
            patch_size_t: 1,
            num_attention_heads: 32,
            attention_head_dim: 64,
            cross_attention_dim: 2048,
            num_layers: 28,
            activation_fn: "gelu-approximate".into(),
            qk_norm: "rms_norm_across_heads".into(),
            norm_elementwise_affine: false,
            norm_eps: 1e-6,
            caption_channels: 4096,
            attention_bias: true,
            attention_out_bias: true,
        }
    }
}

/// What comes between the two matrices of a feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FeedForwardAct {
    Plain(Activation),
    /// Half of the rows are gates.
    Gated(Activation),
}

impl LTXVideoTransformer3DConfig {
    /// Reads and checks a configuration that came from `path`.
    ///
    /// # Errors
    /// When a key has a wrong type, or a value cannot be run; the message names it.
    pub fn from_json(path: &Path, json: Value) -> Result<Self> {
        let config = Config::<Self> { path: path.to_owned(), value: from_value(path, json)? };
        let c = &config.value;
        for (field, value) in [
            ("in_channels", c.in_channels),
            ("num_attention_heads", c.num_attention_heads),
            ("attention_head_dim", c.attention_head_dim),
            ("num_layers", c.num_layers),
            ("caption_channels", c.caption_channels),
        ] {
            config.positive(field, value)?;
        }
        for (field, value) in [("patch_size", c.patch_size), ("patch_size_t", c.patch_size_t)] {
            if value != 1 {
                let detail = format!("is {value}; the pipelines give the transformer one latent per token, which is 1");
                return Err(config.error(field, detail));
            }
        }
        if c.attention_head_dim > 256 {
            let detail = format!("is {}; heads of up to 256 are run", c.attention_head_dim);
            return Err(config.error("attention_head_dim", detail));
        }
        if !c.inner_dim().is_multiple_of(2) {
            let detail =
                format!("is {}; all heads together must have an even width to be rotated", c.attention_head_dim);
            return Err(config.error("attention_head_dim", detail));
        }
        config.positive("attention_head_dim", c.inner_dim())?;
        config.equal("out_channels", c.out_channels(), "in_channels", c.in_channels)?;
        let inner = "num_attention_heads · attention_head_dim";
        config.equal("cross_attention_dim", c.cross_attention_dim, inner, c.inner_dim())?;
        if c.qk_norm != "rms_norm_across_heads" {
            return Err(config.error("qk_norm", format!("is \"{}\"; known is rms_norm_across_heads", c.qk_norm)));
        }
        config.eps("norm_eps", c.norm_eps)?;
        c.act().map_err(|detail| config.error("activation_fn", detail))?;
        Ok(config.value)
    }

    /// Width of the hidden states.
    pub fn inner_dim(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }

    /// Channels of what comes out.
    pub fn out_channels(&self) -> usize {
        self.out_channels.filter(|&channels| channels > 0).unwrap_or(self.in_channels)
    }

    pub(super) fn act(&self) -> Result<FeedForwardAct, String> {
        Ok(match self.activation_fn.as_str() {
            "gelu" => FeedForwardAct::Plain(Activation::Gelu),
            "gelu-approximate" => FeedForwardAct::Plain(Activation::GeluTanh),
            "geglu" => FeedForwardAct::Gated(Activation::Gelu),
            "geglu-approximate" => FeedForwardAct::Plain(Activation::QuickGelu),
            "swiglu" => FeedForwardAct::Gated(Activation::Silu),
            "linear-silu" => FeedForwardAct::Plain(Activation::Silu),
            other => {
                let known = "gelu, gelu-approximate, geglu, geglu-approximate, swiglu and linear-silu";
                return Err(format!("is \"{other}\"; known are {known}"));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_cannot_be_run_is_named() {
        let read = |json: Value| LTXVideoTransformer3DConfig::from_json(Path::new("config.json"), json);
        let published = read(json!({})).expect("the 2B configuration is the default");
        assert_eq!((published.inner_dim(), published.out_channels()), (2048, 128));
        let large = json!({ "num_layers": 48, "attention_head_dim": 128, "cross_attention_dim": 4096 });
        assert_eq!(read(large).expect("13B").inner_dim(), 4096);
        for (key, value) in [
            ("patch_size", json!(2)),
            ("num_layers", json!(0)),
            ("attention_head_dim", json!(512)),
            ("attention_head_dim", json!(u32::MAX)),
            ("out_channels", json!(64)),
            ("cross_attention_dim", json!(1024)),
            ("qk_norm", json!("layer_norm")),
            ("norm_eps", json!(-1.0)),
            ("activation_fn", json!("snake")),
        ] {
            let error = read(json!({ key: value })).expect_err("it cannot be run").to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
