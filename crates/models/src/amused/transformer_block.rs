//! The transformer's layers: `BasicTransformerBlock` with `norm_type="ada_norm_continuous"`.

use sango_tensor::nn::{GatedLinear, Linear};
use sango_tensor::{Activation, Tensor, Weights};

use super::ada_norm::{AdaLayerNorm, FoldedNorm, NormType};
use super::attention::{CrossAttention, KeyValue, SelfAttention};
use super::uvit_config::UVit2DConfig;
use crate::error::Result;

/// What a layer makes of the text, once per generation.
pub(super) struct BlockConditioning {
    norm1: FoldedNorm,
    norm2: FoldedNorm,
    norm3: FoldedNorm,
    context: KeyValue,
}

/// Self-attention, cross-attention to the text and a GEGLU feed-forward layer.
pub(super) struct BasicTransformerBlock {
    norm1: AdaLayerNorm,
    attn1: SelfAttention,
    norm2: AdaLayerNorm,
    attn2: CrossAttention,
    norm3: AdaLayerNorm,
    ff_in: GatedLinear,
    ff_out: Linear,
}

impl BasicTransformerBlock {
    pub(super) fn load(weights: &Weights, config: &UVit2DConfig) -> Result<Self> {
        let (width, heads, bias) = (config.hidden_size, config.num_attention_heads, config.use_bias);
        let inner = config.intermediate_size;
        Ok(Self {
            norm1: AdaLayerNorm::load(&weights.pp("norm1"), config, NormType::RmsNorm)?,
            attn1: SelfAttention::load(&weights.pp("attn1"), width, heads, bias)?,
            norm2: AdaLayerNorm::load(&weights.pp("norm2"), config, NormType::RmsNorm)?,
            attn2: CrossAttention::load(&weights.pp("attn2"), width, heads, bias)?,
            norm3: AdaLayerNorm::load(&weights.pp("norm3"), config, NormType::LayerNorm)?,
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
            norm1: self.norm1.fold(activated_cond)?,
            norm2: self.norm2.fold(activated_cond)?,
            norm3: self.norm3.fold(activated_cond)?,
            context: self.attn2.key_value(encoder_hidden_states)?,
        })
    }

    /// `hidden_states` `[B, L, width]`.
    pub(super) fn forward(&self, hidden_states: &Tensor, conditioning: &BlockConditioning) -> Result<Tensor> {
        let normed = self.norm1.forward(hidden_states, &conditioning.norm1)?;
        let hidden_states = self.attn1.forward(&normed, hidden_states)?;
        let normed = self.norm2.forward(&hidden_states, &conditioning.norm2)?;
        let hidden_states = self.attn2.forward(&normed, &conditioning.context, &hidden_states)?;
        let normed = self.norm3.forward(&hidden_states, &conditioning.norm3)?;
        let inner = self.ff_in.forward_gated(&normed, Activation::Gelu)?;
        Ok(self.ff_out.forward_residual(&inner, &hidden_states)?)
    }
}
