//! From f32 sums to output: bias, activation or gate, residual, rounding.

use half::bf16;

use crate::{Activation, Isa};

use super::driver::Output;
use super::rows::{Dtype, Matrix};
use super::{PANEL, PackedWeights};

/// A checked [`Epilogue`](super::Epilogue): pointers that are valid for the product at hand.
#[derive(Clone, Copy)]
pub(crate) struct Finish {
    pub bias: Option<*const f32>,
    pub activation: Activation,
    pub residual: Option<Matrix>,
}

// SAFETY: only read.
unsafe impl Sync for Finish {}

/// Stores `rows` rows of one panel's sums.
///
/// # Safety
/// The output, bias and residual exist for these rows and the panel's columns; `sums` has `rows · 32` values.
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn store(
    _isa: Isa,
    w: &PackedWeights,
    panel: usize,
    first_row: usize,
    rows: usize,
    sums: *const f32,
    finish: &Finish,
    out: Output,
) {
    let width = w.panel_columns();
    let first_column = panel * width;
    let live = width.min(w.out_columns() - first_column);
    for row in 0..rows {
        // SAFETY: passed on from the caller.
        unsafe {
            let sums = sums.add(row * PANEL);
            for column in 0..live {
                let n = first_column + column;
                let bias = |row: usize| finish.bias.map_or(0.0, |bias| *bias.add(row));
                let mut value = if w.gated {
                    let gate = *sums.add(width + column) + bias(w.n / 2 + n);
                    (*sums.add(column) + bias(n)) * finish.activation.apply(gate)
                } else {
                    finish.activation.apply(*sums.add(column) + bias(n))
                };
                if let Some(residual) = &finish.residual {
                    value += residual.at(first_row + row, n);
                }
                let index = (first_row + row) * out.stride + n;
                match out.dtype {
                    Dtype::F32 => *out.ptr.cast::<f32>().add(index) = value,
                    Dtype::Bf16 => *out.ptr.cast::<bf16>().add(index) = bf16::from_f32(value),
                }
            }
        }
    }
}
