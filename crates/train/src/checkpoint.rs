//! Checkpoints of a run: everything that the next step depends on, in one safetensors file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use safetensors::tensor::{Dtype, TensorView};
use tch::nn::VarStore;
use tch::{Kind, Tensor};

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
    let contiguous: State = state.iter().map(|(name, t)| (name.clone(), t.detach().contiguous())).collect();
    Tensor::write_safetensors(&contiguous, &partial).with_context(|| format!("writing {}", partial.display()))?;
    std::fs::rename(&partial, path).with_context(|| format!("writing {}", path.display()))
}

/// Reads a file that [`save`] wrote.
///
/// # Errors
/// When there is no such file or it is not safetensors.
pub fn load(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let tensors = Tensor::read_safetensors(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(tensors.into_iter().collect())
}

/// The tensor called `name`.
///
/// # Errors
/// When the checkpoint lacks it.
pub fn get<'a>(state: &'a BTreeMap<String, Tensor>, name: &str) -> Result<&'a Tensor> {
    state.get(name).with_context(|| format!("the checkpoint lacks {name:?}: was it written by this stage?"))
}

/// Puts weights into all variables of `vs`, as `kind`.
///
/// # Errors
/// When one is missing or of another shape.
pub fn fill(vs: &VarStore, weights: &BTreeMap<String, Tensor>, kind: Kind) -> Result<()> {
    for (name, mut variable) in vs.variables() {
        let weight = get(weights, &name)?;
        let (found, wanted) = (weight.size(), variable.size());
        ensure!(found == wanted, "{name} is {found:?} in the checkpoint, {wanted:?} by the config");
        variable.set_data(&weight.to_kind(kind));
    }
    Ok(())
}

/// Writes weights as `transformers` and `diffusers` do: f32 or bf16, sorted, with the format in the metadata.
///
/// # Errors
/// When a tensor is of another type or the file cannot be written.
pub fn save_weights(path: &Path, weights: &BTreeMap<String, Tensor>) -> Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    let mut parts = Vec::new();
    for (name, tensor) in weights {
        let dtype = match tensor.kind() {
            Kind::Float => Dtype::F32,
            Kind::BFloat16 => Dtype::BF16,
            other => bail!("{name} is {other:?}; weights are written as f32 or bf16"),
        };
        let mut bytes = vec![0u8; tensor.numel() * tensor.kind().elt_size_in_bytes()];
        tensor.contiguous().f_copy_data_u8(&mut bytes, tensor.numel())?;
        let shape: Vec<usize> = tensor.size().iter().map(|&d| d as usize).collect();
        parts.push((name, dtype, shape, bytes));
    }
    let mut views = Vec::new();
    for (name, dtype, shape, bytes) in &parts {
        views.push((name.as_str(), TensorView::new(*dtype, shape.clone(), bytes)?));
    }
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    safetensors::serialize_to_file(views, metadata, path).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_come_back_in_their_type() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("sub/weights.safetensors");
        let row = Tensor::from_slice(&[1.0f32, -2.5, 3.0]);
        let weights: BTreeMap<String, Tensor> =
            [("a".to_owned(), row.view([1, 3])), ("b.c".to_owned(), row.to_kind(Kind::BFloat16))].into();
        save_weights(&path, &weights).expect("written");
        assert_eq!(load(&path).expect("read"), weights);
        let bytes = std::fs::read(&path).expect("bytes");
        assert!(String::from_utf8_lossy(&bytes[..120]).contains(r#""format":"pt""#));
        let ids = [("ids".to_owned(), Tensor::from_slice(&[1i64]))].into();
        assert!(save_weights(&path, &ids).is_err());
    }
}
