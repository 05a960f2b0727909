//! `LTXVideoDecoder3d`: latents to video.

use sango_tensor::{DType, Tensor, Weights, release_buffers};

use super::AutoencoderKLLTXVideoConfig;
use super::causal_conv3d::LTXVideoCausalConv3d;
use super::layout::{DecoderLayout, UpBlock};
use super::noise::NoiseSource;
use super::resampling::{LTXVideoUpsampler3d, unpatchify};
use super::resnet::{LTXVideoResnetBlock3d, ResnetOptions};
use super::time_embedding::{TimestepEmbedding, modulation};
use crate::error::Result;

pub(super) struct LTXVideoDecoder3d {
    conv_in: LTXVideoCausalConv3d,
    mid_block: UpLayers,
    up_blocks: Vec<LTXVideoUpBlock3d>,
    conv_out: LTXVideoCausalConv3d,
    time: Option<Time>,
    patch_size_t: usize,
    patch_size: usize,
}

/// What a decoder that is told the time has besides its blocks.
struct Time {
    timestep_scale_multiplier: f32,
    time_embedder: TimestepEmbedding,
    /// `[1, 1, 2 · channels]`.
    scale_shift_table: Tensor,
    channels: usize,
}

impl LTXVideoDecoder3d {
    pub(super) fn load(
        weights: &Weights,
        config: &AutoencoderKLLTXVideoConfig,
        layout: &DecoderLayout,
    ) -> Result<Self> {
        let options = ResnetOptions {
            eps: config.resnet_norm_eps,
            is_causal: config.decoder_causal,
            inject_noise: layout.mid_noise,
            timestep_conditioning: config.timestep_conditioning,
        };
        let conv = |name: &str, input: usize, output: usize| {
            LTXVideoCausalConv3d::load(&weights.pp(name), input, output, 3, [1; 3], options.is_causal)
        };
        let blocks = layout.blocks.iter().enumerate();
        let up_blocks =
            blocks.map(|(n, block)| LTXVideoUpBlock3d::load(&weights.pp("up_blocks").pp(n), block, options));
        let last = layout.last;
        let time = || -> Result<Time> {
            Ok(Time {
                // Some conversions left it out: it is the same in all published models.
                timestep_scale_multiplier: match weights.contains("timestep_scale_multiplier") {
                    true => weights.get_f32("timestep_scale_multiplier", &[])?.item()?,
                    false => 1000.0,
                },
                time_embedder: TimestepEmbedding::load(&weights.pp("time_embedder"), 2, last)?,
                scale_shift_table: weights.get_f32("scale_shift_table", &[2, last])?.reshape(&[1, 1, 2 * last])?,
                channels: last,
            })
        };
        let mid = weights.pp("mid_block");
        Ok(Self {
            conv_in: conv("conv_in", config.latent_channels, layout.first)?,
            mid_block: UpLayers::load(&mid, (layout.first, layout.first), layout.mid_layers, options)?,
            up_blocks: up_blocks.collect::<Result<_>>()?,
            conv_out: conv("conv_out", last, layout.patch_channels)?,
            time: config.timestep_conditioning.then(time).transpose()?,
            patch_size_t: config.patch_size_t,
            patch_size: config.patch_size,
        })
    }

    /// `[B, latent_channels, f, h, w]` → `[B, C, T, H, W]`. `timestep` is 0 for decoders that are not told the time;
    /// `pause` is called between blocks, and its error ends the work.
    pub(super) fn forward(
        &self,
        latents: &Tensor,
        timestep: f32,
        noise: &mut NoiseSource<'_>,
        mut pause: impl FnMut() -> Result<()>,
    ) -> Result<Tensor> {
        let mut hidden_states = self.conv_in.forward(&latents.permute(&[0, 2, 3, 4, 1])?)?;
        let timestep = self.time.as_ref().map_or(0.0, |time| timestep * time.timestep_scale_multiplier);
        pause()?;
        hidden_states = self.mid_block.forward(hidden_states, timestep, noise)?;
        for block in &self.up_blocks {
            pause()?;
            hidden_states = block.forward(hidden_states, timestep, noise)?;
        }
        pause()?;
        let ada =
            |time: &Time| -> Result<Tensor> { Ok(time.time_embedder.forward(timestep)?.add(&time.scale_shift_table)?) };
        let ada = self.time.as_ref().map(ada).transpose()?;
        let modulated = self.time.as_ref().zip(ada.as_ref()).map(|(time, ada)| modulation(ada, time.channels, 0));
        let patches = self.conv_out.forward_normed(&hidden_states, modulated, None, DType::F32)?;
        drop(hidden_states);
        // What has just been dropped is kept for the next of its size, of which there is none.
        release_buffers();
        unpatchify(&patches, self.patch_size_t, self.patch_size)
    }
}

/// Residual blocks that share what they are told about the time: `LTXVideoMidBlock3d`, and most of `LTXVideoUpBlock3d`.
struct UpLayers {
    time_embedder: Option<TimestepEmbedding>,
    resnets: Vec<LTXVideoResnetBlock3d>,
}

impl UpLayers {
    fn load(
        weights: &Weights,
        (in_channels, channels): (usize, usize),
        layers: usize,
        options: ResnetOptions,
    ) -> Result<Self> {
        let time_embedder = options
            .timestep_conditioning
            .then(|| TimestepEmbedding::load(&weights.pp("time_embedder"), 4, in_channels))
            .transpose()?;
        let resnet = |n: usize| LTXVideoResnetBlock3d::load(&weights.pp("resnets").pp(n), channels, channels, options);
        Ok(Self { time_embedder, resnets: (0..layers).map(resnet).collect::<Result<_>>()? })
    }

    fn forward(&self, mut hidden_states: Tensor, timestep: f32, noise: &mut NoiseSource<'_>) -> Result<Tensor> {
        let temb = self.time_embedder.as_ref().map(|embedder| embedder.forward(timestep)).transpose()?;
        for resnet in &self.resnets {
            hidden_states = resnet.forward(hidden_states, temb.as_ref(), noise)?;
        }
        Ok(hidden_states)
    }
}

struct LTXVideoUpBlock3d {
    conv_in: Option<LTXVideoResnetBlock3d>,
    upsampler: Option<LTXVideoUpsampler3d>,
    layers: UpLayers,
}

impl LTXVideoUpBlock3d {
    fn load(weights: &Weights, block: &UpBlock, options: ResnetOptions) -> Result<Self> {
        let (input, output) = (block.in_channels, block.out_channels);
        let options = ResnetOptions { inject_noise: block.inject_noise, ..options };
        let conv_in =
            block.conv_in.then(|| LTXVideoResnetBlock3d::load(&weights.pp("conv_in"), input, output, options));
        let upsampler = block.upsample.map(|upsample| {
            let (wide, factor) = (output * upsample.factor, upsample.factor);
            LTXVideoUpsampler3d::load(&weights.pp("upsamplers.0"), wide, upsample.residual, factor, options.is_causal)
        });
        Ok(Self {
            conv_in: conv_in.transpose()?,
            upsampler: upsampler.transpose()?,
            layers: UpLayers::load(weights, (input, output), block.layers, options)?,
        })
    }

    fn forward(&self, mut hidden_states: Tensor, timestep: f32, noise: &mut NoiseSource<'_>) -> Result<Tensor> {
        if let Some(resnet) = &self.conv_in {
            hidden_states = resnet.forward(hidden_states, None, noise)?;
        }
        if let Some(upsampler) = &self.upsampler {
            hidden_states = upsampler.forward(hidden_states)?;
        }
        self.layers.forward(hidden_states, timestep, noise)
    }
}
