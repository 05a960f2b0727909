//! The decoder. Follows `transformers/models/llama/modeling_llama.py`.

use sango_tensor::nn::{Embedding, GatedLinear, Linear, RmsNorm};
use sango_tensor::ops::{Columns, cached_attention, rotary_embedding};
use sango_tensor::{Activation, DType, KvCache, Tensor, Weights};

use super::configuration::{Checked, LlamaConfig};
use super::rotary::LlamaRotaryEmbedding;
use crate::error::Result;

/// What every layer remembers of one sequence.
pub struct LlamaCache {
    layers: Vec<KvCache>,
}

impl LlamaCache {
    /// Positions that are filled.
    pub fn len(&self) -> usize {
        self.layers.first().map_or(0, KvCache::len)
    }

    /// Whether no position is filled.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Positions that can be filled.
    pub fn capacity(&self) -> usize {
        self.layers.first().map_or(0, KvCache::capacity)
    }

    /// Bytes that are reserved.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(KvCache::bytes).sum()
    }

    /// Forgets every position from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.layers.iter_mut().for_each(|layer| layer.truncate(len));
    }

    /// The first `len` positions in a cache of its own, with room for `capacity`.
    ///
    /// # Errors
    /// When `capacity` is more than memory has addresses.
    pub fn prefix(&self, len: usize, capacity: usize) -> Result<Self> {
        let layers = self.layers.iter().map(|layer| layer.prefix(len, capacity)).collect::<Result<_, _>>()?;
        Ok(Self { layers })
    }
}

/// Where the positions of one call of [`LlamaModel::forward`] are, and what they see.
pub struct Step<'a> {
    /// The position of each token.
    pub positions: &'a [u32],
    /// Length of the whole sequence, as far as it is known: some models choose their frequencies by it.
    pub length: usize,
    /// Added to the scores, `[1, 1, L, cached + L]`; without it a token sees itself and everything before.
    pub mask: Option<&'a Tensor>,
}

/// The decoder without its head.
pub struct LlamaModel {
    embed_tokens: Embedding,
    layers: Vec<LlamaDecoderLayer>,
    norm: RmsNorm,
    rotary_emb: LlamaRotaryEmbedding,
    config: LlamaConfig,
    /// The type in which keys and values are kept.
    kept: DType,
}

impl LlamaModel {
    /// Loads `embed_tokens`, `layers` and `norm`.
    pub(crate) fn load(weights: &Weights, checked: Checked) -> Result<Self> {
        let Checked { config, activation, rotary_emb } = checked;
        let hidden_size = config.hidden_size;
        let embed_tokens = Embedding::load(&weights.pp("embed_tokens"), config.vocab_size, hidden_size)?;
        let layers = (0..config.num_hidden_layers)
            .map(|n| LlamaDecoderLayer::load(&weights.pp("layers").pp(n), &config, activation))
            .collect::<Result<Vec<_>>>()?;
        let kept = layers.first().map_or(DType::F32, |layer| layer.self_attn.qkv_proj.dtype());
        let norm = RmsNorm::load(&weights.pp("norm"), hidden_size, config.rms_norm_eps, true)?;
        Ok(Self { embed_tokens, layers, norm, rotary_emb, config, kept })
    }

    /// The configuration that was read.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Rows of the token table for ids of any shape.
    ///
    /// # Errors
    /// When an id is not in the table.
    pub fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        Ok(self.embed_tokens.forward(ids)?)
    }

    /// An empty cache with room for `capacity` positions.
    ///
    /// # Errors
    /// When that is more than memory has addresses.
    pub fn cache(&self, capacity: usize) -> Result<LlamaCache> {
        let width = self.config.kv_heads() * self.config.head_width();
        let layers = self.layers.iter().map(|_| KvCache::new(capacity, width, self.kept)).collect::<Result<_, _>>()?;
        Ok(LlamaCache { layers })
    }

    /// Bytes of a cache per position.
    pub fn cache_bytes_per_position(&self) -> usize {
        2 * self.config.num_hidden_layers * self.config.kv_heads() * self.config.head_width() * self.kept.size()
    }

    /// Whether what was cached for the beginning of a sequence holds in one of `length` positions.
    pub fn prefix_holds(&self, length: usize) -> bool {
        self.rotary_emb.stable_up_to(length)
    }

    /// Runs the next `L` positions, given as embeddings `[1, L, hidden_size]`, and adds them to `cache`. Returns the
    /// normalised states of the last `keep` of them, `[1, keep, hidden_size]`.
    ///
    /// # Errors
    /// When shapes do not fit, or the cache has no room.
    pub fn forward(
        &self,
        inputs_embeds: &Tensor,
        step: &Step<'_>,
        cache: &mut LlamaCache,
        keep: usize,
    ) -> Result<Tensor> {
        let (cos, sin) = self.rotary_emb.forward(step.positions, step.length)?;
        let mut hidden_states = inputs_embeds.clone();
        for (layer, cache) in self.layers.iter().zip(&mut cache.layers) {
            hidden_states = layer.forward(&hidden_states, (&cos, &sin), step.mask, cache, self.kept)?;
        }
        let length = hidden_states.dim(1)?;
        Ok(self.norm.forward(&hidden_states.narrow(1, length - keep.min(length), keep.min(length))?)?)
    }
}

struct LlamaDecoderLayer {
    input_layernorm: RmsNorm,
    self_attn: LlamaAttention,
    post_attention_layernorm: RmsNorm,
    mlp: LlamaMLP,
}

impl LlamaDecoderLayer {
    fn load(weights: &Weights, config: &LlamaConfig, activation: Activation) -> Result<Self> {
        let norm = |name: &str| RmsNorm::load(&weights.pp(name), config.hidden_size, config.rms_norm_eps, true);
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            self_attn: LlamaAttention::load(&weights.pp("self_attn"), config)?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp: LlamaMLP::load(&weights.pp("mlp"), config, activation)?,
        })
    }

    fn forward(
        &self,
        hidden_states: &Tensor,
        position_embeddings: (&Tensor, &Tensor),
        mask: Option<&Tensor>,
        cache: &mut KvCache,
        dtype: DType,
    ) -> Result<Tensor> {
        let normed = self.input_layernorm.forward_to(hidden_states, dtype)?;
        let hidden_states = self.self_attn.forward(&normed, hidden_states, position_embeddings, mask, cache, dtype)?;
        let normed = self.post_attention_layernorm.forward_to(&hidden_states, dtype)?;
        self.mlp.forward(&normed, &hidden_states)
    }
}

struct LlamaAttention {
    /// `q_proj`, `k_proj` and `v_proj`, stacked.
    qkv_proj: Linear,
    o_proj: Linear,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl LlamaAttention {
    fn load(weights: &Weights, config: &LlamaConfig) -> Result<Self> {
        let (heads, kv_heads, head_dim) = (config.num_attention_heads, config.kv_heads(), config.head_width());
        let (width, bias) = (config.hidden_size, config.attention_bias);
        let [q, k, v] = ["q_proj", "k_proj", "v_proj"].map(|name| weights.pp(name));
        let sizes = [heads * head_dim, kv_heads * head_dim, kv_heads * head_dim];
        Ok(Self {
            qkv_proj: Linear::load_stacked(&[&q, &k, &v], width, &sizes, bias)?,
            o_proj: Linear::load(&weights.pp("o_proj"), heads * head_dim, width, bias)?,
            heads,
            kv_heads,
            head_dim,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        residual: &Tensor,
        (cos, sin): (&Tensor, &Tensor),
        mask: Option<&Tensor>,
        cache: &mut KvCache,
        dtype: DType,
    ) -> Result<Tensor> {
        let qkv = self.qkv_proj.forward(x)?;
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let query = rotary_embedding(Columns::of(&qkv, 0..q), self.heads, cos, sin, dtype)?;
        let key = rotary_embedding(Columns::of(&qkv, q..q + kv), self.kv_heads, cos, sin, dtype)?;
        cache.append(&key, Columns::of(&qkv, q + kv..q + 2 * kv))?;
        let attended = cached_attention(&query, cache, self.heads, self.kv_heads, mask, mask.is_none())?;
        Ok(self.o_proj.forward_residual(&attended, residual)?)
    }
}

struct LlamaMLP {
    /// `up_proj` and `gate_proj`.
    gate_up_proj: GatedLinear,
    down_proj: Linear,
    activation: Activation,
}

impl LlamaMLP {
    fn load(weights: &Weights, config: &LlamaConfig, activation: Activation) -> Result<Self> {
        let (width, inner, bias) = (config.hidden_size, config.intermediate_size, config.mlp_bias);
        let (up, gate) = (weights.pp("up_proj"), weights.pp("gate_proj"));
        Ok(Self {
            gate_up_proj: GatedLinear::load_split(&up, &gate, width, inner, bias)?,
            down_proj: Linear::load(&weights.pp("down_proj"), inner, width, bias)?,
            activation,
        })
    }

    fn forward(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let inner = self.gate_up_proj.forward_gated(x, self.activation)?;
        Ok(self.down_proj.forward_residual(&inner, residual)?)
    }
}
