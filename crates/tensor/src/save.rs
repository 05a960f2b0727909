//! Writing safetensors files.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{SafeTensorError, View};

use crate::error::{Result, TensorError};
use crate::storage::for_each_dtype;
use crate::{DType, Tensor};

struct Saved<'a>(&'a Tensor);

impl View for Saved<'_> {
    fn dtype(&self) -> Dtype {
        match self.0.dtype() {
            DType::F32 => Dtype::F32,
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            DType::I64 => Dtype::I64,
            DType::U8 => Dtype::U8,
        }
    }

    fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        for_each_dtype!(&*self.0.storage, v => Cow::Borrowed(bytemuck::cast_slice(&v[self.0.range()])))
    }

    fn data_len(&self) -> usize {
        self.0.numel() * self.0.dtype().size()
    }
}

/// Writes tensors and free-form metadata as one safetensors file. The file appears whole or not at all: it is written
/// beside `path` and then renamed.
///
/// # Errors
/// [`TensorError::Io`] when the file cannot be written (a full disk, for example), [`TensorError::Encode`] when two
/// tensors have the same name.
pub fn save(
    path: impl AsRef<Path>,
    tensors: &[(&str, &Tensor)],
    metadata: Option<HashMap<String, String>>,
) -> Result<()> {
    let path = path.as_ref();
    let mut seen = std::collections::HashSet::new();
    if let Some((name, _)) = tensors.iter().find(|(name, _)| !seen.insert(*name)) {
        let detail = format!("two tensors are called `{name}`");
        return Err(TensorError::Encode { path: path.to_owned(), detail });
    }
    let views = tensors.iter().map(|(name, tensor)| (*name, Saved(tensor)));
    safetensors::serialize_to_file(views, metadata, path).map_err(|error| match error {
        SafeTensorError::IoError(source) => TensorError::Io { path: path.to_owned(), source },
        other => TensorError::Encode { path: path.to_owned(), detail: other.to_string() },
    })
}
