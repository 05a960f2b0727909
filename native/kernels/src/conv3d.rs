//! 3-d convolution over channels-last videos, as an implicit gemm: the micro-kernels read the frames through a table of row
//! pointers, so that nothing is unfolded, and a frame that padding repeats is only named again.

use crate::error::{elements, expect_len};
use crate::gemm::driver::{self, Output};
use crate::gemm::{Element, Finish, Layout, Matrix, Number, PackedWeights, Precision, RowFormat, rows};
use crate::norm::{self, RowNorm};
use crate::pool::parallel_for;
use crate::scratch::{self, Shared};
use crate::simd;
use crate::winograd::{self, Frames};
use crate::{Epilogue, Isa, KernelError};

/// What a convolution sees before the first frame and after the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[repr(i32)]
pub enum TimePadding {
    /// Nothing: there are only windows that lie within the video.
    #[default]
    None = 0,
    /// The first frame, `kt − 1` times more: no output depends on a later frame.
    Causal = 1,
    /// The first frame and the last, each `(kt − 1) / 2` times more.
    Symmetric = 2,
}

impl TimePadding {
    /// Every padding, in the order of their C values.
    pub const ALL: [TimePadding; 3] = [Self::None, Self::Causal, Self::Symmetric];

    /// Frames before the first and after the last for a kernel of `kt` frames.
    fn frames(self, kt: usize) -> (usize, usize) {
        let more = kt.saturating_sub(1);
        match self {
            Self::None => (0, 0),
            Self::Causal => (more, 0),
            Self::Symmetric => (more / 2, more / 2),
        }
    }
}

/// The shape of a 3-d convolution. Videos are `[n, t, h, w, c]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv3dShape {
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
    /// Padding in time, with copies of frames.
    pub time: TimePadding,
    /// Padding in space, with zeros: rows above and below, columns left and right.
    pub pad: [usize; 2],
}

impl Conv3dShape {
    /// Stride 1.
    pub fn new(n: usize, t: usize, h: usize, w: usize, time: TimePadding, pad: usize) -> Self {
        Self { n, t, h, w, stride: [1; 3], time, pad: [pad; 2] }
    }

    /// Output frames, height and width for a kernel of `kt · kh · kw`.
    ///
    /// # Errors
    /// When the kernel does not fit the padded video, there is no frame to repeat, a size overflows, or a stride is 0.
    pub fn output(&self, [kt, kh, kw]: [usize; 3]) -> Result<[usize; 3], KernelError> {
        let (before, after) = self.time.frames(kt);
        if self.t == 0 && before + after > 0 {
            return Err(KernelError::shape("t", "there is no frame to repeat"));
        }
        let [st, sh, sw] = self.stride;
        let size = |size: usize, pad: usize, kernel: usize, stride: usize| {
            if stride == 0 {
                return Err(KernelError::shape("stride", "must be at least 1"));
            }
            let padded = size.checked_add(pad).filter(|&p| p < 1 << 40);
            let padded = padded.ok_or(KernelError::Overflow("the padded video"))?;
            let room = padded.checked_sub(kernel).ok_or_else(|| {
                KernelError::shape("pad", format!("a kernel of {kernel} does not fit the padded size {padded}"))
            })?;
            Ok(room / stride + 1)
        };
        let [pad_h, pad_w] = self.pad.map(|p| p.saturating_mul(2));
        Ok([size(self.t, before + after, kt, st)?, size(self.h, pad_h, kh, sh)?, size(self.w, pad_w, kw, sw)?])
    }
}

/// 3-d convolution weights in the order the kernels read them.
#[derive(Debug)]
pub struct PackedConv3d {
    kernel: [usize; 3],
    weights: PackedWeights,
}

impl PackedConv3d {
    /// Packs PyTorch weights `[c_out, c_in, kt, kh, kw]`.
    ///
    /// # Errors
    /// When `w` does not hold the elements of the shape, the kernel is empty, or memory is short.
    pub fn from_f32(
        w: &[f32],
        channels: (usize, usize),
        kernel: [usize; 3],
        precision: Precision,
    ) -> Result<Self, KernelError> {
        Self::from_elements(w, channels, kernel, precision)
    }

    /// [`PackedConv3d::from_f32`] for bf16 weights.
    ///
    /// # Errors
    /// As [`PackedConv3d::from_f32`].
    pub fn from_bf16(
        w: &[half::bf16],
        channels: (usize, usize),
        kernel: [usize; 3],
        precision: Precision,
    ) -> Result<Self, KernelError> {
        Self::from_elements(w, channels, kernel, precision)
    }

    pub(crate) fn from_elements<T: Element>(
        w: &[T],
        (c_out, c_in): (usize, usize),
        kernel: [usize; 3],
        precision: Precision,
    ) -> Result<Self, KernelError> {
        if kernel.contains(&0) {
            return Err(KernelError::shape("kernel", "must be at least 1 by 1 by 1"));
        }
        let taps = elements("w", &kernel)?;
        expect_len("w", w.len(), &[c_out, c_in, taps])?;
        let layout = Layout { n_stride: c_in * taps, tap_stride: 1, channel_stride: taps };
        // SAFETY: the slice holds c_out · c_in · taps elements, laid out so.
        let weights = unsafe { PackedWeights::pack(w.as_ptr(), layout, (c_out, taps, c_in), precision, false)? };
        Ok(Self { kernel, weights })
    }

    /// Input channels.
    pub fn c_in(&self) -> usize {
        self.weights.channels
    }

    /// Output channels.
    pub fn c_out(&self) -> usize {
        self.weights.n
    }

    /// Kernel frames, height and width.
    pub fn kernel(&self) -> [usize; 3] {
        self.kernel
    }

    /// The number format.
    pub fn precision(&self) -> Precision {
        self.weights.precision
    }

    /// Memory held, in bytes.
    pub fn bytes(&self) -> usize {
        self.weights.bytes()
    }
}

/// `out = epilogue(conv3d(x, w))`: `x` is `[n, t, h, w, c_in]`, `out` and the epilogue's residual are
/// `[n, out_t, out_h, out_w, c_out]` with [`Conv3dShape::output`].
///
/// # Errors
/// When a slice does not have the size its shape asks for, the kernel does not fit, or scratch memory is short.
pub fn conv3d<A: Number, O: Number>(
    x: &[A],
    shape: &Conv3dShape,
    w: &PackedConv3d,
    epilogue: &Epilogue<'_>,
    out: &mut [O],
) -> Result<(), KernelError> {
    checked(x, None, shape, w, epilogue, out)
}

/// `out = epilogue(conv3d(norm(x), w))`, with every pixel's channels normalised while the frames are copied to where the
/// convolution reads them: the normalised video is never in memory as a whole. Padding is not normalised, it is zero.
///
/// # Errors
/// As [`conv3d`], and when the norm's slices are not as long as the pixels and channels ask for.
pub fn conv3d_normed<A: Number, O: Number>(
    x: &[A],
    norm: &RowNorm<'_>,
    shape: &Conv3dShape,
    w: &PackedConv3d,
    epilogue: &Epilogue<'_>,
    out: &mut [O],
) -> Result<(), KernelError> {
    checked(x, Some(norm), shape, w, epilogue, out)
}

fn checked<A: Number, O: Number>(
    x: &[A],
    norm: Option<&RowNorm<'_>>,
    shape: &Conv3dShape,
    w: &PackedConv3d,
    epilogue: &Epilogue<'_>,
    out: &mut [O],
) -> Result<(), KernelError> {
    let [out_t, out_h, out_w] = shape.output(w.kernel)?;
    expect_len("x", x.len(), &[shape.n, shape.t, shape.h, shape.w, w.c_in()])?;
    expect_len("out", out.len(), &[shape.n, out_t, out_h, out_w, w.c_out()])?;
    let pixels = elements("out", &[shape.n, out_t, out_h, out_w])?;
    let finish = epilogue.checked(pixels, &w.weights)?;
    let input = Matrix::new(x.as_ptr(), shape.n * shape.t * shape.h * shape.w, w.c_in(), w.c_in());
    if let Some(norm) = norm {
        norm.check(input.rows, w.c_in())?;
    }
    // SAFETY: all lengths were checked just now.
    unsafe { run(&input, norm, shape, w, &finish, Output::new(out.as_mut_ptr(), w.c_out())) }
}

/// Scratch that copies of frames in another format take at most, unless one output frame needs more.
const FRAMES_BYTES: usize = 48 << 20;

/// The convolution behind every entry point. `input` has a row per pixel.
///
/// # Safety
/// `input` is readable, `norm` checked for it, `out` and `finish` are valid for every output pixel; `shape.output` has
/// succeeded.
pub(crate) unsafe fn run(
    input: &Matrix,
    norm: Option<&RowNorm<'_>>,
    shape: &Conv3dShape,
    w: &PackedConv3d,
    finish: &Finish,
    out: Output,
) -> Result<(), KernelError> {
    let [out_t, out_h, out_w] = shape.output(w.kernel)?;
    let frame_pixels = elements("out", &[out_h, out_w])?;
    if elements("out", &[shape.n, out_t, frame_pixels, w.c_out()])? == 0 {
        return Ok(());
    }
    let kernel = driver::kernel(w.weights.precision, out_t * frame_pixels);
    let format = kernel.rows;
    let in_place = format == RowFormat::F32 && input.dtype == rows::Dtype::F32 && norm.is_none();
    let frame = if in_place { Frame::as_given(shape) } else { Frame::padded(shape)? };
    let pixel_bytes = if in_place { input.stride * 4 } else { rows::row_bytes(format, w.c_in()) };
    let frame_bytes = elements("x", &[frame.pixels(), pixel_bytes])?;
    let chunk = if in_place { out_t } else { shape.frames_at_once(w.kernel[0], out_t, frame_bytes) };
    let zero_bytes = rows::row_bytes(format, w.c_in());
    scratch::with(zero_bytes, |zeros| {
        // SAFETY: the scratch has that many bytes.
        unsafe { zeros.write_bytes(0, zero_bytes) };
        for video in 0..shape.n {
            for first in (0..out_t).step_by(chunk) {
                let last = (first + chunk).min(out_t);
                let sources = shape.sources(w.kernel[0], first, last);
                let first_row = (video * out_t + first) * frame_pixels;
                // SAFETY: these rows exist.
                let (finish, out) = unsafe { (finish.skip(first_row), out.skip(first_row)) };
                let convolve = |base| {
                    let frames = Frames {
                        base,
                        pixel_bytes,
                        zeros,
                        h: frame.h,
                        w: frame.w,
                        pad: frame.pad,
                        upsample: 1,
                        out_t: last - first,
                        out_h,
                        out_w,
                        kt: w.kernel[0],
                        before: (shape.time.frames(w.kernel[0]).0).saturating_sub(first),
                        count: sources.len(),
                    };
                    if shape.stride == [1; 3] && winograd::applies(&w.weights, (w.kernel[1], w.kernel[2]), 1, &frames) {
                        // SAFETY: passed on from the caller.
                        return unsafe { winograd::run(&frames, &w.weights, &finish, out) };
                    }
                    let (from, size) = (sources.start, [out_h, out_w]);
                    let windows =
                        Windows { base, from, pixel_bytes, zeros, frame, shape, kernel: w.kernel, size, first };
                    // SAFETY: passed on from the caller; Windows only names pixels of the frames and the zero row.
                    unsafe { driver::run(&kernel, &w.weights, (last - first) * frame_pixels, &windows, &finish, out) }
                };
                let first_pixel = (video * shape.t + sources.start) * shape.h * shape.w;
                if in_place {
                    // SAFETY: the pixel exists.
                    convolve(unsafe { input.skip(first_pixel) }.ptr)?;
                } else {
                    let copy = PaddedFrames { input, norm, first_pixel, frames: sources.len(), shape, format };
                    // SAFETY: passed on from the caller; these frames exist.
                    unsafe { copy.with(convolve)?? };
                }
            }
        }
        Ok(())
    })?
}

impl Conv3dShape {
    /// The input frame at place `t` of the padded video.
    fn frame_at(&self, kt: usize, t: usize) -> usize {
        t.saturating_sub(self.time.frames(kt).0).min(self.t.saturating_sub(1))
    }

    /// The input frames that the output frames `first .. last` are made of.
    fn sources(&self, kt: usize, first: usize, last: usize) -> std::ops::Range<usize> {
        self.frame_at(kt, first * self.stride[0])..self.frame_at(kt, (last - 1) * self.stride[0] + kt - 1) + 1
    }

    /// How many output frames to compute at a time where frames of `bytes` are copied.
    fn frames_at_once(&self, kt: usize, out_t: usize, bytes: usize) -> usize {
        let room = FRAMES_BYTES / bytes.max(1);
        (room.saturating_sub(kt) / self.stride[0] + 1).min(out_t)
    }
}

/// How a frame lies in memory, and what zero padding there is around it that does not.
#[derive(Clone, Copy)]
struct Frame {
    h: usize,
    w: usize,
    pad: [usize; 2],
}

impl Frame {
    fn as_given(shape: &Conv3dShape) -> Self {
        Self { h: shape.h, w: shape.w, pad: shape.pad }
    }

    /// With its padding around it, so that the rows of a tile are equally far apart at the edges too.
    fn padded(shape: &Conv3dShape) -> Result<Self, KernelError> {
        let [above, left] = shape.pad;
        let frame = Self { h: shape.h + 2 * above, w: shape.w + 2 * left, pad: [0; 2] };
        elements("x", &[frame.h, frame.w]).map(|_| frame)
    }

    fn pixels(&self) -> usize {
        self.h * self.w
    }
}

/// Frames to be copied with their padding around them, in another format, and normalised if need be.
struct PaddedFrames<'a> {
    input: &'a Matrix,
    norm: Option<&'a RowNorm<'a>>,
    /// The row of `input` that the first frame begins at.
    first_pixel: usize,
    frames: usize,
    shape: &'a Conv3dShape,
    format: RowFormat,
}

impl PaddedFrames<'_> {
    /// Calls `f` with the copy.
    ///
    /// # Safety
    /// The frames are readable, and the norm fits them.
    unsafe fn with<R>(&self, f: impl FnOnce(*const u8) -> R) -> Result<R, KernelError> {
        let Conv3dShape { h, w, pad: [above, left], .. } = *self.shape;
        let frame = Frame::padded(self.shape)?;
        let pixel_bytes = rows::row_bytes(self.format, self.input.columns);
        let total = elements("x", &[self.frames, frame.h, frame.w, pixel_bytes])?;
        scratch::with(total, |buffer| {
            let shared = Shared::new(buffer);
            parallel_for(self.frames * frame.h, &|task| {
                let (t, y) = (task / frame.h, task % frame.h);
                // SAFETY: the buffer has that many rows of that many pixels; the source row exists.
                unsafe {
                    let row = shared.add(task * frame.w * pixel_bytes);
                    if y < above || y >= above + h {
                        return row.write_bytes(0, frame.w * pixel_bytes);
                    }
                    row.write_bytes(0, left * pixel_bytes);
                    row.add((left + w) * pixel_bytes).write_bytes(0, left * pixel_bytes);
                    let first = self.first_pixel + (t * h + y - above) * w;
                    self.copy(first, row.add(left * pixel_bytes), pixel_bytes);
                }
            });
            f(buffer)
        })
    }

    /// Copies one row of pixels, from `first` on.
    ///
    /// # Safety
    /// As [`PaddedFrames::with`]; `dst` has room.
    unsafe fn copy(&self, first: usize, dst: *mut u8, pixel_bytes: usize) {
        let (isa, a, format, last) = (Isa::active(), self.input, self.format, first + self.shape.w);
        let Some(norm) = self.norm else {
            return simd::dispatch(isa, rows::Convert { a, first, last, format, dst });
        };
        let dtype = if format == RowFormat::Bf16 { rows::Dtype::Bf16 } else { rows::Dtype::F32 };
        let out = Output { ptr: dst, dtype, stride: pixel_bytes / dtype.bytes() };
        simd::dispatch(isa, norm::Part { norm, x: a, rows: (first, last), out });
        let (written, stride) = (a.columns * dtype.bytes(), out.stride);
        // SAFETY: passed on from the caller.
        unsafe {
            (0..last - first).for_each(|i| dst.add(i * pixel_bytes + written).write_bytes(0, pixel_bytes - written));
        }
        if format == RowFormat::RoundedF32 {
            let rows = last - first;
            let a = &Matrix { ptr: dst, dtype, rows, columns: a.columns, stride };
            simd::dispatch(isa, rows::Convert { a, first: 0, last: rows, format, dst });
        }
    }
}

/// Row pointers of a convolution: for an output pixel and a tap, the input pixel under it, or zeros outside the frame.
struct Windows<'a> {
    /// Input frame `from`.
    base: *const u8,
    from: usize,
    pixel_bytes: usize,
    zeros: *const u8,
    frame: Frame,
    shape: &'a Conv3dShape,
    kernel: [usize; 3],
    /// The output's height and width.
    size: [usize; 2],
    /// The output frame that the first row belongs to.
    first: usize,
}

// SAFETY: only read.
unsafe impl Sync for Windows<'_> {}

impl rows::Rows for Windows<'_> {
    fn fill(&self, first: usize, tap: usize, out: &mut [*const u8]) {
        let Self { frame, shape, kernel: [kt, kh, kw], size: [out_h, out_w], .. } = *self;
        let [st, sh, sw] = shape.stride;
        let (dt, dy, dx) = (tap / (kh * kw), tap / kw % kh, tap % kw);
        let (mut ox, rest) = (first % out_w, first / out_w);
        let (mut oy, mut ot) = (rest % out_h, self.first + rest / out_h);
        let mut rest = out;
        while !rest.is_empty() {
            let (line, more) = rest.split_at_mut((out_w - ox).min(rest.len()));
            let t = shape.frame_at(kt, ot * st + dt) - self.from;
            // Above and left of the frame these wrap around to huge numbers, which are outside too.
            let y = (oy * sh + dy).wrapping_sub(frame.pad[0]);
            for pointer in line {
                let x = (ox * sw + dx).wrapping_sub(frame.pad[1]);
                *pointer = if y < frame.h && x < frame.w {
                    self.base.wrapping_add(((t * frame.h + y) * frame.w + x) * self.pixel_bytes)
                } else {
                    self.zeros
                };
                ox += 1;
            }
            (rest, ox, oy) = (more, 0, oy + 1);
            if oy == out_h {
                (oy, ot) = (0, ot + 1);
            }
        }
    }
}
