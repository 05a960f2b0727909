//! Tables of rows chosen by id.

use crate::error::Result;
use crate::{DType, Tensor, Weights};

/// A table of vectors.
pub struct Embedding {
    weight: Tensor,
}

impl Embedding {
    /// Reads `weight` `[num_embeddings, embedding_dim]`. The table stays in the type of the file, or in bf16 where
    /// layers compute in it; rows are widened as they are looked up.
    ///
    /// # Errors
    /// When the tensor is missing or has another shape or type.
    pub fn load(weights: &Weights, num_embeddings: usize, embedding_dim: usize) -> Result<Self> {
        let shape = [num_embeddings, embedding_dim];
        let stored = weights.get("weight", &shape)?;
        let weight = match weights.compute_dtype() {
            DType::BF16 => stored.to_dtype(DType::BF16),
            _ if stored.dtype().is_float() => stored,
            _ => weights.get_f32("weight", &shape)?,
        };
        Ok(Self { weight })
    }

    /// The whole table, `[num_embeddings, embedding_dim]`, in the type it is kept in.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Ids of any shape → that shape with `embedding_dim` appended, in `F32`.
    ///
    /// # Errors
    /// [`crate::TensorError::Index`] for an id that is not in the table.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        self.weight.embedding(ids)
    }
}
