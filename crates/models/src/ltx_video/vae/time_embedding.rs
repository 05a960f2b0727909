//! `PixArtAlphaCombinedTimestepSizeEmbeddings` without sizes: what a block of the decoder makes of the time.

use sango_tensor::nn::Linear;
use sango_tensor::{Activation, Tensor, Weights};

use crate::embeddings::timestep_embedding;
use crate::error::Result;

/// Width of the embedding by sines and cosines.
const NUM_CHANNELS: usize = 256;

pub(super) struct TimestepEmbedding {
    linear_1: Linear,
    linear_2: Linear,
    width: usize,
}

impl TimestepEmbedding {
    /// Reads `timestep_embedder`, whose result is `rows` vectors of `width`.
    pub(super) fn load(weights: &Weights, rows: usize, width: usize) -> Result<Self> {
        let (weights, out) = (weights.pp("timestep_embedder"), rows * width);
        Ok(Self {
            linear_1: Linear::load(&weights.pp("linear_1"), NUM_CHANNELS, out, true)?,
            linear_2: Linear::load(&weights.pp("linear_2"), out, out, true)?,
            width,
        })
    }

    /// `[rows, width]` for one time.
    pub(super) fn forward(&self, timestep: f32) -> Result<Tensor> {
        let embedding = Tensor::from_vec(timestep_embedding(&[timestep], NUM_CHANNELS), &[1, NUM_CHANNELS])?;
        let hidden = self.linear_2.forward(&self.linear_1.forward_act(&embedding, Activation::Silu)?)?;
        Ok(hidden.reshape(&[hidden.numel() / self.width, self.width])?)
    }
}

/// How a normalised activation is scaled and shifted: `x · scale + shift`, both `[C]`.
pub(super) struct Modulation {
    pub(super) scale: Tensor,
    pub(super) shift: Tensor,
}

impl Modulation {
    /// From rows of `temb + table`: `shift` is row `at`, the scale 1 more than the row after it.
    pub(super) fn new(temb: &Tensor, table: &Tensor, at: usize) -> Result<Self> {
        let width = table.dim(-1)?;
        let row = |n: usize| -> Result<Tensor> {
            let row = temb.narrow(0, n, 1)?.add(&table.narrow(0, n, 1)?)?;
            Ok(row.reshape(&[width])?)
        };
        Ok(Self { shift: row(at)?, scale: row(at + 1)?.add_scalar(1.0)? })
    }
}
