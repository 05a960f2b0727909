//! The text encoder (`T5EncoderModel`).
//!
//! T5-XXL's 4.7 billion parameters would take most of a machine's memory for something that runs once per prompt. So layers
//! are read from the mapped file one at a time and given back when they have run, unless they are kept in int8.

use std::path::Path;

use sango_tensor::nn::{Embedding, GatedLinear, Linear, RmsNorm};
use sango_tensor::ops::{Columns, multi_head_attention};
use sango_tensor::{DType, Tensor, Weights};

use super::configuration::{DenseAct, FeedForward, T5Config};
use super::relative_position::RelativePositionBias;
use crate::LoadOptions;
use crate::error::{ModelError, Result};

/// T5's encoder.
pub struct T5EncoderModel {
    weights: Weights,
    config: T5Config,
    feed_forward: FeedForward,
    /// Every layer, where they are kept; else each is read when it runs.
    kept: Option<Vec<T5Block>>,
    parameters: usize,
}

/// Longer prompts are no prompts; memory grows with the square of it.
const MAX_TOKENS: usize = 4096;
/// What the mask adds where padding would be looked at: the lowest number, as in the reference.
const MASKED: f32 = f32::MIN;

impl T5EncoderModel {
    /// Opens `config.json` and `model.safetensors` (or its shards) in `dir`. With [`LoadOptions::int8`] all layers are read
    /// and kept as bytes with one scale per row; else nothing but the file's header is read.
    ///
    /// # Errors
    /// When the configuration is not supported, or a tensor is missing or has another shape.
    pub fn load(dir: &Path, options: &LoadOptions) -> Result<Self> {
        let (config, feed_forward) = T5Config::read(&dir.join("config.json"))?;
        let weights = Weights::open(dir, "model")?;
        let weights = if options.int8 { weights.with_int8_linears() } else { weights.with_dtype(options.dtype) };
        let parameters = weights.parameter_count();
        let mut model = Self { weights, config: config.value, feed_forward, kept: None, parameters };
        model.check_tensors()?;
        if options.int8 {
            let layers = (0..model.config.num_layers).map(|n| model.layer(n)).collect::<Result<_>>()?;
            model.kept = Some(layers);
        }
        Ok(model)
    }

    /// The configuration that was read.
    pub fn config(&self) -> &T5Config {
        &self.config
    }

    /// Number of parameters.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// Bytes that encoding `tokens` tokens takes beyond what is kept: the table, a layer and its activations.
    pub fn working_bytes(&self, tokens: usize) -> u64 {
        let c = &self.config;
        let inner = c.num_heads * c.d_kv;
        let wide = if self.weights.compute_dtype() == DType::BF16 { 2 } else { 4 };
        let matrices = 4 * c.d_model * inner + c.d_model * c.d_ff * if self.feed_forward.gated { 3 } else { 2 };
        // A layer that is read anew holds its matrices once more, stacked in f32, while they are packed.
        let layer = if self.kept.is_some() { 0 } else { matrices * wide + 3 * c.d_model * inner.max(c.d_ff) * 4 };
        let activations = tokens * (4 * c.d_model + 4 * inner + 3 * c.d_ff) * 4 + c.num_heads * tokens * tokens * 8;
        (c.vocab_size * c.d_model * wide + layer + activations) as u64
    }

    /// Encodes `input_ids` `[B, S]`, i64. `attention_mask`, `[B, S]` of 0 and 1, hides padding where it is given.
    ///
    /// # Errors
    /// When `S` is beyond what is run, an id is outside the vocabulary, the mask has another shape, or the file has changed.
    pub fn forward(&self, input_ids: &Tensor, attention_mask: Option<&Tensor>) -> Result<Tensor> {
        let [batch, length] = input_ids.dims()?;
        if length == 0 || length > MAX_TOKENS {
            let detail = format!("has {length} tokens; the text encoder takes 1 to {MAX_TOKENS}");
            return Err(ModelError::request("prompt_ids", detail));
        }
        let vocab_size = self.config.vocab_size as i64;
        if let Some(bad) = input_ids.as_i64()?.iter().find(|id| !(0..vocab_size).contains(id)) {
            let detail = format!("has the id {bad}; the text encoder knows 0 to {}", vocab_size - 1);
            return Err(ModelError::request("prompt_ids", detail));
        }
        let mut hidden_states = self.embed_tokens()?.forward(input_ids)?;
        let bias = RelativePositionBias::load(
            &self.block(0).pp("layer.0.SelfAttention.relative_attention_bias"),
            &self.config,
        )?;
        let mut bias = bias.forward(length)?;
        if let Some(mask) = attention_mask {
            if mask.shape() != [batch, length] {
                let detail = format!("has shape {:?} for ids of {:?}", mask.shape(), input_ids.shape());
                return Err(ModelError::request("prompt_mask", detail));
            }
            bias = masked(&bias, mask, batch, length)?;
        }
        for n in 0..self.config.num_layers {
            hidden_states = match &self.kept {
                Some(layers) => layers[n].forward(&hidden_states, &bias)?,
                None => self.layer(n)?.forward(&hidden_states, &bias)?,
            };
        }
        let norm = self.weights.pp("encoder.final_layer_norm");
        let norm = RmsNorm::load(&norm, self.config.d_model, self.config.layer_norm_epsilon, true)?;
        Ok(norm.forward(&hidden_states)?)
    }

    fn embed_tokens(&self) -> Result<Embedding> {
        // The table has one of two names, or both.
        let name = if self.weights.contains("shared.weight") { "shared" } else { "encoder.embed_tokens" };
        Ok(Embedding::load(&self.weights.pp(name), self.config.vocab_size, self.config.d_model)?)
    }

    fn block(&self, n: usize) -> Weights {
        self.weights.pp("encoder.block").pp(n)
    }

    fn layer(&self, n: usize) -> Result<T5Block> {
        T5Block::load(&self.block(n), &self.config, self.feed_forward)
    }

    /// Checks the names and shapes of all tensors without reading one.
    fn check_tensors(&self) -> Result<()> {
        let c = &self.config;
        let inner = c.num_heads * c.d_kv;
        let table = if self.weights.contains("shared.weight") { "shared" } else { "encoder.embed_tokens" };
        self.weights.check_shape(&format!("{table}.weight"), &[c.vocab_size, c.d_model])?;
        self.weights.check_shape("encoder.final_layer_norm.weight", &[c.d_model])?;
        let into: &[&str] = if self.feed_forward.gated { &["wi_0", "wi_1"] } else { &["wi"] };
        for n in 0..c.num_layers {
            let (attention, dense) = (self.block(n).pp("layer.0"), self.block(n).pp("layer.1"));
            for name in ["q", "k", "v"] {
                attention.check_shape(&format!("SelfAttention.{name}.weight"), &[inner, c.d_model])?;
            }
            attention.check_shape("SelfAttention.o.weight", &[c.d_model, inner])?;
            attention.check_shape("layer_norm.weight", &[c.d_model])?;
            for name in into {
                dense.check_shape(&format!("DenseReluDense.{name}.weight"), &[c.d_ff, c.d_model])?;
            }
            dense.check_shape("DenseReluDense.wo.weight", &[c.d_model, c.d_ff])?;
            dense.check_shape("layer_norm.weight", &[c.d_model])?;
        }
        let buckets = [c.relative_attention_num_buckets, c.num_heads];
        self.block(0).check_shape("layer.0.SelfAttention.relative_attention_bias.weight", &buckets)?;
        let other_half = |name: &str| {
            ["decoder.", "lm_head.", "shared.", "encoder.embed_tokens."].iter().any(|p| name.starts_with(p))
        };
        Ok(self.weights.check_all_used(other_half)?)
    }
}

/// The bias `[1, heads, L, L]` with the padding of every batch hidden, `[B, heads, L, L]`.
fn masked(bias: &Tensor, mask: &Tensor, batch: usize, length: usize) -> Result<Tensor> {
    let (bias_values, mask) = (bias.as_f32()?, mask.to_dtype(DType::I64));
    let heads = bias.dim(1)?;
    let mut out = Vec::with_capacity(batch * bias_values.len());
    for seen in mask.as_i64()?.chunks_exact(length) {
        for row in bias_values.chunks_exact(length) {
            out.extend(row.iter().zip(seen).map(|(&bias, &seen)| if seen == 0 { MASKED } else { bias }));
        }
    }
    Ok(Tensor::from_vec(out, &[batch, heads, length, length])?)
}

struct T5Block {
    attention: T5LayerSelfAttention,
    feed_forward: T5LayerFF,
}

impl T5Block {
    fn load(weights: &Weights, config: &T5Config, feed_forward: FeedForward) -> Result<Self> {
        Ok(Self {
            attention: T5LayerSelfAttention::load(&weights.pp("layer.0"), config)?,
            feed_forward: T5LayerFF::load(&weights.pp("layer.1"), config, feed_forward)?,
        })
    }

    fn forward(&self, hidden_states: &Tensor, bias: &Tensor) -> Result<Tensor> {
        self.feed_forward.forward(&self.attention.forward(hidden_states, bias)?)
    }
}

struct T5LayerSelfAttention {
    layer_norm: RmsNorm,
    /// `q`, `k` and `v`, stacked.
    qkv: Linear,
    o: Linear,
    inner: usize,
    heads: usize,
}

impl T5LayerSelfAttention {
    fn load(weights: &Weights, config: &T5Config) -> Result<Self> {
        let (heads, width) = (config.num_heads, config.d_model);
        let inner = heads * config.d_kv;
        let attention = weights.pp("SelfAttention");
        let [q, k, v] = ["q", "k", "v"].map(|name| attention.pp(name));
        Ok(Self {
            layer_norm: RmsNorm::load(&weights.pp("layer_norm"), width, config.layer_norm_epsilon, true)?,
            qkv: Linear::load_stacked(&[&q, &k, &v], width, &[inner; 3], false)?,
            o: Linear::load(&attention.pp("o"), inner, width, false)?,
            inner,
            heads,
        })
    }

    fn forward(&self, hidden_states: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let normed = self.layer_norm.forward_to(hidden_states, self.qkv.dtype())?;
        let qkv = self.qkv.forward_to_attention(&normed)?;
        let [q, k, v] = [0, 1, 2].map(|n| Columns::of(&qkv, n * self.inner..(n + 1) * self.inner));
        // T5 does not scale its scores.
        let attended = multi_head_attention(q, k, v, self.heads, self.heads, Some(bias), false, Some(1.0))?;
        Ok(self.o.forward_residual(&attended, hidden_states)?)
    }
}

struct T5LayerFF {
    layer_norm: RmsNorm,
    wi: Wi,
    wo: Linear,
}

/// The matrices that widen.
enum Wi {
    /// `wi_1` are the values, `wi_0` the gates.
    Gated(GatedLinear, sango_tensor::Activation),
    /// A gate of which what is negative is cut off, which no product does on its way.
    GatedRelu(Linear, Linear),
    Plain(Linear, DenseAct),
}

impl T5LayerFF {
    fn load(weights: &Weights, config: &T5Config, feed_forward: FeedForward) -> Result<Self> {
        let (width, inner) = (config.d_model, config.d_ff);
        let dense = weights.pp("DenseReluDense");
        let linear = |name: &str| Linear::load(&dense.pp(name), width, inner, false);
        let wi = match feed_forward {
            FeedForward { gated: true, act: DenseAct::Other(act) } => {
                let layer = GatedLinear::load_split(&dense.pp("wi_1"), &dense.pp("wi_0"), width, inner, false)?;
                Wi::Gated(layer, act)
            }
            FeedForward { gated: true, act: DenseAct::Relu } => Wi::GatedRelu(linear("wi_1")?, linear("wi_0")?),
            FeedForward { gated: false, act } => Wi::Plain(linear("wi")?, act),
        };
        Ok(Self {
            layer_norm: RmsNorm::load(&weights.pp("layer_norm"), width, config.layer_norm_epsilon, true)?,
            wi,
            wo: Linear::load(&dense.pp("wo"), inner, width, false)?,
        })
    }

    fn forward(&self, hidden_states: &Tensor) -> Result<Tensor> {
        let normed = self.layer_norm.forward_to(hidden_states, self.wo.dtype())?;
        let relu = |x: Tensor| x.clamp(0.0, f32::INFINITY);
        let inner = match &self.wi {
            Wi::Gated(layer, act) => layer.forward_gated(&normed, *act)?,
            Wi::GatedRelu(value, gate) => value.forward(&normed)?.mul(&relu(gate.forward(&normed)?)?)?,
            Wi::Plain(layer, DenseAct::Relu) => relu(layer.forward(&normed)?)?,
            Wi::Plain(layer, DenseAct::Other(act)) => layer.forward_act_narrow(&normed, *act)?,
        };
        Ok(self.wo.forward_residual(&inner, hidden_states)?)
    }
}
