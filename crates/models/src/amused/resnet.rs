//! `ResnetBlock2D` without a time embedding, and the activation functions that VQ configurations name.

use sango_tensor::nn::{Conv2d, Conv2dConfig, GroupNorm, Linear};
use sango_tensor::{Activation, Tensor, Weights};

use crate::error::Result;

/// Epsilon of all norms in the encoder and decoder.
pub(super) const EPS: f32 = 1e-6;

/// An activation function by its diffusers name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ActFn {
    /// One that kernels fuse.
    Fused(Activation),
    Relu,
    Mish,
}

impl ActFn {
    pub(super) const NAMES: &str = "silu, swish, gelu, relu and mish";

    pub(super) fn by_name(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "silu" | "swish" => Some(Self::Fused(Activation::Silu)),
            "gelu" => Some(Self::Fused(Activation::Gelu)),
            "relu" => Some(Self::Relu),
            "mish" => Some(Self::Mish),
            _ => None,
        }
    }

    /// `act(norm(x))`.
    pub(super) fn after(self, norm: &GroupNorm, x: &Tensor) -> Result<Tensor> {
        if let Self::Fused(activation) = self {
            return Ok(norm.forward_act(x, activation)?);
        }
        let x = norm.forward(x)?;
        if self == Self::Relu {
            return Ok(x.clamp(0.0, f32::INFINITY)?);
        }
        let values = x.as_f32()?.iter().map(|&x| mish(x)).collect();
        Ok(Tensor::from_vec(values, x.shape())?)
    }
}

/// `x · tanh(ln(1 + eˣ))`, written without the logarithm; from 20 on the factor is 1.
fn mish(x: f32) -> f32 {
    if x > 20.0 {
        return x;
    }
    let e = f64::from(x).exp();
    let squared = e * (e + 2.0);
    (f64::from(x) * squared / (squared + 2.0)) as f32
}

/// Two normalised 3×3 convolutions beside a shortcut.
pub(super) struct ResnetBlock2D {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Linear>,
    nonlinearity: ActFn,
}

impl ResnetBlock2D {
    pub(super) fn load(
        weights: &Weights,
        in_channels: usize,
        out_channels: usize,
        groups: usize,
        nonlinearity: ActFn,
    ) -> Result<Self> {
        let same = Conv2dConfig::padded(1);
        let shortcut = (in_channels != out_channels)
            .then(|| Linear::load_conv1x1(&weights.pp("conv_shortcut"), in_channels, out_channels, true));
        Ok(Self {
            norm1: GroupNorm::load(&weights.pp("norm1"), groups, in_channels, EPS)?,
            conv1: Conv2d::load(&weights.pp("conv1"), in_channels, out_channels, 3, same)?,
            norm2: GroupNorm::load(&weights.pp("norm2"), groups, out_channels, EPS)?,
            conv2: Conv2d::load(&weights.pp("conv2"), out_channels, out_channels, 3, same)?,
            conv_shortcut: shortcut.transpose()?,
            nonlinearity,
        })
    }

    /// `[B, H, W, in_channels]` → `[B, H, W, out_channels]`.
    pub(super) fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let hidden_states = self.conv1.forward(&self.nonlinearity.after(&self.norm1, input)?)?;
        let hidden_states = self.nonlinearity.after(&self.norm2, &hidden_states)?;
        let shortcut = match &self.conv_shortcut {
            Some(conv) => conv.forward(input)?,
            None => input.clone(),
        };
        Ok(self.conv2.forward_residual(&hidden_states, &shortcut)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mish_follows_its_definition() {
        for x in [-30.0f32, -3.0, -0.5, 0.0, 0.7, 5.0, 19.9, 25.0] {
            let expected = f64::from(x) * f64::from(x).exp().ln_1p().tanh();
            assert!((f64::from(mish(x)) - expected).abs() < 1e-6, "mish({x})");
        }
    }
}
