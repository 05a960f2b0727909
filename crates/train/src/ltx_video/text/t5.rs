//! `transformers` `T5EncoderModel`: relative positions, RMS norms before each part, gated feed-forward layers.

use tch::nn::{Init, Path};
use tch::{Kind, Tensor};

use super::config::T5Config;
use crate::nn::attention::split;
use crate::nn::{Embedding, Linear, RmsNorm};

/// The encoder with its embedding.
#[derive(Debug)]
pub struct T5EncoderModel {
    shared: Embedding,
    blocks: Vec<Block>,
    final_layer_norm: RmsNorm,
    relative_attention_bias: Embedding,
    buckets: i64,
    max_distance: i64,
}

#[derive(Debug)]
struct Block {
    attention_norm: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    heads: i64,
    ff_norm: RmsNorm,
    wi_0: Linear,
    wi_1: Linear,
    wo: Linear,
}

impl T5EncoderModel {
    /// Adds `shared` and `encoder` below `path`.
    pub fn new(path: &Path, config: &T5Config) -> Self {
        let encoder = path / "encoder";
        let blocks = (0..config.num_layers).map(|i| Block::new(&(&encoder / "block" / i / "layer"), config)).collect();
        let first = &encoder / "block" / 0 / "layer" / 0 / "SelfAttention" / "relative_attention_bias";
        Self {
            shared: Embedding::new(&(path / "shared"), config.vocab_size, config.d_model, 1.0),
            blocks,
            final_layer_norm: RmsNorm::new(&(&encoder / "final_layer_norm"), config.d_model, config.layer_norm_epsilon),
            relative_attention_bias: Embedding::new(
                &first,
                config.relative_attention_num_buckets,
                config.num_heads,
                0.3,
            ),
            buckets: config.relative_attention_num_buckets,
            max_distance: config.relative_attention_max_distance,
        }
    }

    /// Token ids `[B, S]` → `[B, S, d_model]`. As in the pipeline, padding is a token like any other.
    pub fn forward(&self, ids: &Tensor) -> Tensor {
        let length = ids.size()[1];
        let buckets: Vec<i64> = (0..length)
            .flat_map(|query| (0..length).map(move |key| key - query))
            .map(|distance| bucket(distance, self.buckets, self.max_distance))
            .collect();
        let buckets = Tensor::from_slice(&buckets).view([length, length]);
        let bias = self.relative_attention_bias.forward(&buckets).permute([2, 0, 1]).unsqueeze(0);
        let hidden = self.blocks.iter().fold(self.shared.forward(ids), |x, block| block.forward(&x, &bias));
        self.final_layer_norm.forward(&hidden)
    }
}

impl Block {
    fn new(path: &Path, config: &T5Config) -> Self {
        let (dim, inner) = (config.d_model, config.num_heads * config.d_kv);
        let attention = path / 0 / "SelfAttention";
        let ff = path / 1 / "DenseReluDense";
        let linear = |path: &Path, inputs: i64, outputs: i64, stdev: f64| {
            Linear::with_init(path, inputs, outputs, false, Init::Randn { mean: 0.0, stdev })
        };
        let wide = (dim as f64).powf(-0.5);
        // Scores are not divided by √d_kv: the initialisation does it.
        let narrow = ((dim * config.d_kv) as f64).powf(-0.5);
        let norm = |path: Path| RmsNorm::new(&(path / "layer_norm"), dim, config.layer_norm_epsilon);
        Self {
            attention_norm: norm(path / 0),
            q: linear(&(&attention / "q"), dim, inner, narrow),
            k: linear(&(&attention / "k"), dim, inner, wide),
            v: linear(&(&attention / "v"), dim, inner, wide),
            o: linear(&(&attention / "o"), inner, dim, (inner as f64).powf(-0.5)),
            heads: config.num_heads,
            ff_norm: norm(path / 1),
            wi_0: linear(&(&ff / "wi_0"), dim, config.d_ff, wide),
            wi_1: linear(&(&ff / "wi_1"), dim, config.d_ff, wide),
            wo: linear(&(&ff / "wo"), config.d_ff, dim, (config.d_ff as f64).powf(-0.5)),
        }
    }

    fn forward(&self, x: &Tensor, bias: &Tensor) -> Tensor {
        let h = self.attention_norm.forward(x);
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|linear| split(&linear.forward(&h), self.heads));
        let scores = q.matmul(&k.transpose(-2, -1)) + bias;
        let mixed = scores.softmax(-1, Kind::Float).to_kind(x.kind()).matmul(&v).transpose(1, 2).flatten(2, 3);
        let x = x + self.o.forward(&mixed);
        let h = self.ff_norm.forward(&x);
        let gated = self.wi_0.forward(&h).gelu("tanh") * self.wi_1.forward(&h);
        x + self.wo.forward(&gated)
    }
}

/// The bucket of a distance: half of them for each direction, near ones exact, far ones by their logarithm.
fn bucket(distance: i64, buckets: i64, max_distance: i64) -> i64 {
    let half = buckets / 2;
    let side = if distance > 0 { half } else { 0 };
    let (far, exact) = (distance.abs(), half / 2);
    if far < exact {
        return side + far;
    }
    let ratio = (far as f32 / exact as f32).ln() / (max_distance as f32 / exact as f32).ln();
    side + (exact + (ratio * (half - exact) as f32) as i64).min(half - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_distances_have_buckets_of_their_own() {
        let of = |distance| bucket(distance, 32, 128);
        assert_eq!([0, -1, -7, 1, 7].map(of), [0, 1, 7, 17, 23]);
        assert_eq!([-8, -15, -16, -127, -500, 500].map(of), [8, 9, 10, 15, 15, 31]);
    }
}
