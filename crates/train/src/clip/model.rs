//! Both towers of CLIP as in `transformers`: `CLIPTextModelWithProjection` and `CLIPVisionModelWithProjection`.

use serde::{Deserialize, Serialize};
use tch::nn::{Init, Path};
use tch::{Kind, Tensor};

use crate::nn::attention::{attend, split};
use crate::nn::{Embedding, LayerNorm, Linear};

/// Sizes of a tower.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct ClipConfig {
    /// Width of the tower.
    pub hidden_size: i64,
    /// Width inside its MLPs.
    pub intermediate_size: i64,
    /// Layers.
    pub num_hidden_layers: i64,
    /// Heads.
    pub num_attention_heads: i64,
    /// Width of the space that text and pictures share.
    pub projection_dim: i64,
}

impl Default for ClipConfig {
    fn default() -> Self {
        Self {
            hidden_size: 128,
            intermediate_size: 384,
            num_hidden_layers: 3,
            num_attention_heads: 4,
            projection_dim: 128,
        }
    }
}

const EPS: f64 = 1e-5;

/// `CLIPEncoderLayer`.
#[derive(Debug)]
struct EncoderLayer {
    layer_norm1: LayerNorm,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    layer_norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    heads: i64,
}

impl EncoderLayer {
    fn new(path: &Path, config: &ClipConfig) -> Self {
        let (dim, inner) = (config.hidden_size, config.intermediate_size);
        let (attention, mlp) = (path / "self_attn", path / "mlp");
        Self {
            layer_norm1: LayerNorm::new(&(path / "layer_norm1"), dim, EPS, true),
            q_proj: Linear::new(&(&attention / "q_proj"), dim, dim, true),
            k_proj: Linear::new(&(&attention / "k_proj"), dim, dim, true),
            v_proj: Linear::new(&(&attention / "v_proj"), dim, dim, true),
            out_proj: Linear::new(&(&attention / "out_proj"), dim, dim, true),
            layer_norm2: LayerNorm::new(&(path / "layer_norm2"), dim, EPS, true),
            fc1: Linear::new(&(&mlp / "fc1"), dim, inner, true),
            fc2: Linear::new(&(&mlp / "fc2"), inner, dim, true),
            heads: config.num_attention_heads,
        }
    }

    fn forward(&self, x: &Tensor, mask: Option<&Tensor>) -> Tensor {
        let h = self.layer_norm1.forward(x);
        let q = split(&self.q_proj.forward(&h), self.heads);
        let k = split(&self.k_proj.forward(&h), self.heads);
        let v = split(&self.v_proj.forward(&h), self.heads);
        let out = attend(&q, &k, &v, mask).transpose(1, 2).reshape(x.size());
        let x = x + self.out_proj.forward(&out);
        let h = self.fc1.forward(&self.layer_norm2.forward(&x));
        let quick_gelu = &h * (&h * 1.702).sigmoid();
        x + self.fc2.forward(&quick_gelu)
    }
}

/// What the text tower gives aMUSEd.
#[derive(Debug)]
pub struct TextOutput {
    /// Output of the layer before the last, `[B, L, hidden]`.
    pub penultimate: Tensor,
    /// Projected state at the first end token, `[B, projection]`, not normalised.
    pub text_embeds: Tensor,
}

/// `CLIPTextModelWithProjection`.
#[derive(Debug)]
pub struct TextTower {
    token_embedding: Embedding,
    position_embedding: Embedding,
    layers: Vec<EncoderLayer>,
    final_layer_norm: LayerNorm,
    text_projection: Linear,
    end: i64,
}

impl TextTower {
    /// Adds all variables below `path`; `end` is the id of the end token.
    pub fn new(path: &Path, config: &ClipConfig, vocab_size: i64, positions: i64, end: i64) -> Self {
        let model = path / "text_model";
        let embeddings = &model / "embeddings";
        let dim = config.hidden_size;
        Self {
            token_embedding: Embedding::new(&(&embeddings / "token_embedding"), vocab_size, dim, 0.1),
            position_embedding: Embedding::new(&(&embeddings / "position_embedding"), positions, dim, 0.05),
            layers: encoder(&model, config),
            final_layer_norm: LayerNorm::new(&(&model / "final_layer_norm"), dim, EPS, true),
            text_projection: Linear::new(&(path / "text_projection"), dim, config.projection_dim, false),
            end,
        }
    }

    /// Ids `[B, L]` (any L up to the number of positions).
    pub fn forward(&self, ids: &Tensor) -> TextOutput {
        let (_, l) = ids.size2().unwrap_or((0, 0));
        let positions = self.position_embedding.weight.narrow(0, 0, l);
        let mut x = self.token_embedding.forward(ids) + positions;
        let mask = Tensor::full([l, l], f64::NEG_INFINITY, (Kind::Float, ids.device())).triu(1);
        let mut penultimate = x.shallow_clone();
        for layer in &self.layers {
            penultimate = x.shallow_clone();
            x = layer.forward(&x, Some(&mask));
        }
        let last = self.final_layer_norm.forward(&x);
        let at = ids.eq(self.end).to_kind(Kind::Int64).argmax(-1, false);
        let at = at.view([-1, 1, 1]).expand([-1, 1, last.size()[2]], false);
        let pooled = last.gather(1, &at, false).squeeze_dim(1);
        TextOutput { penultimate, text_embeds: self.text_projection.forward(&pooled) }
    }

    /// Gives all positions from `first` on the embedding of `first`: they only ever hold padding.
    pub fn tie_padding_positions(&self, first: i64) {
        tch::no_grad(|| {
            let table = &self.position_embedding.weight;
            let rest = table.size()[0] - first;
            table.narrow(0, first, rest).copy_(&table.narrow(0, first, 1).copy());
        });
    }
}

/// `CLIPVisionModelWithProjection`.
#[derive(Debug)]
pub struct VisionTower {
    class_embedding: Tensor,
    patch_embedding: Tensor,
    position_embedding: Embedding,
    pre_layrnorm: LayerNorm,
    layers: Vec<EncoderLayer>,
    post_layernorm: LayerNorm,
    visual_projection: Linear,
    patch: i64,
}

impl VisionTower {
    /// Adds all variables below `path`, for square pictures of `size` pixels in patches of `patch`.
    pub fn new(path: &Path, config: &ClipConfig, size: i64, patch: i64) -> Self {
        let model = path / "vision_model";
        let embeddings = &model / "embeddings";
        let dim = config.hidden_size;
        let tokens = (size / patch).pow(2) + 1;
        let normal = |stdev| Init::Randn { mean: 0.0, stdev };
        Self {
            class_embedding: embeddings.var("class_embedding", &[dim], normal(0.05)),
            patch_embedding: (&embeddings / "patch_embedding").var("weight", &[dim, 3, patch, patch], normal(0.05)),
            position_embedding: Embedding::new(&(&embeddings / "position_embedding"), tokens, dim, 0.05),
            // The name is spelled so in transformers.
            pre_layrnorm: LayerNorm::new(&(&model / "pre_layrnorm"), dim, EPS, true),
            layers: encoder(&model, config),
            post_layernorm: LayerNorm::new(&(&model / "post_layernorm"), dim, EPS, true),
            visual_projection: Linear::new(&(path / "visual_projection"), dim, config.projection_dim, false),
            patch,
        }
    }

    /// Pixels `[B, 3, size, size]` in 0..1 → `[B, projection]`, not normalised.
    pub fn forward(&self, pixels: &Tensor) -> Tensor {
        let none: Option<&Tensor> = None;
        let stride = [self.patch, self.patch];
        let patches = ((pixels - 0.5) * 2.0)
            .conv2d(&self.patch_embedding, none, stride, [0, 0], [1, 1], 1)
            .flatten(2, 3)
            .transpose(1, 2);
        let b = pixels.size()[0];
        let class = self.class_embedding.view([1, 1, -1]).expand([b, -1, -1], false);
        let x = Tensor::cat(&[class, patches], 1) + &self.position_embedding.weight;
        let mut x = self.pre_layrnorm.forward(&x);
        for layer in &self.layers {
            x = layer.forward(&x, None);
        }
        let pooled = self.post_layernorm.forward(&x.select(1, 0));
        self.visual_projection.forward(&pooled)
    }
}

fn encoder(model: &Path, config: &ClipConfig) -> Vec<EncoderLayer> {
    let layers = model / "encoder" / "layers";
    (0..config.num_hidden_layers).map(|i| EncoderLayer::new(&(&layers / i), config)).collect()
}
