//! `PixArtAlphaCombinedTimestepSizeEmbeddings` without sizes: what a block of the decoder makes of the time.

use sango_tensor::nn::Linear;
use sango_tensor::ops::{Columns, Modulation};
use sango_tensor::{Activation, Tensor, Weights};

use crate::embeddings::timestep_embedding;
use crate::error::Result;

/// Width of the embedding by sines and cosines.
const NUM_CHANNELS: usize = 256;

pub(super) struct TimestepEmbedding {
    linear_1: Linear,
    linear_2: Linear,
}

impl TimestepEmbedding {
    /// Reads `timestep_embedder`, whose result is `rows` vectors of `width`.
    pub(super) fn load(weights: &Weights, rows: usize, width: usize) -> Result<Self> {
        let (weights, out) = (weights.pp("timestep_embedder"), rows * width);
        Ok(Self {
            linear_1: Linear::load(&weights.pp("linear_1"), NUM_CHANNELS, out, true)?,
            linear_2: Linear::load(&weights.pp("linear_2"), out, out, true)?,
        })
    }

    /// `[1, 1, rows · width]` for one time.
    pub(super) fn forward(&self, timestep: f32) -> Result<Tensor> {
        let embedding = Tensor::from_vec(timestep_embedding(&[timestep], NUM_CHANNELS), &[1, NUM_CHANNELS])?;
        let hidden = self.linear_2.forward(&self.linear_1.forward_act(&embedding, Activation::Silu)?)?;
        Ok(hidden.unsqueeze(0)?)
    }
}

/// How normalised activations of `width` channels are scaled and shifted, from `ada` `[1, 1, rows · width]`: the row `at`
/// is the shift, the one after it the scale.
pub(super) fn modulation(ada: &Tensor, width: usize, at: usize) -> Modulation<'_> {
    let row = |n: usize| Columns::of(ada, n * width..(n + 1) * width);
    Modulation::new(row(at + 1), row(at))
}
