//! The transformer's layers: `BasicTransformerBlock` with `norm_type="ada_norm_continuous"`.

use sango_tensor::nn::{GatedLinear, LayerNorm, Linear, RmsNorm};
use sango_tensor::{Activation, Tensor, Weights};

use super::attention::{Attention, KeyValue};
use super::uvit_config::UVit2DConfig;
use crate::error::Result;

/// A scale and a shift of every feature that depend on the text but not on the tokens, `[B, 1, width]` each.
pub(super) struct Modulation {
    scale: Tensor,
    shift: Tensor,
}

impl Modulation {
    /// From `linear(silu(cond))`, whose first half is added to 1.
    pub(super) fn new(linear: &Linear, activated_cond: &Tensor) -> Result<Self> {
        let both = linear.forward(activated_cond)?.unsqueeze(1)?;
        let width = both.dim(-1)? / 2;
        Ok(Self { scale: both.narrow(2, 0, width)?.add_scalar(1.0)?, shift: both.narrow(2, width, width)? })
    }

    /// `x · scale + shift` for `x` `[B, L, width]`.
    pub(super) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.mul(&self.scale)?.add(&self.shift)?)
    }
}

enum Norm {
    Rms(RmsNorm),
    Layer(LayerNorm),
}

/// `AdaLayerNormContinuous`: a norm whose scale and shift come from the text.
struct AdaLayerNorm {
    linear: Linear,
    norm: Norm,
}

impl AdaLayerNorm {
    fn load(weights: &Weights, config: &UVit2DConfig, rms: bool) -> Result<Self> {
        let (width, eps, affine) = (config.hidden_size, config.layer_norm_eps, config.ln_elementwise_affine);
        let norm = weights.pp("norm");
        Ok(Self {
            linear: Linear::load(&weights.pp("linear"), width, 2 * width, config.use_bias)?,
            norm: match rms {
                true => Norm::Rms(RmsNorm::load(&norm, width, eps, affine)?),
                false => Norm::Layer(LayerNorm::load_with(&norm, width, eps, affine, config.use_bias)?),
            },
        })
    }

    fn forward(&self, x: &Tensor, modulation: &Modulation) -> Result<Tensor> {
        modulation.apply(&match &self.norm {
            Norm::Rms(norm) => norm.forward(x)?,
            Norm::Layer(norm) => norm.forward(x)?,
        })
    }
}

/// What a layer makes of the text, once per generation.
pub(super) struct BlockConditioning {
    norm1: Modulation,
    norm2: Modulation,
    norm3: Modulation,
    context: KeyValue,
}

/// Self-attention, cross-attention to the text and a GEGLU feed-forward layer.
pub(super) struct BasicTransformerBlock {
    norm1: AdaLayerNorm,
    attn1: Attention,
    norm2: AdaLayerNorm,
    attn2: Attention,
    norm3: AdaLayerNorm,
    ff_in: GatedLinear,
    ff_out: Linear,
}

impl BasicTransformerBlock {
    pub(super) fn load(weights: &Weights, config: &UVit2DConfig) -> Result<Self> {
        let (width, inner, bias) = (config.hidden_size, config.intermediate_size, config.use_bias);
        let attention = |name: &str| Attention::load(&weights.pp(name), width, config.num_attention_heads, bias);
        Ok(Self {
            norm1: AdaLayerNorm::load(&weights.pp("norm1"), config, true)?,
            attn1: attention("attn1")?,
            norm2: AdaLayerNorm::load(&weights.pp("norm2"), config, true)?,
            attn2: attention("attn2")?,
            norm3: AdaLayerNorm::load(&weights.pp("norm3"), config, false)?,
            ff_in: GatedLinear::load(&weights.pp("ff.net.0.proj"), width, inner, bias)?,
            ff_out: Linear::load(&weights.pp("ff.net.2"), inner, width, bias)?,
        })
    }

    /// `activated_cond` is silu of the pooled condition `[B, width]`, `encoder_hidden_states` `[B, S, width]`.
    pub(super) fn condition(
        &self,
        activated_cond: &Tensor,
        encoder_hidden_states: &Tensor,
    ) -> Result<BlockConditioning> {
        Ok(BlockConditioning {
            norm1: Modulation::new(&self.norm1.linear, activated_cond)?,
            norm2: Modulation::new(&self.norm2.linear, activated_cond)?,
            norm3: Modulation::new(&self.norm3.linear, activated_cond)?,
            context: self.attn2.key_value(encoder_hidden_states)?,
        })
    }

    /// `hidden_states` `[B, L, width]`.
    pub(super) fn forward(&self, hidden_states: &Tensor, conditioning: &BlockConditioning) -> Result<Tensor> {
        let normed = self.norm1.forward(hidden_states, &conditioning.norm1)?;
        let hidden_states = self.attn1.forward_self(&normed, hidden_states)?;
        let normed = self.norm2.forward(&hidden_states, &conditioning.norm2)?;
        let hidden_states = self.attn2.forward(&normed, &conditioning.context, &hidden_states)?;
        let normed = self.norm3.forward(&hidden_states, &conditioning.norm3)?;
        let inner = self.ff_in.forward_gated(&normed, Activation::Gelu)?;
        Ok(self.ff_out.forward_residual(&inner, &hidden_states)?)
    }
}
