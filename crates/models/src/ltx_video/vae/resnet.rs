//! `LTXVideoResnetBlock3d`.

use sango_tensor::nn::LayerNorm;
use sango_tensor::{DType, Tensor, Weights};

use super::causal_conv3d::LTXVideoCausalConv3d;
use super::noise::NoiseSource;
use super::time_embedding::modulation;
use crate::error::Result;

/// What the residual blocks of one model have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct ResnetOptions {
    pub(super) eps: f32,
    pub(super) is_causal: bool,
    pub(super) inject_noise: bool,
    pub(super) timestep_conditioning: bool,
}

/// Two normalised convolutions beside a shortcut, with noise and the time where the decoder has them.
pub(super) struct LTXVideoResnetBlock3d {
    conv1: LTXVideoCausalConv3d,
    conv2: LTXVideoCausalConv3d,
    shortcut: Option<Shortcut>,
    per_channel_scale1: Option<Tensor>,
    per_channel_scale2: Option<Tensor>,
    /// `[1, 1, 4 · in_channels]`.
    scale_shift_table: Option<Tensor>,
    in_channels: usize,
}

struct Shortcut {
    norm3: LayerNorm,
    conv_shortcut: LTXVideoCausalConv3d,
}

impl LTXVideoResnetBlock3d {
    pub(super) fn load(
        weights: &Weights,
        in_channels: usize,
        out_channels: usize,
        options: ResnetOptions,
    ) -> Result<Self> {
        let conv = |name: &str, input: usize, kernel: usize| {
            LTXVideoCausalConv3d::load(&weights.pp(name), input, out_channels, kernel, [1; 3], options.is_causal)
        };
        let shortcut = || -> Result<Shortcut> {
            Ok(Shortcut {
                norm3: LayerNorm::load(&weights.pp("norm3"), in_channels, options.eps)?,
                conv_shortcut: conv("conv_shortcut", in_channels, 1)?,
            })
        };
        let noise_scale = |name: &str| -> Result<Option<Tensor>> {
            let scale = options.inject_noise.then(|| weights.get_f32(name, &[in_channels, 1, 1])).transpose()?;
            Ok(scale.map(|scale| scale.reshape(&[in_channels])).transpose()?)
        };
        let table = || -> Result<Tensor> {
            Ok(weights.get_f32("scale_shift_table", &[4, in_channels])?.reshape(&[1, 1, 4 * in_channels])?)
        };
        Ok(Self {
            conv1: conv("conv1", in_channels, 3)?,
            conv2: conv("conv2", out_channels, 3)?,
            shortcut: (in_channels != out_channels).then(shortcut).transpose()?,
            per_channel_scale1: noise_scale("per_channel_scale1")?,
            per_channel_scale2: noise_scale("per_channel_scale2")?,
            scale_shift_table: options.timestep_conditioning.then(table).transpose()?,
            in_channels,
        })
    }

    /// `[B, T, H, W, in_channels]` → `[B, T, H, W, out_channels]`; `temb` is `[1, 1, 4 · in_channels]`.
    pub(super) fn forward(&self, inputs: Tensor, temb: Option<&Tensor>, noise: &mut NoiseSource<'_>) -> Result<Tensor> {
        let both = self.scale_shift_table.as_ref().zip(temb);
        let ada = both.map(|(table, temb)| table.add(temb)).transpose()?;
        let modulated = |at: usize| ada.as_ref().map(|ada| modulation(ada, self.in_channels, at));
        let [_, _, height, width, _] = inputs.dims()?;
        let noise_1 = scaled_noise(self.per_channel_scale1.as_ref(), noise, (height, width))?;
        let noise_2 = scaled_noise(self.per_channel_scale2.as_ref(), noise, (height, width))?;

        // What lies between the convolutions is read by the second alone, which rounds it anyway.
        let between = if noise_1.is_some() { DType::F32 } else { self.conv2.dtype() };
        let mut hidden_states = self.conv1.forward_normed(&inputs, modulated(0), None, between)?;
        if let Some(noise) = noise_1 {
            hidden_states = hidden_states.add(&noise)?;
        }
        let mut residual = match &self.shortcut {
            Some(Shortcut { norm3, conv_shortcut }) => {
                let normed = norm3.forward_to(&inputs, conv_shortcut.dtype())?;
                // All of this may be gigabytes: it goes as soon as it has been read.
                drop(inputs);
                conv_shortcut.forward(&normed)?
            }
            None => inputs,
        };
        if let Some(noise) = noise_2 {
            residual = residual.add(&noise)?;
        }
        self.conv2.forward_normed(&hidden_states, modulated(2), Some(&residual), DType::F32)
    }
}

/// `[H, W, C]`: the noise of a frame times a scale for each channel.
fn scaled_noise(
    scale: Option<&Tensor>,
    noise: &mut NoiseSource<'_>,
    (height, width): (usize, usize),
) -> Result<Option<Tensor>> {
    let Some(scale) = scale else { return Ok(None) };
    let drawn = noise.draw(height, width)?;
    Ok(drawn.map(|noise| noise.unsqueeze(-1)?.mul(scale)).transpose()?)
}
