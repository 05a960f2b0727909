//! Depthwise convolution: every channel has its own kernel, so there is no product to block; bandwidth decides.

use crate::gemm::{Finish, Matrix, Output};
use crate::pool::parallel_for;
use crate::scratch::Shared;
use crate::simd::{self, Kernel, Scalar, Simd, math};
use crate::{Conv2dShape, Isa, KernelError};

/// Convolves each channel of `input` (a row per pixel) with its own taps, `[kh · kw, channels]`.
///
/// # Safety
/// As [`crate::conv2d::run`]; `taps` has `kh · kw · input.columns` values.
pub(crate) unsafe fn run(
    input: Matrix,
    shape: &Conv2dShape,
    (kh, kw): (usize, usize),
    taps: *const f32,
    finish: &Finish,
    out: Output,
) -> Result<(), KernelError> {
    let (out_h, out_w) = shape.output(kh, kw)?;
    let isa = Isa::active();
    let taps = Shared::new(taps.cast_mut());
    parallel_for(shape.n * out_h, &|task| {
        // SAFETY: the taps are there.
        let taps = unsafe { taps.add(0) };
        let row = OutputRow { input, shape, kh, kw, taps, finish, out, out_h, out_w, row: task };
        simd::dispatch(isa, row);
    });
    Ok(())
}

/// One row of output pixels.
struct OutputRow<'a> {
    input: Matrix,
    shape: &'a Conv2dShape,
    kh: usize,
    kw: usize,
    taps: *const f32,
    finish: &'a Finish,
    out: Output,
    out_h: usize,
    out_w: usize,
    /// `image · out_h + oy`
    row: usize,
}

impl Kernel for OutputRow<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let channels = self.input.columns;
        let whole = channels / S::LANES * S::LANES;
        for ox in 0..self.out_w {
            // SAFETY: the promise of `run`.
            unsafe {
                for channel in (0..whole).step_by(S::LANES) {
                    self.lanes::<S>(ox, channel);
                }
                for channel in whole..channels {
                    self.lanes::<Scalar>(ox, channel);
                }
            }
        }
    }
}

impl OutputRow<'_> {
    /// One vector of channels of one output pixel.
    ///
    /// # Safety
    /// As [`run`]; the CPU has the instructions of `S`.
    #[inline(always)]
    unsafe fn lanes<S: Simd>(&self, ox: usize, channel: usize) {
        let Conv2dShape { h, w, stride, pad: [top, left, ..], upsample, .. } = *self.shape;
        let (image, oy) = (self.row / self.out_h, self.row % self.out_h);
        let channels = self.input.columns;
        // SAFETY: the pixel is inside the image, the tap inside the kernel, the rest is the caller's promise.
        unsafe {
            let mut sum = match self.finish.bias {
                Some(bias) => S::load(bias.add(channel)),
                None => S::splat(0.0),
            };
            for ky in 0..self.kh {
                // Above and left of the image these wrap around to huge numbers, which are outside too.
                let y = (oy * stride + ky).wrapping_sub(top);
                if y >= h * upsample {
                    continue;
                }
                for kx in 0..self.kw {
                    let x = (ox * stride + kx).wrapping_sub(left);
                    if x < w * upsample {
                        let pixel = (image * h + y / upsample) * w + x / upsample;
                        let tap = S::load(self.taps.add((ky * self.kw + kx) * channels + channel));
                        sum = S::fma(self.input.lanes::<S>(pixel, channel), tap, sum);
                    }
                }
            }
            let pixel = self.row * self.out_w + ox;
            let value = math::activate::<S>(self.finish.activation, sum);
            self.out.lanes::<S>(pixel, channel, self.finish.end::<S>(pixel, channel, value));
        }
    }
}
