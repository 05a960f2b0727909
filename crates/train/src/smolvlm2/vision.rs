//! The SigLIP tower: `SmolVLMVisionTransformer`.

use tch::nn::{Init, Path};
use tch::{Kind, Tensor};

use super::config::{Activation, VisionConfig};
use super::layers::Linear;
use crate::nn::LayerNorm;
use crate::nn::attention::{attend, split};

/// `SmolVLMEncoderLayer`.
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
    activation: Activation,
}

impl EncoderLayer {
    fn new(path: &Path, config: &VisionConfig) -> Self {
        let (dim, inner, layers) = (config.hidden_size, config.intermediate_size, config.num_hidden_layers);
        let (attention, mlp) = (path / "self_attn", path / "mlp");
        Self {
            layer_norm1: LayerNorm::new(&(path / "layer_norm1"), dim, config.layer_norm_eps, true),
            q_proj: Linear::new(&(&attention / "q_proj"), dim, dim, true),
            k_proj: Linear::new(&(&attention / "k_proj"), dim, dim, true),
            v_proj: Linear::new(&(&attention / "v_proj"), dim, dim, true),
            out_proj: Linear::residual(&(&attention / "out_proj"), dim, dim, true, layers),
            layer_norm2: LayerNorm::new(&(path / "layer_norm2"), dim, config.layer_norm_eps, true),
            fc1: Linear::new(&(&mlp / "fc1"), dim, inner, true),
            fc2: Linear::residual(&(&mlp / "fc2"), inner, dim, true, layers),
            heads: config.num_attention_heads,
            activation: config.hidden_act,
        }
    }

    fn forward(&self, x: &Tensor, mask: Option<&Tensor>, train: bool) -> Tensor {
        let h = self.layer_norm1.forward(x);
        let q = split(&self.q_proj.forward(&h, train), self.heads);
        let k = split(&self.k_proj.forward(&h, train), self.heads);
        let v = split(&self.v_proj.forward(&h, train), self.heads);
        let out = attend(&q, &k, &v, mask).transpose(1, 2).reshape(x.size());
        let x = x + self.out_proj.forward(&out, train);
        let h = self.activation.apply(&self.fc1.forward(&self.layer_norm2.forward(&x), train));
        x + self.fc2.forward(&h, train)
    }
}

/// `SmolVLMVisionTransformer`.
#[derive(Debug)]
pub struct VisionTransformer {
    patch_embedding: Tensor,
    patch_bias: Tensor,
    position_embedding: Tensor,
    layers: Vec<EncoderLayer>,
    post_layernorm: LayerNorm,
    patch: i64,
    /// Patches on a side of a full picture.
    side: i64,
}

impl VisionTransformer {
    /// Adds all variables below `path`.
    pub fn new(path: &Path, config: &VisionConfig) -> Self {
        let embeddings = path / "embeddings";
        let (dim, patch) = (config.hidden_size, config.patch_size);
        let side = config.image_size / patch;
        let fan_in = config.num_channels * patch * patch;
        let patches = &embeddings / "patch_embedding";
        let init = Init::Randn { mean: 0.0, stdev: 1.0 / (fan_in as f64).sqrt() };
        let position = Init::Randn { mean: 0.0, stdev: 0.3 };
        let layers = path / "encoder" / "layers";
        Self {
            patch_embedding: patches.var("weight", &[dim, config.num_channels, patch, patch], init),
            patch_bias: patches.var("bias", &[dim], Init::Const(0.0)),
            position_embedding: (&embeddings / "position_embedding").var("weight", &[side * side, dim], position),
            layers: (0..config.num_hidden_layers).map(|i| EncoderLayer::new(&(&layers / i), config)).collect(),
            post_layernorm: LayerNorm::new(&(path / "post_layernorm"), dim, config.layer_norm_eps, true),
            patch,
            side,
        }
    }

    /// Pixels `[N, C, H, W]` in −1..1 → `[N, patches, hidden]`. `mask` `[N, H, W]` is not zero where a picture is, and
    /// zero where it was padded.
    pub fn forward(&self, pixels: &Tensor, mask: Option<&Tensor>, train: bool) -> Tensor {
        let stride = [self.patch, self.patch];
        let patches = self.patches(pixels).linear(&self.patch_embedding.flatten(1, 3), Some(&self.patch_bias));
        let seen = match mask {
            Some(mask) => {
                let rows = mask.ne(0).unfold(1, stride[0], stride[0]).unfold(2, stride[1], stride[1]);
                Some(rows.flatten(3, 4).any_dim(-1, false))
            }
            None => None,
        };
        let full = pixels.size()[2..] == [self.side * self.patch; 2];
        let mut x = match &seen {
            None if full => patches + &self.position_embedding,
            _ => {
                let (n, h, w) = (pixels.size()[0], pixels.size()[2] / self.patch, pixels.size()[3] / self.patch);
                let all = || Tensor::ones([n, h, w], (Kind::Bool, pixels.device()));
                let ids = self.position_ids(seen.as_ref().map_or_else(all, Tensor::shallow_clone));
                patches + Tensor::embedding(&self.position_embedding, &ids, -1, false, false)
            }
        };
        let bias = seen.map(|seen| {
            let hidden = seen.flatten(1, 2).logical_not();
            Tensor::zeros(hidden.size(), (x.kind(), x.device()))
                .masked_fill(&hidden, f64::NEG_INFINITY)
                .unsqueeze(1)
                .unsqueeze(1)
        });
        for layer in &self.layers {
            x = layer.forward(&x, bias.as_ref(), train);
        }
        self.post_layernorm.forward(&x)
    }

    /// Patches in reading order with their values in the order of the convolution's weight: `[N, patches, C·p·p]`.
    ///
    /// A convolution whose stride is its size is this and a product, and the product is far quicker in training.
    fn patches(&self, pixels: &Tensor) -> Tensor {
        let (n, c, h, w) = pixels.size4().unwrap_or((0, 0, 0, 0));
        let p = self.patch;
        let cut = pixels.narrow(2, 0, h / p * p).narrow(3, 0, w / p * p);
        let tiles = cut.reshape([n, c, h / p, p, w / p, p]).permute([0, 2, 4, 1, 3, 5]);
        tiles.reshape([n, (h / p) * (w / p), c * p * p])
    }

    /// Positions in the full grid for pictures that fill only part of it: `seen` `[N, h, w]` → ids `[N, h·w]`.
    fn position_ids(&self, seen: Tensor) -> Tensor {
        let options = (Kind::Float, seen.device());
        let step = 1.0 / self.side as f64;
        let boundaries = Tensor::arange_start_step(step, 1.0, step, options);
        let (_, h, w) = seen.size3().unwrap_or((0, 0, 0));
        let buckets = |count: Tensor, len: i64| {
            let steps = count.to_kind(Kind::Float).reciprocal().unsqueeze(1);
            let at = (Tensor::arange(len, options).unsqueeze(0) * steps).clamp_max(1.0 - 1e-6);
            at.bucketize(&boundaries, false, true)
        };
        let count = |axis: i64| seen.select(3 - axis, 0).sum_dim_intlist([1i64].as_slice(), false, Kind::Int64);
        let (rows, columns) = (buckets(count(1), h), buckets(count(2), w));
        let ids = rows.unsqueeze(2) * self.side + columns.unsqueeze(1);
        ids.where_scalarother(&seen, 0).flatten(1, 2)
    }

    /// Every linear layer with its name below the tower.
    pub fn linears(&mut self) -> Vec<(String, &mut Linear)> {
        let mut all = Vec::new();
        for (i, layer) in self.layers.iter_mut().enumerate() {
            let name = |rest: &str| format!("encoder.layers.{i}.{rest}");
            all.push((name("self_attn.q_proj"), &mut layer.q_proj));
            all.push((name("self_attn.k_proj"), &mut layer.k_proj));
            all.push((name("self_attn.v_proj"), &mut layer.v_proj));
            all.push((name("self_attn.out_proj"), &mut layer.out_proj));
            all.push((name("mlp.fc1"), &mut layer.fc1));
            all.push((name("mlp.fc2"), &mut layer.fc2));
        }
        all
    }
}
