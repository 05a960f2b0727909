//! The memory behind tensors.

use std::ops::Range;

use half::{bf16, f16};

use crate::DType;
use crate::buffer::Buffer;
use crate::error::{Result, TensorError};

/// Elements of one type, in the order of a row-major tensor (or of several that are views of the same memory).
#[derive(Debug)]
pub(crate) enum Storage {
    F32(Buffer),
    F16(Vec<f16>),
    BF16(Buffer<bf16>),
    I64(Vec<i64>),
    U8(Vec<u8>),
}

impl Storage {
    pub(crate) fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::F16(_) => DType::F16,
            Self::BF16(_) => DType::BF16,
            Self::I64(_) => DType::I64,
            Self::U8(_) => DType::U8,
        }
    }

    /// A copy of some elements.
    pub(crate) fn f32_part(&self, range: Range<usize>) -> Result<Vec<f32>> {
        match self {
            Self::F32(v) => Ok(v[range].to_vec()),
            other => Err(TensorError::DType { op: "into_f32_vec", expected: DType::F32, found: other.dtype() }),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::F16(v) => v.len(),
            Self::BF16(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::U8(v) => v.len(),
        }
    }
}

/// Runs `$body` with `$v` bound to the vector or buffer of whichever type `$storage` holds.
macro_rules! for_each_dtype {
    ($storage:expr, $v:ident => $body:expr) => {
        match $storage {
            $crate::storage::Storage::F32($v) => $body,
            $crate::storage::Storage::F16($v) => $body,
            $crate::storage::Storage::BF16($v) => $body,
            $crate::storage::Storage::I64($v) => $body,
            $crate::storage::Storage::U8($v) => $body,
        }
    };
}
pub(crate) use for_each_dtype;

impl From<Buffer> for Storage {
    fn from(v: Buffer) -> Self {
        Self::F32(v)
    }
}

impl From<Buffer<bf16>> for Storage {
    fn from(v: Buffer<bf16>) -> Self {
        Self::BF16(v)
    }
}

macro_rules! storage_from_vec {
    ($($variant:ident($t:ty)),*) => {$(
        impl From<Vec<$t>> for Storage {
            fn from(v: Vec<$t>) -> Self {
                Self::$variant(v.into())
            }
        }
    )*};
}
storage_from_vec!(F32(f32), F16(f16), BF16(bf16), I64(i64), U8(u8));
