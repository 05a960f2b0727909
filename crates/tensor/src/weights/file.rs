//! One safetensors file: the header checked once, the elements left in the file until they are asked for.

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::{Advice, Mmap};
use safetensors::SafeTensors;
use safetensors::tensor::Metadata;

use super::WeightView;
use crate::error::{Result, TensorError};

enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

pub(super) struct WeightFile {
    path: PathBuf,
    bytes: Bytes,
    /// Where the elements start.
    data_start: usize,
    header: Metadata,
}

impl WeightFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let io_error = |source| TensorError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io_error)?;
        let length = file.metadata().map_err(io_error)?.len();
        if length < 8 {
            // A mapping of nothing is an error of its own in some systems; say what is wrong instead.
            let detail = format!("it has only {length} bytes");
            return Err(TensorError::Header { path: path.to_owned(), detail });
        }
        // SAFETY: the mapping is private and read-only. That nobody changes the file meanwhile is documented as the
        // caller's duty on `Weights`; elements are plain numbers, for which every bit pattern is valid.
        let map = unsafe { Mmap::map(&file) }.map_err(io_error)?;
        // Advice only: where the system does not take it, reading works all the same.
        let _ = map.advise(Advice::Sequential);
        Self::parse(Bytes::Mapped(map), path)
    }

    pub(super) fn from_bytes(bytes: Vec<u8>, path: &Path) -> Result<Self> {
        Self::parse(Bytes::Owned(bytes), path)
    }

    fn parse(bytes: Bytes, path: &Path) -> Result<Self> {
        let damaged = |detail: String| TensorError::Header { path: path.to_owned(), detail };
        let all: &[u8] = match &bytes {
            Bytes::Mapped(map) => map,
            Bytes::Owned(vec) => vec,
        };
        check_length(all).map_err(damaged)?;
        let (header_len, header) = SafeTensors::read_metadata(all).map_err(|e| damaged(e.to_string()))?;
        let data_start = 8 + header_len;
        for (name, info) in header.tensors() {
            let (start, end) = info.data_offsets;
            if start > end || end > all.len() - data_start {
                return Err(damaged(format!("tensor `{name}` lies outside the file")));
            }
        }
        Ok(Self { path: path.to_owned(), data_start, header, bytes })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn names(&self) -> impl Iterator<Item = String> + use<> {
        self.header.offset_keys().into_iter()
    }

    pub(super) fn metadata(&self, key: &str) -> Option<&str> {
        self.header.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// The tensor `key` in place.
    pub(super) fn view<'a>(&'a self, key: &'a str) -> Option<WeightView<'a>> {
        let info = self.header.info(key)?;
        let (start, end) = (self.data_start + info.data_offsets.0, self.data_start + info.data_offsets.1);
        let (bytes, map) = match &self.bytes {
            Bytes::Mapped(map) => (&map[start..end], Some((map, start))),
            Bytes::Owned(vec) => (&vec[start..end], None),
        };
        Some(WeightView::new(&self.path, key, info, bytes, map))
    }
}

/// Explains the commonest damage, a file cut off by an interrupted download, better than the parser does.
fn check_length(all: &[u8]) -> std::result::Result<(), String> {
    let Some(header_len) = all.first_chunk::<8>().map(|b| u64::from_le_bytes(*b)) else {
        return Err(format!("it has only {} bytes", all.len()));
    };
    if header_len > all.len() as u64 - 8 {
        return Err(format!("its header claims {header_len} bytes, the file has {}", all.len()));
    }
    Ok(())
}
