//! Sums, means, arg-max and softmax along one dimension.

use sango_kernels::{KernelError, log_softmax, softmax};

use crate::buffer::Buffer;
use crate::cpu;
use crate::error::{Result, TensorError};
use crate::shape::{resolve_dim, split_at_dim};
use crate::{Device, Tensor};

/// A function of rows of the given width.
type RowFunction = fn(&[f32], usize, &mut [f32]) -> Result<(), KernelError>;

impl Tensor {
    /// The sum along `dim`, which disappears.
    ///
    /// # Errors
    /// [`TensorError::Dim`] when there is no such dimension, [`TensorError::DType`] unless `F32`.
    pub fn sum(&self, dim: isize) -> Result<Tensor> {
        let (x, dim) = (self.f32_for("sum")?, resolve_dim("sum", dim, &self.shape)?);
        let out = match self.device {
            Device::Cpu => cpu::reduce::sum(x, split_at_dim(&self.shape, dim)),
        };
        let mut shape = self.shape.clone();
        shape.remove(dim);
        Ok(self.like(out, shape))
    }

    /// The sum along `dim`, which stays with size 1.
    ///
    /// # Errors
    /// As [`Tensor::sum`].
    pub fn sum_keepdim(&self, dim: isize) -> Result<Tensor> {
        let at = resolve_dim("sum", dim, &self.shape)?;
        self.sum(dim)?.unsqueeze(at as isize)
    }

    /// The mean along `dim`, which disappears.
    ///
    /// # Errors
    /// As [`Tensor::sum`].
    pub fn mean(&self, dim: isize) -> Result<Tensor> {
        let n = self.dim(dim)?;
        self.sum(dim)?.mul_scalar(1.0 / n as f32)
    }

    /// The mean along `dim`, which stays with size 1.
    ///
    /// # Errors
    /// As [`Tensor::sum`].
    pub fn mean_keepdim(&self, dim: isize) -> Result<Tensor> {
        let n = self.dim(dim)?;
        self.sum_keepdim(dim)?.mul_scalar(1.0 / n as f32)
    }

    /// Index of the largest element along `dim`, which disappears; the first one where several are equal.
    ///
    /// # Errors
    /// As [`Tensor::sum`]; [`TensorError::Shape`] when `dim` is empty.
    pub fn argmax(&self, dim: isize) -> Result<Tensor> {
        let (x, dim) = (self.f32_for("argmax")?, resolve_dim("argmax", dim, &self.shape)?);
        if self.shape[dim] == 0 {
            return Err(TensorError::shape("argmax", "the dimension is empty"));
        }
        let out = match self.device {
            Device::Cpu => cpu::reduce::argmax(x, split_at_dim(&self.shape, dim)),
        };
        let mut shape = self.shape.clone();
        shape.remove(dim);
        Ok(self.like(out, shape))
    }

    /// `exp(x) / Σ exp(x)` along `dim`.
    ///
    /// # Errors
    /// As [`Tensor::sum`].
    pub fn softmax(&self, dim: isize) -> Result<Tensor> {
        self.along_last("softmax", dim, softmax)
    }

    /// `log(softmax(x))` along `dim`, computed without the detour.
    ///
    /// # Errors
    /// As [`Tensor::sum`].
    pub fn log_softmax(&self, dim: isize) -> Result<Tensor> {
        self.along_last("log_softmax", dim, log_softmax)
    }

    /// Applies a function of rows along `dim`, bringing that dimension to the end and back.
    fn along_last(&self, op: &'static str, dim: isize, on_cpu: RowFunction) -> Result<Tensor> {
        let x = self.f32_for(op)?;
        let dim = resolve_dim(op, dim, &self.shape)?;
        if dim + 1 != self.rank() {
            let (dim, last) = (dim as isize, -1);
            return self.transpose(dim, last)?.along_last(op, last, on_cpu)?.transpose(dim, last);
        }
        let mut out = Buffer::uninit(x.len());
        if !x.is_empty() {
            match self.device {
                Device::Cpu => on_cpu(x, self.shape[dim], &mut out)?,
            }
        }
        Ok(self.like(out, self.shape.clone()))
    }
}
