//! Copies between f32 and bf16, for operations that compute in f32 only.

use half::bf16;
use half::slice::HalfFloatSliceExt;

use crate::KernelError;

/// The values in f32.
///
/// # Errors
/// When memory is short.
pub(crate) fn widen(values: &[bf16]) -> Result<Vec<f32>, KernelError> {
    let mut wide = zeros(values.len())?;
    values.convert_to_f32_slice(&mut wide);
    Ok(wide)
}

/// `len` zeros.
///
/// # Errors
/// When memory is short.
pub(crate) fn zeros(len: usize) -> Result<Vec<f32>, KernelError> {
    let mut values = Vec::new();
    values.try_reserve_exact(len).map_err(|_| KernelError::OutOfMemory(len.saturating_mul(4)))?;
    values.resize(len, 0.0);
    Ok(values)
}

/// Rounds the values.
pub(crate) fn narrow(values: &[f32], out: &mut [bf16]) {
    out.convert_from_f32_slice(values);
}
