//! Norms together with what transformers and decoders do to a normalised row before anything else reads it, in one pass.

use half::bf16;
use sango_kernels::{Activation, Modulation as RowModulation, Rotary, RowNorm};

use super::Columns;
use crate::buffer::{Buffer, Kept};
use crate::error::{Result, TensorError};
use crate::shape::numel;
use crate::storage::Storage;
use crate::{DType, Device, Tensor};

/// The scale and shift of an adaptive norm: `y · (1 + scale) + shift`. Both are columns of `[B, L, …]` tensors in `F32`; each
/// of the `L` rows belongs to an equal part of what a batch holds, so `L` is 1 for one condition per batch, and the number
/// of tokens for one per token. A batch of 1 with one row is for all.
#[derive(Debug, Clone)]
pub struct Modulation<'a> {
    scale: Columns<'a>,
    shift: Columns<'a>,
}

impl<'a> Modulation<'a> {
    /// From columns, or whole tensors.
    pub fn new(scale: impl Into<Columns<'a>>, shift: impl Into<Columns<'a>>) -> Self {
        Self { scale: scale.into(), shift: shift.into() }
    }

    /// For `batch` batches of `rows` rows of `width` values.
    pub(crate) fn rows(&self, op: &'static str, batch: usize, rows: usize, width: usize) -> Result<RowModulation<'a>> {
        let (scale, shift) =
            (shared_rows(op, &self.scale, batch, rows, width)?, shared_rows(op, &self.shift, batch, rows, width)?);
        if (scale.stride, scale.rows) != (shift.stride, shift.rows) {
            let detail = format!("a scale of {:?} and a shift of {:?}", self.scale.tensor(), self.shift.tensor());
            return Err(TensorError::shape(op, detail));
        }
        Ok(RowModulation { scale: scale.values, shift: shift.values, stride: scale.stride, rows: scale.rows })
    }
}

/// Rows of numbers, each of which belongs to several rows of something else.
pub(crate) struct SharedRows<'a> {
    pub values: &'a [f32],
    pub stride: usize,
    pub rows: usize,
}

/// `columns` as numbers for `batch` batches of `rows` rows of `width` values.
pub(crate) fn shared_rows<'a>(
    op: &'static str,
    columns: &Columns<'a>,
    batch: usize,
    rows: usize,
    width: usize,
) -> Result<SharedRows<'a>> {
    let ([batches, conditions, columns_width], stride) = columns.dims()?;
    let for_all = batches == 1 && conditions == 1;
    if columns_width != width || !(for_all || batches == batch && conditions > 0 && rows.is_multiple_of(conditions)) {
        let detail = format!(
            "{columns_width} columns of {:?} for {batch} batches of {rows} rows of {width}",
            columns.tensor().shape()
        );
        return Err(TensorError::shape(op, detail));
    }
    let rows = if for_all { batch * rows } else { rows / conditions };
    Ok(SharedRows { values: columns.of_type()?, stride, rows: rows.max(1) })
}

/// `activation(x / √(mean(x²) + eps) · weight · (1 + scale) + shift)` over the last dimension of `[B, …, D]`, `F32` or
/// `BF16`; `weight` is `[D]`. The result is `F32`, or `BF16` where `to` asks for it.
///
/// # Errors
/// [`TensorError::Shape`] when the shapes do not fit, [`TensorError::DType`] for other types.
pub fn rms_norm_modulated(
    x: &Tensor,
    weight: Option<&Tensor>,
    modulation: Option<&Modulation<'_>>,
    activation: Activation,
    eps: f32,
    to: DType,
) -> Result<Tensor> {
    modulated("rms_norm", x, weight, modulation, RowNorm { eps, activation, ..RowNorm::default() }, to)
}

/// [`rms_norm_modulated`] with a layer norm, which subtracts the mean first.
///
/// # Errors
/// As [`rms_norm_modulated`].
pub fn layer_norm_modulated(
    x: &Tensor,
    weight: Option<&Tensor>,
    modulation: Option<&Modulation<'_>>,
    activation: Activation,
    eps: f32,
    to: DType,
) -> Result<Tensor> {
    modulated("layer_norm", x, weight, modulation, RowNorm { centred: true, eps, activation, ..RowNorm::default() }, to)
}

/// `x / √(mean(x²) + eps) · weight` over all columns of `[B, L, D]`, then neighbours turned against each other:
/// `y₀ cos − y₁ sin` and `y₁ cos + y₀ sin`, with `cos` and `sin` `[L, D / 2]` or `[B, L, D / 2]`, one for each pair. This is
/// the `norm_q` across heads and the `apply_rotary_emb` of LTX-Video. `x` is `F32` or `BF16`, the result what `to` says.
///
/// # Errors
/// As [`rms_norm_modulated`].
pub fn rms_norm_rotary<'a>(
    x: impl Into<Columns<'a>>,
    weight: Option<&Tensor>,
    rotary: Option<(&Tensor, &Tensor)>,
    eps: f32,
    to: DType,
) -> Result<Tensor> {
    const OP: &str = "rms_norm_rotary";
    let x = x.into();
    let ([batch, length, width], stride) = x.dims()?;
    let rotary = rotary
        .map(|(cos, sin)| {
            let (one, each) = ([length, width / 2], [batch, length, width / 2]);
            let fits = cos.shape() == sin.shape() && (cos.shape() == one || cos.shape() == each);
            if !fits || !width.is_multiple_of(2) {
                let detail = format!(
                    "cos {:?} and sin {:?} for {batch} batches of {length} rows of {width}",
                    cos.shape(),
                    sin.shape()
                );
                return Err(TensorError::shape(OP, detail));
            }
            let rows = cos.numel().checked_div(width / 2).unwrap_or(1).max(1);
            Ok(Rotary { cos: cos.f32_for(OP)?, sin: sin.f32_for(OP)?, rows })
        })
        .transpose()?;
    let norm = RowNorm { eps, weight: weight.map(|w| w.f32_for(OP)).transpose()?, rotary, ..RowNorm::default() };
    run(&x, &norm, (batch * length, width, stride), vec![batch, length, width], to)
}

fn modulated(
    op: &'static str,
    x: &Tensor,
    weight: Option<&Tensor>,
    modulation: Option<&Modulation<'_>>,
    norm: RowNorm<'_>,
    to: DType,
) -> Result<Tensor> {
    let &[batch, ref middle @ .., width] = x.shape() else {
        return Err(TensorError::shape(op, format!("a batch and a last dimension expected, found {:?}", x.shape())));
    };
    let rows = middle.iter().product();
    let weight = weight.map(|w| w.f32_for(op)).transpose()?;
    let modulation = modulation.map(|m| m.rows(op, batch, rows, width)).transpose()?;
    let flat = x.reshape(&[1, batch * rows, width])?;
    let norm = RowNorm { weight, modulation, ..norm };
    run(&Columns::from(&flat), &norm, (batch * rows, width, width), x.shape().to_vec(), to)
}

fn run(
    x: &Columns<'_>,
    norm: &RowNorm<'_>,
    rows: (usize, usize, usize),
    shape: Vec<usize>,
    to: DType,
) -> Result<Tensor> {
    let out: Storage = match (x.tensor().device(), to) {
        (Device::Cpu, DType::BF16) => normalise::<bf16>(x, norm, rows, &shape)?.into(),
        (Device::Cpu, _) => normalise::<f32>(x, norm, rows, &shape)?.into(),
    };
    Ok(x.tensor().like(out, shape))
}

fn normalise<O: Kept + sango_kernels::Number>(
    x: &Columns<'_>,
    norm: &RowNorm<'_>,
    rows: (usize, usize, usize),
    shape: &[usize],
) -> Result<Buffer<O>> {
    let mut out = Buffer::uninit(numel("norm", shape)?);
    match x.tensor().dtype() {
        DType::BF16 => norm.run(x.of_type::<bf16>()?, rows, &mut out[..])?,
        _ => norm.run(x.of_type::<f32>()?, rows, &mut out[..])?,
    }
    Ok(out)
}
