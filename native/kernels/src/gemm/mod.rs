//! Matrix products with packed weights: `out = epilogue(a · wᵀ)`.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod driver;
mod epilogue;
mod int8;
mod pack;
pub(crate) mod rows;
mod scalar;

use crate::error::{elements, expect_len, reaches};
use crate::memory::AlignedBytes;
use crate::{Activation, KernelError};

pub(crate) use driver::Output;
pub(crate) use epilogue::{Finish, RowGate, Store};
pub(crate) use pack::{Element, Layout, PANEL, row_format};
pub use pack::{PackedWeights, Precision};
pub use rows::Number;
pub(crate) use rows::{Matrix, RowFormat};

/// What happens to a product before it is stored: `activation(product + bias) · gate + residual`; for gated weights
/// `value · activation(gate)` comes first, with the bias added to both halves.
#[derive(Debug, Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// One value per weight row (`n`).
    pub bias: Option<&'a [f32]>,
    /// Applied after the bias (to the gate only, for gated weights).
    pub activation: Activation,
    /// What the result is multiplied by before the residual is added.
    pub gate: Option<Gate<'a>>,
    /// Row-major `[m, out_columns]`, added last.
    pub residual: Option<&'a [f32]>,
}

/// A row of factors for every `rows` rows of an output: the gate of an adaptive norm.
#[derive(Debug, Clone, Copy)]
pub struct Gate<'a> {
    /// The first row of factors at the start, as long as a row of the output.
    pub values: &'a [f32],
    /// Elements from one row of factors to the next.
    pub stride: usize,
    /// Output rows that share a row of factors.
    pub rows: usize,
}

/// How the right-hand matrix of [`matmul`] lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum BLayout {
    /// `[k, n]`: `out = a · b`.
    KN = 0,
    /// `[n, k]`: `out = a · bᵀ`.
    NK = 1,
}

/// `out = epilogue(a · wᵀ)`: `a` is row-major `[m, k]`, `out` row-major `[m, w.out_columns()]`, either in f32 or bf16.
///
/// A NaN in `a` or `w` reaches every output it takes part in. Denormals are treated as zero.
///
/// # Errors
/// When a slice does not have the size its shape asks for, or scratch memory is short.
pub fn gemm<A: Number, O: Number>(
    a: &[A],
    m: usize,
    w: &PackedWeights,
    epilogue: &Epilogue<'_>,
    out: &mut [O],
) -> Result<(), KernelError> {
    let columns = w.out_columns();
    if w.taps != 1 {
        return Err(KernelError::shape("w", "these weights were packed for a convolution"));
    }
    expect_len("a", a.len(), &[m, w.k()])?;
    expect_len("out", out.len(), &[m, columns])?;
    let finish = epilogue.checked(m, w)?;
    let a = Matrix::new(a.as_ptr(), m, w.k(), w.k());
    // SAFETY: all lengths were checked just now.
    unsafe { run(a, w, &finish, Output::new(out.as_mut_ptr(), columns)) }
}

/// `out = a · b` or `a · bᵀ` for two row-major f32 activations: `a` is `[m, k]`, `out` is `[m, n]`.
///
/// # Errors
/// As [`gemm`].
pub fn matmul(
    a: &[f32],
    b: &[f32],
    b_layout: BLayout,
    (m, n, k): (usize, usize, usize),
    out: &mut [f32],
) -> Result<(), KernelError> {
    expect_len("b", b.len(), &[n, k])?;
    let layout = match b_layout {
        BLayout::KN => Layout { n_stride: 1, tap_stride: 0, channel_stride: n },
        BLayout::NK => Layout { n_stride: k, tap_stride: 0, channel_stride: 1 },
    };
    // SAFETY: the slice holds n · k elements, laid out so.
    let packed = unsafe {
        PackedWeights::pack_into(AlignedBytes::zeroed, b.as_ptr(), layout, (n, 1, k), Precision::F32, false)?
    };
    gemm(a, m, &packed, &Epilogue::default(), out)
}

/// The product behind every entry point.
///
/// # Safety
/// `a` is readable, `out` writable and `finish` readable for `a.rows` rows of the weights' shape.
pub(crate) unsafe fn run(a: Matrix, w: &PackedWeights, finish: &Finish, out: Output) -> Result<(), KernelError> {
    if a.rows == 0 || w.out_columns() == 0 {
        return Ok(());
    }
    let kernel = driver::kernel(w.precision, a.rows);
    // SAFETY: passed on from the caller.
    unsafe { rows::with_matrix_rows(&a, kernel.rows, |rows| driver::run(&kernel, w, a.rows, rows, finish, out))? }
}

impl Epilogue<'_> {
    pub(crate) fn checked(&self, m: usize, w: &PackedWeights) -> Result<Finish, KernelError> {
        self.checked_for(m, w.n, w.out_columns())
    }

    /// Checks it against an output of `m` rows and so many columns.
    pub(crate) fn checked_for(&self, m: usize, biases: usize, columns: usize) -> Result<Finish, KernelError> {
        elements("out", &[m, columns])?;
        if let Some(bias) = self.bias {
            expect_len("bias", bias.len(), &[biases])?;
        }
        if let Some(Gate { values, stride, rows }) = self.gate {
            if rows == 0 {
                return Err(KernelError::shape("gate", "must be shared by at least 1 row"));
            }
            reaches("gate", values.len(), m.div_ceil(rows), columns, stride)?;
        }
        if let Some(residual) = self.residual {
            expect_len("residual", residual.len(), &[m, columns])?;
        }
        Ok(Finish {
            bias: self.bias.map(<[f32]>::as_ptr),
            activation: self.activation,
            gate: self.gate.map(|g| RowGate { values: g.values.as_ptr(), stride: g.stride, rows: g.rows, before: 0 }),
            residual: self.residual.map(|r| Matrix::new(r.as_ptr(), m, columns, columns)),
        })
    }
}
