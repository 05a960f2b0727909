//! From patches to tokens: `SmolVLMConnector` of `modeling_smolvlm.py`.

use sango_tensor::nn::Linear;
use sango_tensor::{Tensor, Weights};

use crate::error::Result;

/// Puts `scale_factor²` neighbouring patches side by side and projects them to the width of the decoder.
pub(super) struct SmolVLMConnector {
    modality_projection: Linear,
    scale_factor: usize,
}

impl SmolVLMConnector {
    pub(super) fn load(weights: &Weights, scale_factor: usize, from: usize, to: usize) -> Result<Self> {
        let proj = weights.pp("modality_projection.proj");
        let modality_projection = Linear::load(&proj, from * scale_factor * scale_factor, to, false)?;
        Ok(Self { modality_projection, scale_factor })
    }

    /// `[N, patches, from]` → `[N, patches / scale_factor², to]`; the patches are the square of a multiple of it.
    pub(super) fn forward(&self, image_hidden_states: &Tensor) -> Result<Tensor> {
        Ok(self.modality_projection.forward(&self.pixel_shuffle(image_hidden_states)?)?)
    }

    fn pixel_shuffle(&self, x: &Tensor) -> Result<Tensor> {
        let [n, patches, width] = x.dims()?;
        let (scale, side) = (self.scale_factor, patches.isqrt());
        let small = side / scale;
        let blocks = x.reshape(&[n, small, scale, small, scale * width])?.permute(&[0, 1, 3, 2, 4])?;
        Ok(blocks.reshape(&[n, small * small, scale * scale * width])?)
    }
}
