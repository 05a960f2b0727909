//! One tensor of a mapped file, from which it is converted, copied or packed without a detour.

use std::borrow::Cow;
use std::path::Path;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use memmap2::{Mmap, UncheckedAdvice};
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;

use super::Patch;
use crate::Tensor;
use crate::buffer::Buffer;
use crate::error::{Result, TensorError};

/// The bytes of a tensor where they are in the file.
///
/// Dropping it lets the system take back the memory of the pages that were read: by then the elements are somewhere
/// else, and keeping both would double the size of a loaded model.
pub(crate) struct WeightView<'a> {
    path: &'a Path,
    key: &'a str,
    info: &'a TensorInfo,
    bytes: &'a [u8],
    /// The mapping and where in it `bytes` starts.
    map: Option<(&'a Mmap, usize)>,
    /// What is to be made of the elements.
    patch: Option<&'a Patch>,
}

/// Float elements in the type the file stores them in; borrowed where they are aligned.
pub(crate) enum Floats<'a> {
    F32(Cow<'a, [f32]>),
    BF16(Cow<'a, [bf16]>),
}

impl<'a> WeightView<'a> {
    pub(super) fn new(
        path: &'a Path,
        key: &'a str,
        info: &'a TensorInfo,
        bytes: &'a [u8],
        map: Option<(&'a Mmap, usize)>,
    ) -> Self {
        Self { path, key, info, bytes, map, patch: None }
    }

    /// The same tensor, changed.
    pub(super) fn patched(self, patch: Option<&'a Patch>) -> Self {
        // Built anew: a view that is dropped gives its pages back.
        let (path, key, info, bytes, map) = (self.path, self.key, self.info, self.bytes, self.map);
        Self { path, key, info, bytes, map, patch }
    }

    pub(crate) fn path(&self) -> &Path {
        self.path
    }

    pub(crate) fn key(&self) -> &str {
        self.key
    }

    pub(crate) fn shape(&self) -> &[usize] {
        &self.info.shape
    }

    /// The element type in the words of safetensors.
    pub(super) fn stored_dtype(&self) -> String {
        format!("{:?}", self.info.dtype)
    }

    /// The elements in the type they are stored in.
    pub(super) fn to_tensor(&self) -> Result<Tensor> {
        if self.patch.is_some() {
            return self.to_f32_tensor();
        }
        let shape = self.info.shape.clone();
        Ok(match self.info.dtype {
            Dtype::F32 => Tensor::new(aligned::<f32>(self.bytes).into_owned(), shape),
            Dtype::F16 => Tensor::new(aligned::<f16>(self.bytes).into_owned(), shape),
            Dtype::BF16 => Tensor::new(aligned::<bf16>(self.bytes).into_owned(), shape),
            Dtype::I64 => Tensor::new(aligned::<i64>(self.bytes).into_owned(), shape),
            Dtype::I32 => {
                Tensor::new(aligned::<i32>(self.bytes).iter().map(|&x| i64::from(x)).collect::<Vec<_>>(), shape)
            }
            Dtype::U8 | Dtype::BOOL => Tensor::new(self.bytes.to_vec(), shape),
            _ => return Err(self.dtype_error("f32, f16, bf16, i64, i32, u8 or bool")),
        })
    }

    /// The elements in whichever float type they are stored in.
    pub(crate) fn to_float_tensor(&self) -> Result<Tensor> {
        match self.info.dtype {
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => self.to_tensor(),
            _ => Err(self.dtype_error("f32, f16 or bf16")),
        }
    }

    /// The elements as f32.
    pub(super) fn to_f32_tensor(&self) -> Result<Tensor> {
        let mut out = Buffer::uninit(self.info.shape.iter().product());
        match self.info.dtype {
            Dtype::F32 => out.copy_from_slice(&aligned::<f32>(self.bytes)),
            Dtype::F16 => aligned::<f16>(self.bytes).convert_to_f32_slice(&mut out),
            Dtype::BF16 => aligned::<bf16>(self.bytes).convert_to_f32_slice(&mut out),
            _ => return Err(self.dtype_error("f32, f16 or bf16")),
        }
        let stored = Tensor::new(out, self.info.shape.clone());
        self.patch.map_or(Ok(stored.clone()), |patch| patch.apply(&stored))
    }

    /// The elements for packing: f32 and bf16 as they are, f16 widened.
    pub(crate) fn floats(&self) -> Result<Floats<'_>> {
        if self.patch.is_some() {
            return Ok(Floats::F32(Cow::Owned(self.to_f32_tensor()?.as_f32()?.to_vec())));
        }
        Ok(match self.info.dtype {
            Dtype::F32 => Floats::F32(aligned(self.bytes)),
            Dtype::BF16 => Floats::BF16(aligned(self.bytes)),
            Dtype::F16 => Floats::F32(Cow::Owned(aligned::<f16>(self.bytes).to_f32_vec())),
            _ => return Err(self.dtype_error("f32, f16 or bf16")),
        })
    }

    fn dtype_error(&self, expected: &'static str) -> TensorError {
        TensorError::WeightDType {
            path: self.path.to_owned(),
            key: self.key.to_owned(),
            expected,
            found: format!("{:?}", self.info.dtype).to_lowercase(),
        }
    }
}

impl Drop for WeightView<'_> {
    fn drop(&mut self) {
        if let Some((map, start)) = self.map.filter(|_| !self.bytes.is_empty()) {
            // SAFETY: the mapping is of a file, so pages that are given back read the same again.
            let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, self.bytes.len()) };
        }
    }
}

/// The bytes as elements, copied only where the file does not align them. (Hosts are little-endian, as the format is.)
fn aligned<T: bytemuck::Pod>(bytes: &[u8]) -> Cow<'_, [T]> {
    if let Ok(elements) = bytemuck::try_cast_slice(bytes) {
        return Cow::Borrowed(elements);
    }
    let mut elements = vec![T::zeroed(); bytes.len() / size_of::<T>()];
    bytemuck::cast_slice_mut(&mut elements).copy_from_slice(bytes);
    Cow::Owned(elements)
}
