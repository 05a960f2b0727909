//! Sharded checkpoints: `NAME.safetensors.index.json` says which file holds which tensor.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde_json::Value;

use super::file::WeightFile;
use crate::error::{Result, TensorError};

/// An index is small; anything larger than this is not one.
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// Opens every file the index names, once, and checks that each tensor is where the index says.
pub(super) fn open_shards(path: &Path) -> Result<(Vec<WeightFile>, BTreeMap<String, usize>)> {
    let damaged = |detail: String| TensorError::WeightIndex { path: path.to_owned(), detail };
    let io_error = |source| TensorError::Io { path: path.to_owned(), source };
    let length = std::fs::metadata(path).map_err(io_error)?.len();
    if length > MAX_INDEX_BYTES {
        return Err(damaged(format!("it has {length} bytes")));
    }
    let text = std::fs::read(path).map_err(io_error)?;
    let json: Value = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
    let weight_map = json.get("weight_map").and_then(Value::as_object);
    let weight_map = weight_map.ok_or_else(|| damaged("it has no `weight_map` object".to_owned()))?;

    let dir = path.parent().unwrap_or(Path::new(""));
    let mut files: Vec<WeightFile> = Vec::new();
    let mut opened: BTreeMap<&str, usize> = BTreeMap::new();
    let mut names = BTreeMap::new();
    for (name, file) in weight_map {
        let file = file.as_str().ok_or_else(|| damaged(format!("`{name}` is not mapped to a file name")))?;
        let position = match opened.get(file) {
            Some(&position) => position,
            None => {
                if !is_plain_file_name(file) {
                    return Err(damaged(format!("`{file}` is not the name of a file in its folder")));
                }
                files.push(WeightFile::open(&dir.join(file))?);
                opened.insert(file, files.len() - 1);
                files.len() - 1
            }
        };
        if files[position].view(name).is_none() {
            return Err(damaged(format!("`{file}` does not hold `{name}`")));
        }
        names.insert(name.clone(), position);
    }
    Ok((files, names))
}

/// One ordinary path component: no separators, no `..`, nothing absolute.
fn is_plain_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(part)), None) if part == name)
        && !name.contains(['/', '\\'])
}
