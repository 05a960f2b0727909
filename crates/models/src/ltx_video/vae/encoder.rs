//! `LTXVideoEncoder3d`: video to latents.

use sango_tensor::{DType, Tensor, Weights};

use super::AutoencoderKLLTXVideoConfig;
use super::causal_conv3d::LTXVideoCausalConv3d;
use super::layout::{DownBlock, Downsample, EncoderLayout};
use super::noise::NoiseSource;
use super::resampling::{LTXVideoDownsampler3d, patchify};
use super::resnet::{LTXVideoResnetBlock3d, ResnetOptions};
use crate::error::{ModelError, Result};

pub(super) struct LTXVideoEncoder3d {
    conv_in: LTXVideoCausalConv3d,
    down_blocks: Vec<LTXVideoDownBlock3D>,
    mid_block: Vec<LTXVideoResnetBlock3d>,
    conv_out: LTXVideoCausalConv3d,
    patch_size: usize,
}

impl LTXVideoEncoder3d {
    pub(super) fn load(
        weights: &Weights,
        config: &AutoencoderKLLTXVideoConfig,
        layout: &EncoderLayout,
    ) -> Result<Self> {
        if config.patch_size_t != 1 {
            let detail = format!("is {}, for which the reference has no encoder; only 1 encodes", config.patch_size_t);
            return Err(ModelError::request("patch_size_t", detail));
        }
        let options = ResnetOptions {
            eps: config.resnet_norm_eps,
            is_causal: config.encoder_causal,
            inject_noise: false,
            timestep_conditioning: false,
        };
        let conv = |name: &str, input: usize, output: usize| {
            LTXVideoCausalConv3d::load(&weights.pp(name), input, output, 3, [1; 3], options.is_causal)
        };
        let blocks = layout.blocks.iter().enumerate();
        let down_blocks =
            blocks.map(|(n, block)| LTXVideoDownBlock3D::load(&weights.pp("down_blocks").pp(n), block, options));
        let mid = weights.pp("mid_block.resnets");
        Ok(Self {
            conv_in: conv("conv_in", layout.patch_channels, layout.first)?,
            down_blocks: down_blocks.collect::<Result<_>>()?,
            mid_block: resnets(&mid, layout.last, layout.mid_layers, options)?,
            conv_out: conv("conv_out", layout.last, config.latent_channels + 1)?,
            patch_size: config.patch_size,
        })
    }

    /// `[B, C, T, H, W]` → `[B, latent_channels + 1, f, h, w]`: the mean, and the log variance that all channels share.
    /// `pause` is called between blocks, and its error ends the work.
    pub(super) fn forward(&self, video: &Tensor, mut pause: impl FnMut() -> Result<()>) -> Result<Tensor> {
        let mut hidden_states = self.conv_in.forward(&patchify(video, self.patch_size)?)?;
        for block in &self.down_blocks {
            pause()?;
            hidden_states = block.forward(hidden_states)?;
        }
        pause()?;
        hidden_states = run_resnets(&self.mid_block, hidden_states)?;
        let moments = self.conv_out.forward_normed(&hidden_states, None, None, DType::F32)?;
        Ok(moments.permute(&[0, 4, 1, 2, 3])?)
    }
}

/// `LTXVideoDownBlock3D` and `LTXVideo095DownBlock3D`.
struct LTXVideoDownBlock3D {
    resnets: Vec<LTXVideoResnetBlock3d>,
    downsampler: Option<Downsampler>,
    conv_out: Option<LTXVideoResnetBlock3d>,
}

enum Downsampler {
    Conv(LTXVideoCausalConv3d),
    Residual(LTXVideoDownsampler3d),
}

impl LTXVideoDownBlock3D {
    fn load(weights: &Weights, block: &DownBlock, options: ResnetOptions) -> Result<Self> {
        let (input, output) = (block.in_channels, block.out_channels);
        let at = weights.pp("downsamplers.0");
        let downsampler = block.downsample.map(|downsample| -> Result<Downsampler> {
            Ok(match downsample {
                Downsample::Conv => {
                    let stride = downsample.stride();
                    Downsampler::Conv(LTXVideoCausalConv3d::load(&at, input, input, 3, stride, options.is_causal)?)
                }
                Downsample::Residual { stride } => {
                    Downsampler::Residual(LTXVideoDownsampler3d::load(&at, input, output, stride, options.is_causal)?)
                }
            })
        });
        let conv_out =
            block.conv_out.then(|| LTXVideoResnetBlock3d::load(&weights.pp("conv_out"), input, output, options));
        Ok(Self {
            resnets: resnets(&weights.pp("resnets"), input, block.layers, options)?,
            downsampler: downsampler.transpose()?,
            conv_out: conv_out.transpose()?,
        })
    }

    fn forward(&self, hidden_states: Tensor) -> Result<Tensor> {
        let mut hidden_states = run_resnets(&self.resnets, hidden_states)?;
        hidden_states = match &self.downsampler {
            Some(Downsampler::Conv(conv)) => conv.forward(&hidden_states)?,
            Some(Downsampler::Residual(downsampler)) => downsampler.forward(hidden_states)?,
            None => hidden_states,
        };
        match &self.conv_out {
            Some(resnet) => resnet.forward(hidden_states, None, &mut NoiseSource::Zeros),
            None => Ok(hidden_states),
        }
    }
}

fn resnets(
    weights: &Weights,
    channels: usize,
    layers: usize,
    options: ResnetOptions,
) -> Result<Vec<LTXVideoResnetBlock3d>> {
    (0..layers).map(|n| LTXVideoResnetBlock3d::load(&weights.pp(n), channels, channels, options)).collect()
}

fn run_resnets(resnets: &[LTXVideoResnetBlock3d], mut hidden_states: Tensor) -> Result<Tensor> {
    for resnet in resnets {
        hidden_states = resnet.forward(hidden_states, None, &mut NoiseSource::Zeros)?;
    }
    Ok(hidden_states)
}
