//! What can go wrong in a kernel call, and the status code each error has in C.

/// Why a kernel refused its arguments. Nothing is written to the output when one is returned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A slice does not have the number of elements its shape asks for.
    #[error("{what} must hold {expected} elements, it holds {found}")]
    Length {
        /// Which argument.
        what: &'static str,
        /// Elements the shape asks for.
        expected: usize,
        /// Elements given.
        found: usize,
    },
    /// A shape, stride or option that the operation cannot have.
    #[error("{what}: {reason}")]
    InvalidShape {
        /// Which argument.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A required pointer is null (C only).
    #[error("{0} is a null pointer")]
    NullPointer(&'static str),
    /// The shape describes more elements than can be addressed.
    #[error("the size of {0} overflows")]
    Overflow(&'static str),
    /// Memory for packed weights or scratch space could not be had.
    #[error("could not allocate {0} bytes")]
    OutOfMemory(usize),
    /// An enumeration value that does not exist (C only).
    #[error("{what} has no value {value}")]
    InvalidEnum {
        /// Which argument.
        what: &'static str,
        /// The value given.
        value: i64,
    },
    /// The instruction set asked for is not one this CPU and operating system have.
    #[error("instruction set {wanted} is not available here (this machine has: {available})")]
    IsaUnavailable {
        /// What was asked for.
        wanted: String,
        /// What there is.
        available: String,
    },
}

impl KernelError {
    /// The `sango_status` of this error in C.
    pub fn status(&self) -> i32 {
        match self {
            Self::NullPointer(_) => 1,
            Self::Length { .. } | Self::InvalidShape { .. } => 2,
            Self::Overflow(_) => 3,
            Self::OutOfMemory(_) => 4,
            Self::InvalidEnum { .. } => 5,
            Self::IsaUnavailable { .. } => 6,
        }
    }

    pub(crate) fn shape(what: &'static str, reason: impl Into<String>) -> Self {
        Self::InvalidShape { what, reason: reason.into() }
    }
}

/// The product of `dims`, or [`KernelError::Overflow`] when it cannot be addressed as f32.
pub(crate) fn elements(what: &'static str, dims: &[usize]) -> Result<usize, KernelError> {
    let mut product = 1usize;
    for &dim in dims {
        // A zero elsewhere must not hide an absurd dimension, hence no early return on 0.
        product = product.checked_mul(dim.max(1)).ok_or(KernelError::Overflow(what))?;
    }
    if product > isize::MAX as usize / size_of::<f32>() {
        return Err(KernelError::Overflow(what));
    }
    Ok(if dims.contains(&0) { 0 } else { product })
}

/// Checks that a slice has exactly the elements of `dims`.
pub(crate) fn expect_len(what: &'static str, found: usize, dims: &[usize]) -> Result<(), KernelError> {
    let expected = elements(what, dims)?;
    if found == expected { Ok(()) } else { Err(KernelError::Length { what, expected, found }) }
}

/// Checks that `rows` rows of `width` elements, `stride` apart, lie in a slice of `len`.
pub(crate) fn reaches(
    what: &'static str,
    len: usize,
    rows: usize,
    width: usize,
    stride: usize,
) -> Result<(), KernelError> {
    if stride < width {
        return Err(KernelError::shape(what, format!("a stride of {stride} is below the {width} columns")));
    }
    if elements(what, &[rows, stride])? == 0 {
        return Ok(());
    }
    let expected = (rows - 1) * stride + width;
    if len >= expected { Ok(()) } else { Err(KernelError::Length { what, expected, found: len }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_that_cannot_be_addressed_are_errors() {
        assert_eq!(elements("a", &[3, 4]), Ok(12));
        assert_eq!(elements("a", &[3, 0]), Ok(0));
        assert_eq!(elements("a", &[usize::MAX, 2]), Err(KernelError::Overflow("a")));
        assert_eq!(elements("a", &[0, usize::MAX, 2]), Err(KernelError::Overflow("a")));
        assert_eq!(elements("a", &[isize::MAX as usize]), Err(KernelError::Overflow("a")));
        assert!(expect_len("a", 11, &[3, 4]).unwrap_err().to_string().contains("12"));
    }
}
