//! `LTXAttention`, apart for self- and cross-attention: queries and keys are normalised over all heads together.

use sango_tensor::nn::Linear;
use sango_tensor::ops::{Columns, multi_head_attention, rms_norm_rotary};
use sango_tensor::{Tensor, Weights};

use super::request::StgMode;
use super::rope::RotaryEmbedding;
use super::transformer_config::LTXVideoTransformer3DConfig;
use crate::error::Result;

/// Of the norms of queries and keys, whatever the configuration says about the others.
const QK_NORM_EPS: f32 = 1e-5;

/// The tokens of a video look at each other.
pub(super) struct SelfAttention {
    to_qkv: Linear,
    norm_q: Tensor,
    norm_k: Tensor,
    to_out: Linear,
    width: usize,
    heads: usize,
}

impl SelfAttention {
    pub(super) fn load(weights: &Weights, config: &LTXVideoTransformer3DConfig) -> Result<Self> {
        let width = config.inner_dim();
        let [q, k, v] = ["to_q", "to_k", "to_v"].map(|name| weights.pp(name));
        Ok(Self {
            to_qkv: Linear::load_stacked(&[&q, &k, &v], width, &[width; 3], config.attention_bias)?,
            norm_q: weights.get_f32("norm_q.weight", &[width])?,
            norm_k: weights.get_f32("norm_k.weight", &[width])?,
            to_out: Linear::load(&weights.pp("to_out.0"), width, width, config.attention_out_bias)?,
            width,
            heads: config.num_attention_heads,
        })
    }

    /// `x` `[B, L, width]` looks at itself; the result times `gate` is added to `residual`. With `perturbed`, the last row
    /// of the batch is disturbed.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        rotary: &RotaryEmbedding,
        gate: Columns<'_>,
        residual: &Tensor,
        perturbed: Option<StgMode>,
    ) -> Result<Tensor> {
        let width = self.width;
        let qkv = self.to_qkv.forward_to_attention(x)?;
        let turned = |columns, weight| {
            let rotary = Some((&rotary.cos, &rotary.sin));
            rms_norm_rotary(Columns::of(&qkv, columns), Some(weight), rotary, QK_NORM_EPS, qkv.dtype())
        };
        let (query, key) = (turned(0..width, &self.norm_q)?, turned(width..2 * width, &self.norm_k)?);
        let value = Columns::of(&qkv, 2 * width..3 * width);
        let mut attended = multi_head_attention(&query, &key, value, self.heads, self.heads, None, false, None)?;
        let last = attended.dim(0)?.saturating_sub(1);
        let with_last = |all: &Tensor, other: &Tensor| Tensor::cat(&[&all.narrow(0, 0, last)?, other], 0);
        match perturbed {
            Some(StgMode::AttentionValues) => {
                let value = qkv.narrow(0, last, 1)?.narrow(2, 2 * width, width)?;
                attended = with_last(&attended, &value)?;
            }
            Some(StgMode::AttentionSkip) => {
                attended = with_last(&attended, &x.narrow(0, last, 1)?.to_dtype(attended.dtype()))?;
            }
            Some(StgMode::Residual) => {
                let nothing = Tensor::zeros(residual.narrow(0, last, 1)?.shape())?;
                let residual = with_last(residual, &nothing)?;
                return Ok(self.to_out.forward_gated_residual(&attended, gate, &residual)?);
            }
            Some(StgMode::TransformerBlock) | None => {}
        }
        Ok(self.to_out.forward_gated_residual(&attended, gate, residual)?)
    }
}

/// Keys and values of the text, `[B, S, width]` each: the same in every step.
pub(super) struct KeyValue {
    key: Tensor,
    value: Tensor,
}

/// The tokens of a video look at the text.
pub(super) struct CrossAttention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    norm_q: Tensor,
    norm_k: Tensor,
    to_out: Linear,
    heads: usize,
}

impl CrossAttention {
    pub(super) fn load(weights: &Weights, config: &LTXVideoTransformer3DConfig) -> Result<Self> {
        let width = config.inner_dim();
        let linear = |name: &str| Linear::load(&weights.pp(name), width, width, config.attention_bias);
        Ok(Self {
            to_q: linear("to_q")?,
            to_k: linear("to_k")?,
            to_v: linear("to_v")?,
            norm_q: weights.get_f32("norm_q.weight", &[width])?,
            norm_k: weights.get_f32("norm_k.weight", &[width])?,
            to_out: Linear::load(&weights.pp("to_out.0"), width, width, config.attention_out_bias)?,
            heads: config.num_attention_heads,
        })
    }

    /// Keys and values of `context` `[B, S, width]`.
    pub(super) fn key_value(&self, context: &Tensor) -> Result<KeyValue> {
        let key = self.to_k.forward_to_attention(context)?;
        let key = rms_norm_rotary(&key, Some(&self.norm_k), None, QK_NORM_EPS, key.dtype())?;
        Ok(KeyValue { key, value: self.to_v.forward_to_attention(context)? })
    }

    /// `x` `[B, L, width]` looks at the first `B` rows of the text, of which `mask` `[B, 1, 1, S]` hides some; the result is
    /// added to `x`.
    pub(super) fn forward(&self, x: &Tensor, KeyValue { key, value }: &KeyValue, mask: &Tensor) -> Result<Tensor> {
        let batch = x.dim(0)?;
        let (key, value) = (key.narrow(0, 0, batch)?, value.narrow(0, 0, batch)?);
        let query = self.to_q.forward_to_attention(x)?;
        let query = rms_norm_rotary(&query, Some(&self.norm_q), None, QK_NORM_EPS, query.dtype())?;
        let mask = mask.narrow(0, 0, batch)?;
        let attended = multi_head_attention(&query, &key, &value, self.heads, self.heads, Some(&mask), false, None)?;
        Ok(self.to_out.forward_residual(&attended, x)?)
    }
}
