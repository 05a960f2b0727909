//! Convolutions over channels-last images. Weights in the file are PyTorch's, output channels first.

use sango_kernels::{Activation, Conv2dShape, Epilogue, PackedConv2d, PackedWeights, conv2d, gemm};

use super::{f32_of, optional_vector, precision};
use crate::buffer::Buffer;
use crate::error::{Result, TensorError};
use crate::shape::numel;
use crate::weights::Floats;
use crate::{Device, Tensor, Weights};

/// The options of a [`Conv2d`] besides its sizes; the default is stride 1, no padding, dense, with a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2dConfig {
    /// Pixels from one window to the next.
    pub stride: usize,
    /// Zero padding: top, left, bottom, right.
    pub padding: [usize; 4],
    /// 1, or the number of channels for a depthwise convolution.
    pub groups: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// 1, or 2 to enlarge the image twofold (nearest neighbour) before convolving, without storing the larger one.
    pub upsample: usize,
}

impl Default for Conv2dConfig {
    fn default() -> Self {
        Self { stride: 1, padding: [0; 4], groups: 1, bias: true, upsample: 1 }
    }
}

impl Conv2dConfig {
    /// The default with the same padding on all four sides.
    pub fn padded(padding: usize) -> Self {
        Self { padding: [padding; 4], ..Self::default() }
    }
}

/// A two-dimensional convolution, `[N, H, W, C_in]` → `[N, H', W', C_out]`.
pub struct Conv2d {
    weight: PackedConv2d,
    bias: Option<Tensor>,
    in_channels: usize,
    out_channels: usize,
    kernel_size: usize,
    config: Conv2dConfig,
}

impl Conv2d {
    /// Reads `weight` `[out_channels, in_channels / groups, kernel_size, kernel_size]` and, with a bias, `bias`
    /// `[out_channels]`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape or type, or `groups` is neither 1 nor the number of channels.
    pub fn load(
        weights: &Weights,
        in_channels: usize,
        out_channels: usize,
        kernel_size: usize,
        config: Conv2dConfig,
    ) -> Result<Self> {
        let groups = config.groups.max(1);
        let view = weights.checked_view("weight", &[out_channels, in_channels / groups, kernel_size, kernel_size])?;
        let sizes = (out_channels, in_channels, kernel_size, kernel_size);
        let weight = match view.floats()? {
            Floats::F32(w) => PackedConv2d::from_f32(&w, sizes, groups, precision(weights))?,
            Floats::BF16(w) => PackedConv2d::from_bf16(&w, sizes, groups, precision(weights))?,
        };
        let bias = optional_vector(weights, "bias", out_channels, config.bias)?;
        Ok(Self { weight, bias, in_channels, out_channels, kernel_size, config })
    }

    /// Convolves.
    ///
    /// # Errors
    /// [`TensorError::Shape`] when the channels differ, [`TensorError::Kernel`] when the kernel does not fit the
    /// padded image, [`TensorError::DType`] unless `F32`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, Activation::None, None)
    }

    /// `activation(forward(x))`.
    ///
    /// # Errors
    /// As [`Conv2d::forward`].
    pub fn forward_act(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        self.run(x, activation, None)
    }

    /// `forward(x) + residual`; `residual` has the shape of the result.
    ///
    /// # Errors
    /// As [`Conv2d::forward`].
    pub fn forward_residual(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.run(x, Activation::None, Some(residual))
    }

    fn run(&self, x: &Tensor, activation: Activation, residual: Option<&Tensor>) -> Result<Tensor> {
        let (input, [n, h, w, channels]) = (x.f32_for("conv2d")?, x.dims()?);
        if channels != self.in_channels {
            return Err(TensorError::shape(
                "conv2d",
                format!("{} channels expected in the last dimension of {:?}", self.in_channels, x.shape()),
            ));
        }
        let Conv2dConfig { stride, padding, upsample, .. } = self.config;
        let shape = Conv2dShape { n, h, w, stride, pad: padding, upsample };
        let (out_h, out_w) = shape.output(self.kernel_size, self.kernel_size)?;
        let out_shape = vec![n, out_h, out_w, self.out_channels];
        if residual.is_some_and(|r| r.shape() != out_shape) {
            return Err(TensorError::shape(
                "conv2d",
                format!("the residual {residual:?} does not have shape {out_shape:?}"),
            ));
        }
        let mut out = Buffer::uninit(numel("conv2d", &out_shape)?);
        match x.device {
            Device::Cpu => {
                let residual = residual.map(|r| r.f32_for("conv2d")).transpose()?;
                let epilogue =
                    Epilogue { bias: f32_of("conv2d", &self.bias)?, activation, residual, ..Epilogue::default() };
                conv2d(input, &shape, &self.weight, &epilogue, &mut out)?;
            }
        }
        Ok(x.like(out, out_shape))
    }
}

/// A transposed convolution whose stride is its kernel size, so that every input pixel becomes a block of its own:
/// `[N, H, W, C_in]` → `[N, H · kernel, W · kernel, C_out]`.
pub struct ConvTranspose2d {
    /// `[kernel · kernel · out_channels, in_channels]`.
    weight: PackedWeights,
    /// The bias, once for each pixel of the block.
    bias: Option<Tensor>,
    in_channels: usize,
    out_channels: usize,
    kernel_size: usize,
}

impl ConvTranspose2d {
    /// Reads `weight` `[in_channels, out_channels, kernel_size, kernel_size]` and, when `bias`, `bias`
    /// `[out_channels]`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape or type.
    pub fn load(
        weights: &Weights,
        in_channels: usize,
        out_channels: usize,
        kernel_size: usize,
        bias: bool,
    ) -> Result<Self> {
        let taps = kernel_size * kernel_size;
        let weight = weights.get_f32("weight", &[in_channels, out_channels, kernel_size, kernel_size])?;
        let by_tap = weight.permute(&[2, 3, 1, 0])?;
        let rows = taps * out_channels;
        let bias = optional_vector(weights, "bias", out_channels, bias)?
            .map(|b| b.broadcast_to(&[taps, out_channels])?.reshape(&[rows]))
            .transpose()?;
        Ok(Self {
            weight: PackedWeights::from_f32(by_tap.as_f32()?, rows, in_channels, precision(weights))?,
            bias,
            in_channels,
            out_channels,
            kernel_size,
        })
    }

    /// Convolves.
    ///
    /// # Errors
    /// [`TensorError::Shape`] when the channels differ, [`TensorError::DType`] unless `F32`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (input, [n, h, w, channels]) = (x.f32_for("conv_transpose2d")?, x.dims()?);
        if channels != self.in_channels {
            return Err(TensorError::shape(
                "conv_transpose2d",
                format!("{} channels expected in the last dimension of {:?}", self.in_channels, x.shape()),
            ));
        }
        let (k, c) = (self.kernel_size, self.out_channels);
        let pixels = n * h * w;
        let mut blocks = Buffer::<f32>::uninit(numel("conv_transpose2d", &[pixels, k, k, c])?);
        match x.device {
            Device::Cpu => {
                let epilogue = Epilogue { bias: f32_of("conv_transpose2d", &self.bias)?, ..Epilogue::default() };
                gemm(input, pixels, &self.weight, &epilogue, &mut blocks)?;
            }
        }
        // Blocks of k × k pixels, one after the other, become rows of the larger image.
        x.like(blocks, vec![n, h, w, k, k * c]).permute(&[0, 1, 3, 2, 4])?.reshape(&[n, h * k, w * k, c])
    }
}
