//! Normalisation with scales and shifts that are given, not owned: what the layers of `nn` call, and what models whose
//! scales depend on a condition (AdaLN) call directly.

use half::bf16;
use sango_kernels::{KernelError, layer_norm as layer_norm_rows, rms_norm as rms_norm_rows};

use crate::buffer::{Buffer, Kept};
use crate::cpu;
use crate::error::{Result, TensorError};
use crate::storage::Storage;
use crate::{DType, Device, Tensor};

/// `(x − mean) / √(variance + eps) · weight + bias` over the last dimension of `[B, …, D]`. `weight` and `bias` are
/// `[D]`, or `[B, D]` to treat each batch differently. The result is `F32`, or `BF16` where `to` asks for it: for what is
/// next read by a product that would round it anyway.
///
/// # Errors
/// [`TensorError::Shape`] when the shapes do not fit, [`TensorError::DType`] unless all are `F32`.
pub fn layer_norm(x: &Tensor, weight: Option<&Tensor>, bias: Option<&Tensor>, eps: f32, to: DType) -> Result<Tensor> {
    match to {
        DType::BF16 => normalise::<bf16>("layer_norm", x, weight, bias, eps, layer_norm_rows),
        _ => normalise::<f32>("layer_norm", x, weight, bias, eps, layer_norm_rows),
    }
}

/// `x / √(mean(x²) + eps) · weight + bias` over the last dimension; `weight` and `bias` as for [`layer_norm`].
///
/// # Errors
/// As [`layer_norm`].
pub fn rms_norm(x: &Tensor, weight: Option<&Tensor>, bias: Option<&Tensor>, eps: f32, to: DType) -> Result<Tensor> {
    match to {
        DType::BF16 => normalise::<bf16>("rms_norm", x, weight, bias, eps, rms_norm_rows),
        _ => normalise::<f32>("rms_norm", x, weight, bias, eps, rms_norm_rows),
    }
}

/// The global response normalisation of ConvNeXt V2 on `[B, …, C]`: `gamma · x · r + beta + x`, where `r` compares the
/// norm of a channel over the whole image with the mean over all channels. `gamma` and `beta` have `C` elements.
///
/// # Errors
/// As [`layer_norm`].
pub fn global_response_norm(x: &Tensor, gamma: &Tensor, beta: &Tensor) -> Result<Tensor> {
    const OP: &str = "global_response_norm";
    let (batch, rows, width) = batches(OP, x)?;
    if gamma.numel() != width || beta.numel() != width {
        return Err(misfit(OP, x, gamma));
    }
    let (data, gamma, beta) = (x.f32_for(OP)?, gamma.f32_for(OP)?, beta.f32_for(OP)?);
    let out = match x.device {
        Device::Cpu => {
            let mut factor = cpu::reduce::sum_squares(data, (batch, rows, width));
            for factor in factor.chunks_exact_mut(width.max(1)) {
                factor.iter_mut().for_each(|f| *f = f.sqrt());
                let mean = factor.iter().map(|&f| f64::from(f)).sum::<f64>() / width as f64;
                let scale = 1.0 / (mean as f32 + 1e-6);
                factor.iter_mut().zip(gamma).for_each(|(f, g)| *f = 1.0 + g * (*f * scale));
            }
            cpu::elementwise::scale_shift(data, (batch, rows, width), &factor, beta)
        }
    };
    Ok(x.like(out, x.shape().to_vec()))
}

impl Tensor {
    /// `x · (1 + scale) + shift` for `x` `[B, …, C]`, `scale` and `shift` `[B, C]`, in one pass.
    ///
    /// # Errors
    /// [`TensorError::Shape`] when the shapes do not fit, [`TensorError::DType`] unless all are `F32`.
    pub fn scale_shift(&self, scale: &Tensor, shift: &Tensor) -> Result<Tensor> {
        const OP: &str = "scale_shift";
        let (batch, rows, width) = batches(OP, self)?;
        for t in [scale, shift] {
            if t.shape() != [batch, width] {
                return Err(misfit(OP, self, t));
            }
        }
        let (x, factor) = (self.f32_for(OP)?, scale.add_scalar(1.0)?);
        let out = match self.device {
            Device::Cpu => {
                cpu::elementwise::scale_shift(x, (batch, rows, width), factor.f32_for(OP)?, shift.f32_for(OP)?)
            }
        };
        Ok(self.like(out, self.shape.clone()))
    }
}

/// `x` as (batches, rows in each, width).
fn batches(op: &'static str, x: &Tensor) -> Result<(usize, usize, usize)> {
    match x.shape() {
        [] => Err(TensorError::shape(op, "the input has no dimensions")),
        [width] => Ok((1, 1, *width)),
        [batch, rows @ .., width] => Ok((*batch, rows.iter().product(), *width)),
    }
}

fn misfit(op: &'static str, x: &Tensor, affine: &Tensor) -> TensorError {
    TensorError::shape(op, format!("a scale or shift of {:?} for {:?}", affine.shape(), x.shape()))
}

/// A scale or shift: none, one for all batches, or one for each.
struct Affine<'a> {
    data: Option<&'a [f32]>,
    by_batch: bool,
}

impl<'a> Affine<'a> {
    fn new(op: &'static str, x: &Tensor, t: Option<&'a Tensor>, batch: usize, width: usize) -> Result<Self> {
        let Some(t) = t else {
            return Ok(Self { data: None, by_batch: false });
        };
        match t.shape() {
            [d] if *d == width => {}
            [b, d] if (*b, *d) == (batch, width) => {}
            _ => return Err(misfit(op, x, t)),
        }
        Ok(Self { data: Some(t.f32_for(op)?), by_batch: t.rank() == 2 })
    }

    fn of(&self, batch: usize, width: usize) -> Option<&'a [f32]> {
        let start = if self.by_batch { batch * width } else { 0 };
        self.data.map(|data| &data[start..start + width])
    }
}

/// A norm over rows: values, width, weight, bias, epsilon, result.
type RowNorm<O> = fn(&[f32], usize, Option<&[f32]>, Option<&[f32]>, f32, &mut [O]) -> Result<(), KernelError>;

fn normalise<O: Kept>(
    op: &'static str,
    x: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f32,
    on_cpu: RowNorm<O>,
) -> Result<Tensor>
where
    Storage: From<Buffer<O>>,
{
    let (data, (batch, rows, width)) = (x.f32_for(op)?, batches(op, x)?);
    let (weight, bias) = (Affine::new(op, x, weight, batch, width)?, Affine::new(op, x, bias, batch, width)?);
    // Batches that share everything are one long list of rows.
    let (batch, rows) = if weight.by_batch || bias.by_batch { (batch, rows) } else { (1, batch * rows) };
    let mut out = Buffer::<O>::uninit(data.len());
    for b in 0..batch {
        let part = b * rows * width..(b + 1) * rows * width;
        match x.device {
            Device::Cpu => {
                on_cpu(&data[part.clone()], width, weight.of(b, width), bias.of(b, width), eps, &mut out[part])?;
            }
        }
    }
    Ok(x.like(out, x.shape().to_vec()))
}
