//! What the model makes of a timestep (`AdaLayerNormSingle`).

use std::collections::BTreeMap;

use sango_tensor::nn::Linear;
use sango_tensor::{Activation, Tensor, Weights};

use crate::embeddings::timestep_embedding;
use crate::error::Result;

/// Sinusoids, a small network, and six scales, shifts and gates for every block.
pub(super) struct AdaLayerNormSingle {
    linear_1: Linear,
    linear_2: Linear,
    linear: Linear,
    width: usize,
}

/// What came of the timesteps `[B, R]`.
pub(super) struct TimestepEmbedding {
    /// `[B, R, 6 · width]`.
    pub(super) temb: Tensor,
    /// `[B, R, width]`.
    pub(super) embedded_timestep: Tensor,
}

/// Width of the sinusoids.
const FREQUENCIES: usize = 256;

impl AdaLayerNormSingle {
    pub(super) fn load(weights: &Weights, width: usize) -> Result<Self> {
        let embedder = weights.pp("emb.timestep_embedder");
        Ok(Self {
            linear_1: Linear::load(&embedder.pp("linear_1"), FREQUENCIES, width, true)?,
            linear_2: Linear::load(&embedder.pp("linear_2"), width, width, true)?,
            linear: Linear::load(&weights.pp("linear"), width, 6 * width, true)?,
            width,
        })
    }

    /// `timestep` `[B, R]`. Equal ones, as most are, are computed once.
    pub(super) fn forward(&self, timestep: &Tensor) -> Result<TimestepEmbedding> {
        let [batch, rows] = timestep.dims()?;
        let mut places = BTreeMap::new();
        let mut distinct = Vec::new();
        let mut ids = Vec::with_capacity(batch * rows);
        for &value in timestep.as_f32()? {
            ids.push(*places.entry(value.to_bits()).or_insert_with(|| {
                distinct.push(value);
                distinct.len() as i64 - 1
            }));
        }
        let sinusoids = Tensor::from_vec(timestep_embedding(&distinct, FREQUENCIES), &[distinct.len(), FREQUENCIES])?;
        let embedded = self.linear_2.forward(&self.linear_1.forward_act(&sinusoids, Activation::Silu)?)?;
        let temb = self.linear.forward(&embedded.silu()?)?;
        let ids = Tensor::from_i64(ids, &[batch * rows])?;
        Ok(TimestepEmbedding {
            temb: temb.index_select(0, &ids)?.reshape(&[batch, rows, 6 * self.width])?,
            embedded_timestep: embedded.index_select(0, &ids)?.reshape(&[batch, rows, self.width])?,
        })
    }
}
