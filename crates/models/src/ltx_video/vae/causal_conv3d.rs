//! `LTXVideoCausalConv3d`.

use sango_tensor::nn::{Conv3d, Conv3dOptions, Normed, TimePadding};
use sango_tensor::ops::Modulation;
use sango_tensor::{Activation, DType, Tensor, Weights};

use crate::error::Result;

/// A convolution that is as long, high and wide as its input (divided by its stride): zeros around each frame, and in time
/// the first frame repeated before the video (causal), or the first before and the last after it.
pub(super) struct LTXVideoCausalConv3d {
    conv: Conv3d,
}

/// Epsilon of the norms without weights, whatever the configuration says about the others.
const PIXEL_NORM_EPS: f32 = 1e-8;

impl LTXVideoCausalConv3d {
    pub(super) fn load(
        weights: &Weights,
        in_channels: usize,
        out_channels: usize,
        kernel_size: usize,
        stride: [usize; 3],
        is_causal: bool,
    ) -> Result<Self> {
        let time = match is_causal {
            _ if kernel_size == 1 => TimePadding::None,
            true => TimePadding::Causal,
            false => TimePadding::Symmetric,
        };
        let options = Conv3dOptions { stride, time, padding: [kernel_size / 2; 2], ..Conv3dOptions::default() };
        let kernel = (kernel_size, kernel_size, kernel_size);
        Ok(Self { conv: Conv3d::load(&weights.pp("conv"), in_channels, out_channels, kernel, options)? })
    }

    /// `[B, T, H, W, in_channels]` → `[B, T', H', W', out_channels]`.
    pub(super) fn forward(&self, hidden_states: &Tensor) -> Result<Tensor> {
        Ok(self.conv.forward(hidden_states)?)
    }

    /// The norm of every pixel's channels, `modulation` where there is one, SiLU, then [`Self::forward`], and `residual`
    /// added; nothing of that is stored between. The result is in `to`.
    pub(super) fn forward_normed(
        &self,
        hidden_states: &Tensor,
        modulation: Option<Modulation<'_>>,
        residual: Option<&Tensor>,
        to: DType,
    ) -> Result<Tensor> {
        let normed = Normed { weight: None, modulation, activation: Activation::Silu, eps: PIXEL_NORM_EPS };
        Ok(self.conv.forward_normed(hidden_states, &normed, residual, to)?)
    }

    /// The type it multiplies in.
    pub(super) fn dtype(&self) -> DType {
        self.conv.dtype()
    }
}
