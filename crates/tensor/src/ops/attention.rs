//! Scaled dot-product attention.

use std::ops::Range;

use half::bf16;
use sango_kernels::{AttentionMask, AttentionShape, KernelError, Strides, attention, attention_bf16};

use crate::buffer::{Buffer, Kept};
use crate::error::{Result, TensorError};
use crate::kv_cache::{KvCache, Rows};
use crate::shape::{broadcast, broadcast_strides, numel};
use crate::storage::Storage;
use crate::{DType, Device, Tensor};

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
    let how = How { mask, is_causal, scale };
    let out = match q.device {
        Device::Cpu => {
            let len = numel(OP, q.shape())?;
            run(q.f32_for(OP)?, k.f32_for(OP)?, v.f32_for(OP)?, &shape, how, len)?
        }
    };
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

    pub(crate) fn tensor(&self) -> &'a Tensor {
        self.tensor
    }

    /// The first column.
    pub(crate) fn start(&self) -> usize {
        self.range.start
    }

    /// Batches, positions, columns, and the length of a whole row.
    pub(crate) fn dims(&self) -> Result<([usize; 3], usize)> {
        let [batch, positions, width] = self.tensor.dims()?;
        if self.range.start > self.range.end || self.range.end > width {
            return Err(TensorError::shape(OP, format!("columns {:?} of {:?}", self.range, self.tensor.shape())));
        }
        Ok(([batch, positions, self.range.len()], width))
    }

    /// The elements from the first column on (none where there are no positions).
    pub(crate) fn of_type<T: Float>(&self) -> Result<&'a [T]> {
        Ok(T::elements(self.tensor)?.get(self.range.start..).unwrap_or(&[]))
    }
}

/// All columns.
impl<'a> From<&'a Tensor> for Columns<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        Self { tensor, range: 0..tensor.shape().last().copied().unwrap_or(0) }
    }
}

/// The same attention on what linear layers produce, without moving heads about: `q` `[B, L, H · D]`, `k` and `v`
/// `[B, S, H_kv · D]`, result `[B, L, H · D]`. Each may be some [`Columns`] of a wider tensor; all three are `F32`, or all
/// `BF16`, and so is the result.
///
/// # Errors
/// As [`scaled_dot_product_attention`], but for the type.
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
    let ((q_dims, q_row), (k_dims, k_row), (v_dims, v_row)) = (q.dims()?, k.dims()?, v.dims()?);
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
    let len = numel(OP, &q_dims)?;
    let how = How { mask, is_causal, scale };
    let out: Storage = match (q.tensor.device, q.tensor.dtype()) {
        (Device::Cpu, DType::BF16) => run::<bf16>(q.of_type()?, k.of_type()?, v.of_type()?, &shape, how, len)?.into(),
        (Device::Cpu, _) => run::<f32>(q.of_type()?, k.of_type()?, v.of_type()?, &shape, how, len)?.into(),
    };
    Ok(q.tensor.like(out, q_dims.to_vec()))
}

/// [`multi_head_attention`] of the queries `q` `[1, L, H · D]` over the positions in `cache`, the last `L` of which are
/// those of the queries. With `is_causal` a query sees no position after its own. `q` has the type of the cache.
///
/// # Errors
/// As [`multi_head_attention`].
pub fn cached_attention<'a>(
    q: impl Into<Columns<'a>>,
    cache: &KvCache,
    heads: usize,
    kv_heads: usize,
    mask: Option<&Tensor>,
    is_causal: bool,
) -> Result<Tensor> {
    let q = q.into();
    let (q_dims, q_row) = q.dims()?;
    let ([batch, q_len, width], kv_len, kv_width) = (q_dims, cache.len(), cache.width());
    let head_dim = width.checked_div(heads).unwrap_or(0);
    if batch != 1 || heads * head_dim != width || kv_heads * head_dim != kv_width {
        return Err(mismatch(&q_dims, &[1, kv_len, kv_width], &[1, kv_len, kv_width]));
    }
    let strides = |positions, row| Strides { batch: positions * row, head: head_dim, position: row };
    let kv = strides(cache.capacity(), kv_width);
    let (q_strides, out) = (strides(q_len, q_row), strides(q_len, width));
    let shape = AttentionShape { batch, heads, kv_heads, q_len, kv_len, head_dim, q: q_strides, k: kv, v: kv, out };
    let len = numel(OP, &q_dims)?;
    let how = How { mask, is_causal, scale: None };
    // Only the valid rows: what comes after them may be wider than what is copied for a kernel of another type.
    let valid = kv_len * kv_width;
    let out: Storage = match cache.rows() {
        (Rows::F32(k), Rows::F32(v)) => run::<f32>(q.of_type()?, &k[..valid], &v[..valid], &shape, how, len)?.into(),
        (Rows::BF16(k), Rows::BF16(v)) => run::<bf16>(q.of_type()?, &k[..valid], &v[..valid], &shape, how, len)?.into(),
        _ => return Err(q.tensor.dtype_error(OP, DType::F32)),
    };
    Ok(q.tensor.like(out, q_dims.to_vec()))
}

/// A type that attention reads and writes.
pub(crate) trait Float: Kept {
    /// The elements of a tensor of this type.
    fn elements(tensor: &Tensor) -> Result<&[Self]>;

    const ATTENTION: Attention<Self>;
}

type Attention<T> =
    fn(&[T], &[T], &[T], &AttentionShape, f32, AttentionMask<'_>, &mut [T]) -> std::result::Result<(), KernelError>;

impl Float for f32 {
    fn elements(tensor: &Tensor) -> Result<&[f32]> {
        tensor.f32_for(OP)
    }

    const ATTENTION: Attention<f32> = attention;
}

impl Float for bf16 {
    fn elements(tensor: &Tensor) -> Result<&[bf16]> {
        match &*tensor.storage {
            Storage::BF16(v) => Ok(&v[tensor.range()]),
            _ => Err(tensor.dtype_error(OP, DType::BF16)),
        }
    }

    const ATTENTION: Attention<bf16> = attention_bf16;
}

/// The arguments that are not tensors to attend to.
struct How<'a> {
    mask: Option<&'a Tensor>,
    is_causal: bool,
    scale: Option<f32>,
}

fn mismatch(q: &[usize], k: &[usize], v: &[usize]) -> TensorError {
    TensorError::shape(OP, format!("queries {q:?}, keys {k:?} and values {v:?} do not fit together"))
}

fn run<T: Float>(
    q: &[T],
    k: &[T],
    v: &[T],
    shape: &AttentionShape,
    How { mask, is_causal, scale }: How<'_>,
    len: usize,
) -> Result<Buffer<T>> {
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
    let mut out = Buffer::uninit(len);
    T::ATTENTION(q, k, v, shape, scale, mask, &mut out)?;
    Ok(out)
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
