//! `LTXVideoResnetBlock3d`.

use sango_tensor::nn::LayerNorm;
use sango_tensor::{Activation, DType, Tensor, Weights, ops};

use super::causal_conv3d::LTXVideoCausalConv3d;
use super::noise::NoiseSource;
use super::time_embedding::Modulation;
use crate::error::Result;

/// Epsilon of the norms without weights, whatever the configuration says about the others.
const PIXEL_NORM_EPS: f32 = 1e-8;

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
    scale_shift_table: Option<Tensor>,
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
        let table = options.timestep_conditioning.then(|| weights.get_f32("scale_shift_table", &[4, in_channels]));
        Ok(Self {
            conv1: conv("conv1", in_channels, 3)?,
            conv2: conv("conv2", out_channels, 3)?,
            shortcut: (in_channels != out_channels).then(shortcut).transpose()?,
            per_channel_scale1: noise_scale("per_channel_scale1")?,
            per_channel_scale2: noise_scale("per_channel_scale2")?,
            scale_shift_table: table.transpose()?,
        })
    }

    /// `[B, T, H, W, in_channels]` → `[B, T, H, W, out_channels]`; `temb` is `[4, in_channels]`.
    pub(super) fn forward(&self, inputs: Tensor, temb: Option<&Tensor>, noise: &mut NoiseSource<'_>) -> Result<Tensor> {
        let modulation = |at: usize| -> Result<Option<Modulation>> {
            let both = self.scale_shift_table.as_ref().zip(temb);
            both.map(|(table, temb)| Modulation::new(temb, table, at)).transpose()
        };
        let normed = pixel_norm_silu(&inputs, modulation(0)?.as_ref(), self.conv1.dtype)?;
        let mut hidden_states = self.conv1.forward(&normed)?;
        // Everything here may be gigabytes: it goes as soon as it has been read.
        drop(normed);
        if let Some(scale) = &self.per_channel_scale1
            && let Some(noise) = scaled_noise(&hidden_states, scale, noise)?
        {
            hidden_states = hidden_states.add(&noise)?;
        }
        let normed = pixel_norm_silu(&hidden_states, modulation(2)?.as_ref(), self.conv2.dtype)?;
        drop(hidden_states);
        let mut residual = match &self.shortcut {
            Some(Shortcut { norm3, conv_shortcut }) => {
                let normed = norm3.forward(&inputs)?;
                drop(inputs);
                conv_shortcut.forward(&normed)?
            }
            None => inputs,
        };
        if let Some(scale) = &self.per_channel_scale2
            && let Some(noise) = scaled_noise(&residual, scale, noise)?
        {
            residual = residual.add(&noise)?;
        }
        self.conv2.forward_residual(&normed, &residual)
    }
}

/// The norm of every pixel's channels, `modulation` where there is one, then SiLU; in the type the next convolution
/// multiplies in.
pub(super) fn pixel_norm_silu(x: &Tensor, modulation: Option<&Modulation>, _to: DType) -> Result<Tensor> {
    let (scale, shift) = (modulation.map(|m| &m.scale), modulation.map(|m| &m.shift));
    Ok(ops::rms_norm_act(x, scale, shift, PIXEL_NORM_EPS, Activation::Silu, DType::F32)?)
}

/// `[H, W, C]`: the noise of a frame times a scale for each channel.
fn scaled_noise(x: &Tensor, scale: &Tensor, noise: &mut NoiseSource<'_>) -> Result<Option<Tensor>> {
    let [_, _, height, width, _] = x.dims()?;
    let drawn = noise.draw(height, width)?;
    Ok(drawn.map(|noise| noise.unsqueeze(-1)?.mul(scale)).transpose()?)
}
