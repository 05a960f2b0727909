//! Attention as `diffusers.models.attention_processor.Attention` has it, apart for self- and cross-attention.
//!
//! Projections of the same input are stacked into one product; heads are read out of it where they lie.

use sango_tensor::nn::Linear;
use sango_tensor::ops::{Columns, multi_head_attention};
use sango_tensor::{Tensor, Weights};

use crate::error::Result;

/// Rows of `width` features look at each other.
pub(super) struct SelfAttention {
    to_qkv: Linear,
    to_out: Linear,
    width: usize,
    heads: usize,
}

impl SelfAttention {
    /// Loads `to_q`, `to_k`, `to_v` and `to_out.0`, all `[width, width]`.
    pub(super) fn load(weights: &Weights, width: usize, heads: usize, bias: bool) -> Result<Self> {
        let [q, k, v] = ["to_q", "to_k", "to_v"].map(|name| weights.pp(name));
        let to_qkv = Linear::load_stacked(&[&q, &k, &v], width, &[width; 3], bias)?;
        Ok(Self { to_qkv, to_out: Linear::load(&weights.pp("to_out.0"), width, width, bias)?, width, heads })
    }

    /// `x` `[B, L, width]` looks at itself; the result is added to `residual`.
    pub(super) fn forward(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let qkv = self.to_qkv.forward_to_attention(x)?;
        let [query, key, value] = [0, 1, 2].map(|n| Columns::of(&qkv, n * self.width..(n + 1) * self.width));
        let attended = multi_head_attention(query, key, value, self.heads, self.heads, None, false, None)?;
        Ok(self.to_out.forward_residual(&attended, residual)?)
    }
}

/// Keys and values of something that is attended to many times, side by side: `[B, S, 2 · width]`.
pub(super) struct KeyValue(Tensor);

/// Rows of `width` features look at others of the same width.
pub(super) struct CrossAttention {
    to_q: Linear,
    to_kv: Linear,
    to_out: Linear,
    width: usize,
    heads: usize,
}

impl CrossAttention {
    /// Loads `to_q`, `to_k`, `to_v` and `to_out.0`, all `[width, width]`.
    pub(super) fn load(weights: &Weights, width: usize, heads: usize, bias: bool) -> Result<Self> {
        let [k, v] = ["to_k", "to_v"].map(|name| weights.pp(name));
        Ok(Self {
            to_q: Linear::load(&weights.pp("to_q"), width, width, bias)?,
            to_kv: Linear::load_stacked(&[&k, &v], width, &[width; 2], bias)?,
            to_out: Linear::load(&weights.pp("to_out.0"), width, width, bias)?,
            width,
            heads,
        })
    }

    /// Keys and values of `context` `[B, S, width]`.
    pub(super) fn key_value(&self, context: &Tensor) -> Result<KeyValue> {
        Ok(KeyValue(self.to_kv.forward_to_attention(context)?))
    }

    /// `x` `[B, L, width]` looks at `context`; the result is added to `residual`.
    pub(super) fn forward(&self, x: &Tensor, KeyValue(context): &KeyValue, residual: &Tensor) -> Result<Tensor> {
        let query = self.to_q.forward_to_attention(x)?;
        let key = Columns::of(context, 0..self.width);
        let value = Columns::of(context, self.width..2 * self.width);
        let attended = multi_head_attention(&query, key, value, self.heads, self.heads, None, false, None)?;
        Ok(self.to_out.forward_residual(&attended, residual)?)
    }
}
