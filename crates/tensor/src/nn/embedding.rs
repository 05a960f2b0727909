//! Tables of rows chosen by id.

use half::bf16;
use half::slice::HalfFloatSliceExt;

use crate::error::Result;
use crate::weights::Floats;
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
        let view = weights.checked_view("weight", &[num_embeddings, embedding_dim])?;
        let weight = match weights.compute_dtype() {
            // Straight from the file: the table is the largest tensor of many models.
            DType::BF16 => match view.floats()? {
                Floats::F32(rows) => {
                    let mut narrow = vec![bf16::ZERO; rows.len()];
                    narrow.convert_from_f32_slice(&rows);
                    Tensor::new(narrow, view.shape().to_vec())
                }
                Floats::BF16(rows) => Tensor::new(rows.into_owned(), view.shape().to_vec()),
            },
            _ => view.to_float_tensor()?,
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
