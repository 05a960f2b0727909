//! The SigLIP tower: `SmolVLMVisionTransformer` of `modeling_smolvlm.py`.

use sango_tensor::nn::{LayerNorm, Linear};
use sango_tensor::ops::{Columns, multi_head_attention};
use sango_tensor::{Activation, DType, Tensor, Weights};

use super::configuration::SmolVLMVisionConfig;
use crate::error::Result;

/// Which patches of a picture are real, row by row; the others pad it.
pub(super) struct PatchMask {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) real: Vec<bool>,
}

impl PatchMask {
    /// All of them.
    pub(super) fn full(rows: usize, columns: usize) -> Self {
        Self { rows, columns, real: vec![true; rows * columns] }
    }

    /// From a mask of pixels, `height` × `width`: a patch is real when any of its pixels is.
    pub(super) fn from_pixels(mask: &[bool], (height, width): (usize, usize), patch: usize) -> Self {
        let (rows, columns) = (height / patch, width / patch);
        let any = |row: usize, column: usize| {
            (0..patch).any(|y| mask[(row * patch + y) * width + column * patch..][..patch].contains(&true))
        };
        let real = (0..rows * columns).map(|at| any(at / columns, at % columns)).collect();
        Self { rows, columns, real }
    }

    fn is_full(&self) -> bool {
        !self.real.contains(&false)
    }

    /// The row of the position table for each patch. Real patches are spread over the whole table: position follows
    /// from which fraction of the real picture lies before a patch. Padding has row 0.
    fn position_ids(&self, per_side: usize) -> impl Iterator<Item = i64> + '_ {
        let real_rows = (0..self.rows).filter(|row| self.real[row * self.columns]).count();
        let real_columns = self.real[..self.columns].iter().filter(|&&real| real).count();
        let rows = buckets(self.rows, real_rows, per_side);
        let columns = buckets(self.columns, real_columns, per_side);
        self.real.iter().enumerate().map(move |(at, &real)| {
            let id = rows[at / self.columns] * per_side + columns[at % self.columns];
            if real { id as i64 } else { 0 }
        })
    }
}

/// The positions, of `per_side`, of `count` patches in a row of which `real` are real: how many of the boundaries
/// `n / per_side` (from 1) lie at or before `i / real`, both as `torch` rounds them.
fn buckets(count: usize, real: usize, per_side: usize) -> Vec<usize> {
    let boundaries = boundaries(per_side);
    let step = 1.0 / real as f32;
    let position = |i: usize| {
        let fraction = i as f32 * step;
        // Nothing real: 0 · ∞ is not a number, which sorts after every boundary.
        let fraction = if fraction.is_nan() { f32::INFINITY } else { fraction.min((1.0 - 1e-6) as f32) };
        boundaries.iter().filter(|&&boundary| boundary <= fraction).count().min(per_side - 1)
    };
    (0..count).map(position).collect()
}

/// `torch.arange(1 / per_side, 1.0, 1 / per_side)`. How it rounds decides, for some sizes, whether a patch lies before or
/// after a boundary, and models are trained with what it does: sixteen elements at a time it counts in f64 from the
/// first of each eight, which is rounded to f32 before; elements that are left over it computes from the start.
fn boundaries(per_side: usize) -> Vec<f32> {
    let spacing = 1.0 / per_side as f64;
    let count = ((1.0 - spacing) / spacing).ceil() as usize;
    let from_start = |n: usize| (spacing + spacing * n as f64) as f32;
    let whole = count - count % 16;
    let value = |n: usize| match n < whole {
        true => (f64::from(from_start(n - n % 8)) + spacing * (n % 8) as f64) as f32,
        false => from_start(n),
    };
    (0..count).map(value).collect()
}

/// The vision tower.
pub(super) struct SmolVLMVisionTransformer {
    patch_embedding: Linear,
    /// `[positions, hidden_size]`.
    position_embedding: Tensor,
    layers: Vec<SmolVLMEncoderLayer>,
    post_layernorm: LayerNorm,
    config: SmolVLMVisionConfig,
}

impl SmolVLMVisionTransformer {
    pub(super) fn load(weights: &Weights, config: SmolVLMVisionConfig, activation: Activation) -> Result<Self> {
        let (width, patch) = (config.hidden_size, config.patch_size);
        let embeddings = weights.pp("embeddings");
        let positions = config.patches_per_side() * config.patches_per_side();
        let layers = (0..config.num_hidden_layers)
            .map(|n| SmolVLMEncoderLayer::load(&weights.pp("encoder.layers").pp(n), &config, activation))
            .collect::<Result<_>>()?;
        Ok(Self {
            patch_embedding: Linear::load_patches(
                &embeddings.pp("patch_embedding"),
                config.num_channels,
                patch,
                width,
            )?,
            position_embedding: embeddings.pp("position_embedding").get_f32("weight", &[positions, width])?,
            layers,
            post_layernorm: LayerNorm::load(&weights.pp("post_layernorm"), width, config.layer_norm_eps)?,
            config,
        })
    }

    /// `pixel_values` `[N, 3, H, W]` and the mask of each picture → `[N, patches, hidden_size]`.
    pub(super) fn forward(&self, pixel_values: &Tensor, masks: &[PatchMask]) -> Result<Tensor> {
        let mut hidden_states = self.embeddings(pixel_values, masks)?;
        let attention_mask = key_mask(masks)?;
        for layer in &self.layers {
            hidden_states = layer.forward(&hidden_states, attention_mask.as_ref())?;
        }
        Ok(self.post_layernorm.forward(&hidden_states)?)
    }

    fn embeddings(&self, pixel_values: &Tensor, masks: &[PatchMask]) -> Result<Tensor> {
        let [n, channels, height, width] = pixel_values.dims()?;
        let patch = self.config.patch_size;
        let (rows, columns) = (height / patch, width / patch);
        let whole = pixel_values.narrow(2, 0, rows * patch)?.narrow(3, 0, columns * patch)?;
        let patches = whole
            .reshape(&[n, channels, rows, patch, columns, patch])?
            .permute(&[0, 2, 4, 1, 3, 5])?
            .reshape(&[n, rows * columns, channels * patch * patch])?;
        let per_side = self.config.patches_per_side();
        let ids = masks.iter().flat_map(|mask| mask.position_ids(per_side)).collect();
        let positions = self.position_embedding.embedding(&Tensor::from_i64(ids, &[n, rows * columns])?)?;
        Ok(self.patch_embedding.forward_residual(&patches, &positions)?)
    }
}

/// What is added to scores so that nothing looks at padding: `[N, 1, 1, patches]`, where there is any.
fn key_mask(masks: &[PatchMask]) -> Result<Option<Tensor>> {
    if masks.iter().all(PatchMask::is_full) {
        return Ok(None);
    }
    let added = masks.iter().flat_map(|mask| mask.real.iter().map(|&real| if real { 0.0 } else { f32::NEG_INFINITY }));
    let patches = masks[0].real.len();
    Ok(Some(Tensor::from_vec(added.collect(), &[masks.len(), 1, 1, patches])?))
}

struct SmolVLMEncoderLayer {
    layer_norm1: LayerNorm,
    self_attn: SmolVLMVisionAttention,
    layer_norm2: LayerNorm,
    mlp: SmolVLMVisionMLP,
    dtype: DType,
}

impl SmolVLMEncoderLayer {
    fn load(weights: &Weights, config: &SmolVLMVisionConfig, activation: Activation) -> Result<Self> {
        let norm = |name: &str| LayerNorm::load(&weights.pp(name), config.hidden_size, config.layer_norm_eps);
        let mlp = SmolVLMVisionMLP::load(&weights.pp("mlp"), config, activation)?;
        Ok(Self {
            layer_norm1: norm("layer_norm1")?,
            self_attn: SmolVLMVisionAttention::load(&weights.pp("self_attn"), config)?,
            layer_norm2: norm("layer_norm2")?,
            dtype: mlp.fc1.dtype(),
            mlp,
        })
    }

    fn forward(&self, hidden_states: &Tensor, attention_mask: Option<&Tensor>) -> Result<Tensor> {
        let normed = self.layer_norm1.forward_to(hidden_states, self.dtype)?;
        let hidden_states = self.self_attn.forward(&normed, hidden_states, attention_mask)?;
        let normed = self.layer_norm2.forward_to(&hidden_states, self.dtype)?;
        self.mlp.forward(&normed, &hidden_states)
    }
}

struct SmolVLMVisionAttention {
    /// `q_proj`, `k_proj` and `v_proj`, stacked.
    qkv_proj: Linear,
    out_proj: Linear,
    width: usize,
    num_heads: usize,
}

impl SmolVLMVisionAttention {
    fn load(weights: &Weights, config: &SmolVLMVisionConfig) -> Result<Self> {
        let width = config.hidden_size;
        let [q, k, v] = ["q_proj", "k_proj", "v_proj"].map(|name| weights.pp(name));
        Ok(Self {
            qkv_proj: Linear::load_stacked(&[&q, &k, &v], width, &[width; 3], true)?,
            out_proj: Linear::load(&weights.pp("out_proj"), width, width, true)?,
            width,
            num_heads: config.num_attention_heads,
        })
    }

    fn forward(&self, x: &Tensor, residual: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let qkv = self.qkv_proj.forward_to_attention(x)?;
        let [q, k, v] = [0, 1, 2].map(|n| Columns::of(&qkv, n * self.width..(n + 1) * self.width));
        let attended = multi_head_attention(q, k, v, self.num_heads, self.num_heads, mask, false, None)?;
        Ok(self.out_proj.forward_residual(&attended, residual)?)
    }
}

struct SmolVLMVisionMLP {
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
}

impl SmolVLMVisionMLP {
    fn load(weights: &Weights, config: &SmolVLMVisionConfig, activation: Activation) -> Result<Self> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        Ok(Self {
            fc1: Linear::load(&weights.pp("fc1"), width, inner, true)?,
            fc2: Linear::load(&weights.pp("fc2"), inner, width, true)?,
            activation,
        })
    }

    fn forward(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        Ok(self.fc2.forward_residual(&self.fc1.forward_act_narrow(x, self.activation)?, residual)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_those_of_the_reference() {
        let cases = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/parity/cases");
        let text = std::fs::read_to_string(cases.join("smolvlm2-buckets.json")).expect("the case");
        let rows: Vec<(usize, usize, Vec<usize>)> = serde_json::from_str(&text).expect("rows");
        assert!(rows.len() > 50);
        for (per_side, count, expected) in rows {
            assert_eq!(buckets(count, count, per_side), expected, "{count} patches, {per_side} positions");
        }
    }

    #[test]
    fn a_patch_is_real_when_any_of_its_pixels_is() {
        // 4 × 5 pixels, patches of 2: the last column of pixels belongs to no patch.
        let mut pixels = [false; 20];
        (pixels[0], pixels[13], pixels[19]) = (true, true, true);
        let mask = PatchMask::from_pixels(&pixels, (4, 5), 2);
        assert_eq!((mask.rows, mask.columns, mask.real.as_slice()), (2, 2, &[true, false, false, true][..]));
        // One real row and one real column, by the first patches alone.
        assert_eq!(mask.position_ids(3).collect::<Vec<_>>(), [0, 0, 0, 2 * 3 + 2]);
    }
}
