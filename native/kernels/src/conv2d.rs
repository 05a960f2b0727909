//! 2-d convolution over channels-last images, as an implicit gemm: the micro-kernels read the image through a table of
//! row pointers, so no unfolded copy of it is ever made.

use crate::error::{elements, expect_len};
use crate::gemm::driver::{self, Output};
use crate::gemm::{Element, Finish, Layout, Matrix, PackedWeights, Precision, RowFormat, rows};
use crate::memory::AlignedBytes;
use crate::pool::parallel_for;
use crate::scratch::{self, Shared};
use crate::simd;
use crate::winograd::{self, Frames};
use crate::{Epilogue, Isa, KernelError, depthwise};

/// The shape of a 2-d convolution. Images are `[n, h, w, c]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2dShape {
    /// Images.
    pub n: usize,
    /// Input height, before any upsampling.
    pub h: usize,
    /// Input width, before any upsampling.
    pub w: usize,
    /// Rows (and columns) from one window to the next.
    pub stride: usize,
    /// Zero padding: top, left, bottom, right.
    pub pad: [usize; 4],
    /// 1, or 2 to convolve the image enlarged twofold by nearest-neighbour interpolation without storing it.
    pub upsample: usize,
}

impl Conv2dShape {
    /// Stride 1, the same padding on every side, no upsampling.
    pub fn new(n: usize, h: usize, w: usize, pad: usize) -> Self {
        Self { n, h, w, stride: 1, pad: [pad; 4], upsample: 1 }
    }

    /// Output height and width for a kernel of `kh · kw`.
    ///
    /// # Errors
    /// When the kernel does not fit the padded image, a size overflows, or stride or upsampling is out of range.
    pub fn output(&self, kh: usize, kw: usize) -> Result<(usize, usize), KernelError> {
        if self.stride == 0 {
            return Err(KernelError::shape("stride", "must be at least 1"));
        }
        if !(1..=2).contains(&self.upsample) {
            return Err(KernelError::shape("upsample", format!("must be 1 or 2, not {}", self.upsample)));
        }
        let size = |size: usize, before: usize, after: usize, kernel: usize| {
            let padded = size.checked_mul(self.upsample).and_then(|s| s.checked_add(before)?.checked_add(after));
            let padded = padded.filter(|&p| p < 1 << 40).ok_or(KernelError::Overflow("the padded image"))?;
            let room = padded.checked_sub(kernel).ok_or_else(|| {
                KernelError::shape("pad", format!("a kernel of {kernel} does not fit the padded size {padded}"))
            })?;
            Ok(room / self.stride + 1)
        };
        let [top, left, bottom, right] = self.pad;
        Ok((size(self.h, top, bottom, kh)?, size(self.w, left, right, kw)?))
    }
}

/// Convolution weights in the order the kernels read them.
#[derive(Debug)]
pub struct PackedConv2d {
    pub(crate) kh: usize,
    pub(crate) kw: usize,
    pub(crate) weights: ConvWeights,
}

#[derive(Debug)]
pub(crate) enum ConvWeights {
    Dense(PackedWeights),
    /// `[kh · kw, c]` f32.
    Depthwise {
        channels: usize,
        taps: AlignedBytes,
    },
}

impl PackedConv2d {
    /// Packs PyTorch weights `[c_out, c_in / groups, kh, kw]`. `groups` is 1, or `c_in == c_out` for a depthwise
    /// convolution (which keeps its few weights in f32 whatever the precision).
    ///
    /// # Errors
    /// When `w` does not hold the elements of the shape, `groups` is something else, or memory is short.
    pub fn from_f32(
        w: &[f32],
        (c_out, c_in, kh, kw): (usize, usize, usize, usize),
        groups: usize,
        precision: Precision,
    ) -> Result<Self, KernelError> {
        Self::from_elements(w, (c_out, c_in, kh, kw), groups, precision)
    }

    /// [`PackedConv2d::from_f32`] for bf16 weights.
    ///
    /// # Errors
    /// As [`PackedConv2d::from_f32`].
    pub fn from_bf16(
        w: &[half::bf16],
        (c_out, c_in, kh, kw): (usize, usize, usize, usize),
        groups: usize,
        precision: Precision,
    ) -> Result<Self, KernelError> {
        Self::from_elements(w, (c_out, c_in, kh, kw), groups, precision)
    }

    pub(crate) fn from_elements<T: Element>(
        w: &[T],
        (c_out, c_in, kh, kw): (usize, usize, usize, usize),
        groups: usize,
        precision: Precision,
    ) -> Result<Self, KernelError> {
        if kh == 0 || kw == 0 {
            return Err(KernelError::shape("kernel", "must be at least 1 by 1"));
        }
        let taps = elements("w", &[kh, kw])?;
        if groups == 1 {
            expect_len("w", w.len(), &[c_out, c_in, kh, kw])?;
            let layout = Layout { n_stride: c_in * taps, tap_stride: 1, channel_stride: taps };
            // SAFETY: the slice holds c_out · c_in · taps elements, laid out so.
            let weights = unsafe { PackedWeights::pack(w.as_ptr(), layout, (c_out, taps, c_in), precision, false)? };
            return Ok(Self { kh, kw, weights: ConvWeights::Dense(weights) });
        }
        if groups != c_in || c_in != c_out {
            let reason = format!("must be 1 or equal c_in and c_out ({c_in}, {c_out}), not {groups}");
            return Err(KernelError::shape("groups", reason));
        }
        expect_len("w", w.len(), &[c_out, kh, kw])?;
        let mut packed = AlignedBytes::zeroed(w.len() * size_of::<f32>())?;
        let dst = packed.as_mut_ptr::<f32>();
        for (i, &value) in w.iter().enumerate() {
            // SAFETY: the index is below taps · channels.
            unsafe { *dst.add((i % taps) * c_out + i / taps) = value.f32() };
        }
        Ok(Self { kh, kw, weights: ConvWeights::Depthwise { channels: c_out, taps: packed } })
    }

    /// Input channels.
    pub fn c_in(&self) -> usize {
        match &self.weights {
            ConvWeights::Dense(w) => w.channels,
            ConvWeights::Depthwise { channels, .. } => *channels,
        }
    }

    /// Output channels.
    pub fn c_out(&self) -> usize {
        match &self.weights {
            ConvWeights::Dense(w) => w.n,
            ConvWeights::Depthwise { channels, .. } => *channels,
        }
    }

    /// Kernel height and width.
    pub fn kernel(&self) -> (usize, usize) {
        (self.kh, self.kw)
    }

    /// Memory held, in bytes.
    pub fn bytes(&self) -> usize {
        match &self.weights {
            ConvWeights::Dense(w) => w.bytes(),
            ConvWeights::Depthwise { taps, .. } => taps.len(),
        }
    }
}

/// `out = epilogue(conv2d(x, w))`: `x` is `[n, h, w, c_in]`, `out` and the epilogue's residual are
/// `[n, out_h, out_w, c_out]` with [`Conv2dShape::output`].
///
/// # Errors
/// When a slice does not have the size its shape asks for, the kernel does not fit, or scratch memory is short.
pub fn conv2d(
    x: &[f32],
    shape: &Conv2dShape,
    w: &PackedConv2d,
    epilogue: &Epilogue<'_>,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let (out_h, out_w) = shape.output(w.kh, w.kw)?;
    expect_len("x", x.len(), &[shape.n, shape.h, shape.w, w.c_in()])?;
    expect_len("out", out.len(), &[shape.n, out_h, out_w, w.c_out()])?;
    let pixels = elements("out", &[shape.n, out_h, out_w])?;
    let finish = epilogue.checked_for(pixels, w.c_out(), w.c_out())?;
    let input = Matrix::new(x.as_ptr(), shape.n * shape.h * shape.w, w.c_in(), w.c_in());
    // SAFETY: all lengths were checked just now.
    unsafe { run(input, shape, w, &finish, Output::new(out.as_mut_ptr(), w.c_out())) }
}

/// The convolution behind every entry point. `input` has a row per pixel.
///
/// # Safety
/// `input` is readable and `out` and `finish` are valid for every output pixel; `shape.output` has succeeded.
pub(crate) unsafe fn run(
    input: Matrix,
    shape: &Conv2dShape,
    w: &PackedConv2d,
    finish: &Finish,
    out: Output,
) -> Result<(), KernelError> {
    let (out_h, out_w) = shape.output(w.kh, w.kw)?;
    let pixels = elements("out", &[shape.n, out_h, out_w])?;
    if pixels == 0 || w.c_out() == 0 {
        return Ok(());
    }
    let weights = match &w.weights {
        ConvWeights::Dense(weights) => weights,
        ConvWeights::Depthwise { taps, .. } => {
            // SAFETY: passed on from the caller; the taps were packed for this many channels.
            return unsafe { depthwise::run(input, shape, (w.kh, w.kw), taps.as_ptr(), finish, out) };
        }
    };
    let kernel = driver::kernel(weights.precision, pixels);
    let format = kernel.rows;
    let zero_bytes = rows::row_bytes(format, weights.channels);
    let convolve = |base: *const u8, pixel_bytes: usize, shape: &Conv2dShape| {
        scratch::with(zero_bytes, |zeros| {
            // SAFETY: the scratch has that many bytes.
            unsafe { zeros.write_bytes(0, zero_bytes) };
            let &Conv2dShape { n, h, w: width, pad: [top, left, ..], upsample, .. } = shape;
            let pad = [top, left];
            let frames = Frames {
                base,
                pixel_bytes,
                zeros,
                h,
                w: width,
                pad,
                upsample,
                out_t: n,
                out_h,
                out_w,
                kt: 1,
                before: 0,
                count: n,
            };
            if winograd::applies(weights, (w.kh, w.kw), shape.stride, &frames) {
                // SAFETY: passed on from the caller.
                return unsafe { winograd::run(&frames, weights, finish, out) };
            }
            let windows = Windows { base, pixel_bytes, zeros, shape, out_h, out_w, kw: w.kw };
            // SAFETY: passed on from the caller; Windows only names pixels of the image and the zero row.
            unsafe { driver::run(&kernel, weights, pixels, &windows, finish, out) }
        })?
    };
    if format == RowFormat::F32 && input.dtype == rows::Dtype::F32 {
        return convolve(input.ptr, input.stride * 4, shape);
    }
    // SAFETY: passed on from the caller.
    unsafe { with_framed(&input, shape, format, convolve)? }
}

/// Calls `f` with a copy of the images in another format that has the zero padding around it (so that the rows of a tile
/// are equally far apart at the edges too), its pixel size in bytes, and the shape of what is left to do.
///
/// # Safety
/// `input` is readable.
unsafe fn with_framed<R>(
    input: &Matrix,
    shape: &Conv2dShape,
    format: RowFormat,
    f: impl FnOnce(*const u8, usize, &Conv2dShape) -> R,
) -> Result<R, KernelError> {
    let Conv2dShape { n, h, w, pad, upsample, .. } = *shape;
    // In pixels before upsampling, so a frame may reach further than the padding; the rest comes off again below.
    let [top, left, bottom, right] = pad.map(|p| p.div_ceil(upsample));
    let (framed_h, framed_w) = (h + top + bottom, w + left + right);
    let framed = Conv2dShape {
        h: framed_h,
        w: framed_w,
        // Negative: how far into the frame the first window starts.
        pad: [pad[0].wrapping_sub(top * upsample), pad[1].wrapping_sub(left * upsample), 0, 0],
        ..*shape
    };
    let pixel_bytes = rows::row_bytes(format, input.columns);
    let total = elements("x", &[n, framed_h, framed_w, pixel_bytes])?;
    let isa = Isa::active();
    scratch::with(total, |buffer| {
        let shared = Shared::new(buffer);
        parallel_for(n * framed_h, &|task| {
            let (image, y) = (task / framed_h, task % framed_h);
            // SAFETY: the buffer has that many rows of that many pixels.
            unsafe {
                let row = shared.add(task * framed_w * pixel_bytes);
                if y < top || y >= top + h {
                    return row.write_bytes(0, framed_w * pixel_bytes);
                }
                row.write_bytes(0, left * pixel_bytes);
                row.add((left + w) * pixel_bytes).write_bytes(0, right * pixel_bytes);
                let first = (image * h + y - top) * w;
                let dst = row.add(left * pixel_bytes);
                simd::dispatch(isa, rows::Convert { a: input, first, last: first + w, format, dst });
            }
        });
        f(buffer, pixel_bytes, &framed)
    })
}

/// Row pointers of a convolution: for an output pixel and a tap, the input pixel under it, or zeros outside the image.
struct Windows<'a> {
    base: *const u8,
    pixel_bytes: usize,
    /// One pixel of zeros.
    zeros: *const u8,
    shape: &'a Conv2dShape,
    out_h: usize,
    out_w: usize,
    kw: usize,
}

// SAFETY: only read.
unsafe impl Sync for Windows<'_> {}

impl rows::Rows for Windows<'_> {
    fn fill(&self, first: usize, tap: usize, out: &mut [*const u8]) {
        let Self { base, pixel_bytes, zeros, shape, out_h, out_w, .. } = *self;
        let Conv2dShape { h, w, stride, pad: [top, left, ..], upsample, .. } = *shape;
        let (ky, kx) = (tap / self.kw, tap % self.kw);
        let (mut ox, rest) = (first % out_w, first / out_w);
        let (mut oy, mut image) = (rest % out_h, rest / out_h);
        for pointer in out {
            // Above and left of the image these wrap around to huge numbers, which are outside too.
            let y = (oy * stride + ky).wrapping_sub(top);
            let x = (ox * stride + kx).wrapping_sub(left);
            *pointer = if y < h * upsample && x < w * upsample {
                base.wrapping_add(((image * h + y / upsample) * w + x / upsample) * pixel_bytes)
            } else {
                zeros
            };
            ox += 1;
            if ox == out_w {
                ox = 0;
                oy += 1;
                if oy == out_h {
                    oy = 0;
                    image += 1;
                }
            }
        }
    }
}
