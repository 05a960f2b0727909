//! `LTXVideoTransformerBlock`: attention among the tokens of the clip, attention to the prompt, a feed-forward layer.

use tch::nn::{Init, Path};
use tch::{Kind, Tensor};

use super::config::TransformerConfig;
use super::rope::RotaryPosEmbed;
use super::{Part, by_part};
use crate::nn::attention::{attend, split};
use crate::nn::{Linear, RmsNorm};

#[derive(Debug)]
pub(super) struct TransformerBlock {
    attn1: Attention,
    attn2: Attention,
    proj: Linear,
    out: Linear,
    scale_shift_table: Tensor,
}

impl TransformerBlock {
    pub(super) fn new(path: &Path, config: &TransformerConfig) -> Self {
        let dim = config.inner_dim();
        let net = path / "ff" / "net";
        // The gates start at one, so that all parts take part from the first step.
        let scale_shift_table = path.var("scale_shift_table", &[6, dim], Init::Const(0.0));
        tch::no_grad(|| {
            for gate in [2, 5] {
                let _ = scale_shift_table.get(gate).fill_(1.0);
            }
        });
        Self {
            attn1: Attention::new(&(path / "attn1"), config),
            attn2: Attention::new(&(path / "attn2"), config),
            proj: Linear::new(&(&net / 0 / "proj"), dim, 4 * dim, true),
            out: Linear::new(&(&net / 2), 4 * dim, dim, true),
            scale_shift_table,
        }
    }

    /// `x` `[B, S, dim]`, `caption` `[B, L, dim]`, `bias` `[B, 1, 1, L]`.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        caption: &Tensor,
        bias: &Tensor,
        parts: &[Part],
        rope: &RotaryPosEmbed,
    ) -> Tensor {
        let ada = |part: &Part, i: i64| part.time.narrow(1, i, 1) + self.scale_shift_table.get(i);
        let modulated = |x: &Tensor, shift: i64| {
            by_part(&[&rms_norm(x)], parts, |part, x| ada(part, shift).addcmul(x[0], &(ada(part, shift + 1) + 1.0)))
        };
        let gated = |x: &Tensor, added: &Tensor, gate: i64| {
            by_part(&[x, added], parts, |part, x| x[0].addcmul(x[1], &ada(part, gate)))
        };
        let h = modulated(x, 0);
        let x = gated(x, &self.attn1.forward(&h, &h, None, Some(rope)), 2);
        let x = &x + self.attn2.forward(&x, caption, Some(bias), None);
        let h = modulated(&x, 3);
        gated(&x, &self.out.forward(&self.proj.forward(&h).gelu("tanh")), 5)
    }
}

/// `LTXAttention`: queries and keys are normalised across all heads.
#[derive(Debug)]
struct Attention {
    norm_q: RmsNorm,
    norm_k: RmsNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: i64,
}

impl Attention {
    fn new(path: &Path, config: &TransformerConfig) -> Self {
        let dim = config.inner_dim();
        let linear = |name: &str| Linear::new(&(path / name), dim, dim, true);
        Self {
            norm_q: RmsNorm::new(&(path / "norm_q"), dim, 1e-5),
            norm_k: RmsNorm::new(&(path / "norm_k"), dim, 1e-5),
            to_q: linear("to_q"),
            to_k: linear("to_k"),
            to_v: linear("to_v"),
            to_out: Linear::new(&(path / "to_out" / 0), dim, dim, true),
            heads: config.num_attention_heads,
        }
    }

    fn forward(&self, x: &Tensor, context: &Tensor, bias: Option<&Tensor>, rope: Option<&RotaryPosEmbed>) -> Tensor {
        let mut q = self.norm_q.forward(&self.to_q.forward(x));
        let mut k = self.norm_k.forward(&self.to_k.forward(context));
        if let Some(rope) = rope {
            (q, k) = (rope.apply(&q), rope.apply(&k));
        }
        let v = split(&self.to_v.forward(context), self.heads);
        let mixed = attend(&split(&q, self.heads), &split(&k, self.heads), &v, bias);
        self.to_out.forward(&mixed.transpose(1, 2).flatten(2, 3))
    }
}

/// x / √(mean(x²) + eps) over the last dimension, without a weight.
fn rms_norm(x: &Tensor) -> Tensor {
    let mean_square = x.square().mean_dim([-1i64].as_slice(), true, Kind::Float);
    x * (mean_square + 1e-6).rsqrt().to_kind(x.kind())
}
