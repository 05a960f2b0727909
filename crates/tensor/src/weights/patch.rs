//! What is added to tensors of a checkpoint, or takes their place, while they are read.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Weights;
use crate::error::{Result, TensorError};
use crate::{DType, Tensor};

/// A change of one tensor: `replace`, where given, takes its place, and `add` is added.
#[derive(Debug, Clone, Default)]
pub struct Patch {
    /// Other elements, in the same shape.
    pub replace: Option<Tensor>,
    /// What is added to the elements.
    pub add: Option<LowRank>,
}

/// `scale · b · a`: the product of a tall and a wide matrix (LoRA), with a row for each element of the first dimension of
/// the tensor that it is added to.
#[derive(Debug, Clone)]
pub struct LowRank {
    /// `[rank, columns]`.
    pub a: Tensor,
    /// `[rows, rank]`.
    pub b: Tensor,
    /// What the product is multiplied by.
    pub scale: f32,
}

impl Patch {
    /// What does not fit a tensor of `shape`.
    fn misfit(&self, shape: &[usize]) -> Option<String> {
        if let Some(tensor) = self.replace.as_ref().filter(|tensor| tensor.shape() != shape) {
            return Some(format!("{:?} cannot take the place of it", tensor.shape()));
        }
        let LowRank { a, b, .. } = self.add.as_ref()?;
        let fits = match (a.shape(), b.shape(), shape) {
            (&[rank, columns], &[rows, b_rank], [first, rest @ ..]) => {
                rank == b_rank && rows == *first && columns == rest.iter().product::<usize>()
            }
            _ => false,
        };
        (!fits).then(|| format!("the product of {:?} and {:?} cannot be added", b.shape(), a.shape()))
    }

    /// The patched elements of `base`, in `F32`.
    pub(super) fn apply(&self, base: &Tensor) -> Result<Tensor> {
        let base = self.replace.as_ref().unwrap_or(base).to_dtype(DType::F32);
        let Some(LowRank { a, b, scale }) = &self.add else { return Ok(base) };
        let product = b.to_dtype(DType::F32).matmul(&a.to_dtype(DType::F32))?;
        base.add(&product.mul_scalar(*scale)?.reshape(base.shape())?)
    }
}

/// Patches by full name.
pub(super) type Patches = Arc<BTreeMap<String, Patch>>;

impl Weights {
    /// The same tensors, some of them changed, by their full names. Layers loaded from here see nothing else.
    ///
    /// # Errors
    /// [`TensorError::MissingTensor`] for a name that is not in the checkpoint, [`TensorError::Shape`] for a patch
    /// that does not fit the tensor.
    pub fn with_patches(&self, patches: BTreeMap<String, Patch>) -> Result<Self> {
        for (name, patch) in &patches {
            let Some(view) = self.source.view(name) else { return Err(self.missing(name.clone())) };
            if let Some(detail) = patch.misfit(view.shape()) {
                return Err(TensorError::shape("patch", format!("`{name}` has shape {:?}: {detail}", view.shape())));
            }
        }
        Ok(Self { patches: Arc::new(patches), ..self.clone() })
    }
}
