//! Keys and values of the positions that a decoder has seen, in memory that is reserved once.

use half::bf16;
use half::slice::HalfFloatSliceExt;

use crate::DType;
use crate::error::{Result, TensorError};
use crate::ops::Columns;
use crate::shape::numel;
use crate::storage::Storage;

const OP: &str = "kv_cache";

/// The keys and values of one attention layer and one sequence: `[capacity, kv_heads · D]` each, of which the first
/// [`KvCache::len`] rows are valid. New positions are written in place.
pub struct KvCache {
    keys: Rows,
    values: Rows,
    width: usize,
    len: usize,
    capacity: usize,
}

/// The element types that attention reads.
pub(crate) enum Rows {
    F32(Vec<f32>),
    BF16(Vec<bf16>),
}

impl Rows {
    fn zeros(len: usize, dtype: DType) -> Self {
        if dtype == DType::BF16 { Self::BF16(vec![bf16::ZERO; len]) } else { Self::F32(vec![0.0; len]) }
    }

    /// Copies columns of `from` (`F32` or `BF16`) to the rows from `at` on.
    fn write(&mut self, at: usize, width: usize, from: &Columns<'_>, stride: usize, rows: usize) -> Result<()> {
        let tensor = from.tensor();
        let to = at * width..(at + rows) * width;
        macro_rules! copy {
            ($to:expr, $from:expr, $copy:expr) => {{
                let from = $from.get(from.start()..).unwrap_or(&[]);
                for (to, from) in $to[to].chunks_exact_mut(width).zip(from.chunks(stride)) {
                    $copy(to, &from[..width]);
                }
            }};
        }
        match (self, &*tensor.storage) {
            (Self::F32(to_), Storage::F32(v)) => copy!(to_, v[tensor.range()], <[f32]>::copy_from_slice),
            (Self::BF16(to_), Storage::BF16(v)) => copy!(to_, v[tensor.range()], <[bf16]>::copy_from_slice),
            (Self::BF16(to_), Storage::F32(v)) => {
                copy!(to_, v[tensor.range()], |to: &mut [bf16], from: &[f32]| to.convert_from_f32_slice(from));
            }
            (Self::F32(to_), Storage::BF16(v)) => {
                copy!(to_, v[tensor.range()], |to: &mut [f32], from: &[bf16]| from.convert_to_f32_slice(to));
            }
            _ => return Err(tensor.dtype_error(OP, DType::F32)),
        }
        Ok(())
    }

    fn copy_of(&self, len: usize, reserved: usize) -> Self {
        match self {
            Self::F32(v) => {
                let mut copy = Vec::with_capacity(reserved);
                copy.extend_from_slice(&v[..len]);
                copy.resize(reserved, 0.0);
                Self::F32(copy)
            }
            Self::BF16(v) => {
                let mut copy = Vec::with_capacity(reserved);
                copy.extend_from_slice(&v[..len]);
                copy.resize(reserved, bf16::ZERO);
                Self::BF16(copy)
            }
        }
    }
}

impl KvCache {
    /// An empty cache for `capacity` positions of `width` = `kv_heads · D` elements, kept in `dtype` (`F32`, or `BF16` for
    /// half the memory).
    ///
    /// # Errors
    /// [`TensorError::Shape`] when that is more than memory has addresses.
    pub fn new(capacity: usize, width: usize, dtype: DType) -> Result<Self> {
        let elements = numel(OP, &[capacity, width])?;
        Ok(Self { keys: Rows::zeros(elements, dtype), values: Rows::zeros(elements, dtype), width, len: 0, capacity })
    }

    /// Positions that are filled.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no position is filled.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Positions that can be filled.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes that are reserved.
    pub fn bytes(&self) -> usize {
        let element = if matches!(self.keys, Rows::BF16(_)) { 2 } else { 4 };
        2 * element * self.capacity * self.width
    }

    /// Forgets every position from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// The first `len` positions (at most those that are filled) in a cache of its own.
    ///
    /// # Errors
    /// As [`KvCache::new`].
    pub fn prefix(&self, len: usize, capacity: usize) -> Result<Self> {
        let len = len.min(self.len);
        let capacity = capacity.max(len);
        let elements = numel(OP, &[capacity, self.width])?;
        Ok(Self {
            keys: self.keys.copy_of(len * self.width, elements),
            values: self.values.copy_of(len * self.width, elements),
            width: self.width,
            len,
            capacity,
        })
    }

    /// Adds positions: `k` and `v` are `[1, L, width]`, `F32` or `BF16`.
    ///
    /// # Errors
    /// [`TensorError::Shape`] when they have another shape or there is no room for them.
    pub fn append<'a>(&mut self, k: impl Into<Columns<'a>>, v: impl Into<Columns<'a>>) -> Result<()> {
        let (k, v) = (k.into(), v.into());
        let ((k_dims, k_row), (v_dims, v_row)) = (k.dims()?, v.dims()?);
        let [batch, length, width] = k_dims;
        if v_dims != k_dims || batch != 1 || width != self.width {
            let detail = format!("keys {k_dims:?} and values {v_dims:?} for rows of {}", self.width);
            return Err(TensorError::shape(OP, detail));
        }
        if length > self.capacity - self.len {
            let detail = format!("{length} positions do not fit after {} of {}", self.len, self.capacity);
            return Err(TensorError::shape(OP, detail));
        }
        self.keys.write(self.len, width, &k, k_row, length)?;
        self.values.write(self.len, width, &v, v_row, length)?;
        self.len += length;
        Ok(())
    }

    pub(crate) fn rows(&self) -> (&Rows, &Rows) {
        (&self.keys, &self.values)
    }

    pub(crate) fn width(&self) -> usize {
        self.width
    }
}
