//! The decoder: `LlamaModel`.

use tch::nn::{Init, Path};
use tch::{Kind, Tensor};

use super::config::{Activation, TextConfig};
use super::layers::{Linear, RmsNorm};
use crate::nn::Embedding;
use crate::nn::attention::{attend, split};

/// Keys and values of one layer, `[B, kv heads, L, head]` each.
pub type LayerCache = Option<(Tensor, Tensor)>;

/// `LlamaDecoderLayer`.
#[derive(Debug)]
struct DecoderLayer {
    input_layernorm: RmsNorm,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    post_attention_layernorm: RmsNorm,
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
    heads: i64,
    kv_heads: i64,
    activation: Activation,
}

impl DecoderLayer {
    fn new(path: &Path, c: &TextConfig) -> Self {
        let (attention, mlp) = (path / "self_attn", path / "mlp");
        let (dim, inner, layers) = (c.hidden_size, c.intermediate_size, c.num_hidden_layers);
        let (q, kv) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
        Self {
            input_layernorm: RmsNorm::new(&(path / "input_layernorm"), dim, c.rms_norm_eps),
            q_proj: Linear::new(&(&attention / "q_proj"), dim, q, c.attention_bias),
            k_proj: Linear::new(&(&attention / "k_proj"), dim, kv, c.attention_bias),
            v_proj: Linear::new(&(&attention / "v_proj"), dim, kv, c.attention_bias),
            o_proj: Linear::residual(&(&attention / "o_proj"), q, dim, c.attention_bias, layers),
            post_attention_layernorm: RmsNorm::new(&(path / "post_attention_layernorm"), dim, c.rms_norm_eps),
            gate_proj: Linear::new(&(&mlp / "gate_proj"), dim, inner, c.mlp_bias),
            up_proj: Linear::new(&(&mlp / "up_proj"), dim, inner, c.mlp_bias),
            down_proj: Linear::residual(&(&mlp / "down_proj"), inner, dim, c.mlp_bias, layers),
            heads: c.num_attention_heads,
            kv_heads: c.num_key_value_heads,
            activation: c.hidden_act,
        }
    }

    fn forward(
        &self,
        x: &Tensor,
        rotary: &(Tensor, Tensor),
        mask: &Tensor,
        cache: &mut LayerCache,
        train: bool,
    ) -> Tensor {
        let h = self.input_layernorm.forward(x);
        let q = rotate(&split(&self.q_proj.forward(&h, train), self.heads), rotary);
        let mut k = rotate(&split(&self.k_proj.forward(&h, train), self.kv_heads), rotary);
        let mut v = split(&self.v_proj.forward(&h, train), self.kv_heads);
        if let Some((keys, values)) = cache.take() {
            k = Tensor::cat(&[keys, k], 2);
            v = Tensor::cat(&[values, v], 2);
        }
        // The heads that share a key become rows of one product instead of copies of the key.
        let (b, _, l, d) = q.size4().unwrap_or((0, 0, 0, 0));
        let share = self.heads / self.kv_heads;
        let grouped = q.reshape([b, self.kv_heads, share * l, d]);
        let mask = if share == 1 { mask.shallow_clone() } else { mask.repeat([1, 1, share, 1]) };
        let out = attend(&grouped, &k, &v, Some(&mask));
        let out = out.view([b, self.heads, l, d]).transpose(1, 2).reshape([b, l, self.heads * d]);
        *cache = Some((k, v));
        let x = x + self.o_proj.forward(&out, train);
        let h = self.post_attention_layernorm.forward(&x);
        let gate = self.activation.apply(&self.gate_proj.forward(&h, train));
        x + self.down_proj.forward(&(gate * self.up_proj.forward(&h, train)), train)
    }
}

/// `LlamaModel` without its head.
#[derive(Debug)]
pub struct LlamaModel {
    /// `embed_tokens`.
    pub embed_tokens: Embedding,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    head_dim: i64,
    rope_theta: f64,
}

impl LlamaModel {
    /// Adds all variables below `path`.
    pub fn new(path: &Path, c: &TextConfig) -> Self {
        let layers = path / "layers";
        Self {
            embed_tokens: Embedding::new(&(path / "embed_tokens"), c.vocab_size, c.hidden_size, 0.3),
            layers: (0..c.num_hidden_layers).map(|i| DecoderLayer::new(&(&layers / i), c)).collect(),
            norm: RmsNorm::new(&(path / "norm"), c.hidden_size, c.rms_norm_eps),
            head_dim: c.head_dim,
            rope_theta: c.rope_theta,
        }
    }

    /// Embeddings `[B, L, hidden]` at `positions` `[B, L]` → hidden states `[B, L, hidden]`.
    ///
    /// `mask` `[B, 1, L, cached + L]` is added to the scores; `caches` holds one entry per layer and takes in the new
    /// keys and values.
    pub fn forward(
        &self,
        embeds: &Tensor,
        positions: &Tensor,
        mask: &Tensor,
        caches: &mut Caches,
        train: bool,
    ) -> Tensor {
        let rotary = self.rotary(positions, embeds.kind());
        let mask = mask.to_kind(embeds.kind());
        caches.resize_with(self.layers.len(), || None);
        let mut x = embeds.shallow_clone();
        for (layer, cache) in self.layers.iter().zip(caches.iter_mut()) {
            x = layer.forward(&x, &rotary, &mask, cache, train);
        }
        self.norm.forward(&x)
    }

    /// Cosines and sines `[B, 1, L, head]`.
    fn rotary(&self, positions: &Tensor, kind: Kind) -> (Tensor, Tensor) {
        let even = Tensor::arange_start_step(0, self.head_dim, 2, (Kind::Float, positions.device()));
        let frequencies = Tensor::from(self.rope_theta as f32).pow(&(even / self.head_dim as f64)).reciprocal();
        let angles = positions.to_kind(Kind::Float).unsqueeze(-1) * frequencies;
        let angles = Tensor::cat(&[&angles, &angles], -1).unsqueeze(1);
        (angles.cos().to_kind(kind), angles.sin().to_kind(kind))
    }

    /// Every linear layer with its name below the decoder.
    pub fn linears(&mut self) -> Vec<(String, &mut Linear)> {
        let mut all = Vec::new();
        for (i, layer) in self.layers.iter_mut().enumerate() {
            let name = |rest: &str| format!("layers.{i}.{rest}");
            all.push((name("self_attn.q_proj"), &mut layer.q_proj));
            all.push((name("self_attn.k_proj"), &mut layer.k_proj));
            all.push((name("self_attn.v_proj"), &mut layer.v_proj));
            all.push((name("self_attn.o_proj"), &mut layer.o_proj));
            all.push((name("mlp.gate_proj"), &mut layer.gate_proj));
            all.push((name("mlp.up_proj"), &mut layer.up_proj));
            all.push((name("mlp.down_proj"), &mut layer.down_proj));
        }
        all
    }
}

/// Keys and values of all layers.
pub type Caches = Vec<LayerCache>;

/// Rotary position embedding of `[B, heads, L, head]`: halves, not pairs, as in Llama.
fn rotate(x: &Tensor, (cos, sin): &(Tensor, Tensor)) -> Tensor {
    let halves = x.chunk(2, -1);
    let turned = Tensor::cat(&[&halves[1].neg(), &halves[0]], -1);
    x * cos + turned * sin
}

/// The head's initialisation.
pub(super) fn head_init(dim: i64) -> Init {
    Init::Randn { mean: 0.0, stdev: 0.5 / (dim as f64).sqrt() }
}
