//! Rows of activations as the micro-kernels read them: a pointer per row (and per tap, for a convolution).

use half::bf16;

use crate::pool::parallel_for;
use crate::scratch::{self, Shared};
use crate::simd::{self, Kernel, Scalar, Simd};
use crate::{Isa, KernelError};

use super::PANEL;

/// What a row pointer points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowFormat {
    /// f32, wherever the caller has it.
    F32,
    /// f32 rounded to bf16, in scratch, padded with zeros to a multiple of 32.
    RoundedF32,
    /// bf16 in scratch, padded with zeros to a multiple of 32.
    Bf16,
}

/// Number format of a matrix in the caller's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// `f32`.
    F32,
    /// `half::bf16`.
    Bf16,
}

/// A type that activations can have.
pub trait Number: Copy + Send + Sync + sealed::Sealed {
    /// Its name.
    const DTYPE: Dtype;
}

impl Number for f32 {
    const DTYPE: Dtype = Dtype::F32;
}

impl Number for bf16 {
    const DTYPE: Dtype = Dtype::Bf16;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::bf16 {}
}

/// A row-major matrix in the caller's memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix {
    pub ptr: *const u8,
    pub dtype: Dtype,
    pub rows: usize,
    pub columns: usize,
    /// Elements from one row to the next.
    pub stride: usize,
}

// SAFETY: a Matrix is only read, by kernels whose caller vouches for the memory.
unsafe impl Send for Matrix {}
// SAFETY: as above.
unsafe impl Sync for Matrix {}

impl Dtype {
    /// Bytes of one number.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

impl Matrix {
    pub(crate) fn new<T: Number>(ptr: *const T, rows: usize, columns: usize, stride: usize) -> Self {
        Self { ptr: ptr.cast(), dtype: T::DTYPE, rows, columns, stride }
    }

    /// # Safety
    /// `row` must exist.
    #[inline(always)]
    unsafe fn row(&self, row: usize) -> *const u8 {
        // SAFETY: the row exists.
        unsafe { self.ptr.add(row * self.stride * self.dtype.bytes()) }
    }

    /// The matrix without its first `rows` rows.
    ///
    /// # Safety
    /// They exist.
    pub(crate) unsafe fn skip(&self, rows: usize) -> Self {
        // SAFETY: passed on from the caller.
        Self { ptr: unsafe { self.row(rows) }, rows: self.rows - rows, ..*self }
    }

    /// One vector.
    ///
    /// # Safety
    /// The elements exist; the CPU has the instructions of `S`.
    #[inline(always)]
    pub(crate) unsafe fn lanes<S: Simd>(&self, row: usize, column: usize) -> S::V {
        // SAFETY: passed on from the caller.
        unsafe {
            match self.dtype {
                Dtype::F32 => S::load(self.row(row).cast::<f32>().add(column)),
                Dtype::Bf16 => S::load_bf16(self.row(row).cast::<bf16>().add(column)),
            }
        }
    }
}

/// Tells the driver where rows are.
pub(crate) trait Rows: Sync {
    /// Writes the address of rows `first ..` of `tap`, one per element of `out`.
    fn fill(&self, first: usize, tap: usize, out: &mut [*const u8]);
}

/// Rows at a fixed distance, one tap.
#[derive(Clone, Copy)]
pub(crate) struct Strided {
    base: *const u8,
    stride_bytes: usize,
}

// SAFETY: only read.
unsafe impl Sync for Strided {}

impl Rows for Strided {
    fn fill(&self, first: usize, _tap: usize, out: &mut [*const u8]) {
        for (i, pointer) in out.iter_mut().enumerate() {
            *pointer = self.base.wrapping_add((first + i) * self.stride_bytes);
        }
    }
}

/// Calls `f` with the matrix's rows in the format wanted, converted in scratch memory when they are not so already.
///
/// # Safety
/// The matrix must be readable.
pub(crate) unsafe fn with_matrix_rows<R>(
    a: &Matrix,
    format: RowFormat,
    f: impl FnOnce(&Strided) -> R,
) -> Result<R, KernelError> {
    let in_place = match (format, a.dtype) {
        (RowFormat::F32, Dtype::F32) => true,
        // Anything else is worth a copy: whole steps are read, and see `row_bytes`.
        (RowFormat::Bf16, Dtype::Bf16) => {
            a.columns.is_multiple_of(PANEL) && row_bytes(format, a.columns) == a.columns * 2
        }
        _ => false,
    };
    if in_place {
        return Ok(f(&Strided { base: a.ptr, stride_bytes: a.stride * a.dtype.bytes() }));
    }
    // SAFETY: passed on from the caller.
    unsafe { with_converted(a, format, |base, stride_bytes| f(&Strided { base, stride_bytes })) }
}

/// Bytes of one row of `channels` in a format.
pub(crate) fn row_bytes(format: RowFormat, channels: usize) -> usize {
    let padded = channels.next_multiple_of(PANEL);
    let bytes = match format {
        RowFormat::F32 => return channels * 4,
        RowFormat::RoundedF32 => padded * 4,
        RowFormat::Bf16 => padded * 2,
    };
    // Rows a multiple of 1 KiB apart would share a few sets of the cache.
    if bytes.is_multiple_of(1024) { bytes + 64 } else { bytes }
}

/// Calls `f` with a contiguous copy of the matrix in scratch memory and its row size in bytes.
///
/// # Safety
/// The matrix must be readable.
pub(crate) unsafe fn with_converted<R>(
    a: &Matrix,
    format: RowFormat,
    f: impl FnOnce(*const u8, usize) -> R,
) -> Result<R, KernelError> {
    let row_bytes = row_bytes(format, a.columns);
    let total = row_bytes.checked_mul(a.rows).ok_or(KernelError::Overflow("a"))?;
    scratch::with(total, |buffer| {
        let shared = Shared::new(buffer);
        let chunk = (32 * 1024 / row_bytes.max(1)).max(1);
        let isa = Isa::active();
        parallel_for(a.rows.div_ceil(chunk), &|task| {
            let (first, last) = (task * chunk, ((task + 1) * chunk).min(a.rows));
            // SAFETY: the buffer has that many rows.
            let dst = unsafe { shared.add(first * row_bytes) };
            simd::dispatch(isa, Convert { a, first, last, format, dst });
        });
        f(buffer, row_bytes)
    })
}

/// Copies rows `first .. last` of a matrix to `dst` in another format.
pub(crate) struct Convert<'a> {
    pub a: &'a Matrix,
    pub first: usize,
    pub last: usize,
    pub format: RowFormat,
    pub dst: *mut u8,
}

impl Kernel for Convert<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { a, first, last, format, dst } = self;
        let row_bytes = row_bytes(format, a.columns);
        let whole = a.columns / S::LANES * S::LANES;
        for row in first..last {
            // SAFETY: the promise of `with_converted`; `dst` has `row_bytes` per row.
            unsafe {
                let dst = dst.add((row - first) * row_bytes);
                if (format, a.dtype) == (RowFormat::Bf16, Dtype::Bf16) {
                    a.row(row).copy_to_nonoverlapping(dst, a.columns * 2);
                    dst.add(a.columns * 2).write_bytes(0, row_bytes - a.columns * 2);
                    continue;
                }
                for column in (0..whole).step_by(S::LANES) {
                    convert::<S>(a, row, column, format, dst);
                }
                for column in whole..a.columns {
                    convert::<Scalar>(a, row, column, format, dst);
                }
                let written = if format == RowFormat::Bf16 { a.columns * 2 } else { a.columns * 4 };
                dst.add(written).write_bytes(0, row_bytes - written);
            }
        }
    }
}

/// # Safety
/// The elements exist in the matrix and in `dst`; the CPU has the instructions of `S`.
#[inline(always)]
unsafe fn convert<S: Simd>(a: &Matrix, row: usize, column: usize, format: RowFormat, dst: *mut u8) {
    // SAFETY: passed on from the caller.
    unsafe {
        let value = a.lanes::<S>(row, column);
        match format {
            RowFormat::F32 => S::store(dst.cast::<f32>().add(column), value),
            RowFormat::Bf16 => S::store_bf16(dst.cast::<bf16>().add(column), value),
            RowFormat::RoundedF32 => {
                // Through bf16 and back, in the first half of the destination.
                let dst = dst.cast::<f32>().add(column);
                S::store_bf16(dst.cast::<bf16>(), value);
                S::store(dst, S::load_bf16(dst.cast::<bf16>()));
            }
        }
    }
}
