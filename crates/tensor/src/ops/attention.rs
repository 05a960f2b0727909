//! Scaled dot-product attention.

use std::ops::Range;

use sango_kernels::{AttentionMask, AttentionShape, Strides, attention};

use crate::buffer::Buffer;
use crate::error::{Result, TensorError};
use crate::shape::{broadcast, broadcast_strides, numel};
use crate::{Device, Tensor};

const OP: &str = "scaled_dot_product_attention";

/// `softmax(scale · q kᵀ + mask) v` for `q` `[B, H, L, D]` and `k`, `v` `[B, H_kv, S, D]`; `H` is a multiple of `H_kv`
/// (grouped-query attention). `scale` is `1 / √D` unless given.
///
/// `mask` is added to the scores and broadcasts to `[B, H, L, S]`. With `is_causal` query `i` sees the keys up to
/// `i + S − L`, so the last query sees every key. Give one or the other.
///
/// # Errors
/// [`TensorError::Shape`] when the shapes do not fit, [`TensorError::DType`] unless all are `F32`.
pub fn scaled_dot_product_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: Option<&Tensor>,
    is_causal: bool,
    scale: Option<f32>,
) -> Result<Tensor> {
    let ([batch, heads, q_len, head_dim], [_, kv_heads, kv_len, _]) = (q.dims()?, k.dims()?);
    let expected = [batch, kv_heads, kv_len, head_dim];
    if k.shape() != expected || v.shape() != expected {
        return Err(mismatch(q.shape(), k.shape(), v.shape()));
    }
    let (q_strides, kv_strides) =
        (Strides::heads_first(heads, q_len, head_dim), Strides::heads_first(kv_heads, kv_len, head_dim));
    let shape = AttentionShape {
        batch,
        heads,
        kv_heads,
        q_len,
        kv_len,
        head_dim,
        q: q_strides,
        k: kv_strides,
        v: kv_strides,
        out: q_strides,
    };
    let mut out = Buffer::uninit(numel(OP, q.shape())?);
    match q.device {
        Device::Cpu => {
            let (q, k, v) = (q.f32_for(OP)?, k.f32_for(OP)?, v.f32_for(OP)?);
            run(q, k, v, &shape, mask, is_causal, scale, &mut out)?;
        }
    }
    Ok(q.like(out, q.shape().to_vec()))
}

/// Some columns of a `[B, positions, columns]` tensor: the part that holds the queries, keys or values where one linear
/// layer has produced several of them side by side.
#[derive(Debug, Clone)]
pub struct Columns<'a> {
    tensor: &'a Tensor,
    range: Range<usize>,
}

impl<'a> Columns<'a> {
    /// The columns `range` of `tensor`.
    pub fn of(tensor: &'a Tensor, range: Range<usize>) -> Self {
        Self { tensor, range }
    }

    /// Batches, positions, columns; the elements from the first column on; and the length of a whole row.
    fn parts(&self) -> Result<([usize; 3], &'a [f32], usize)> {
        let [batch, positions, width] = self.tensor.dims()?;
        if self.range.start > self.range.end || self.range.end > width {
            return Err(TensorError::shape(OP, format!("columns {:?} of {:?}", self.range, self.tensor.shape())));
        }
        let data = self.tensor.f32_for(OP)?;
        // (Without any positions there is nothing to start from.)
        let data = data.get(self.range.start..).unwrap_or(&[]);
        Ok(([batch, positions, self.range.len()], data, width))
    }
}

/// All columns.
impl<'a> From<&'a Tensor> for Columns<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        Self { tensor, range: 0..tensor.shape().last().copied().unwrap_or(0) }
    }
}

/// The same attention on what linear layers produce, without moving heads about: `q` `[B, L, H · D]`, `k` and `v`
/// `[B, S, H_kv · D]`, result `[B, L, H · D]`. Each may be some [`Columns`] of a wider tensor.
///
/// # Errors
/// As [`scaled_dot_product_attention`].
#[expect(clippy::too_many_arguments, reason = "PyTorch's arguments and the numbers of heads")]
pub fn multi_head_attention<'a>(
    q: impl Into<Columns<'a>>,
    k: impl Into<Columns<'a>>,
    v: impl Into<Columns<'a>>,
    heads: usize,
    kv_heads: usize,
    mask: Option<&Tensor>,
    is_causal: bool,
    scale: Option<f32>,
) -> Result<Tensor> {
    let (q, k, v) = (q.into(), k.into(), v.into());
    let ((q_dims, q_data, q_row), (k_dims, k_data, k_row), (v_dims, v_data, v_row)) =
        (q.parts()?, k.parts()?, v.parts()?);
    let ([batch, q_len, width], [_, kv_len, _]) = (q_dims, k_dims);
    let head_dim = width.checked_div(heads).unwrap_or(0);
    let expected = [batch, kv_len, kv_heads * head_dim];
    if heads * head_dim != width || k_dims != expected || v_dims != expected {
        return Err(mismatch(&q_dims, &k_dims, &v_dims));
    }
    let strides = |positions, row| Strides { batch: positions * row, head: head_dim, position: row };
    let shape = AttentionShape {
        batch,
        heads,
        kv_heads,
        q_len,
        kv_len,
        head_dim,
        q: strides(q_len, q_row),
        k: strides(kv_len, k_row),
        v: strides(kv_len, v_row),
        out: strides(q_len, width),
    };
    let mut out = Buffer::uninit(numel(OP, &q_dims)?);
    match q.tensor.device {
        Device::Cpu => run(q_data, k_data, v_data, &shape, mask, is_causal, scale, &mut out)?,
    }
    Ok(q.tensor.like(out, q_dims.to_vec()))
}

fn mismatch(q: &[usize], k: &[usize], v: &[usize]) -> TensorError {
    TensorError::shape(OP, format!("queries {q:?}, keys {k:?} and values {v:?} do not fit together"))
}

#[expect(clippy::too_many_arguments, reason = "the kernel's arguments")]
fn run(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    shape: &AttentionShape,
    mask: Option<&Tensor>,
    is_causal: bool,
    scale: Option<f32>,
    out: &mut [f32],
) -> Result<()> {
    let mask = match mask {
        Some(_) if is_causal => {
            return Err(TensorError::shape(OP, "a mask and is_causal exclude each other"));
        }
        Some(mask) => Some(rows_of_mask(mask, shape)?),
        None => None,
    };
    let mask = match &mask {
        Some((mask, strides)) => AttentionMask::Additive { mask: mask.f32_for(OP)?, strides: *strides },
        None if is_causal => AttentionMask::Causal,
        None => AttentionMask::None,
    };
    let scale = scale.unwrap_or(1.0 / (shape.head_dim as f32).sqrt());
    Ok(attention(q, k, v, shape, scale, mask, out)?)
}

/// The mask with whole rows of keys, and where the row of each query is; other dimensions stay broadcast.
fn rows_of_mask(mask: &Tensor, shape: &AttentionShape) -> Result<(Tensor, Strides)> {
    let target = [shape.batch, shape.heads, shape.q_len, shape.kv_len];
    if broadcast(OP, mask.shape(), &target)? != target {
        return Err(TensorError::shape(OP, format!("a mask of {:?} for scores of {target:?}", mask.shape())));
    }
    let mut whole = mask.shape().to_vec();
    match whole.last_mut() {
        Some(last) => *last = shape.kv_len,
        None => whole.push(shape.kv_len),
    }
    let mask = mask.broadcast_to(&whole)?;
    let strides = broadcast_strides(&whole, &target);
    Ok((mask, Strides { batch: strides[0], head: strides[1], position: strides[2] }))
}
