//! The convolutional encoder and decoder. Follows `diffusers/models/autoencoders/vae.py`.

use sango_tensor::nn::{Conv2d, Conv2dConfig, GroupNorm, Linear};
use sango_tensor::{Activation, Tensor, Weights};

use super::resnet::{ActFn, EPS, ResnetBlock2D};
use super::vq_config::VQConfig;
use crate::error::Result;

/// `Encoder`: picture to latents, halving the sides between its blocks.
pub(super) struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<Block>,
    mid_block: UNetMidBlock2D,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    pub(super) fn load(weights: &Weights, config: &VQConfig, act: ActFn) -> Result<Self> {
        let channels = &config.block_out_channels;
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let same = Conv2dConfig::padded(1);
        let halve = Conv2dConfig { stride: 2, padding: [0, 0, 1, 1], ..Conv2dConfig::default() };
        let down_blocks = channels.iter().enumerate().map(|(n, &out)| {
            let weights = weights.pp("down_blocks").pp(n);
            let resample = (n + 1 < channels.len()).then_some(("downsamplers.0.conv", halve));
            let input = channels[n.saturating_sub(1)];
            Block::load(&weights, input, out, config.layers_per_block, config.norm_num_groups, act, resample)
        });
        Ok(Self {
            conv_in: Conv2d::load(&weights.pp("conv_in"), config.in_channels, first, 3, same)?,
            down_blocks: down_blocks.collect::<Result<_>>()?,
            mid_block: UNetMidBlock2D::load(&weights.pp("mid_block"), last, config, act)?,
            conv_norm_out: GroupNorm::load(&weights.pp("conv_norm_out"), config.norm_num_groups, last, EPS)?,
            conv_out: Conv2d::load(&weights.pp("conv_out"), last, config.latent_channels, 3, same)?,
        })
    }

    /// `[B, H, W, in_channels]` → `[B, h, w, latent_channels]`.
    pub(super) fn forward(&self, sample: &Tensor) -> Result<Tensor> {
        let mut sample = self.conv_in.forward(sample)?;
        for block in &self.down_blocks {
            sample = block.forward(&sample)?;
        }
        let sample = self.mid_block.forward(&sample)?;
        Ok(self.conv_out.forward(&self.conv_norm_out.forward_act(&sample, Activation::Silu)?)?)
    }
}

/// `Decoder`: latents to picture, doubling the sides between its blocks.
pub(super) struct Decoder {
    conv_in: Conv2d,
    mid_block: UNetMidBlock2D,
    up_blocks: Vec<Block>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    pub(super) fn load(weights: &Weights, config: &VQConfig, act: ActFn) -> Result<Self> {
        let channels: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let same = Conv2dConfig::padded(1);
        // The enlarged picture is four times the size; convolving from the small one saves writing it.
        let double = Conv2dConfig { upsample: 2, ..same };
        let up_blocks = channels.iter().enumerate().map(|(n, &out)| {
            let weights = weights.pp("up_blocks").pp(n);
            let resample = (n + 1 < channels.len()).then_some(("upsamplers.0.conv", double));
            let input = channels[n.saturating_sub(1)];
            Block::load(&weights, input, out, config.layers_per_block + 1, config.norm_num_groups, act, resample)
        });
        Ok(Self {
            conv_in: Conv2d::load(&weights.pp("conv_in"), config.latent_channels, first, 3, same)?,
            mid_block: UNetMidBlock2D::load(&weights.pp("mid_block"), first, config, act)?,
            up_blocks: up_blocks.collect::<Result<_>>()?,
            conv_norm_out: GroupNorm::load(&weights.pp("conv_norm_out"), config.norm_num_groups, last, EPS)?,
            conv_out: Conv2d::load(&weights.pp("conv_out"), last, config.out_channels, 3, same)?,
        })
    }

    /// `[B, h, w, latent_channels]` → `[B, H, W, out_channels]`.
    pub(super) fn forward(&self, sample: &Tensor) -> Result<Tensor> {
        let mut sample = self.mid_block.forward(&self.conv_in.forward(sample)?)?;
        for block in &self.up_blocks {
            sample = block.forward(&sample)?;
        }
        Ok(self.conv_out.forward(&self.conv_norm_out.forward_act(&sample, Activation::Silu)?)?)
    }
}

/// `DownEncoderBlock2D` or `UpDecoderBlock2D`: residual blocks, then a convolution that changes the resolution.
struct Block {
    resnets: Vec<ResnetBlock2D>,
    resample: Option<Conv2d>,
}

impl Block {
    fn load(
        weights: &Weights,
        in_channels: usize,
        out_channels: usize,
        layers: usize,
        groups: usize,
        act: ActFn,
        resample: Option<(&str, Conv2dConfig)>,
    ) -> Result<Self> {
        let resnets = (0..layers).map(|n| {
            let input = if n == 0 { in_channels } else { out_channels };
            ResnetBlock2D::load(&weights.pp("resnets").pp(n), input, out_channels, groups, act)
        });
        let resample =
            resample.map(|(name, config)| Conv2d::load(&weights.pp(name), out_channels, out_channels, 3, config));
        Ok(Self { resnets: resnets.collect::<Result<_>>()?, resample: resample.transpose()? })
    }

    fn forward(&self, hidden_states: &Tensor) -> Result<Tensor> {
        let mut hidden_states = hidden_states.clone();
        for resnet in &self.resnets {
            hidden_states = resnet.forward(&hidden_states)?;
        }
        match &self.resample {
            Some(conv) => Ok(conv.forward(&hidden_states)?),
            None => Ok(hidden_states),
        }
    }
}

struct UNetMidBlock2D {
    resnets: [ResnetBlock2D; 2],
    attention: Option<MidAttention>,
}

impl UNetMidBlock2D {
    fn load(weights: &Weights, channels: usize, config: &VQConfig, act: ActFn) -> Result<Self> {
        let groups = config.norm_num_groups;
        let resnet = |n: usize| ResnetBlock2D::load(&weights.pp("resnets").pp(n), channels, channels, groups, act);
        let attention =
            config.mid_block_add_attention.then(|| MidAttention::load(&weights.pp("attentions.0"), channels, groups));
        Ok(Self { resnets: [resnet(0)?, resnet(1)?], attention: attention.transpose()? })
    }

    fn forward(&self, hidden_states: &Tensor) -> Result<Tensor> {
        let mut hidden_states = self.resnets[0].forward(hidden_states)?;
        if let Some(attention) = &self.attention {
            hidden_states = attention.forward(&hidden_states)?;
        }
        self.resnets[1].forward(&hidden_states)
    }
}

/// Attention between all pixels with one head as wide as the picture has channels.
struct MidAttention {
    group_norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
}

impl MidAttention {
    fn load(weights: &Weights, channels: usize, groups: usize) -> Result<Self> {
        let linear = |name: &str| Linear::load(&weights.pp(name), channels, channels, true);
        Ok(Self {
            group_norm: GroupNorm::load(&weights.pp("group_norm"), groups, channels, EPS)?,
            to_q: linear("to_q")?,
            to_k: linear("to_k")?,
            to_v: linear("to_v")?,
            to_out: linear("to_out.0")?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let [batch, height, width, channels] = x.dims()?;
        let rows = [batch, height * width, channels];
        let normed = self.group_norm.forward(x)?.reshape(&rows)?;
        let (query, key) = (self.to_q.forward(&normed)?, self.to_k.forward(&normed)?);
        // A head can be wider than the attention kernel takes (256), so this is written out.
        let scores = query.matmul(&key.transpose(1, 2)?)?.mul_scalar(1.0 / (channels as f32).sqrt())?;
        let attended = scores.softmax(-1)?.matmul(&self.to_v.forward(&normed)?)?;
        Ok(self.to_out.forward_residual(&attended, &x.reshape(&rows)?)?.reshape(x.shape())?)
    }
}
