//! Products of two activations. (A product with weights is [`crate::nn::Linear`], which packs them once.)

use sango_kernels::{BLayout, matmul};

use crate::buffer::Buffer;
use crate::error::{Result, TensorError};
use crate::shape::{broadcast, broadcast_strides, numel};
use crate::{Device, Tensor};

impl Tensor {
    /// `[…, m, k] · […, k, n]` → `[…, m, n]`; leading dimensions broadcast.
    ///
    /// # Errors
    /// [`TensorError::Shape`] when the shapes do not fit, [`TensorError::DType`] unless both are `F32`.
    pub fn matmul(&self, other: &Tensor) -> Result<Tensor> {
        let (a, b) = (self.f32_for("matmul")?, other.f32_for("matmul")?);
        let mismatch =
            || TensorError::shape("matmul", format!("{:?} and {:?} do not multiply", self.shape, other.shape));
        let ([a_lead @ .., m, k], [b_lead @ .., b_k, n]) = (self.shape.as_slice(), other.shape.as_slice()) else {
            return Err(mismatch());
        };
        if k != b_k {
            return Err(mismatch());
        }
        let (m, n, k) = (*m, *n, *k);
        let lead = broadcast("matmul", a_lead, b_lead)?;
        let mut shape = lead.clone();
        shape.extend([m, n]);
        let mut out = Buffer::uninit(numel("matmul", &shape)?);
        let (a_strides, b_strides) = (broadcast_strides(a_lead, &lead), broadcast_strides(b_lead, &lead));
        if m * n > 0 {
            for (i, out) in out.chunks_exact_mut(m * n).enumerate() {
                let (a_at, b_at) = (offset(i, &lead, &a_strides) * m * k, offset(i, &lead, &b_strides) * k * n);
                let (a, b) = (&a[a_at..a_at + m * k], &b[b_at..b_at + k * n]);
                match self.device {
                    Device::Cpu => matmul(a, b, BLayout::KN, (m, n, k), out)?,
                }
            }
        }
        Ok(self.like(out, shape))
    }
}

/// Where element `at` of a row-major tensor of `shape` is, read with `strides`.
fn offset(mut at: usize, shape: &[usize], strides: &[usize]) -> usize {
    let mut offset = 0;
    for (&d, &s) in shape.iter().zip(strides).rev() {
        offset += at % d * s;
        at /= d;
    }
    offset
}
