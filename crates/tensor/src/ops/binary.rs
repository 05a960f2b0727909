//! Element-wise functions of two tensors, with broadcasting.

use crate::cpu;
use crate::error::Result;
use crate::shape::broadcast;
use crate::{Device, Tensor};

impl Tensor {
    /// `self + other`, broadcasting as NumPy does.
    ///
    /// # Errors
    /// [`crate::TensorError::Shape`] when the shapes do not broadcast, [`crate::TensorError::DType`] unless both are
    /// `F32`; the same for the other three.
    pub fn add(&self, other: &Tensor) -> Result<Tensor> {
        self.zip("add", other, |a, b| a + b)
    }

    /// `self − other`, broadcasting.
    ///
    /// # Errors
    /// As [`Tensor::add`].
    pub fn sub(&self, other: &Tensor) -> Result<Tensor> {
        self.zip("sub", other, |a, b| a - b)
    }

    /// `self · other` element by element, broadcasting.
    ///
    /// # Errors
    /// As [`Tensor::add`].
    pub fn mul(&self, other: &Tensor) -> Result<Tensor> {
        self.zip("mul", other, |a, b| a * b)
    }

    /// `self / other`, broadcasting.
    ///
    /// # Errors
    /// As [`Tensor::add`].
    pub fn div(&self, other: &Tensor) -> Result<Tensor> {
        self.zip("div", other, |a, b| a / b)
    }

    fn zip(&self, op: &'static str, other: &Tensor, f: impl Fn(f32, f32) -> f32 + Sync) -> Result<Tensor> {
        let (a, b) = (self.f32_for(op)?, other.f32_for(op)?);
        let shape = broadcast(op, &self.shape, &other.shape)?;
        crate::shape::numel(op, &shape)?;
        let out = match self.device {
            Device::Cpu => cpu::elementwise::zip((a, &self.shape), (b, &other.shape), &shape, f),
        };
        Ok(self.like(out, shape))
    }
}
