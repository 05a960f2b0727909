//! Norms and modulations whose scale and shift come from the text, so that they are the same in every step.

use sango_tensor::nn::Linear;
use sango_tensor::{Tensor, Weights, ops};

use super::uvit_config::UVit2DConfig;
use crate::error::Result;

/// The two halves `[B, width]` of `linear(silu(cond))`.
pub(super) struct Modulation {
    pub(super) scale: Tensor,
    pub(super) shift: Tensor,
}

impl Modulation {
    pub(super) fn new(linear: &Linear, activated_cond: &Tensor) -> Result<Self> {
        let both = linear.forward(activated_cond)?;
        let width = both.dim(-1)? / 2;
        Ok(Self { scale: both.narrow(1, 0, width)?, shift: both.narrow(1, width, width)? })
    }

    /// `x · (1 + scale) + shift` for `x` `[B, L, width]`.
    pub(super) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.scale_shift(&self.scale, &self.shift)?)
    }
}

/// Which norm an [`AdaLayerNorm`] modulates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NormType {
    RmsNorm,
    LayerNorm,
}

/// `AdaLayerNormContinuous`: `norm(x) · (1 + scale) + shift`.
pub(super) struct AdaLayerNorm {
    linear: Linear,
    weight: Option<Tensor>,
    bias: Option<Tensor>,
    norm_type: NormType,
    eps: f32,
}

/// The norm's weight and bias with scale and shift multiplied in, `[B, width]` each.
pub(super) struct FoldedNorm {
    weight: Tensor,
    bias: Tensor,
}

impl AdaLayerNorm {
    pub(super) fn load(weights: &Weights, config: &UVit2DConfig, norm_type: NormType) -> Result<Self> {
        let width = config.hidden_size;
        let affine = config.ln_elementwise_affine;
        let biased = affine && config.use_bias && norm_type == NormType::LayerNorm;
        let norm = weights.pp("norm");
        let vector = |name: &str, present: bool| present.then(|| norm.get_f32(name, &[width])).transpose();
        Ok(Self {
            linear: Linear::load(&weights.pp("linear"), width, 2 * width, config.use_bias)?,
            weight: vector("weight", affine)?,
            bias: vector("bias", biased)?,
            norm_type,
            eps: config.layer_norm_eps,
        })
    }

    /// `(n · w + b) · (1 + scale) + shift` is `n` times one vector plus another.
    pub(super) fn fold(&self, activated_cond: &Tensor) -> Result<FoldedNorm> {
        let Modulation { scale, shift } = Modulation::new(&self.linear, activated_cond)?;
        let scale = scale.add_scalar(1.0)?;
        let bias = match &self.bias {
            Some(bias) => scale.mul(bias)?.add(&shift)?,
            None => shift,
        };
        let weight = match &self.weight {
            Some(weight) => scale.mul(weight)?,
            None => scale,
        };
        Ok(FoldedNorm { weight, bias })
    }

    /// Normalises and modulates `x` `[B, L, width]`, for a product in the type of this layer's own.
    pub(super) fn forward(&self, x: &Tensor, FoldedNorm { weight, bias }: &FoldedNorm) -> Result<Tensor> {
        let to = self.linear.dtype();
        Ok(match self.norm_type {
            NormType::RmsNorm => ops::rms_norm(x, Some(weight), Some(bias), self.eps, to)?,
            NormType::LayerNorm => ops::layer_norm(x, Some(weight), Some(bias), self.eps, to)?,
        })
    }
}
