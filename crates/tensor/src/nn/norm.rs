//! Normalisation layers.

use sango_kernels::{Activation, group_norm};

use super::{f32_of, optional_vector};
use crate::buffer::Buffer;
use crate::error::{Result, TensorError};
use crate::{DType, Device, Tensor, Weights, ops};

/// Subtracts the mean and divides by the standard deviation of the last dimension.
pub struct LayerNorm {
    weight: Option<Tensor>,
    bias: Option<Tensor>,
    width: usize,
    eps: f32,
}

impl LayerNorm {
    /// Reads `weight` and `bias`, both `[width]`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape or type.
    pub fn load(weights: &Weights, width: usize, eps: f32) -> Result<Self> {
        Self::load_with(weights, width, eps, true, true)
    }

    /// Reads `weight` and `bias` where the layer has them.
    ///
    /// # Errors
    /// As [`LayerNorm::load`].
    pub fn load_with(weights: &Weights, width: usize, eps: f32, affine: bool, bias: bool) -> Result<Self> {
        let weight = optional_vector(weights, "weight", width, affine)?;
        let bias = optional_vector(weights, "bias", width, affine && bias)?;
        Ok(Self { weight, bias, width, eps })
    }

    /// Normalises every row of the last dimension.
    ///
    /// # Errors
    /// [`TensorError::Shape`] when the last dimension is another, [`TensorError::DType`] unless `F32`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        fits("layer_norm", x, self.width)?;
        ops::layer_norm(x, self.weight.as_ref(), self.bias.as_ref(), self.eps, DType::F32)
    }

    /// [`LayerNorm::forward`] with the result in `to` (`F32` or `BF16`): for what is next read by a product that would round it
    /// anyway.
    ///
    /// # Errors
    /// As [`LayerNorm::forward`].
    pub fn forward_to(&self, x: &Tensor, to: DType) -> Result<Tensor> {
        fits("layer_norm", x, self.width)?;
        ops::layer_norm(x, self.weight.as_ref(), self.bias.as_ref(), self.eps, to)
    }
}

/// Divides by the root of the mean square of the last dimension.
pub struct RmsNorm {
    weight: Option<Tensor>,
    width: usize,
    eps: f32,
}

impl RmsNorm {
    /// Reads `weight` `[width]`, when the layer is `affine`.
    ///
    /// # Errors
    /// When the tensor is missing or has another shape or type.
    pub fn load(weights: &Weights, width: usize, eps: f32, affine: bool) -> Result<Self> {
        Ok(Self { weight: optional_vector(weights, "weight", width, affine)?, width, eps })
    }

    /// Normalises every row of the last dimension.
    ///
    /// # Errors
    /// As [`LayerNorm::forward`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        fits("rms_norm", x, self.width)?;
        ops::rms_norm(x, self.weight.as_ref(), None, self.eps, DType::F32)
    }

    /// [`RmsNorm::forward`] with the result in `to` (`F32` or `BF16`): for what is next read by a product that would round it
    /// anyway.
    ///
    /// # Errors
    /// As [`LayerNorm::forward`].
    pub fn forward_to(&self, x: &Tensor, to: DType) -> Result<Tensor> {
        fits("rms_norm", x, self.width)?;
        ops::rms_norm(x, self.weight.as_ref(), None, self.eps, to)
    }

    /// `forward(x) · (1 + scale) + shift` for `x` `[B, …, width]`, `scale` and `shift` `[B, width]`: the
    /// `AdaLayerNormContinuous` of diffusers with this norm inside.
    ///
    /// # Errors
    /// As [`LayerNorm::forward`].
    pub fn forward_scale_shift(&self, x: &Tensor, scale: &Tensor, shift: &Tensor) -> Result<Tensor> {
        fits("rms_norm", x, self.width)?;
        let factor = scale.add_scalar(1.0)?;
        let weight = match &self.weight {
            Some(weight) => factor.mul(weight)?,
            None => factor,
        };
        ops::rms_norm(x, Some(&weight), Some(shift), self.eps, DType::F32)
    }
}

/// Normalises groups of channels over a whole channels-last image.
pub struct GroupNorm {
    weight: Option<Tensor>,
    bias: Option<Tensor>,
    num_groups: usize,
    num_channels: usize,
    eps: f32,
}

impl GroupNorm {
    /// Reads `weight` and `bias`, both `[num_channels]`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape or type.
    pub fn load(weights: &Weights, num_groups: usize, num_channels: usize, eps: f32) -> Result<Self> {
        Ok(Self {
            weight: optional_vector(weights, "weight", num_channels, true)?,
            bias: optional_vector(weights, "bias", num_channels, true)?,
            num_groups,
            num_channels,
            eps,
        })
    }

    /// Normalises `[N, H, W, C]` (or `[N, …, C]`).
    ///
    /// # Errors
    /// As [`LayerNorm::forward`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_act(x, Activation::None)
    }

    /// `activation(forward(x))`, in one pass.
    ///
    /// # Errors
    /// As [`LayerNorm::forward`].
    pub fn forward_act(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        fits("group_norm", x, self.num_channels)?;
        if x.rank() < 2 {
            return Err(TensorError::shape("group_norm", format!("{:?} has no batch dimension", x.shape())));
        }
        let (n, pixels) = (x.shape()[0], x.shape()[1..x.rank() - 1].iter().product());
        let (weight, bias) = (f32_of("group_norm", &self.weight)?, f32_of("group_norm", &self.bias)?);
        let sizes = (n, pixels, self.num_channels);
        let data = x.f32_for("group_norm")?;
        let mut out = Buffer::uninit(data.len());
        match x.device {
            Device::Cpu => {
                group_norm(data, sizes, self.num_groups, weight, bias, self.eps, activation, &mut out)?;
            }
        }
        Ok(x.like(out, x.shape().to_vec()))
    }
}

/// The global response normalisation of ConvNeXt V2 on channels-last images: channels that respond strongly over the
/// whole image, compared with the others, are strengthened.
pub struct GlobalResponseNorm {
    gamma: Tensor,
    beta: Tensor,
}

impl GlobalResponseNorm {
    /// Reads `gamma` and `beta`, both `[1, 1, 1, width]`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape or type.
    pub fn load(weights: &Weights, width: usize) -> Result<Self> {
        let shape = [1, 1, 1, width];
        Ok(Self { gamma: weights.get_f32("gamma", &shape)?, beta: weights.get_f32("beta", &shape)? })
    }

    /// Normalises `[N, H, W, C]` or `[N, H · W, C]`.
    ///
    /// # Errors
    /// As [`LayerNorm::forward`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::global_response_norm(x, &self.gamma, &self.beta)
    }
}

fn fits(op: &'static str, x: &Tensor, width: usize) -> Result<()> {
    if x.shape().last() == Some(&width) {
        return Ok(());
    }
    Err(TensorError::shape(op, format!("{width} expected as the last dimension of {:?}", x.shape())))
}
