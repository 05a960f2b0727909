//! Normalisation of one row after another.

use crate::gemm::Output;
use crate::pool::parallel_for;
use crate::simd::{self, Kernel, Scalar, Simd, math};
use crate::{Activation, Isa, Number};

/// Rows that were checked to have the same width as weight and bias.
pub(super) struct Rows<'a> {
    pub x: &'a [f32],
    pub width: usize,
    pub weight: Option<&'a [f32]>,
    pub bias: Option<&'a [f32]>,
    pub eps: f32,
    /// Whether the mean is subtracted (layer norm) or not (RMS norm).
    pub centred: bool,
    /// What the normalised, scaled and shifted values are passed through.
    pub activation: Activation,
}

/// Values that one task normalises, about.
const TASK: usize = 16 * 1024;

impl Rows<'_> {
    /// Normalises all of them into `out`, which is as long as `x`.
    pub(super) fn run<O: Number>(&self, out: &mut [O]) {
        let (isa, count) = (Isa::active(), self.x.len() / self.width);
        let chunk = (TASK / self.width).max(1);
        let out = Output::new(out.as_mut_ptr(), self.width);
        parallel_for(count.div_ceil(chunk), &|task| {
            let rows = (task * chunk, ((task + 1) * chunk).min(count));
            simd::dispatch(isa, Part { all: self, rows, out });
        });
    }

    /// Σ (x − mean)^power over a row, in four vectors at a time so that additions overlap.
    #[inline(always)]
    unsafe fn moment<S: Simd>(&self, x: *const f32, mean: f32, square: bool) -> f32 {
        let step = 4 * S::LANES;
        let whole = self.width / step * step;
        // SAFETY: within the row.
        unsafe {
            let centre = S::splat(mean);
            let mut sums = [S::splat(0.0); 4];
            for i in (0..whole).step_by(step) {
                for (v, sum) in sums.iter_mut().enumerate() {
                    let d = S::sub(S::load(x.add(i + v * S::LANES)), centre);
                    *sum = if square { S::fma(d, d, *sum) } else { S::add(*sum, d) };
                }
            }
            let mut sum = S::sum(S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3])));
            for i in whole..self.width {
                let d = *x.add(i) - mean;
                sum += if square { d * d } else { d };
            }
            sum
        }
    }

    /// One vector of a row.
    #[inline(always)]
    unsafe fn lanes<S: Simd>(&self, row: usize, i: usize, mean: f32, inverse: f32, out: &Output) {
        // SAFETY: within the row (caller).
        unsafe {
            let x = self.x.as_ptr().add(row * self.width + i);
            let mut y = S::mul(S::sub(S::load(x), S::splat(mean)), S::splat(inverse));
            if let Some(weight) = self.weight {
                y = S::mul(y, S::load(weight.as_ptr().add(i)));
            }
            if let Some(bias) = self.bias {
                y = S::add(y, S::load(bias.as_ptr().add(i)));
            }
            out.lanes::<S>(row, i, math::activate::<S>(self.activation, y));
        }
    }
}

/// The rows `rows.0 .. rows.1`.
struct Part<'a> {
    all: &'a Rows<'a>,
    rows: (usize, usize),
    out: Output,
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let all = self.all;
        let whole = all.width / S::LANES * S::LANES;
        for row in self.rows.0..self.rows.1 {
            // SAFETY: the row exists in `x` and `out`, and belongs to this task.
            unsafe {
                let x = all.x.as_ptr().add(row * all.width);
                let mean = if all.centred { all.moment::<S>(x, 0.0, false) / all.width as f32 } else { 0.0 };
                let variance = all.moment::<S>(x, mean, true) / all.width as f32;
                let inverse = 1.0 / (variance + all.eps).sqrt();
                for i in (0..whole).step_by(S::LANES) {
                    all.lanes::<S>(row, i, mean, inverse, &self.out);
                }
                for i in whole..all.width {
                    all.lanes::<Scalar>(row, i, mean, inverse, &self.out);
                }
            }
        }
    }
}
