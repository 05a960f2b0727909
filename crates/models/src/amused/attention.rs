//! Attention as `diffusers.models.attention_processor.Attention` has it, for self- and cross-attention.

use sango_tensor::nn::Linear;
use sango_tensor::ops::multi_head_attention;
use sango_tensor::{Tensor, Weights};

use crate::error::Result;

/// Keys and values of something that is attended to many times.
pub(super) struct KeyValue {
    key: Tensor,
    value: Tensor,
}

/// Multi-head attention from `width` features back to `width` features.
pub(super) struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: usize,
}

impl Attention {
    /// Loads `to_q`, `to_k`, `to_v` and `to_out.0`, all `[width, width]`.
    pub(super) fn load(weights: &Weights, width: usize, heads: usize, bias: bool) -> Result<Self> {
        let linear = |name: &str| Linear::load(&weights.pp(name), width, width, bias);
        Ok(Self {
            to_q: linear("to_q")?,
            to_k: linear("to_k")?,
            to_v: linear("to_v")?,
            to_out: linear("to_out.0")?,
            heads,
        })
    }

    /// Keys and values of `context` `[B, S, width]`.
    pub(super) fn key_value(&self, context: &Tensor) -> Result<KeyValue> {
        Ok(KeyValue { key: self.to_k.forward(context)?, value: self.to_v.forward(context)? })
    }

    /// `x` `[B, L, width]` looks at `context`; the result is added to `residual`.
    pub(super) fn forward(&self, x: &Tensor, context: &KeyValue, residual: &Tensor) -> Result<Tensor> {
        let query = self.to_q.forward(x)?;
        let KeyValue { key, value } = context;
        let attended = multi_head_attention(&query, key, value, self.heads, self.heads, None, false, None)?;
        Ok(self.to_out.forward_residual(&attended, residual)?)
    }

    /// `x` looks at itself.
    pub(super) fn forward_self(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.forward(x, &self.key_value(x)?, residual)
    }
}
