//! Checkpoints of a run: everything that the next step depends on, in one safetensors file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tch::Tensor;

/// Names and tensors.
pub type State = Vec<(String, Tensor)>;

/// Writes `state` to `path`; a crash leaves the old file or the new one, never half of one.
///
/// # Errors
/// When the folder cannot be made or the disk is full.
pub fn save(path: &Path, state: &State) -> Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    let partial = PathBuf::from(format!("{}.partial", path.display()));
    let contiguous: State = state
        .iter()
        .map(|(name, t)| (name.clone(), t.detach().contiguous()))
        .collect();
    Tensor::write_safetensors(&contiguous, &partial)
        .with_context(|| format!("writing {}", partial.display()))?;
    std::fs::rename(&partial, path).with_context(|| format!("writing {}", path.display()))
}

/// Reads a file that [`save`] wrote.
///
/// # Errors
/// When there is no such file or it is not safetensors.
pub fn load(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let tensors =
        Tensor::read_safetensors(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(tensors.into_iter().collect())
}

/// The tensor called `name`.
///
/// # Errors
/// When the checkpoint lacks it.
pub fn get<'a>(state: &'a BTreeMap<String, Tensor>, name: &str) -> Result<&'a Tensor> {
    state
        .get(name)
        .with_context(|| format!("the checkpoint lacks {name:?}: was it written by this stage?"))
}
