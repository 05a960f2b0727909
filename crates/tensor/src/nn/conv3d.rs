//! Three-dimensional convolutions over channels-last videos. Weights in the file are PyTorch's, output channels first.

use sango_kernels::{Activation, Conv3dShape, Epilogue, PackedConv3d, conv3d};

pub use sango_kernels::TimePadding;

use super::{f32_of, optional_vector, precision};
use crate::buffer::Buffer;
use crate::error::{Result, TensorError};
use crate::shape::numel;
use crate::weights::Floats;
use crate::{Device, Tensor, Weights};

/// The options of a [`Conv3d`] besides its sizes; the default is stride 1, no padding, with a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv3dOptions {
    /// Frames, rows and columns from one window to the next.
    pub stride: [usize; 3],
    /// Padding in time, with copies of the first and the last frame.
    pub time: TimePadding,
    /// Zero padding above and below, left and right.
    pub padding: [usize; 2],
    /// 1: grouped convolutions in three dimensions are not supported.
    pub groups: usize,
    /// Whether there is a bias.
    pub bias: bool,
}

impl Default for Conv3dOptions {
    fn default() -> Self {
        Self { stride: [1; 3], time: TimePadding::None, padding: [0; 2], groups: 1, bias: true }
    }
}

/// A three-dimensional convolution, `[N, T, H, W, C_in]` → `[N, T', H', W', C_out]`.
pub struct Conv3d {
    weight: PackedConv3d,
    bias: Option<Tensor>,
    options: Conv3dOptions,
}

impl Conv3d {
    /// Reads `weight` `[out_channels, in_channels, kt, kh, kw]` and, with a bias, `bias` `[out_channels]`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape or type, or `groups` is not 1.
    pub fn load(
        weights: &Weights,
        in_channels: usize,
        out_channels: usize,
        (kt, kh, kw): (usize, usize, usize),
        options: Conv3dOptions,
    ) -> Result<Self> {
        if options.groups != 1 {
            return Err(TensorError::shape("conv3d", format!("{} groups: only 1 is supported", options.groups)));
        }
        let view = weights.checked_view("weight", &[out_channels, in_channels, kt, kh, kw])?;
        let (channels, kernel) = ((out_channels, in_channels), [kt, kh, kw]);
        let weight = match view.floats()? {
            Floats::F32(w) => PackedConv3d::from_f32(&w, channels, kernel, precision(weights))?,
            Floats::BF16(w) => PackedConv3d::from_bf16(&w, channels, kernel, precision(weights))?,
        };
        Ok(Self { weight, bias: optional_vector(weights, "bias", out_channels, options.bias)?, options })
    }

    /// The shape of the result for an input of shape `[N, T, H, W, C_in]`, with this padding in time.
    ///
    /// # Errors
    /// As [`Conv3d::forward`].
    pub fn out_shape(&self, x: &[usize], time: TimePadding) -> Result<Vec<usize>> {
        let shape = self.shape(x, time)?;
        let [t, h, w] = shape.output(self.weight.kernel())?;
        Ok(vec![shape.n, t, h, w, self.weight.c_out()])
    }

    /// Convolves.
    ///
    /// # Errors
    /// [`TensorError::Shape`] when the channels differ, [`TensorError::Kernel`] when the kernel does not fit the
    /// padded video, [`TensorError::DType`] unless `F32`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, self.options.time, Activation::None, None)
    }

    /// `activation(forward(x))`.
    ///
    /// # Errors
    /// As [`Conv3d::forward`].
    pub fn forward_act(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        self.run(x, self.options.time, activation, None)
    }

    /// `forward(x) + residual`; `residual` has the shape of the result.
    ///
    /// # Errors
    /// As [`Conv3d::forward`].
    pub fn forward_residual(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.run(x, self.options.time, Activation::None, Some(residual))
    }

    /// [`Conv3d::forward`] with another padding in time than the layer was loaded with.
    ///
    /// # Errors
    /// As [`Conv3d::forward`].
    pub fn forward_with(&self, x: &Tensor, time: TimePadding) -> Result<Tensor> {
        self.run(x, time, Activation::None, None)
    }

    fn shape(&self, x: &[usize], time: TimePadding) -> Result<Conv3dShape> {
        let &[n, t, h, w, channels] = x else {
            return Err(TensorError::shape("conv3d", format!("[N, T, H, W, C] expected, found {x:?}")));
        };
        if channels != self.weight.c_in() {
            let expected = self.weight.c_in();
            return Err(TensorError::shape(
                "conv3d",
                format!("{expected} channels expected in the last dimension of {x:?}"),
            ));
        }
        Ok(Conv3dShape { n, t, h, w, stride: self.options.stride, time, pad: self.options.padding })
    }

    fn run(&self, x: &Tensor, time: TimePadding, activation: Activation, residual: Option<&Tensor>) -> Result<Tensor> {
        let input = x.f32_for("conv3d")?;
        let shape = self.shape(x.shape(), time)?;
        let out_shape = self.out_shape(x.shape(), time)?;
        if residual.is_some_and(|r| r.shape() != out_shape) {
            return Err(TensorError::shape(
                "conv3d",
                format!("the residual {residual:?} does not have shape {out_shape:?}"),
            ));
        }
        let mut out = Buffer::uninit(numel("conv3d", &out_shape)?);
        match x.device {
            Device::Cpu => {
                let residual = residual.map(|r| r.f32_for("conv3d")).transpose()?;
                let epilogue = Epilogue { bias: f32_of("conv3d", &self.bias)?, activation, residual };
                conv3d(input, &shape, &self.weight, &epilogue, &mut out)?;
            }
        }
        Ok(x.like(out, out_shape))
    }
}
