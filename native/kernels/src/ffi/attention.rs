//! Attention in C.

use half::bf16;

use super::{guard, sango_status, slice, slice_mut};
use crate::error::elements;
use crate::{AttentionMask, AttentionShape, KernelError, Strides, attention, attention_bf16};

/// Distances in elements between batches, heads and positions.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct SangoStrides {
    /// From one batch to the next.
    pub batch: usize,
    /// From one head to the next.
    pub head: usize,
    /// From one position to the next.
    pub position: usize,
}

impl From<SangoStrides> for Strides {
    fn from(strides: SangoStrides) -> Self {
        Self { batch: strides.batch, head: strides.head, position: strides.position }
    }
}

/// The shape of an attention call.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct SangoAttentionShape {
    /// Batches.
    pub batch: usize,
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Query positions.
    pub q_len: usize,
    /// Key and value positions.
    pub kv_len: usize,
    /// Elements per head, at most 256.
    pub head_dim: usize,
    /// Layout of `q`.
    pub q: SangoStrides,
    /// Layout of `k`.
    pub k: SangoStrides,
    /// Layout of `v`.
    pub v: SangoStrides,
    /// Layout of `out`.
    pub out: SangoStrides,
    /// Layout of an additive mask; 0 to broadcast.
    pub mask: SangoStrides,
}

/// `out = softmax(scale · q kᵀ + mask) v`. `mask_kind` is a `sango_mask`; `mask` is read for additive masks only.
///
/// # Safety
/// Every non-null pointer has the elements that shape and strides reach; `out` overlaps nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sango_attention_f32(
    q: *const f32,
    k: *const f32,
    v: *const f32,
    shape: *const SangoAttentionShape,
    scale: f32,
    mask_kind: i32,
    mask: *const f32,
    out: *mut f32,
) -> sango_status {
    guard(|| {
        // SAFETY: the caller vouches for non-null pointers.
        unsafe {
            let call = Call::new(shape, mask_kind, mask)?;
            let (q, k, v) = (slice("q", q, call.q)?, slice("k", k, call.kv.0)?, slice("v", v, call.kv.1)?);
            attention(q, k, v, &call.shape, scale, call.mask, slice_mut("out", out, call.out)?)
        }
    })
}

/// [`sango_attention_f32`] with bf16 `q`, `k`, `v` and `out`.
///
/// # Safety
/// As [`sango_attention_f32`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sango_attention_bf16(
    q: *const bf16,
    k: *const bf16,
    v: *const bf16,
    shape: *const SangoAttentionShape,
    scale: f32,
    mask_kind: i32,
    mask: *const f32,
    out: *mut bf16,
) -> sango_status {
    guard(|| {
        // SAFETY: the caller vouches for non-null pointers.
        unsafe {
            let call = Call::new(shape, mask_kind, mask)?;
            let (q, k, v) = (slice("q", q, call.q)?, slice("k", k, call.kv.0)?, slice("v", v, call.kv.1)?);
            attention_bf16(q, k, v, &call.shape, scale, call.mask, slice_mut("out", out, call.out)?)
        }
    })
}

/// A checked call: the Rust shape, and how many elements each tensor reaches.
struct Call<'a> {
    shape: AttentionShape,
    mask: AttentionMask<'a>,
    q: usize,
    kv: (usize, usize),
    out: usize,
}

impl<'a> Call<'a> {
    /// # Safety
    /// Non-null pointers are valid.
    unsafe fn new(shape: *const SangoAttentionShape, mask_kind: i32, mask: *const f32) -> Result<Self, KernelError> {
        // SAFETY: the caller vouches for a non-null pointer.
        let s = unsafe { shape.as_ref() }.ok_or(KernelError::NullPointer("shape"))?;
        let SangoAttentionShape { batch, heads, kv_heads, q_len, kv_len, head_dim, .. } = *s;
        let shape = AttentionShape {
            batch,
            heads,
            kv_heads,
            q_len,
            kv_len,
            head_dim,
            q: s.q.into(),
            k: s.k.into(),
            v: s.v.into(),
            out: s.out.into(),
        };
        let mask = match mask_kind {
            0 => AttentionMask::None,
            1 => AttentionMask::Causal,
            2 => {
                let len = extent("mask", s.mask, (batch, heads, q_len, kv_len))?;
                // SAFETY: the caller vouches for the elements.
                let mask = unsafe { slice("mask", mask, len)? };
                AttentionMask::Additive { mask, strides: s.mask.into() }
            }
            value => {
                return Err(KernelError::InvalidEnum { what: "mask_kind", value: value.into() });
            }
        };
        Ok(Self {
            shape,
            mask,
            q: extent("q", s.q, (batch, heads, q_len, head_dim))?,
            kv: (
                extent("k", s.k, (batch, kv_heads, kv_len, head_dim))?,
                extent("v", s.v, (batch, kv_heads, kv_len, head_dim))?,
            ),
            out: extent("out", s.out, (batch, heads, q_len, head_dim))?,
        })
    }
}

/// Elements from the first to the last that a strided tensor reaches.
fn extent(
    what: &'static str,
    strides: SangoStrides,
    (batch, heads, positions, width): (usize, usize, usize, usize),
) -> Result<usize, KernelError> {
    if elements(what, &[batch, heads, positions, width])? == 0 {
        return Ok(0);
    }
    [(batch, strides.batch), (heads, strides.head), (positions, strides.position)]
        .into_iter()
        .try_fold(width, |end, (count, stride)| end.checked_add((count - 1).checked_mul(stride)?))
        .ok_or(KernelError::Overflow(what))
}
