//! `SmolVLMConnector`: joins neighbouring patches into one vector and projects it to the width of the text.

use tch::Tensor;
use tch::nn::Path;

use super::layers::Linear;

/// Pixel shuffle and projection.
#[derive(Debug)]
pub struct Connector {
    /// `modality_projection.proj`.
    pub proj: Linear,
    scale_factor: i64,
}

impl Connector {
    /// Adds all variables below `path`.
    pub fn new(path: &Path, vision_dim: i64, text_dim: i64, scale_factor: i64) -> Self {
        let proj = path / "modality_projection" / "proj";
        Self { proj: Linear::new(&proj, vision_dim * scale_factor * scale_factor, text_dim, false), scale_factor }
    }

    /// `[N, patches, vision]` of square pictures → `[N, patches / scale², text]`.
    pub fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let (n, patches, dim) = x.size3().unwrap_or((0, 0, 0));
        let side = (patches as f64).sqrt() as i64;
        let (s, cells) = (self.scale_factor, side / self.scale_factor);
        // [N, row, s, column, s, dim]: a cell's patches in reading order.
        let cut = x.view([n, cells, s, cells, s, dim]).permute([0, 1, 3, 2, 4, 5]);
        self.proj.forward(&cut.reshape([n, cells * cells, s * s * dim]), train)
    }
}
