//! Convolution in C.

use half::bf16;

use super::{SangoEpilogue, finish, free, guard, hand_out, matrix, output, precision, sango_status, slice};
use crate::error::elements;
use crate::gemm::Element;
use crate::{Conv2dShape, KernelError, Number, PackedConv2d, conv2d};

/// The shape of a convolution over channels-last images.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct SangoConv2dShape {
    /// Images.
    pub n: usize,
    /// Input height.
    pub h: usize,
    /// Input width.
    pub w: usize,
    /// Rows (and columns) from one window to the next.
    pub stride: usize,
    /// Zero padding: top, left, bottom, right.
    pub pad: [usize; 4],
    /// 1, or 2 to convolve the twofold nearest-neighbour enlargement.
    pub upsample: usize,
    /// Elements from one input pixel to the next, at least `c_in`.
    pub x_stride: usize,
    /// Elements from one output pixel to the next, at least `c_out`.
    pub out_stride: usize,
}

impl From<&SangoConv2dShape> for Conv2dShape {
    fn from(shape: &SangoConv2dShape) -> Self {
        let SangoConv2dShape { n, h, w, stride, pad, upsample, .. } = *shape;
        Self { n, h, w, stride, pad, upsample }
    }
}

/// Packs f32 weights `[c_out, c_in / groups, kh, kw]`; free them with [`sango_conv2d_weights_free`].
///
/// # Safety
/// `w` has as many values, `weights` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sango_conv2d_weights_pack_f32(
    w: *const f32,
    c_out: usize,
    c_in: usize,
    kh: usize,
    kw: usize,
    groups: usize,
    precision: i32,
    weights: *mut *mut PackedConv2d,
) -> sango_status {
    // SAFETY: passed on from the caller.
    guard(|| unsafe { pack(w, (c_out, c_in, kh, kw), groups, precision, weights) })
}

/// [`sango_conv2d_weights_pack_f32`] for bf16 values.
///
/// # Safety
/// As [`sango_conv2d_weights_pack_f32`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sango_conv2d_weights_pack_bf16(
    w: *const bf16,
    c_out: usize,
    c_in: usize,
    kh: usize,
    kw: usize,
    groups: usize,
    precision: i32,
    weights: *mut *mut PackedConv2d,
) -> sango_status {
    // SAFETY: passed on from the caller.
    guard(|| unsafe { pack(w, (c_out, c_in, kh, kw), groups, precision, weights) })
}

/// # Safety
/// As [`sango_conv2d_weights_pack_f32`].
unsafe fn pack<T: Element>(
    w: *const T,
    (c_out, c_in, kh, kw): (usize, usize, usize, usize),
    groups: usize,
    wanted: i32,
    weights: *mut *mut PackedConv2d,
) -> Result<(), KernelError> {
    let pack = || {
        if groups == 0 {
            return Err(KernelError::shape("groups", "must be at least 1"));
        }
        let len = elements("w", &[c_out, c_in, kh, kw])? / groups;
        // SAFETY: the caller vouches for the elements.
        let w = unsafe { slice("w", w, len)? };
        PackedConv2d::from_elements(w, (c_out, c_in, kh, kw), groups, precision(wanted)?)
    };
    // SAFETY: passed on from the caller.
    unsafe { hand_out(weights, pack) }
}

/// Frees packed convolution weights. Null is ignored.
///
/// # Safety
/// `weights` is null or came from a pack function and has not been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sango_conv2d_weights_free(weights: *mut PackedConv2d) {
    // SAFETY: passed on from the caller.
    unsafe { free(weights) }
}

/// Writes the output height and width of a convolution.
///
/// # Safety
/// Every non-null pointer is valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sango_conv2d_output(
    shape: *const SangoConv2dShape,
    weights: *const PackedConv2d,
    out_h: *mut usize,
    out_w: *mut usize,
) -> sango_status {
    guard(|| {
        // SAFETY: the caller vouches for non-null pointers.
        unsafe {
            let shape = shape.as_ref().ok_or(KernelError::NullPointer("shape"))?;
            let weights = weights.as_ref().ok_or(KernelError::NullPointer("weights"))?;
            let out_h = out_h.as_mut().ok_or(KernelError::NullPointer("out_h"))?;
            let out_w = out_w.as_mut().ok_or(KernelError::NullPointer("out_w"))?;
            (*out_h, *out_w) = Conv2dShape::from(shape).output(weights.kh, weights.kw)?;
        }
        Ok(())
    })
}

/// `out = epilogue(conv2d(x, w))` over `[n, h, w, c]` images.
///
/// # Safety
/// Every non-null pointer has the elements that shape and strides reach.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sango_conv2d_f32(
    x: *const f32,
    shape: *const SangoConv2dShape,
    weights: *const PackedConv2d,
    epilogue: *const SangoEpilogue,
    out: *mut f32,
) -> sango_status {
    // SAFETY: passed on from the caller.
    guard(|| unsafe { convolve(x, shape, weights, epilogue, out) })
}

/// [`sango_conv2d_f32`] with bf16 `x`, residual and `out`.
///
/// # Safety
/// As [`sango_conv2d_f32`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sango_conv2d_bf16(
    x: *const bf16,
    shape: *const SangoConv2dShape,
    weights: *const PackedConv2d,
    epilogue: *const SangoEpilogue,
    out: *mut bf16,
) -> sango_status {
    // SAFETY: passed on from the caller.
    guard(|| unsafe { convolve(x, shape, weights, epilogue, out) })
}

/// # Safety
/// As [`sango_conv2d_f32`].
unsafe fn convolve<T: Number>(
    x: *const T,
    shape: *const SangoConv2dShape,
    weights: *const PackedConv2d,
    epilogue: *const SangoEpilogue,
    out: *mut T,
) -> Result<(), KernelError> {
    // SAFETY: the caller vouches for non-null pointers.
    unsafe {
        let c_shape = shape.as_ref().ok_or(KernelError::NullPointer("shape"))?;
        let weights = weights.as_ref().ok_or(KernelError::NullPointer("weights"))?;
        let shape = Conv2dShape::from(c_shape);
        let (out_h, out_w) = shape.output(weights.kh, weights.kw)?;
        let in_pixels = elements("x", &[shape.n, shape.h, shape.w])?;
        let out_pixels = elements("out", &[shape.n, out_h, out_w])?;
        let x = matrix("x", x, in_pixels, weights.c_in(), c_shape.x_stride)?;
        let out = output(out, out_pixels, weights.c_out(), c_shape.out_stride)?;
        let finish = finish::<T>(epilogue, out_pixels, weights.c_out())?;
        conv2d::run(x, &shape, weights, &finish, out)
    }
}
