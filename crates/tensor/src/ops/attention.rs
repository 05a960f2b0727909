//! Scaled dot-product attention.

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
        return Err(mismatch(q, k, v));
    }
    let (q_strides, kv_strides) = (
        Strides::heads_first(heads, q_len, head_dim),
        Strides::heads_first(kv_heads, kv_len, head_dim),
    );
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
    run(q, k, v, &shape, mask, is_causal, scale)
}

/// The same attention on what linear layers produce, without moving heads about: `q` `[B, L, H · D]`, `k` and `v`
/// `[B, S, H_kv · D]`, result `[B, L, H · D]`.
///
/// # Errors
/// As [`scaled_dot_product_attention`].
#[expect(
    clippy::too_many_arguments,
    reason = "PyTorch's arguments and the numbers of heads"
)]
pub fn multi_head_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    kv_heads: usize,
    mask: Option<&Tensor>,
    is_causal: bool,
    scale: Option<f32>,
) -> Result<Tensor> {
    let ([batch, q_len, width], [_, kv_len, _]) = (q.dims()?, k.dims()?);
    let head_dim = width.checked_div(heads).unwrap_or(0);
    let expected = [batch, kv_len, kv_heads * head_dim];
    if heads * head_dim != width || k.shape() != expected || v.shape() != expected {
        return Err(mismatch(q, k, v));
    }
    let (q_strides, kv_strides) = (
        Strides::positions_first(heads, q_len, head_dim),
        Strides::positions_first(kv_heads, kv_len, head_dim),
    );
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
    run(q, k, v, &shape, mask, is_causal, scale)
}

fn mismatch(q: &Tensor, k: &Tensor, v: &Tensor) -> TensorError {
    let (q, k, v) = (q.shape(), k.shape(), v.shape());
    TensorError::shape(
        OP,
        format!("queries {q:?}, keys {k:?} and values {v:?} do not fit together"),
    )
}

fn run(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    shape: &AttentionShape,
    mask: Option<&Tensor>,
    is_causal: bool,
    scale: Option<f32>,
) -> Result<Tensor> {
    let mask = match mask {
        Some(_) if is_causal => {
            return Err(TensorError::shape(
                OP,
                "a mask and is_causal exclude each other",
            ));
        }
        Some(mask) => Some(rows_of_mask(mask, shape)?),
        None => None,
    };
    let mask = match &mask {
        Some((mask, strides)) => AttentionMask::Additive {
            mask: mask.f32_for(OP)?,
            strides: *strides,
        },
        None if is_causal => AttentionMask::Causal,
        None => AttentionMask::None,
    };
    let scale = scale.unwrap_or(1.0 / (shape.head_dim as f32).sqrt());
    let mut out = Buffer::uninit(numel(OP, q.shape())?);
    match q.device {
        Device::Cpu => attention(
            q.f32_for(OP)?,
            k.f32_for(OP)?,
            v.f32_for(OP)?,
            shape,
            scale,
            mask,
            &mut out,
        )?,
    }
    Ok(q.like(out, q.shape().to_vec()))
}

/// The mask with whole rows of keys, and where the row of each query is; other dimensions stay broadcast.
fn rows_of_mask(mask: &Tensor, shape: &AttentionShape) -> Result<(Tensor, Strides)> {
    let target = [shape.batch, shape.heads, shape.q_len, shape.kv_len];
    if broadcast(OP, mask.shape(), &target)? != target {
        return Err(TensorError::shape(
            OP,
            format!("a mask of {:?} for scores of {target:?}", mask.shape()),
        ));
    }
    let mut whole = mask.shape().to_vec();
    match whole.last_mut() {
        Some(last) => *last = shape.kv_len,
        None => whole.push(shape.kv_len),
    }
    let mask = mask.broadcast_to(&whole)?;
    let strides = broadcast_strides(&whole, &target);
    Ok((
        mask,
        Strides {
            batch: strides[0],
            head: strides[1],
            position: strides[2],
        },
    ))
}
