//! Normalisation in C.

use half::bf16;

use super::{activation, guard, sango_status, slice, slice_mut};
use crate::convert::{narrow, widen, zeros};
use crate::error::elements;
use crate::{KernelError, group_norm, layer_norm, rms_norm};

/// Layer normalisation of `rows` rows of `width` values; `weight` and `bias` may be null.
///
/// # Safety
/// Every non-null pointer has the elements that shape and strides reach; `out` overlaps nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sango_layer_norm_f32(
    x: *const f32,
    rows: usize,
    width: usize,
    x_stride: usize,
    weight: *const f32,
    bias: *const f32,
    eps: f32,
    out: *mut f32,
    out_stride: usize,
) -> sango_status {
    // SAFETY: passed on from the caller.
    guard(|| unsafe {
        let (weight, bias) = (optional("weight", weight, width)?, optional("bias", bias, width)?);
        each_row((x, x_stride), (out, out_stride), rows, width, |x, out| layer_norm(x, width, weight, bias, eps, out))
    })
}

/// [`sango_layer_norm_f32`] with bf16 `x` and `out`.
///
/// # Safety
/// As [`sango_layer_norm_f32`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sango_layer_norm_bf16(
    x: *const bf16,
    rows: usize,
    width: usize,
    x_stride: usize,
    weight: *const f32,
    bias: *const f32,
    eps: f32,
    out: *mut bf16,
    out_stride: usize,
) -> sango_status {
    // SAFETY: passed on from the caller.
    guard(|| unsafe {
        let (weight, bias) = (optional("weight", weight, width)?, optional("bias", bias, width)?);
        each_row((x, x_stride), (out, out_stride), rows, width, |x, out| {
            in_f32(x, out, |x, out| layer_norm(x, width, weight, bias, eps, out))
        })
    })
}

/// RMS normalisation of `rows` rows of `width` values; `weight` may be null.
///
/// # Safety
/// As [`sango_layer_norm_f32`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sango_rms_norm_f32(
    x: *const f32,
    rows: usize,
    width: usize,
    x_stride: usize,
    weight: *const f32,
    eps: f32,
    out: *mut f32,
    out_stride: usize,
) -> sango_status {
    // SAFETY: passed on from the caller.
    guard(|| unsafe {
        let weight = optional("weight", weight, width)?;
        each_row((x, x_stride), (out, out_stride), rows, width, |x, out| rms_norm(x, width, weight, None, eps, out))
    })
}

/// [`sango_rms_norm_f32`] with bf16 `x` and `out`.
///
/// # Safety
/// As [`sango_layer_norm_f32`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sango_rms_norm_bf16(
    x: *const bf16,
    rows: usize,
    width: usize,
    x_stride: usize,
    weight: *const f32,
    eps: f32,
    out: *mut bf16,
    out_stride: usize,
) -> sango_status {
    // SAFETY: passed on from the caller.
    guard(|| unsafe {
        let weight = optional("weight", weight, width)?;
        each_row((x, x_stride), (out, out_stride), rows, width, |x, out| {
            in_f32(x, out, |x, out| rms_norm(x, width, weight, None, eps, out))
        })
    })
}

/// Group normalisation of contiguous channels-last images `[n, pixels, channels]`, then an activation.
///
/// # Safety
/// As [`sango_layer_norm_f32`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sango_group_norm_f32(
    x: *const f32,
    n: usize,
    pixels: usize,
    channels: usize,
    groups: usize,
    weight: *const f32,
    bias: *const f32,
    eps: f32,
    activation_kind: i32,
    out: *mut f32,
) -> sango_status {
    // SAFETY: passed on from the caller.
    guard(|| unsafe {
        let len = elements("x", &[n, pixels, channels])?;
        let (weight, bias) = (optional("weight", weight, channels)?, optional("bias", bias, channels)?);
        let (x, out) = (slice("x", x, len)?, slice_mut("out", out, len)?);
        group_norm(x, (n, pixels, channels), groups, weight, bias, eps, activation(activation_kind)?, out)
    })
}

/// [`sango_group_norm_f32`] with bf16 `x` and `out`.
///
/// # Safety
/// As [`sango_layer_norm_f32`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sango_group_norm_bf16(
    x: *const bf16,
    n: usize,
    pixels: usize,
    channels: usize,
    groups: usize,
    weight: *const f32,
    bias: *const f32,
    eps: f32,
    activation_kind: i32,
    out: *mut bf16,
) -> sango_status {
    // SAFETY: passed on from the caller.
    guard(|| unsafe {
        let len = elements("x", &[n, pixels, channels])?;
        let (weight, bias) = (optional("weight", weight, channels)?, optional("bias", bias, channels)?);
        let activation = activation(activation_kind)?;
        in_f32(slice("x", x, len)?, slice_mut("out", out, len)?, |x, out| {
            group_norm(x, (n, pixels, channels), groups, weight, bias, eps, activation, out)
        })
    })
}

/// # Safety
/// As [`slice`].
unsafe fn optional<'a>(what: &'static str, ptr: *const f32, len: usize) -> Result<Option<&'a [f32]>, KernelError> {
    if ptr.is_null() {
        Ok(None)
    } else {
        // SAFETY: passed on from the caller.
        unsafe { slice(what, ptr, len).map(Some) }
    }
}

/// Calls `body` on all rows at once when they are contiguous, else row by row.
///
/// # Safety
/// As [`sango_layer_norm_f32`].
unsafe fn each_row<T: crate::Number>(
    (x, x_stride): (*const T, usize),
    (out, out_stride): (*mut T, usize),
    rows: usize,
    width: usize,
    mut body: impl FnMut(&[T], &mut [T]) -> Result<(), KernelError>,
) -> Result<(), KernelError> {
    super::matrix("x", x, rows, width, x_stride)?;
    super::output(out, rows, width, out_stride)?;
    let (calls, len) = if x_stride == width && out_stride == width { (1, rows * width) } else { (rows, width) };
    for row in 0..calls {
        // SAFETY: the extent of both was checked; the caller vouches for the memory.
        unsafe {
            let x = slice("x", x.wrapping_add(row * x_stride), len)?;
            body(x, slice_mut("out", out.wrapping_add(row * out_stride), len)?)?;
        }
    }
    Ok(())
}

/// Runs an f32 operation on bf16 values.
fn in_f32(
    x: &[bf16],
    out: &mut [bf16],
    body: impl FnOnce(&[f32], &mut [f32]) -> Result<(), KernelError>,
) -> Result<(), KernelError> {
    let (x, mut wide) = (widen(x)?, zeros(out.len())?);
    body(&x, &mut wide)?;
    narrow(&wide, out);
    Ok(())
}
