//! Three-dimensional convolutions over channels-last videos. Weights in the file are PyTorch's, output channels first.

use half::bf16;
use sango_kernels::{
    Activation, Conv3dShape, Epilogue, KernelError, Number, PackedConv3d, Precision, RowNorm, conv3d, conv3d_normed,
};

pub use sango_kernels::TimePadding;

use super::{f32_of, optional_vector, precision};
use crate::buffer::{Buffer, Kept};
use crate::error::{Result, TensorError};
use crate::ops::Modulation;
use crate::shape::numel;
use crate::storage::Storage;
use crate::weights::Floats;
use crate::{DType, Device, Tensor, Weights};

const OP: &str = "conv3d";

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
            return Err(TensorError::shape(OP, format!("{} groups: only 1 is supported", options.groups)));
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
    /// padded video, [`TensorError::DType`] unless `F32` or `BF16`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, Call { time: self.options.time, ..Call::default() })
    }

    /// `activation(forward(x))`.
    ///
    /// # Errors
    /// As [`Conv3d::forward`].
    pub fn forward_act(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        self.run(x, Call { time: self.options.time, activation, ..Call::default() })
    }

    /// `forward(x) + residual`; `residual` has the shape of the result.
    ///
    /// # Errors
    /// As [`Conv3d::forward`].
    pub fn forward_residual(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.run(x, Call { time: self.options.time, residual: Some(residual), ..Call::default() })
    }

    /// [`Conv3d::forward`] with another padding in time than the layer was loaded with.
    ///
    /// # Errors
    /// As [`Conv3d::forward`].
    pub fn forward_with(&self, x: &Tensor, time: TimePadding) -> Result<Tensor> {
        self.run(x, Call { time, ..Call::default() })
    }

    /// The type it multiplies in.
    pub fn dtype(&self) -> DType {
        if self.weight.precision() == Precision::F32 { DType::F32 } else { DType::BF16 }
    }

    /// `forward(activation(norm(x) · (1 + scale) + shift)) + residual`, as residual blocks have it. Every pixel is normalised
    /// while the convolution copies it, so that no normalised video is ever in memory. The result is `F32`, or `BF16` where
    /// `to` asks for it: for what is next read by a product that would round it anyway.
    ///
    /// # Errors
    /// As [`Conv3d::forward`], and when weight or modulation do not fit.
    pub fn forward_normed(
        &self,
        x: &Tensor,
        normed: &Normed<'_>,
        residual: Option<&Tensor>,
        to: DType,
    ) -> Result<Tensor> {
        self.run(x, Call { time: self.options.time, normed: Some(normed), residual, to, ..Call::default() })
    }

    /// [`Conv3d::forward_normed`] with another padding in time than the layer was loaded with.
    ///
    /// # Errors
    /// As [`Conv3d::forward_normed`].
    pub fn forward_normed_with(
        &self,
        x: &Tensor,
        time: TimePadding,
        normed: &Normed<'_>,
        residual: Option<&Tensor>,
        to: DType,
    ) -> Result<Tensor> {
        self.run(x, Call { time, normed: Some(normed), residual, to, ..Call::default() })
    }

    fn shape(&self, x: &[usize], time: TimePadding) -> Result<Conv3dShape> {
        let &[n, t, h, w, channels] = x else {
            return Err(TensorError::shape(OP, format!("[N, T, H, W, C] expected, found {x:?}")));
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

    fn run(&self, x: &Tensor, call: Call<'_>) -> Result<Tensor> {
        let shape = self.shape(x.shape(), call.time)?;
        let out_shape = self.out_shape(x.shape(), call.time)?;
        if call.residual.is_some_and(|r| r.shape() != out_shape) {
            let residual = call.residual;
            return Err(TensorError::shape(OP, format!("the residual {residual:?} does not have shape {out_shape:?}")));
        }
        let norm = call.normed.map(|normed| normed.rows(&shape, self.weight.c_in())).transpose()?;
        let epilogue = Epilogue {
            bias: f32_of(OP, &self.bias)?,
            activation: call.activation,
            residual: call.residual.map(|r| r.f32_for(OP)).transpose()?,
            ..Epilogue::default()
        };
        let what = What { shape, weight: &self.weight, norm, epilogue };
        let out: Storage = match (x.device, call.to) {
            (Device::Cpu, DType::BF16) => what.convolve::<bf16>(x, &out_shape)?.into(),
            (Device::Cpu, _) => what.convolve::<f32>(x, &out_shape)?.into(),
        };
        Ok(x.like(out, out_shape))
    }
}

/// The norm before a convolution, over the channels of each pixel.
#[derive(Debug, Clone)]
pub struct Normed<'a> {
    /// One factor per channel.
    pub weight: Option<&'a Tensor>,
    /// Columns of `[N, 1, …]` (or `[1, 1, …]`) tensors, one per channel.
    pub modulation: Option<Modulation<'a>>,
    /// Applied last.
    pub activation: Activation,
    /// Added to the mean square.
    pub eps: f32,
}

impl Normed<'_> {
    fn rows(&self, shape: &Conv3dShape, channels: usize) -> Result<RowNorm<'_>> {
        let pixels = numel(OP, &[shape.t, shape.h, shape.w])?;
        let weight = self.weight.map(|w| w.f32_for(OP)).transpose()?;
        let modulation = self.modulation.as_ref().map(|m| m.rows(OP, shape.n, pixels, channels)).transpose()?;
        Ok(RowNorm { weight, modulation, activation: self.activation, eps: self.eps, ..RowNorm::default() })
    }
}

/// How to convolve.
struct Call<'a> {
    time: TimePadding,
    normed: Option<&'a Normed<'a>>,
    activation: Activation,
    residual: Option<&'a Tensor>,
    to: DType,
}

impl Default for Call<'_> {
    fn default() -> Self {
        Self { time: TimePadding::None, normed: None, activation: Activation::None, residual: None, to: DType::F32 }
    }
}

/// A checked call.
struct What<'a> {
    shape: Conv3dShape,
    weight: &'a PackedConv3d,
    norm: Option<RowNorm<'a>>,
    epilogue: Epilogue<'a>,
}

impl What<'_> {
    fn convolve<O: Kept + Number>(&self, x: &Tensor, out_shape: &[usize]) -> Result<Buffer<O>> {
        let mut out = Buffer::uninit(numel(OP, out_shape)?);
        match &*x.storage {
            Storage::F32(data) => self.run(&data[x.range()], &mut out)?,
            Storage::BF16(data) => self.run(&data[x.range()], &mut out)?,
            _ => return Err(x.dtype_error(OP, DType::F32)),
        }
        Ok(out)
    }

    fn run<A: Number, O: Number>(&self, x: &[A], out: &mut [O]) -> std::result::Result<(), KernelError> {
        match &self.norm {
            Some(norm) => conv3d_normed(x, norm, &self.shape, self.weight, &self.epilogue, out),
            None => conv3d(x, &self.shape, self.weight, &self.epilogue, out),
        }
    }
}
