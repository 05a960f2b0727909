//! Packed weights, gemm and gemv in C.

use half::bf16;

use super::{SangoEpilogue, finish, free, guard, hand_out, matrix, output, precision, sango_status};
use crate::gemm::{self, Element, Layout};
use crate::{KernelError, Number, PackedWeights};

/// Packs a row-major `[n, k]` f32 matrix whose rows start `stride` elements apart; free it with [`sango_weights_free`].
///
/// # Safety
/// `w` has `n` rows of `k` values, `weights` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sango_weights_pack_f32(
    w: *const f32,
    n: usize,
    k: usize,
    stride: usize,
    precision: i32,
    gated: bool,
    weights: *mut *mut PackedWeights,
) -> sango_status {
    // SAFETY: passed on from the caller.
    guard(|| unsafe { pack(w, (n, k, stride), precision, gated, weights) })
}

/// [`sango_weights_pack_f32`] for bf16 values.
///
/// # Safety
/// As [`sango_weights_pack_f32`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sango_weights_pack_bf16(
    w: *const bf16,
    n: usize,
    k: usize,
    stride: usize,
    precision: i32,
    gated: bool,
    weights: *mut *mut PackedWeights,
) -> sango_status {
    // SAFETY: passed on from the caller.
    guard(|| unsafe { pack(w, (n, k, stride), precision, gated, weights) })
}

/// # Safety
/// As [`sango_weights_pack_f32`].
unsafe fn pack<T: Number + Element>(
    w: *const T,
    (n, k, stride): (usize, usize, usize),
    wanted: i32,
    gated: bool,
    weights: *mut *mut PackedWeights,
) -> Result<(), KernelError> {
    let pack = || {
        matrix("w", w, n, k, stride)?;
        let layout = Layout { n_stride: stride, tap_stride: 0, channel_stride: 1 };
        // SAFETY: the caller vouches for n rows of k values.
        unsafe { PackedWeights::pack(w, layout, (n, 1, k), precision(wanted)?, gated) }
    };
    // SAFETY: passed on from the caller.
    unsafe { hand_out(weights, pack) }
}

/// Frees packed weights. Null is ignored.
///
/// # Safety
/// `weights` is null or came from a pack function and has not been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sango_weights_free(weights: *mut PackedWeights) {
    // SAFETY: passed on from the caller.
    unsafe { free(weights) }
}

/// Bytes that packed weights hold; 0 for null.
///
/// # Safety
/// `weights` is null or packed weights.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sango_weights_bytes(weights: *const PackedWeights) -> usize {
    // SAFETY: the caller vouches for a non-null pointer.
    unsafe { weights.as_ref() }.map_or(0, PackedWeights::bytes)
}

/// `out = epilogue(a · wᵀ)`; `a` is `[m, k]`, `out` `[m, n]` (`[m, n / 2]` for gated weights).
///
/// # Safety
/// Every non-null pointer has the elements that shape and strides reach.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sango_gemm_f32(
    a: *const f32,
    m: usize,
    a_stride: usize,
    weights: *const PackedWeights,
    epilogue: *const SangoEpilogue,
    out: *mut f32,
    out_stride: usize,
) -> sango_status {
    // SAFETY: passed on from the caller.
    guard(|| unsafe { multiply(a, m, a_stride, weights, epilogue, out, out_stride) })
}

/// [`sango_gemm_f32`] with bf16 `a`, residual and `out`.
///
/// # Safety
/// As [`sango_gemm_f32`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sango_gemm_bf16(
    a: *const bf16,
    m: usize,
    a_stride: usize,
    weights: *const PackedWeights,
    epilogue: *const SangoEpilogue,
    out: *mut bf16,
    out_stride: usize,
) -> sango_status {
    // SAFETY: passed on from the caller.
    guard(|| unsafe { multiply(a, m, a_stride, weights, epilogue, out, out_stride) })
}

/// [`sango_gemm_f32`] for one row.
///
/// # Safety
/// As [`sango_gemm_f32`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sango_gemv_f32(
    x: *const f32,
    weights: *const PackedWeights,
    epilogue: *const SangoEpilogue,
    out: *mut f32,
) -> sango_status {
    // SAFETY: passed on from the caller.
    guard(|| unsafe { multiply_row(x, weights, epilogue, out) })
}

/// [`sango_gemm_bf16`] for one row.
///
/// # Safety
/// As [`sango_gemm_f32`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sango_gemv_bf16(
    x: *const bf16,
    weights: *const PackedWeights,
    epilogue: *const SangoEpilogue,
    out: *mut bf16,
) -> sango_status {
    // SAFETY: passed on from the caller.
    guard(|| unsafe { multiply_row(x, weights, epilogue, out) })
}

/// # Safety
/// As [`sango_gemm_f32`].
unsafe fn multiply<T: Number>(
    a: *const T,
    m: usize,
    a_stride: usize,
    weights: *const PackedWeights,
    epilogue: *const SangoEpilogue,
    out: *mut T,
    out_stride: usize,
) -> Result<(), KernelError> {
    // SAFETY: the caller vouches for non-null pointers.
    unsafe {
        let weights = weights.as_ref().ok_or(KernelError::NullPointer("weights"))?;
        let columns = weights.out_columns();
        let a = matrix("a", a, m, weights.k(), a_stride)?;
        let out = output(out, m, columns, out_stride)?;
        let finish = finish::<T>(epilogue, m, columns)?;
        gemm::run(a, weights, &finish, out)
    }
}

/// # Safety
/// As [`sango_gemm_f32`].
unsafe fn multiply_row<T: Number>(
    x: *const T,
    weights: *const PackedWeights,
    epilogue: *const SangoEpilogue,
    out: *mut T,
) -> Result<(), KernelError> {
    // SAFETY: the caller vouches for non-null pointers.
    let (k, columns) = match unsafe { weights.as_ref() } {
        Some(weights) => (weights.k(), weights.out_columns()),
        None => return Err(KernelError::NullPointer("weights")),
    };
    // SAFETY: passed on from the caller.
    unsafe { multiply(x, 1, k, weights, epilogue, out, columns) }
}
