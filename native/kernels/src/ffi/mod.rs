//! The C ABI: `include/sango_kernels.h`, function by function.
//!
//! Every function checks its arguments, returns a `sango_status`, leaves the reason for a failure in
//! [`sango_last_error`] and lets no panic out. The work is that of the safe Rust functions.

pub mod attention;
pub mod conv2d;
pub mod conv3d;
pub mod gemm;
pub mod norm;

use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::gemm::{Matrix, Output};
use crate::{Activation, Isa, KernelError, Number, Precision, pool};

/// 0 on success, else one of the `SANGO_…` codes of the header.
#[allow(non_camel_case_types)]
pub type sango_status = i32;

const PANIC: sango_status = 7;

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Runs the body of an entry point and turns whatever happens into a status.
fn guard(body: impl FnOnce() -> Result<(), KernelError>) -> sango_status {
    let (status, message) = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return 0,
        Ok(Err(error)) => (error.status(), error.to_string()),
        Err(payload) => {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("no message");
            (PANIC, format!("internal error: {text}"))
        }
    };
    let message = CString::new(message.replace('\0', " ")).unwrap_or_default();
    LAST_ERROR.with(|last| *last.borrow_mut() = message);
    status
}

/// Why the last failing call on this thread failed; an empty string when none has. Valid until the next failing call.
#[unsafe(no_mangle)]
pub extern "C" fn sango_last_error() -> *const c_char {
    LAST_ERROR.with(|last| last.borrow().as_ptr())
}

/// The name of a status, such as "invalid shape". Never null.
#[unsafe(no_mangle)]
pub extern "C" fn sango_status_name(status: sango_status) -> *const c_char {
    let name = match status {
        0 => c"ok",
        1 => c"null pointer",
        2 => c"invalid shape",
        3 => c"size overflow",
        4 => c"out of memory",
        5 => c"invalid enumeration value",
        6 => c"instruction set not available",
        PANIC => c"internal error",
        _ => c"unknown status",
    };
    name.as_ptr()
}

/// The instruction set in use on this thread, such as "avx512bf16".
#[unsafe(no_mangle)]
pub extern "C" fn sango_isa() -> *const c_char {
    let name = match Isa::active() {
        Isa::Scalar => c"scalar",
        Isa::Avx2 => c"avx2",
        Isa::Avx512 => c"avx512",
        Isa::Avx512Bf16 => c"avx512bf16",
        Isa::Amx => c"amx",
    };
    name.as_ptr()
}

/// [`pool::num_threads`].
#[unsafe(no_mangle)]
pub extern "C" fn sango_num_threads() -> usize {
    pool::num_threads()
}

/// [`pool::set_num_threads`].
#[unsafe(no_mangle)]
pub extern "C" fn sango_set_num_threads(threads: usize) {
    pool::set_num_threads(threads);
}

/// What happens to a product before it is stored. A null epilogue means none of it.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct SangoEpilogue {
    /// One f32 per weight row, or null.
    pub bias: *const f32,
    /// A `sango_activation`.
    pub activation: i32,
    /// A matrix shaped as the output, of the entry point's type, or null. It may be the output itself.
    pub residual: *const std::ffi::c_void,
    /// Elements from one residual row to the next.
    pub residual_stride: usize,
}

/// Hands what `pack` makes to the caller, who frees it with [`free`]. A failure leaves null behind, which is safe to free.
///
/// # Safety
/// `weights` is null, which is an error, or writable.
unsafe fn hand_out<P>(weights: *mut *mut P, pack: impl FnOnce() -> Result<P, KernelError>) -> Result<(), KernelError> {
    if weights.is_null() {
        return Err(KernelError::NullPointer("weights"));
    }
    // SAFETY: not null; the caller vouches for the rest.
    unsafe { weights.write(std::ptr::null_mut()) };
    let packed = Box::new(pack()?);
    // SAFETY: as above.
    unsafe { weights.write(Box::into_raw(packed)) };
    Ok(())
}

/// Frees what [`hand_out`] gave. Null is ignored.
///
/// # Safety
/// `weights` is null or came from [`hand_out`] and has not been freed.
unsafe fn free<P>(weights: *mut P) {
    if !weights.is_null() {
        // SAFETY: the caller vouches for the pointer.
        drop(unsafe { Box::from_raw(weights) });
    }
}

/// A checked view of rows in C memory.
fn matrix<T: Number>(
    what: &'static str,
    ptr: *const T,
    rows: usize,
    columns: usize,
    stride: usize,
) -> Result<Matrix, KernelError> {
    let checked = Matrix { ptr: ptr.cast(), dtype: T::DTYPE, rows, columns, stride };
    if stride < columns {
        return Err(KernelError::shape(what, format!("a stride of {stride} is below the {columns} columns")));
    }
    // The extent of all rows, padding included, must be addressable, whether or not some dimension is 0.
    let extent = rows.max(1).checked_mul(stride.max(1)).filter(|&e| e <= isize::MAX as usize / 4);
    extent.ok_or(KernelError::Overflow(what))?;
    if ptr.is_null() && rows > 0 && columns > 0 {
        return Err(KernelError::NullPointer(what));
    }
    Ok(checked)
}

fn output<T: Number>(ptr: *mut T, rows: usize, columns: usize, stride: usize) -> Result<Output, KernelError> {
    matrix("out", ptr.cast_const(), rows, columns, stride)?;
    Ok(Output { ptr: ptr.cast(), dtype: T::DTYPE, stride })
}

/// Checks an epilogue against an output of `rows` by `columns` and `bias` biases.
///
/// # Safety
/// A non-null epilogue is readable.
unsafe fn finish<T: Number>(
    epilogue: *const SangoEpilogue,
    rows: usize,
    columns: usize,
) -> Result<crate::gemm::Finish, KernelError> {
    // SAFETY: the caller vouches for a non-null pointer.
    let Some(epilogue) = (unsafe { epilogue.as_ref() }) else {
        return Ok(crate::gemm::Finish { bias: None, activation: Activation::None, gate: None, residual: None });
    };
    let residual = (!epilogue.residual.is_null())
        .then(|| matrix("residual", epilogue.residual.cast::<T>(), rows, columns, epilogue.residual_stride))
        .transpose()?;
    Ok(crate::gemm::Finish {
        bias: (!epilogue.bias.is_null()).then_some(epilogue.bias),
        activation: activation(epilogue.activation)?,
        gate: None,
        residual,
    })
}

fn activation(value: i32) -> Result<Activation, KernelError> {
    let found = Activation::ALL.into_iter().find(|a| *a as i32 == value);
    found.ok_or(KernelError::InvalidEnum { what: "activation", value: value.into() })
}

fn precision(value: i32) -> Result<Precision, KernelError> {
    let found = Precision::ALL.into_iter().find(|p| *p as i32 == value);
    found.ok_or(KernelError::InvalidEnum { what: "precision", value: value.into() })
}

/// A slice over C memory; empty when `len` is 0, whatever the pointer.
///
/// # Safety
/// A non-null pointer has `len` elements that live and stay as they are for `'a`.
unsafe fn slice<'a, T>(what: &'static str, ptr: *const T, len: usize) -> Result<&'a [T], KernelError> {
    if len > isize::MAX as usize / size_of::<T>() {
        return Err(KernelError::Overflow(what));
    }
    match (len, ptr.is_null()) {
        (0, _) => Ok(&[]),
        (_, true) => Err(KernelError::NullPointer(what)),
        // SAFETY: checked, and the caller's promise.
        _ => Ok(unsafe { std::slice::from_raw_parts(ptr, len) }),
    }
}

/// [`slice`], writable.
///
/// # Safety
/// As [`slice`], and nothing else uses the memory during `'a`.
unsafe fn slice_mut<'a, T>(what: &'static str, ptr: *mut T, len: usize) -> Result<&'a mut [T], KernelError> {
    if len > isize::MAX as usize / size_of::<T>() {
        return Err(KernelError::Overflow(what));
    }
    match (len, ptr.is_null()) {
        (0, _) => Ok(&mut []),
        (_, true) => Err(KernelError::NullPointer(what)),
        // SAFETY: checked, and the caller's promise.
        _ => Ok(unsafe { std::slice::from_raw_parts_mut(ptr, len) }),
    }
}
