//! Activations and softmax over whole tensors.

use crate::error::expect_len;
use crate::pool::parallel_for;
use crate::scratch::Shared;
use crate::simd::{self, Kernel, Scalar, Simd, math};
use crate::{Activation, Isa, KernelError};

/// Values that one task handles, about.
const TASK: usize = 16 * 1024;

/// `out = activation(x)`, value by value.
///
/// # Errors
/// When `out` is not as long as `x`.
pub fn activate(x: &[f32], activation: Activation, out: &mut [f32]) -> Result<(), KernelError> {
    expect_len("out", out.len(), &[x.len()])?;
    let (isa, out) = (Isa::active(), Shared::new(out.as_mut_ptr()));
    parallel_for(x.len().div_ceil(TASK), &|task| {
        let x = &x[task * TASK..((task + 1) * TASK).min(x.len())];
        // SAFETY: every task has its own part of the output.
        simd::dispatch(isa, Activate { x, activation, out: unsafe { out.add(task * TASK) } });
    });
    Ok(())
}

struct Activate<'a> {
    x: &'a [f32],
    activation: Activation,
    out: *mut f32,
}

impl Activate<'_> {
    #[inline(always)]
    unsafe fn lanes<S: Simd>(&self, i: usize) {
        // SAFETY: within both slices (caller).
        unsafe { S::store(self.out.add(i), math::activate::<S>(self.activation, S::load(self.x.as_ptr().add(i)))) }
    }
}

impl Kernel for Activate<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let whole = self.x.len() / S::LANES * S::LANES;
        // SAFETY: within both slices.
        unsafe {
            for i in (0..whole).step_by(S::LANES) {
                self.lanes::<S>(i);
            }
            for i in whole..self.x.len() {
                self.lanes::<Scalar>(i);
            }
        }
    }
}

/// `out = exp(x − max) / Σ exp(x − max)` for each row of `width` values. A row of −∞ only becomes NaN, as in PyTorch.
///
/// # Errors
/// When `x` is not whole rows, or `out` differs in length.
pub fn softmax(x: &[f32], width: usize, out: &mut [f32]) -> Result<(), KernelError> {
    softmax_rows(x, width, false, out)
}

/// The logarithm of [`softmax`], computed without the detour.
///
/// # Errors
/// As [`softmax`].
pub fn log_softmax(x: &[f32], width: usize, out: &mut [f32]) -> Result<(), KernelError> {
    softmax_rows(x, width, true, out)
}

fn softmax_rows(x: &[f32], width: usize, log: bool, out: &mut [f32]) -> Result<(), KernelError> {
    if width == 0 || !x.len().is_multiple_of(width) {
        return Err(KernelError::shape("x", format!("{} values are not whole rows of {width}", x.len())));
    }
    expect_len("out", out.len(), &[x.len()])?;
    let (isa, count, chunk) = (Isa::active(), x.len() / width, (TASK / width).max(1));
    let out = Shared::new(out.as_mut_ptr());
    parallel_for(count.div_ceil(chunk), &|task| {
        for row in task * chunk..((task + 1) * chunk).min(count) {
            // SAFETY: every row is written by one task.
            let out = unsafe { out.add(row * width) };
            simd::dispatch(isa, Softmax { x: &x[row * width..(row + 1) * width], log, out });
        }
    });
    Ok(())
}

/// One row.
struct Softmax<'a> {
    x: &'a [f32],
    log: bool,
    out: *mut f32,
}

impl Softmax<'_> {
    /// The largest value; NaN is passed over here and comes back in the sum.
    #[inline(always)]
    unsafe fn largest<S: Simd>(&self) -> f32 {
        let (x, whole) = (self.x.as_ptr(), self.x.len() / S::LANES * S::LANES);
        // SAFETY: within the row.
        unsafe {
            let mut largest = S::splat(f32::NEG_INFINITY);
            for i in (0..whole).step_by(S::LANES) {
                largest = S::max(S::load(x.add(i)), largest);
            }
            self.x[whole..].iter().fold(S::largest(largest), |a, &b| a.max(b))
        }
    }

    /// `exp(x − largest)` of one vector, kept in the output.
    #[inline(always)]
    unsafe fn weight<S: Simd>(&self, i: usize, largest: f32) -> S::V {
        // SAFETY: within both rows (caller).
        unsafe {
            let weight = math::exp::<S>(S::sub(S::load(self.x.as_ptr().add(i)), S::splat(largest)));
            if !self.log {
                S::store(self.out.add(i), weight);
            }
            weight
        }
    }

    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, i: usize, largest: f32, sum: f32) {
        // SAFETY: within both rows (caller).
        unsafe {
            let y = if self.log {
                S::sub(S::sub(S::load(self.x.as_ptr().add(i)), S::splat(largest)), S::splat(sum.ln()))
            } else {
                S::mul(S::load(self.out.add(i)), S::splat(1.0 / sum))
            };
            S::store(self.out.add(i), y);
        }
    }
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let len = self.x.len();
        let (step, whole) = (4 * S::LANES, len / S::LANES * S::LANES);
        let unrolled = len / step * step;
        // SAFETY: within both rows.
        unsafe {
            let largest = self.largest::<S>();
            // Four sums, so that additions overlap and each takes in a quarter of the rounding errors.
            let mut sums = [S::splat(0.0); 4];
            for i in (0..unrolled).step_by(step) {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = S::add(*sum, self.weight::<S>(i + v * S::LANES, largest));
                }
            }
            for i in (unrolled..whole).step_by(S::LANES) {
                sums[0] = S::add(sums[0], self.weight::<S>(i, largest));
            }
            let mut sum = S::sum(S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3])));
            for i in whole..len {
                sum += self.weight::<Scalar>(i, largest);
            }
            for i in (0..whole).step_by(S::LANES) {
                self.finish::<S>(i, largest, sum);
            }
            for i in whole..len {
                self.finish::<Scalar>(i, largest, sum);
            }
        }
    }
}
