//! Element-wise functions of one tensor.

use sango_kernels::Activation;

use crate::buffer::Buffer;
use crate::cpu;
use crate::error::Result;
use crate::{Device, Tensor};

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident => $f:expr;)*) => {
        impl Tensor {$(
            $(#[$doc])*
            ///
            /// # Errors
            /// [`crate::TensorError::DType`] unless the elements are `F32`.
            pub fn $name(&self) -> Result<Tensor> {
                self.map(stringify!($name), $f)
            }
        )*}
    };
}

unary! {
    /// `eˣ`.
    exp => f32::exp;
    /// The natural logarithm.
    log => f32::ln;
    /// The cosine (radians).
    cos => f32::cos;
    /// The sine (radians).
    sin => f32::sin;
    /// The square root.
    sqrt => f32::sqrt;
    /// `x²`.
    square => |x| x * x;
    /// `−x`.
    neg => |x| -x;
    /// The absolute value.
    abs => f32::abs;
    /// The hyperbolic tangent.
    tanh => f32::tanh;
    /// `1 / (1 + e⁻ˣ)`.
    sigmoid => |x| 1.0 / (1.0 + (-x).exp());
}

impl Tensor {
    /// `x · sigmoid(x)`.
    ///
    /// # Errors
    /// [`crate::TensorError::DType`] unless the elements are `F32`; the same for the other activations.
    pub fn silu(&self) -> Result<Tensor> {
        self.activation(Activation::Silu)
    }

    /// GELU with the error function (PyTorch's default).
    ///
    /// # Errors
    /// As [`Tensor::silu`].
    pub fn gelu(&self) -> Result<Tensor> {
        self.activation(Activation::Gelu)
    }

    /// GELU by its tanh approximation.
    ///
    /// # Errors
    /// As [`Tensor::silu`].
    pub fn gelu_tanh(&self) -> Result<Tensor> {
        self.activation(Activation::GeluTanh)
    }

    /// `x · sigmoid(1.702 x)`, the GELU of CLIP.
    ///
    /// # Errors
    /// As [`Tensor::silu`].
    pub fn quick_gelu(&self) -> Result<Tensor> {
        self.activation(Activation::QuickGelu)
    }

    /// Any of the activations.
    ///
    /// # Errors
    /// As [`Tensor::silu`].
    pub fn activation(&self, activation: Activation) -> Result<Tensor> {
        let x = self.f32_for("activation")?;
        let mut out = Buffer::uninit(x.len());
        match self.device {
            Device::Cpu => sango_kernels::activate(x, activation, &mut out)?,
        }
        Ok(self.like(out, self.shape.clone()))
    }

    /// `x + value`.
    ///
    /// # Errors
    /// [`crate::TensorError::DType`] unless the elements are `F32`.
    pub fn add_scalar(&self, value: f32) -> Result<Tensor> {
        self.map("add_scalar", |x| x + value)
    }

    /// `x · value`.
    ///
    /// # Errors
    /// [`crate::TensorError::DType`] unless the elements are `F32`.
    pub fn mul_scalar(&self, value: f32) -> Result<Tensor> {
        self.map("mul_scalar", |x| x * value)
    }

    /// Limits every element to `min..=max`; NaN stays NaN.
    ///
    /// # Errors
    /// [`crate::TensorError::DType`] unless the elements are `F32`.
    pub fn clamp(&self, min: f32, max: f32) -> Result<Tensor> {
        self.map("clamp", |x| {
            if x < min {
                min
            } else if x > max {
                max
            } else {
                x
            }
        })
    }

    fn map(&self, op: &'static str, f: impl Fn(f32) -> f32 + Sync) -> Result<Tensor> {
        let x = self.f32_for(op)?;
        let out = match self.device {
            Device::Cpu => cpu::elementwise::map(x, f),
        };
        Ok(self.like(out, self.shape.clone()))
    }
}
