//! Attention as in `diffusers.models.attention_processor.Attention`.

use tch::Tensor;
use tch::nn::Path;

use super::Linear;

/// Multi-head attention with keys `to_q`, `to_k`, `to_v`, `to_out.0`.
#[derive(Debug)]
pub struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: i64,
}

impl Attention {
    /// `context_dim` is the width of what keys and values are made from.
    pub fn new(path: &Path, dim: i64, context_dim: i64, heads: i64, bias: bool) -> Self {
        Self {
            to_q: Linear::new(&(path / "to_q"), dim, dim, bias),
            to_k: Linear::new(&(path / "to_k"), context_dim, dim, bias),
            to_v: Linear::new(&(path / "to_v"), context_dim, dim, bias),
            to_out: Linear::new(&(path / "to_out" / 0), dim, dim, bias),
            heads,
        }
    }

    /// `x` `[B, L, dim]`; `context` `[B, S, context_dim]`, or `x` itself for self-attention.
    pub fn forward(&self, x: &Tensor, context: &Tensor) -> Tensor {
        let q = split(&self.to_q.forward(x), self.heads);
        let k = split(&self.to_k.forward(context), self.heads);
        let v = split(&self.to_v.forward(context), self.heads);
        let (b, l, dim) = x.size3().unwrap_or((0, 0, 0));
        let out = attend(&q, &k, &v, None);
        let out = out.transpose(1, 2).reshape([b, l, dim]);
        self.to_out.forward(&out)
    }
}

/// `[B, L, heads·d]` → `[B, heads, L, d]`.
pub(crate) fn split(x: &Tensor, heads: i64) -> Tensor {
    let (b, l, dim) = x.size3().unwrap_or((0, 0, 0));
    x.view([b, l, heads, dim / heads]).transpose(1, 2)
}

/// softmax(q·kᵀ/√d + bias)·v with explicit products: the backward pass of the fused kernel is far slower on a CPU.
pub(crate) fn attend(q: &Tensor, k: &Tensor, v: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let scale = 1.0 / (q.size().last().copied().unwrap_or(1) as f64).sqrt();
    let scores = (q * scale).matmul(&k.transpose(-2, -1));
    let scores = match bias {
        Some(bias) => scores + bias,
        None => scores,
    };
    let kind = scores.kind();
    scores.softmax(-1, kind).matmul(v)
}
