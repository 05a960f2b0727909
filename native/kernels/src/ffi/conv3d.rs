//! 3-d convolution in C.

use half::bf16;

use super::{SangoEpilogue, finish, free, guard, hand_out, matrix, output, precision, sango_status, slice};
use crate::error::elements;
use crate::gemm::Element;
use crate::{Conv3dShape, KernelError, Number, PackedConv3d, TimePadding, conv3d};

/// The shape of a convolution over channels-last videos.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct SangoConv3dShape {
    /// Videos.
    pub n: usize,
    /// Input frames.
    pub t: usize,
    /// Input height.
    pub h: usize,
    /// Input width.
    pub w: usize,
    /// Frames, rows and columns from one window to the next.
    pub stride: [usize; 3],
    /// A `sango_time_padding`.
    pub time: i32,
    /// Zero padding above and below, left and right.
    pub pad: [usize; 2],
    /// Elements from one input pixel to the next, at least `c_in`.
    pub x_stride: usize,
    /// Elements from one output pixel to the next, at least `c_out`.
    pub out_stride: usize,
}

impl TryFrom<&SangoConv3dShape> for Conv3dShape {
    type Error = KernelError;

    fn try_from(shape: &SangoConv3dShape) -> Result<Self, KernelError> {
        let SangoConv3dShape { n, t, h, w, stride, time, pad, .. } = *shape;
        let found = TimePadding::ALL.into_iter().find(|padding| *padding as i32 == time);
        let time = found.ok_or(KernelError::InvalidEnum { what: "time", value: time.into() })?;
        Ok(Self { n, t, h, w, stride, time, pad })
    }
}

/// Packs f32 weights `[c_out, c_in, kt, kh, kw]`; free them with [`sango_conv3d_weights_free`].
///
/// # Safety
/// `w` has as many values, `weights` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sango_conv3d_weights_pack_f32(
    w: *const f32,
    c_out: usize,
    c_in: usize,
    kt: usize,
    kh: usize,
    kw: usize,
    precision: i32,
    weights: *mut *mut PackedConv3d,
) -> sango_status {
    // SAFETY: passed on from the caller.
    guard(|| unsafe { pack(w, (c_out, c_in), [kt, kh, kw], precision, weights) })
}

/// [`sango_conv3d_weights_pack_f32`] for bf16 values.
///
/// # Safety
/// As [`sango_conv3d_weights_pack_f32`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sango_conv3d_weights_pack_bf16(
    w: *const bf16,
    c_out: usize,
    c_in: usize,
    kt: usize,
    kh: usize,
    kw: usize,
    precision: i32,
    weights: *mut *mut PackedConv3d,
) -> sango_status {
    // SAFETY: passed on from the caller.
    guard(|| unsafe { pack(w, (c_out, c_in), [kt, kh, kw], precision, weights) })
}

/// # Safety
/// As [`sango_conv3d_weights_pack_f32`].
unsafe fn pack<T: Element>(
    w: *const T,
    channels: (usize, usize),
    kernel: [usize; 3],
    wanted: i32,
    weights: *mut *mut PackedConv3d,
) -> Result<(), KernelError> {
    let pack = || {
        let len = elements("w", &[channels.0, channels.1, kernel[0], kernel[1], kernel[2]])?;
        // SAFETY: the caller vouches for the elements.
        let w = unsafe { slice("w", w, len)? };
        PackedConv3d::from_elements(w, channels, kernel, precision(wanted)?)
    };
    // SAFETY: passed on from the caller.
    unsafe { hand_out(weights, pack) }
}

/// Frees packed convolution weights. Null is ignored.
///
/// # Safety
/// `weights` is null or came from a pack function and has not been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sango_conv3d_weights_free(weights: *mut PackedConv3d) {
    // SAFETY: passed on from the caller.
    unsafe { free(weights) }
}

/// Writes the output frames, height and width of a convolution.
///
/// # Safety
/// Every non-null pointer is valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sango_conv3d_output(
    shape: *const SangoConv3dShape,
    weights: *const PackedConv3d,
    out_t: *mut usize,
    out_h: *mut usize,
    out_w: *mut usize,
) -> sango_status {
    guard(|| {
        // SAFETY: the caller vouches for non-null pointers.
        unsafe {
            let shape = shape.as_ref().ok_or(KernelError::NullPointer("shape"))?;
            let weights = weights.as_ref().ok_or(KernelError::NullPointer("weights"))?;
            let out_t = out_t.as_mut().ok_or(KernelError::NullPointer("out_t"))?;
            let out_h = out_h.as_mut().ok_or(KernelError::NullPointer("out_h"))?;
            let out_w = out_w.as_mut().ok_or(KernelError::NullPointer("out_w"))?;
            [*out_t, *out_h, *out_w] = Conv3dShape::try_from(shape)?.output(weights.kernel())?;
        }
        Ok(())
    })
}

/// `out = epilogue(conv3d(x, w))` over `[n, t, h, w, c]` videos.
///
/// # Safety
/// Every non-null pointer has the elements that shape and strides reach.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sango_conv3d_f32(
    x: *const f32,
    shape: *const SangoConv3dShape,
    weights: *const PackedConv3d,
    epilogue: *const SangoEpilogue,
    out: *mut f32,
) -> sango_status {
    // SAFETY: passed on from the caller.
    guard(|| unsafe { convolve(x, shape, weights, epilogue, out) })
}

/// [`sango_conv3d_f32`] with bf16 `x`, residual and `out`.
///
/// # Safety
/// As [`sango_conv3d_f32`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sango_conv3d_bf16(
    x: *const bf16,
    shape: *const SangoConv3dShape,
    weights: *const PackedConv3d,
    epilogue: *const SangoEpilogue,
    out: *mut bf16,
) -> sango_status {
    // SAFETY: passed on from the caller.
    guard(|| unsafe { convolve(x, shape, weights, epilogue, out) })
}

/// # Safety
/// As [`sango_conv3d_f32`].
unsafe fn convolve<T: Number>(
    x: *const T,
    shape: *const SangoConv3dShape,
    weights: *const PackedConv3d,
    epilogue: *const SangoEpilogue,
    out: *mut T,
) -> Result<(), KernelError> {
    // SAFETY: the caller vouches for non-null pointers.
    unsafe {
        let c_shape = shape.as_ref().ok_or(KernelError::NullPointer("shape"))?;
        let weights = weights.as_ref().ok_or(KernelError::NullPointer("weights"))?;
        let shape = Conv3dShape::try_from(c_shape)?;
        let [out_t, out_h, out_w] = shape.output(weights.kernel())?;
        let in_pixels = elements("x", &[shape.n, shape.t, shape.h, shape.w])?;
        let out_pixels = elements("out", &[shape.n, out_t, out_h, out_w])?;
        let x = matrix("x", x, in_pixels, weights.c_in(), c_shape.x_stride)?;
        let out = output(out, out_pixels, weights.c_out(), c_shape.out_stride)?;
        let finish = finish::<T>(epilogue, out_pixels, weights.c_out())?;
        conv3d::run(&x, None, &shape, weights, &finish, out)
    }
}
