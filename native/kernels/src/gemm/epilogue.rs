//! From f32 sums to output: scale, bias, activation or gate, residual, rounding.

use crate::simd::{self, Kernel, Scalar, Simd, math};
use crate::{Activation, Isa};

use super::driver::Output;
use super::rows::Matrix;
use super::{PANEL, PackedWeights};

/// A checked [`Epilogue`](super::Epilogue): pointers that are valid for the product at hand.
#[derive(Clone, Copy)]
pub(crate) struct Finish {
    pub bias: Option<*const f32>,
    pub activation: Activation,
    pub gate: Option<RowGate>,
    pub residual: Option<Matrix>,
}

/// A checked [`Gate`](super::Gate).
#[derive(Clone, Copy)]
pub(crate) struct RowGate {
    pub values: *const f32,
    pub stride: usize,
    /// Output rows that share a row of the gate.
    pub rows: usize,
    /// Rows that came before the first of the output at hand.
    pub before: usize,
}

// SAFETY: only read.
unsafe impl Sync for Finish {}

impl Finish {
    /// What is left for the output without its first `rows` rows.
    ///
    /// # Safety
    /// They exist.
    pub(crate) unsafe fn skip(&self, rows: usize) -> Self {
        // SAFETY: passed on from the caller.
        let residual = self.residual.map(|residual| unsafe { residual.skip(rows) });
        let gate = self.gate.map(|gate| RowGate { before: gate.before + rows, ..gate });
        Self { residual, gate, ..*self }
    }

    /// What comes after the activation: the gate, and the residual.
    ///
    /// # Safety
    /// The row and the columns exist; the CPU has the instructions of `S`.
    #[inline(always)]
    pub(crate) unsafe fn end<S: Simd>(&self, row: usize, column: usize, mut value: S::V) -> S::V {
        // SAFETY: passed on from the caller.
        unsafe {
            if let Some(gate) = &self.gate {
                let at = (gate.before + row) / gate.rows * gate.stride + column;
                value = S::mul(value, S::load(gate.values.add(at)));
            }
            if let Some(residual) = &self.residual {
                value = S::add(value, residual.lanes::<S>(row, column));
            }
            value
        }
    }
}

/// The sums of some rows of one panel, on their way to the output.
pub(crate) struct Store<'a> {
    pub w: &'a PackedWeights,
    pub panel: usize,
    pub first_row: usize,
    pub rows: usize,
    /// `[rows][32]`
    pub sums: *const f32,
    /// Factors of the panel's columns, for int8 weights.
    pub scales: Option<*const f32>,
    pub finish: &'a Finish,
    pub out: Output,
}

impl Store<'_> {
    /// Stores them with the instructions of `isa`.
    ///
    /// # Safety
    /// The output, bias and residual exist for these rows and the panel's columns; `sums` has `rows · 32` values.
    pub(crate) unsafe fn store(self, isa: Isa) {
        simd::dispatch(isa, self);
    }

    /// One vector: `column` of the panel, `row` of `rows`.
    ///
    /// # Safety
    /// As [`Self::store`]; the CPU has the instructions of `S`.
    #[inline(always)]
    unsafe fn lanes<S: Simd>(&self, row: usize, column: usize) {
        let width = self.w.panel_columns();
        let (m, n) = (self.first_row + row, self.panel * width + column);
        // SAFETY: passed on from the caller.
        unsafe {
            let sums = self.sums.add(row * PANEL + column);
            let mut value = S::load(sums);
            if let Some(scales) = self.scales {
                value = S::mul(value, S::load(scales.add(column)));
            }
            if let Some(bias) = self.finish.bias {
                value = S::add(value, S::load(bias.add(n)));
            }
            if self.w.gated {
                let mut gate = S::load(sums.add(width));
                if let Some(scales) = self.scales {
                    gate = S::mul(gate, S::load(scales.add(width + column)));
                }
                if let Some(bias) = self.finish.bias {
                    gate = S::add(gate, S::load(bias.add(self.w.n / 2 + n)));
                }
                value = S::mul(value, math::activate::<S>(self.finish.activation, gate));
            } else {
                value = math::activate::<S>(self.finish.activation, value);
            }
            self.out.lanes::<S>(m, n, self.finish.end::<S>(m, n, value));
        }
    }
}

impl Kernel for Store<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let width = self.w.panel_columns();
        let live = width.min(self.w.out_columns() - self.panel * width);
        let whole = live / S::LANES * S::LANES;
        for row in 0..self.rows {
            // SAFETY: the promise of `store`.
            unsafe {
                for column in (0..whole).step_by(S::LANES) {
                    self.lanes::<S>(row, column);
                }
                for column in whole..live {
                    self.lanes::<Scalar>(row, column);
                }
            }
        }
    }
}
