//! The convolutional blocks before and after the transformer: `UVitBlock`, `ConvNextBlock`, `SkipFFTransformerBlock`.

use sango_tensor::nn::{Conv2d, Conv2dConfig, ConvTranspose2d, GlobalResponseNorm, Linear, RmsNorm};
use sango_tensor::{Activation, Tensor, Weights};

use super::ada_norm::Modulation;
use super::attention::{CrossAttention, KeyValue};
use super::uvit_config::UVit2DConfig;
use crate::error::Result;

/// Whether a block changes the resolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resample {
    None,
    /// Halves both sides before the block.
    Down,
    /// Doubles both sides after the block.
    Up,
}

/// What a block makes of the text, once per generation.
pub(super) struct UVitBlockConditioning {
    layers: Vec<(Modulation, SkipFFConditioning)>,
}

/// ConvNeXt blocks, each followed by cross-attention to the text.
pub(super) struct UVitBlock {
    downsample: Option<(RmsNorm, Conv2d)>,
    res_blocks: Vec<ConvNextBlock>,
    attention_blocks: Vec<SkipFFTransformerBlock>,
    upsample: Option<(RmsNorm, ConvTranspose2d)>,
}

impl UVitBlock {
    pub(super) fn load(weights: &Weights, config: &UVit2DConfig, resample: Resample) -> Result<Self> {
        let (channels, bias) = (config.block_out_channels, config.use_bias);
        let norm = |weights: &Weights| {
            RmsNorm::load(&weights.pp("norm"), channels, config.layer_norm_eps, config.ln_elementwise_affine)
        };
        let downsample = (resample == Resample::Down).then(|| {
            let weights = weights.pp("downsample");
            let halve = Conv2dConfig { stride: 2, padding: [0, 0, 1, 1], bias, ..Conv2dConfig::default() };
            Ok::<_, crate::ModelError>((
                norm(&weights)?,
                Conv2d::load(&weights.pp("conv"), channels, channels, 2, halve)?,
            ))
        });
        let upsample = (resample == Resample::Up).then(|| {
            let weights = weights.pp("upsample");
            let double = ConvTranspose2d::load(&weights.pp("conv"), channels, channels, 2, bias)?;
            Ok::<_, crate::ModelError>((norm(&weights)?, double))
        });
        let blocks = 0..config.num_res_blocks;
        Ok(Self {
            downsample: downsample.transpose()?,
            res_blocks: blocks
                .clone()
                .map(|n| ConvNextBlock::load(&weights.pp("res_blocks").pp(n), config))
                .collect::<Result<_>>()?,
            attention_blocks: blocks
                .map(|n| SkipFFTransformerBlock::load(&weights.pp("attention_blocks").pp(n), config))
                .collect::<Result<_>>()?,
            upsample: upsample.transpose()?,
        })
    }

    /// `activated_cond` is silu of the pooled condition `[B, hidden_size]`; `encoder_hidden_states`
    /// `[B, S, hidden_size]`.
    pub(super) fn condition(
        &self,
        activated_cond: &Tensor,
        encoder_hidden_states: &Tensor,
    ) -> Result<UVitBlockConditioning> {
        let layers = self.res_blocks.iter().zip(&self.attention_blocks).map(|(res_block, attention_block)| {
            let modulation = Modulation::new(&res_block.cond_embeds_mapper, activated_cond)?;
            Ok((modulation, attention_block.condition(encoder_hidden_states)?))
        });
        Ok(UVitBlockConditioning { layers: layers.collect::<Result<_>>()? })
    }

    /// `x` `[B, H, W, channels]`.
    pub(super) fn forward(&self, x: &Tensor, conditioning: &UVitBlockConditioning) -> Result<Tensor> {
        let mut x = x.clone();
        if let Some((norm, conv)) = &self.downsample {
            x = conv.forward(&norm.forward(&x)?)?;
        }
        let [batch, height, width, channels] = x.dims()?;
        let blocks = self.res_blocks.iter().zip(&self.attention_blocks);
        for ((res_block, attention_block), (modulation, context)) in blocks.zip(&conditioning.layers) {
            x = res_block.forward(&x)?.reshape(&[batch, height * width, channels])?;
            x = attention_block.forward(&modulation.apply(&x)?, context)?;
            x = x.reshape(&[batch, height, width, channels])?;
        }
        if let Some((norm, conv)) = &self.upsample {
            x = conv.forward(&norm.forward(&x)?)?;
        }
        Ok(x)
    }
}

struct ConvNextBlock {
    depthwise: Conv2d,
    norm: RmsNorm,
    channelwise_linear_1: Linear,
    channelwise_norm: GlobalResponseNorm,
    channelwise_linear_2: Linear,
    cond_embeds_mapper: Linear,
}

impl ConvNextBlock {
    fn load(weights: &Weights, config: &UVit2DConfig) -> Result<Self> {
        let (channels, bias) = (config.block_out_channels, config.use_bias);
        let inner = 4 * channels;
        let depthwise = Conv2dConfig { groups: channels, bias, ..Conv2dConfig::padded(1) };
        Ok(Self {
            depthwise: Conv2d::load(&weights.pp("depthwise"), channels, channels, 3, depthwise)?,
            norm: RmsNorm::load(&weights.pp("norm"), channels, config.layer_norm_eps, config.ln_elementwise_affine)?,
            channelwise_linear_1: Linear::load(&weights.pp("channelwise_linear_1"), channels, inner, bias)?,
            channelwise_norm: GlobalResponseNorm::load(&weights.pp("channelwise_norm"), inner)?,
            channelwise_linear_2: Linear::load(&weights.pp("channelwise_linear_2"), inner, channels, bias)?,
            cond_embeds_mapper: Linear::load(
                &weights.pp("cond_embeds_mapper"),
                config.hidden_size,
                2 * channels,
                bias,
            )?,
        })
    }

    /// The block without its modulation.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let normed = self.norm.forward(&self.depthwise.forward(x)?)?;
        let inner = self.channelwise_linear_1.forward_act(&normed, Activation::Gelu)?;
        Ok(self.channelwise_linear_2.forward_residual(&self.channelwise_norm.forward(&inner)?, x)?)
    }
}

struct SkipFFConditioning {
    context1: KeyValue,
    context2: KeyValue,
}

/// Two cross-attentions to the text and no feed-forward layer.
struct SkipFFTransformerBlock {
    kv_mapper: Option<Linear>,
    norm1: RmsNorm,
    attn1: CrossAttention,
    norm2: RmsNorm,
    attn2: CrossAttention,
}

impl SkipFFTransformerBlock {
    fn load(weights: &Weights, config: &UVit2DConfig) -> Result<Self> {
        let (channels, bias) = (config.block_out_channels, config.use_bias);
        let mapped = config.hidden_size != channels;
        let kv_mapper = mapped.then(|| Linear::load(&weights.pp("kv_mapper"), config.hidden_size, channels, bias));
        // The reference leaves these two norms at their defaults, whatever the configuration says.
        let norm = |name: &str| RmsNorm::load(&weights.pp(name), channels, 1e-6, true);
        let attention = |name: &str| CrossAttention::load(&weights.pp(name), channels, config.block_num_heads, bias);
        Ok(Self {
            kv_mapper: kv_mapper.transpose()?,
            norm1: norm("norm1")?,
            attn1: attention("attn1")?,
            norm2: norm("norm2")?,
            attn2: attention("attn2")?,
        })
    }

    fn condition(&self, encoder_hidden_states: &Tensor) -> Result<SkipFFConditioning> {
        let context = match &self.kv_mapper {
            Some(kv_mapper) => kv_mapper.forward(&encoder_hidden_states.silu()?)?,
            None => encoder_hidden_states.clone(),
        };
        Ok(SkipFFConditioning { context1: self.attn1.key_value(&context)?, context2: self.attn2.key_value(&context)? })
    }

    fn forward(&self, hidden_states: &Tensor, conditioning: &SkipFFConditioning) -> Result<Tensor> {
        let normed = self.norm1.forward(hidden_states)?;
        let hidden_states = self.attn1.forward(&normed, &conditioning.context1, hidden_states)?;
        let normed = self.norm2.forward(&hidden_states)?;
        self.attn2.forward(&normed, &conditioning.context2, &hidden_states)
    }
}
