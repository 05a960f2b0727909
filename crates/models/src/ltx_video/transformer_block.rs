//! The transformer's layers (`LTXVideoTransformerBlock`).

use sango_tensor::nn::{GatedLinear, Linear};
use sango_tensor::ops::{Columns, Modulation, rms_norm_modulated};
use sango_tensor::{Activation, Tensor, Weights};

use super::attention::{CrossAttention, KeyValue, SelfAttention};
use super::request::StgMode;
use super::rope::RotaryEmbedding;
use super::transformer_config::{FeedForwardAct, LTXVideoTransformer3DConfig};
use crate::error::Result;

/// Self-attention, cross-attention to the text and a feed-forward layer, the first and last told the time.
pub(super) struct LTXVideoTransformerBlock {
    norm1: Option<Tensor>,
    attn1: SelfAttention,
    norm2: Option<Tensor>,
    attn2: CrossAttention,
    ff_in: FeedForwardIn,
    ff_out: Linear,
    /// `[6 · width]`.
    scale_shift_table: Tensor,
    width: usize,
    eps: f32,
}

enum FeedForwardIn {
    Plain(Linear, Activation),
    Gated(GatedLinear, Activation),
}

impl FeedForwardIn {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Plain(linear, act) => linear.forward_act_narrow(x, *act)?,
            Self::Gated(linear, act) => linear.forward_gated(x, *act)?,
        })
    }
}

/// How many times wider than the rest a feed-forward layer is.
pub(super) const FEED_FORWARD_FACTOR: usize = 4;

impl LTXVideoTransformerBlock {
    pub(super) fn load(weights: &Weights, config: &LTXVideoTransformer3DConfig, act: FeedForwardAct) -> Result<Self> {
        let width = config.inner_dim();
        let inner = FEED_FORWARD_FACTOR * width;
        let norm = |name: &str| {
            config.norm_elementwise_affine.then(|| weights.get_f32(&format!("{name}.weight"), &[width])).transpose()
        };
        let proj = weights.pp("ff.net.0.proj");
        Ok(Self {
            norm1: norm("norm1")?,
            attn1: SelfAttention::load(&weights.pp("attn1"), config)?,
            norm2: norm("norm2")?,
            attn2: CrossAttention::load(&weights.pp("attn2"), config)?,
            ff_in: match act {
                FeedForwardAct::Plain(act) => FeedForwardIn::Plain(Linear::load(&proj, width, inner, true)?, act),
                FeedForwardAct::Gated(act) => FeedForwardIn::Gated(GatedLinear::load(&proj, width, inner, true)?, act),
            },
            ff_out: Linear::load(&weights.pp("ff.net.2"), inner, width, true)?,
            scale_shift_table: weights.get_f32("scale_shift_table", &[6, width])?.reshape(&[6 * width])?,
            width,
            eps: config.norm_eps,
        })
    }

    /// Keys and values of the text `[B, S, width]`.
    pub(super) fn key_value(&self, encoder_hidden_states: &Tensor) -> Result<KeyValue> {
        self.attn2.key_value(encoder_hidden_states)
    }

    /// `hidden_states` `[B, L, width]`, `temb` `[B, R, 6 · width]` where `R` divides `L`. With `perturbed`, the last row of
    /// the batch is disturbed.
    pub(super) fn forward(
        &self,
        hidden_states: &Tensor,
        temb: &Tensor,
        rotary: &RotaryEmbedding,
        (text, mask): (&KeyValue, &Tensor),
        perturbed: Option<StgMode>,
    ) -> Result<Tensor> {
        let ada = temb.add(&self.scale_shift_table)?;
        let part = |n: usize| Columns::of(&ada, n * self.width..(n + 1) * self.width);
        let [shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp] = [0, 1, 2, 3, 4, 5].map(part);
        let to = self.ff_out.dtype();
        let normed = |x: &Tensor, weight: &Option<Tensor>, scale, shift| {
            let modulation = Modulation::new(scale, shift);
            rms_norm_modulated(x, weight.as_ref(), Some(&modulation), Activation::None, self.eps, to)
        };
        let x = normed(hidden_states, &self.norm1, scale_msa, shift_msa)?;
        let attended = self.attn1.forward(&x, rotary, gate_msa, hidden_states, perturbed)?;
        let attended = self.attn2.forward(&attended, text, mask)?;
        let x = normed(&attended, &self.norm2, scale_mlp, shift_mlp)?;
        let out = self.ff_out.forward_gated_residual(&self.ff_in.forward(&x)?, gate_mlp, &attended)?;
        if perturbed != Some(StgMode::TransformerBlock) {
            return Ok(out);
        }
        let last = out.dim(0)? - 1;
        Ok(Tensor::cat(&[&out.narrow(0, 0, last)?, &hidden_states.narrow(0, last, 1)?], 0)?)
    }
}
