//! Depthwise convolution: every channel has its own kernel, so there is no product to block; bandwidth decides.

use half::bf16;

use crate::gemm::{Finish, Matrix, Output, rows::Dtype};
use crate::pool::parallel_for;
use crate::scratch::Shared;
use crate::{Conv2dShape, KernelError};

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
    let taps = Shared::new(taps.cast_mut());
    let output = Shared::new(out.ptr);
    let (out_h, out_w) = shape.output(kh, kw)?;
    let channels = input.columns;
    let Conv2dShape {
        h,
        w,
        stride,
        pad: [top, left, ..],
        upsample,
        ..
    } = *shape;
    parallel_for(shape.n * out_h, &|task| {
        let (image, oy) = (task / out_h, task % out_h);
        let mut sums = vec![0.0f32; channels];
        for ox in 0..out_w {
            let pixel = task * out_w + ox;
            // SAFETY: every pixel, tap, channel and output element named here exists (caller's promise, bounds below).
            unsafe {
                for (c, sum) in sums.iter_mut().enumerate() {
                    *sum = finish.bias.map_or(0.0, |bias| *bias.add(c));
                }
                for (tap, (ky, kx)) in (0..kh)
                    .flat_map(|ky| (0..kw).map(move |kx| (ky, kx)))
                    .enumerate()
                {
                    let y = (oy * stride + ky).wrapping_sub(top);
                    let x = (ox * stride + kx).wrapping_sub(left);
                    if y >= h * upsample || x >= w * upsample {
                        continue;
                    }
                    let row = (image * h + y / upsample) * w + x / upsample;
                    for (c, sum) in sums.iter_mut().enumerate() {
                        *sum += input.at(row, c) * *taps.add(tap * channels + c);
                    }
                }
                for (c, &sum) in sums.iter().enumerate() {
                    let residual = finish.residual.map_or(0.0, |r| r.at(pixel, c));
                    let value = finish.activation.apply(sum) + residual;
                    let index = pixel * out.stride + c;
                    match out.dtype {
                        Dtype::F32 => *output.add(0).cast::<f32>().add(index) = value,
                        Dtype::Bf16 => {
                            *output.add(0).cast::<bf16>().add(index) = bf16::from_f32(value)
                        }
                    }
                }
            }
        }
    });
    Ok(())
}
