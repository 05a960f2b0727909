//! The tensor itself: construction, access and conversion of element type.

use std::fmt;
use std::sync::Arc;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::buffer::Buffer;
use crate::error::{Result, TensorError};
use crate::shape::numel;
use crate::storage::{Storage, for_each_dtype};
use crate::{DType, Device};

/// A row-major, contiguous array of numbers.
///
/// Cloning is cheap (the elements are shared and never change), and so are [`Tensor::reshape`] and taking whole
/// leading rows. Ops are named as in PyTorch and return new tensors; those that compute work on [`DType::F32`];
/// products, attention and norms also read or write [`DType::BF16`] where they say so.
///
/// ```
/// use sango_tensor::Tensor;
/// let a = Tensor::from_vec(vec![1.0, 2.0, 3.0, 4.0], &[2, 2])?;
/// let b = a.transpose(0, 1)?.add(&a)?;
/// assert_eq!(b.as_f32()?, [2.0, 5.0, 5.0, 8.0]);
/// # Ok::<(), sango_tensor::TensorError>(())
/// ```
#[derive(Clone)]
pub struct Tensor {
    pub(crate) storage: Arc<Storage>,
    /// First element in `storage`: views of leading rows share memory.
    pub(crate) offset: usize,
    pub(crate) shape: Vec<usize>,
    pub(crate) device: Device,
}

impl Tensor {
    /// A tensor over `data`; its length is the product of `shape`.
    ///
    /// # Errors
    /// [`TensorError::Shape`] when the length does not match.
    pub fn from_vec(data: Vec<f32>, shape: &[usize]) -> Result<Self> {
        Self::checked("from_vec", data, shape)
    }

    /// An integer tensor (token ids, positions).
    ///
    /// # Errors
    /// [`TensorError::Shape`] when the length does not match.
    pub fn from_i64(data: Vec<i64>, shape: &[usize]) -> Result<Self> {
        Self::checked("from_i64", data, shape)
    }

    /// A byte tensor (masks, pixels).
    ///
    /// # Errors
    /// [`TensorError::Shape`] when the length does not match.
    pub fn from_u8(data: Vec<u8>, shape: &[usize]) -> Result<Self> {
        Self::checked("from_u8", data, shape)
    }

    /// A bfloat16 tensor, as weights are stored.
    ///
    /// # Errors
    /// [`TensorError::Shape`] when the length does not match.
    pub fn from_bf16(data: Vec<bf16>, shape: &[usize]) -> Result<Self> {
        Self::checked("from_bf16", data, shape)
    }

    /// A half-precision tensor, as weights are stored.
    ///
    /// # Errors
    /// [`TensorError::Shape`] when the length does not match.
    pub fn from_f16(data: Vec<f16>, shape: &[usize]) -> Result<Self> {
        Self::checked("from_f16", data, shape)
    }

    /// A one-element tensor without dimensions.
    pub fn scalar(value: f32) -> Self {
        Self::new(Buffer::from(vec![value]), vec![])
    }

    /// Zeros.
    ///
    /// # Errors
    /// [`TensorError::Shape`] when `shape` has more elements than memory has addresses.
    pub fn zeros(shape: &[usize]) -> Result<Self> {
        Ok(Self::new(Buffer::<f32>::zeros(numel("zeros", shape)?), shape.to_vec()))
    }

    /// `value` everywhere.
    ///
    /// # Errors
    /// [`TensorError::Shape`] when `shape` has more elements than memory has addresses.
    pub fn full(shape: &[usize], value: f32) -> Result<Self> {
        Ok(Self::new(vec![value; numel("full", shape)?], shape.to_vec()))
    }

    /// The integers `start..end` as a one-dimensional tensor.
    pub fn arange(start: i64, end: i64) -> Self {
        let data: Vec<i64> = (start..end).collect();
        let len = data.len();
        Self::new(data, vec![len])
    }

    fn checked(op: &'static str, data: impl Into<Storage>, shape: &[usize]) -> Result<Self> {
        let storage = data.into();
        if numel(op, shape)? != storage.len() {
            return Err(TensorError::shape(op, format!("{} elements do not fill shape {shape:?}", storage.len())));
        }
        Ok(Self::new(storage, shape.to_vec()))
    }

    /// A tensor over elements whose number the caller knows to be right.
    pub(crate) fn new(storage: impl Into<Storage>, shape: Vec<usize>) -> Self {
        let storage = storage.into();
        debug_assert_eq!(storage.len(), shape.iter().product::<usize>());
        Self { storage: Arc::new(storage), offset: 0, shape, device: Device::Cpu }
    }

    /// Sizes of the dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Size of dimension `dim`; -1 is the last.
    ///
    /// # Errors
    /// [`TensorError::Dim`] when there is no such dimension.
    pub fn dim(&self, dim: isize) -> Result<usize> {
        Ok(self.shape[crate::shape::resolve_dim("dim", dim, &self.shape)?])
    }

    /// The sizes as an array, when there are exactly `N` dimensions: `let [b, l, c] = x.dims()?;`.
    ///
    /// # Errors
    /// [`TensorError::Shape`] for any other number of dimensions.
    pub fn dims<const N: usize>(&self) -> Result<[usize; N]> {
        <[usize; N]>::try_from(self.shape.as_slice())
            .map_err(|_| TensorError::shape("dims", format!("expected {N} dimensions, found shape {:?}", self.shape)))
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.storage.dtype()
    }

    /// Where the elements live.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The elements, in row-major order.
    ///
    /// # Errors
    /// [`TensorError::DType`] when they are not `F32`.
    pub fn as_f32(&self) -> Result<&[f32]> {
        self.f32_for("as_f32")
    }

    /// The elements, in row-major order: moved where no other tensor shares them, else copied.
    ///
    /// # Errors
    /// [`TensorError::DType`] when they are not `F32`.
    pub fn into_f32_vec(self) -> Result<Vec<f32>> {
        let range = self.range();
        match Arc::try_unwrap(self.storage) {
            Ok(Storage::F32(buffer)) if range == (0..buffer.len()) => Ok(buffer.into_vec()),
            Ok(storage) => storage.f32_part(range),
            Err(shared) => shared.f32_part(range),
        }
    }

    /// The elements of an integer tensor, in row-major order.
    ///
    /// # Errors
    /// [`TensorError::DType`] when they are not `I64`.
    pub fn as_i64(&self) -> Result<&[i64]> {
        match &*self.storage {
            Storage::I64(v) => Ok(&v[self.range()]),
            _ => Err(self.dtype_error("as_i64", DType::I64)),
        }
    }

    /// The elements of a byte tensor, in row-major order.
    ///
    /// # Errors
    /// [`TensorError::DType`] when they are not `U8`.
    pub fn as_u8(&self) -> Result<&[u8]> {
        match &*self.storage {
            Storage::U8(v) => Ok(&v[self.range()]),
            _ => Err(self.dtype_error("as_u8", DType::U8)),
        }
    }

    /// The only element.
    ///
    /// # Errors
    /// [`TensorError::Shape`] when there is more or less than one, [`TensorError::DType`] when it is not `F32`.
    pub fn item(&self) -> Result<f32> {
        match self.f32_for("item")? {
            [x] => Ok(*x),
            _ => Err(TensorError::shape("item", format!("shape {:?} is not one element", self.shape))),
        }
    }

    /// This tensor with elements of another type; floats are rounded to nearest, ties to even, and become integers
    /// by cutting off the fraction. Free when the type is the same.
    pub fn to_dtype(&self, dtype: DType) -> Self {
        if dtype == self.dtype() {
            return self.clone();
        }
        let storage: Storage = match (&*self.storage, dtype) {
            // Between integers directly: large ones do not pass through f32 unharmed.
            (Storage::I64(v), DType::U8) => v[self.range()].iter().map(|&x| x as u8).collect::<Vec<_>>().into(),
            (Storage::U8(v), DType::I64) => v[self.range()].iter().map(|&x| i64::from(x)).collect::<Vec<_>>().into(),
            (_, DType::F32) => self.to_f32_buffer().into(),
            (Storage::F32(v), _) => from_f32(&v[self.range()], dtype),
            _ => from_f32(&self.to_f32_buffer(), dtype),
        };
        self.like(storage, self.shape.clone())
    }

    /// The elements of a tensor that is not `F32` yet, widened.
    fn to_f32_buffer(&self) -> Buffer {
        let mut to = Buffer::uninit(self.numel());
        let range = self.range();
        match &*self.storage {
            Storage::F32(v) => to.copy_from_slice(&v[range]),
            Storage::BF16(v) => v[range].convert_to_f32_slice(&mut to),
            Storage::F16(v) => v[range].convert_to_f32_slice(&mut to),
            Storage::I64(v) => to.iter_mut().zip(&v[range]).for_each(|(y, &x)| *y = x as f32),
            Storage::U8(v) => to.iter_mut().zip(&v[range]).for_each(|(y, &x)| *y = f32::from(x)),
        }
        to
    }

    /// Where this tensor's elements are in its storage.
    pub(crate) fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.numel()
    }

    /// The elements, or an error that names `op`.
    pub(crate) fn f32_for(&self, op: &'static str) -> Result<&[f32]> {
        match &*self.storage {
            Storage::F32(v) => Ok(&v[self.range()]),
            _ => Err(self.dtype_error(op, DType::F32)),
        }
    }

    pub(crate) fn dtype_error(&self, op: &'static str, expected: DType) -> TensorError {
        TensorError::DType { op, expected, found: self.dtype() }
    }

    /// A tensor like this one (device) over new elements.
    pub(crate) fn like(&self, storage: impl Into<Storage>, shape: Vec<usize>) -> Self {
        Self { device: self.device, ..Self::new(storage, shape) }
    }
}

fn from_f32(from: &[f32], dtype: DType) -> Storage {
    match dtype {
        DType::F32 => from.to_vec().into(),
        DType::BF16 => {
            let mut to = Buffer::uninit(from.len());
            HalfFloatSliceExt::convert_from_f32_slice(&mut to[..] as &mut [bf16], from);
            to.into()
        }
        DType::F16 => {
            let mut to = vec![f16::ZERO; from.len()];
            to.convert_from_f32_slice(from);
            to.into()
        }
        DType::I64 => from.iter().map(|&x| x as i64).collect::<Vec<_>>().into(),
        DType::U8 => from.iter().map(|&x| x as u8).collect::<Vec<_>>().into(),
    }
}

/// Shape, type and the first few elements.
impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor{:?} {} ", self.shape, self.dtype())?;
        for_each_dtype!(&*self.storage, v => f.debug_list().entries(v[self.range()].iter().take(8)).finish())?;
        if self.numel() > 8 { f.write_str("…") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn construction_checks_the_number_of_elements() {
        assert!(Tensor::from_vec(vec![0.0; 5], &[2, 3]).is_err());
        assert!(Tensor::from_i64(vec![1, 2], &[usize::MAX, usize::MAX]).is_err());
        assert!(Tensor::zeros(&[usize::MAX]).is_err());
        let t = Tensor::from_vec(vec![1.0; 6], &[2, 3]).unwrap();
        assert_eq!((t.shape(), t.dim(-1).unwrap(), t.numel()), (&[2, 3][..], 3, 6));
        assert!(t.dim(2).is_err() && t.dims::<3>().is_err());
        assert_eq!(t.dims().unwrap(), [2, 3]);
    }

    #[test]
    fn access_checks_the_element_type() {
        let t = Tensor::arange(-1, 3);
        assert_eq!(t.as_i64().unwrap(), [-1, 0, 1, 2]);
        assert!(matches!(t.as_f32(), Err(TensorError::DType { found: DType::I64, .. })));
        assert!(Tensor::scalar(1.0).as_u8().is_err());
        assert!(t.into_f32_vec().is_err());
    }

    #[test]
    fn elements_can_be_taken_out() {
        let t = Tensor::from_vec(vec![1.0, 2.0, 3.0, 4.0], &[2, 2]).unwrap();
        assert_eq!(t.narrow(0, 1, 1).unwrap().into_f32_vec().unwrap(), [3.0, 4.0]);
        let (at, shared) = (t.as_f32().unwrap().as_ptr(), t.clone());
        assert_eq!(shared.into_f32_vec().unwrap(), [1.0, 2.0, 3.0, 4.0]);
        let moved = t.into_f32_vec().unwrap();
        assert_eq!(moved.as_ptr(), at, "not copied");
    }

    #[test]
    fn conversion_rounds_to_nearest_even_and_keeps_the_shape() {
        // 1 + 2^-8 lies half-way between two bfloat16 values; the even one is 1.
        let t = Tensor::from_vec(vec![1.0 + 1.0 / 256.0, -2.75, 300.0], &[3, 1]).unwrap();
        let narrow = t.to_dtype(DType::BF16);
        assert_eq!((narrow.dtype(), narrow.shape()), (DType::BF16, &[3, 1][..]));
        assert_eq!(narrow.to_dtype(DType::F32).as_f32().unwrap(), [1.0, -2.75, 300.0]);
        assert_eq!(t.to_dtype(DType::I64).as_i64().unwrap(), [1, -2, 300]);
        let ids = Tensor::from_i64(vec![1 << 40], &[1]).unwrap();
        assert_eq!(ids.to_dtype(DType::F16).to_dtype(DType::F32).item().unwrap(), f32::INFINITY);
    }
}
