//! A codebook straight from pixels: k-means over the patches that cells of the grid cover.
//!
//! A codebook learned by gradient together with a convolutional encoder took many codes for one flat colour (the zero
//! padding shows at the border) and blurred small shapes. Patches have neither trouble, k-means on them takes seconds,
//! and the tokens of every picture are known before any network is trained: the transformer need not wait for the VQ
//! model, whose encoder and decoder learn the same codes beside it.

use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::codebook::kmeans;
use super::train::{CELL, SIZE};
use super::vq_model::nearest_codes;
use crate::checkpoint;
use crate::data::{Batch, mix};

/// Patches kept of those that are one flat colour: there are far more of them than of others.
const FLAT_SHARE: f64 = 0.02;

/// How to learn the codebook.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
pub struct PatchOptions {
    /// Number of codes.
    #[arg(long, default_value_t = 1024)]
    pub codes: i64,
    /// Dimensions of a code.
    #[arg(long, default_value_t = 32)]
    pub code_dim: i64,
    /// Training pictures that the patches come from.
    #[arg(long, default_value_t = 4096)]
    pub patch_pictures: usize,
}

/// Codes as patches of pixels and as vectors.
#[derive(Debug)]
pub struct PatchCodebook {
    /// Mean patch of each code, `[codes, 3·patch²]`.
    pub patches: Tensor,
    /// The same in the space of the leading principal components, scaled to a deviation of 1: `[codes, dim]`.
    pub vectors: Tensor,
    patch: i64,
}

impl PatchCodebook {
    /// Learns the codes from training pictures.
    pub fn learn(options: &PatchOptions, seed: u64) -> Self {
        let (size, patch) = (SIZE as usize, CELL);
        tch::manual_seed(mix(seed, 21) as i64);
        let mut parts = Vec::new();
        for i in 0..options.patch_pictures.div_ceil(64) {
            let batch = Batch::training(mix(seed, 22), i as u64, 64, size);
            let rows = cut(&batch.on_neutral(patch), patch).flatten(0, 1);
            let pixels = rows.view([rows.size()[0], 3, -1]);
            let spread = pixels.amax([2i64].as_slice(), false) - pixels.amin([2i64].as_slice(), false);
            let flat = spread.amax([1i64].as_slice(), false).lt(1e-3);
            let chance = Tensor::rand([rows.size()[0]], (Kind::Float, rows.device()));
            let keep = flat.logical_not().logical_or(&chance.lt(FLAT_SHARE));
            parts.push(rows.index_select(0, &keep.nonzero().squeeze_dim(-1)));
        }
        let rows = Tensor::cat(&parts, 0);
        let patches = kmeans(&rows, options.codes, 10);
        let vectors = principal(&rows, &patches, options.code_dim);
        Self { patches, vectors, patch }
    }

    /// What each code looks like, as `width` numbers of which similar patches have similar ones: `[codes, width]`.
    ///
    /// The vectors themselves and, for the rest of the width, random Fourier features of them at three scales, so that
    /// a linear layer on top can tell neighbours apart and prefer several looks at once.
    pub fn features(&self, width: i64) -> Tensor {
        tch::manual_seed(mix(self.patches.size()[0] as u64, 23) as i64);
        let (codes, dim) = self.vectors.size2().unwrap_or((0, 0));
        let linear = dim.min(width);
        let mut parts = vec![self.vectors.narrow(1, 0, linear) * 0.2];
        let rest = width - linear;
        let options = (Kind::Float, self.vectors.device());
        for (i, scale) in [2.0, 4.0, 8.0].into_iter().enumerate() {
            let n = rest / 3 + i64::from((i as i64) < rest % 3);
            let angles = self.vectors.matmul(&(Tensor::randn([dim, n], options) / scale));
            let phase = Tensor::rand([1, n], options) * std::f64::consts::TAU;
            parts.push((angles + phase).cos() * 0.4);
        }
        debug_assert_eq!(codes, parts[0].size()[0]);
        Tensor::cat(&parts, 1)
    }

    /// Codes of pictures: `[N, h·w]`.
    pub fn tokenize(&self, batch: &Batch) -> Tensor {
        let rows = cut(&batch.on_neutral(self.patch), self.patch);
        let (n, l, d) = rows.size3().unwrap_or((0, 0, 0));
        nearest_codes(&rows.reshape([n * l, d]), &self.patches).view([n, l])
    }

    /// Pictures of codes, patch beside patch: `[N, h·w]` → `[N, 3, H, W]`.
    pub fn paste(&self, ids: &Tensor) -> Tensor {
        let (n, l) = ids.size2().unwrap_or((0, 0));
        let (side, p) = ((l as f64).sqrt().round() as i64, self.patch);
        self.patches
            .index_select(0, &ids.reshape([-1]))
            .view([n, side, side, 3, p, p])
            .permute([0, 3, 1, 4, 2, 5])
            .reshape([n, 3, side * p, side * p])
    }

    /// Writes the codebook.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &std::path::Path) -> Result<()> {
        let state = vec![("patches".to_owned(), self.patches.copy()), ("vectors".to_owned(), self.vectors.copy())];
        checkpoint::save(path, &state)
    }

    /// Reads what [`PatchCodebook::save`] wrote.
    ///
    /// # Errors
    /// When the file is missing or of another kind.
    pub fn load(path: &std::path::Path) -> Result<Self> {
        let state = checkpoint::load(path)?;
        let patches = checkpoint::get(&state, "patches")?.copy();
        let patch = ((patches.size()[1] / 3) as f64).sqrt().round() as i64;
        let vectors = checkpoint::get(&state, "vectors")?.copy();
        Ok(Self { patches, vectors, patch })
    }
}

/// Pictures as rows of patches, row by row: `[N, 3, H, W]` → `[N, h·w, 3·patch²]`.
fn cut(pixels: &Tensor, patch: i64) -> Tensor {
    let (n, c, h, w) = pixels.size4().unwrap_or((0, 0, 0, 0));
    pixels.reshape([n, c, h / patch, patch, w / patch, patch]).permute([0, 2, 4, 1, 3, 5]).reshape([
        n,
        (h / patch) * (w / patch),
        c * patch * patch,
    ])
}

/// `centres` along the `dim` directions in which `rows` vary most, scaled by one number to a deviation of 1.
fn principal(rows: &Tensor, centres: &Tensor, dim: i64) -> Tensor {
    let mean = rows.mean_dim([0i64].as_slice(), true, Kind::Float);
    let centred = rows - &mean;
    let covariance = centred.transpose(0, 1).matmul(&centred) / rows.size()[0] as f64;
    let (_, directions) = covariance.linalg_eigh("L");
    let width = directions.size()[1];
    let leading = directions.narrow(1, width - dim, dim);
    let vectors = (centres - mean).matmul(&leading);
    &vectors / vectors.std(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pasted_tokens_look_like_the_picture() {
        let _generator = crate::generator();
        let options = PatchOptions { codes: 256, code_dim: 16, patch_pictures: 256 };
        let book = PatchCodebook::learn(&options, 1);
        let batch = Batch::held_out(2, 16, 64);
        let ids = book.tokenize(&batch);
        assert_eq!(ids.size(), [16, 64]);
        let error = (book.paste(&ids) - batch.on_neutral(8)).square().mean(Kind::Float);
        assert!(error.double_value(&[]) < 0.01);
        assert_eq!(book.vectors.size(), [256, 16]);
    }

    #[test]
    fn cutting_and_pasting_are_inverse() {
        let _generator = crate::generator();
        let batch = Batch::held_out(3, 2, 64);
        let rows = cut(&batch.pixels, 8).flatten(0, 1);
        let book = PatchCodebook { vectors: rows.copy(), patches: rows, patch: 8 };
        let ids = Tensor::arange(128, (Kind::Int64, tch::Device::Cpu)).view([2, 64]);
        assert_eq!(book.paste(&ids), batch.pixels);
    }
}
