//! Normalisation of one row after another, and what models do with a normalised row before anything else reads it.

use crate::gemm::{Matrix, Output};
use crate::pool::parallel_for;
use crate::simd::{self, Kernel, Scalar, Simd, math};
use crate::{Activation, Isa};

/// `y · (1 + scale) + shift` after a norm, with other numbers for every `rows` rows (the modulation of an adaptive norm).
#[derive(Debug, Clone, Copy)]
pub struct Modulation<'a> {
    /// A row of scales for every `rows` rows, the first at the start.
    pub scale: &'a [f32],
    /// Shifts, like the scales.
    pub shift: &'a [f32],
    /// Elements from one row of scales (and of shifts) to the next.
    pub stride: usize,
    /// Rows that share a row of scales.
    pub rows: usize,
}

/// A rotation of neighbouring values: `y₀ cos − y₁ sin` and `y₁ cos + y₀ sin`. Row `i` of what is normalised has row
/// `i mod rows` of `cos` and `sin`, `[rows, width / 2]`.
#[derive(Debug, Clone, Copy)]
pub struct Rotary<'a> {
    /// One cosine per pair.
    pub cos: &'a [f32],
    /// One sine per pair.
    pub sin: &'a [f32],
    /// Rows of either.
    pub rows: usize,
}

/// A norm of rows: `activation(rotary(norm(x) · weight + bias) modulated)`, where all but the norm is optional.
#[derive(Debug, Clone, Copy, Default)]
pub struct RowNorm<'a> {
    /// Whether the mean is subtracted (layer norm) or not (RMS norm).
    pub centred: bool,
    /// Added to the variance (or the mean square).
    pub eps: f32,
    /// One per column.
    pub weight: Option<&'a [f32]>,
    /// One per column.
    pub bias: Option<&'a [f32]>,
    /// A rotation; widths must be even.
    pub rotary: Option<Rotary<'a>>,
    /// A scale and shift that change between rows.
    pub modulation: Option<Modulation<'a>>,
    /// Applied last.
    pub activation: Activation,
}

/// Values that one task normalises, about.
const TASK: usize = 16 * 1024;

/// Normalises every row of `x` into `out`.
///
/// # Safety
/// `x` and `out` have the rows, and the norm's slices what the rows and columns of `x` reach.
pub(super) unsafe fn run(norm: &RowNorm<'_>, x: &Matrix, out: Output) {
    let isa = Isa::active();
    let chunk = (TASK / x.columns.max(1)).max(1);
    parallel_for(x.rows.div_ceil(chunk), &|task| {
        let (first, last) = (task * chunk, ((task + 1) * chunk).min(x.rows));
        // SAFETY: these rows exist.
        let out = unsafe { out.skip(first) };
        simd::dispatch(isa, Part { norm, x, rows: (first, last), out });
    });
}

/// The rows `rows.0 .. rows.1`, whose results are the first rows of `out`.
pub(crate) struct Part<'a> {
    pub norm: &'a RowNorm<'a>,
    pub x: &'a Matrix,
    pub rows: (usize, usize),
    pub out: Output,
}

impl Part<'_> {
    /// Σ (x − mean)^power over a row, in four vectors at a time so that additions overlap.
    #[inline(always)]
    unsafe fn moment<S: Simd>(&self, row: usize, mean: f32, square: bool) -> f32 {
        let (x, width, step) = (self.x, self.x.columns, 4 * S::LANES);
        let whole = width / step * step;
        // SAFETY: within the row.
        unsafe {
            let centre = S::splat(mean);
            let mut sums = [S::splat(0.0); 4];
            for i in (0..whole).step_by(step) {
                for (v, sum) in sums.iter_mut().enumerate() {
                    let d = S::sub(x.lanes::<S>(row, i + v * S::LANES), centre);
                    *sum = if square { S::fma(d, d, *sum) } else { S::add(*sum, d) };
                }
            }
            let mut sum = S::sum(S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3])));
            for i in whole..width {
                let d = x.lanes::<Scalar>(row, i) - mean;
                sum += if square { d * d } else { d };
            }
            sum
        }
    }

    /// One vector of a row, normalised.
    #[inline(always)]
    unsafe fn normalised<S: Simd>(&self, row: usize, i: usize, mean: f32, inverse: f32) -> S::V {
        // SAFETY: within the row (caller).
        unsafe {
            let mut y = S::mul(S::sub(self.x.lanes::<S>(row, i), S::splat(mean)), S::splat(inverse));
            if let Some(weight) = self.norm.weight {
                y = S::mul(y, S::load(weight.as_ptr().add(i)));
            }
            if let Some(bias) = self.norm.bias {
                y = S::add(y, S::load(bias.as_ptr().add(i)));
            }
            y
        }
    }

    /// What comes after the rotation.
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, row: usize, i: usize, mut y: S::V) {
        // SAFETY: within the row (caller).
        unsafe {
            if let Some(modulation) = self.norm.modulation {
                let at = row / modulation.rows * modulation.stride + i;
                let scale = S::add(S::splat(1.0), S::load(modulation.scale.as_ptr().add(at)));
                y = S::fma(y, scale, S::load(modulation.shift.as_ptr().add(at)));
            }
            self.out.lanes::<S>(row - self.rows.0, i, math::activate::<S>(self.norm.activation, y));
        }
    }
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let width = self.x.columns;
        let whole = width / S::LANES * S::LANES;
        // Pairs are turned within a vector, so there must be two lanes.
        let turned = if S::LANES >= 2 { whole } else { 0 };
        for row in self.rows.0..self.rows.1 {
            // SAFETY: the row exists in `x` and `out`, and belongs to this task.
            unsafe {
                let mean = if self.norm.centred { self.moment::<S>(row, 0.0, false) / width as f32 } else { 0.0 };
                let variance = self.moment::<S>(row, mean, true) / width as f32;
                let inverse = 1.0 / (variance + self.norm.eps).sqrt();
                if let Some(Rotary { cos, sin, rows }) = self.norm.rotary {
                    let angles = row % rows * (width / 2);
                    let (cos, sin) = (cos.as_ptr().add(angles), sin.as_ptr().add(angles));
                    for i in (0..turned).step_by(S::LANES) {
                        let y = self.normalised::<S>(row, i, mean, inverse);
                        self.finish::<S>(row, i, S::turn_pairs(y, cos.add(i / 2), sin.add(i / 2)));
                    }
                    for i in (turned..width).step_by(2) {
                        let y = [i, i + 1].map(|i| self.normalised::<Scalar>(row, i, mean, inverse));
                        let (cos, sin) = (*cos.add(i / 2), *sin.add(i / 2));
                        self.finish::<Scalar>(row, i, y[0] * cos - y[1] * sin);
                        self.finish::<Scalar>(row, i + 1, y[1] * cos + y[0] * sin);
                    }
                    continue;
                }
                for i in (0..whole).step_by(S::LANES) {
                    self.finish::<S>(row, i, self.normalised::<S>(row, i, mean, inverse));
                }
                for i in whole..width {
                    self.finish::<Scalar>(row, i, self.normalised::<Scalar>(row, i, mean, inverse));
                }
            }
        }
    }
}
