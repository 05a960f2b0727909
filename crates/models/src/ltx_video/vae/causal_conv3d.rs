//! `LTXVideoCausalConv3d`.

use sango_tensor::nn::{Conv3d, Conv3dOptions, TimePadding};
use sango_tensor::{DType, Tensor, Weights};

use crate::error::Result;

/// A convolution that is as long, high and wide as its input (divided by its stride): zeros around each frame, and in time
/// the first frame repeated before the video (causal), or the first before and the last after it.
pub(super) struct LTXVideoCausalConv3d {
    conv: Conv3d,
    /// The type in which inputs are multiplied.
    pub(super) dtype: DType,
}

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
        let conv = Conv3d::load(&weights.pp("conv"), in_channels, out_channels, kernel, options)?;
        Ok(Self { conv, dtype: weights.compute_dtype() })
    }

    /// `[B, T, H, W, in_channels]` → `[B, T', H', W', out_channels]`.
    pub(super) fn forward(&self, hidden_states: &Tensor) -> Result<Tensor> {
        Ok(self.conv.forward(hidden_states)?)
    }

    /// [`Self::forward`], and `residual` added.
    pub(super) fn forward_residual(&self, hidden_states: &Tensor, residual: &Tensor) -> Result<Tensor> {
        Ok(self.conv.forward_residual(hidden_states, residual)?)
    }
}
