//! The text encoder. Follows `transformers/models/clip/modeling_clip.py`.

use std::path::Path;

use sango_tensor::nn::{Embedding, LayerNorm, Linear};
use sango_tensor::ops::{Columns, multi_head_attention};
use sango_tensor::{Activation, DType, Tensor, Weights};

use super::CLIPTextConfig;
use crate::error::{ModelError, Result};

/// What the encoder says about a batch of prompts.
#[derive(Debug, Clone)]
pub struct CLIPTextModelOutput {
    /// `[B, projection_dim]`: the last layer's state at the end-of-text token, normalised and projected.
    pub text_embeds: Tensor,
    /// `[B, S, hidden_size]`: what goes into the last layer (`hidden_states[-2]`).
    pub penultimate_hidden_state: Tensor,
}

/// CLIP's text transformer with the projection into the space shared with images.
pub struct CLIPTextModelWithProjection {
    token_embedding: Embedding,
    position_embedding: Tensor,
    layers: Vec<CLIPEncoderLayer>,
    final_layer_norm: LayerNorm,
    text_projection: Linear,
    config: CLIPTextConfig,
    parameters: usize,
}

impl CLIPTextModelWithProjection {
    /// Loads `config.json` and `model.safetensors` (or its shards) from `dir`.
    ///
    /// # Errors
    /// When the configuration is not supported, or a tensor is missing or has another shape.
    pub fn load(dir: &Path, dtype: DType) -> Result<Self> {
        let (config, activation) = CLIPTextConfig::read(&dir.join("config.json"))?;
        let weights = Weights::open(dir, "model")?.with_dtype(dtype);
        let text_model = weights.pp("text_model");
        let embeddings = text_model.pp("embeddings");
        let hidden_size = config.hidden_size;
        let layers = (0..config.num_hidden_layers)
            .map(|n| CLIPEncoderLayer::load(&text_model.pp("encoder.layers").pp(n), &config, activation))
            .collect::<Result<_>>()?;
        let model = Self {
            token_embedding: Embedding::load(&embeddings.pp("token_embedding"), config.vocab_size, hidden_size)?,
            position_embedding: embeddings
                .pp("position_embedding")
                .get_f32("weight", &[config.max_position_embeddings, hidden_size])?,
            layers,
            final_layer_norm: LayerNorm::load(&text_model.pp("final_layer_norm"), hidden_size, config.layer_norm_eps)?,
            text_projection: Linear::load(&weights.pp("text_projection"), hidden_size, config.projection_dim, false)?,
            parameters: weights.parameter_count(),
            config,
        };
        weights.check_all_used(|name| name.ends_with("position_ids"))?;
        Ok(model)
    }

    /// The configuration that was read.
    pub fn config(&self) -> &CLIPTextConfig {
        &self.config
    }

    /// Number of parameters.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// Encodes `input_ids` `[B, S]`.
    ///
    /// # Errors
    /// When `S` exceeds `max_position_embeddings` or an id is outside the vocabulary.
    pub fn forward(&self, input_ids: &Tensor) -> Result<CLIPTextModelOutput> {
        let [batch, length] = input_ids.dims()?;
        let longest = self.config.max_position_embeddings;
        if length == 0 || length > longest {
            let detail = format!("has {length} tokens; the text encoder takes 1 to {longest}");
            return Err(ModelError::request("prompt_ids", detail));
        }
        let tokens = self.token_embedding.forward(input_ids)?;
        let mut hidden_states = tokens.add(&self.position_embedding.narrow(0, 0, length)?)?;
        let mut penultimate_hidden_state = hidden_states.clone();
        for layer in &self.layers {
            penultimate_hidden_state = hidden_states;
            hidden_states = layer.forward(&penultimate_hidden_state)?;
        }
        let rows = input_ids.as_i64()?.chunks_exact(length).enumerate();
        let pooled_rows = rows.map(|(b, ids)| (b * length + self.pooled_position(ids)) as i64).collect();
        let pooled = hidden_states
            .reshape(&[batch * length, self.config.hidden_size])?
            .index_select(0, &Tensor::from_i64(pooled_rows, &[batch])?)?;
        let text_embeds = self.text_projection.forward(&self.final_layer_norm.forward(&pooled)?)?;
        Ok(CLIPTextModelOutput { text_embeds, penultimate_hidden_state })
    }

    /// Where the pooled state is taken from: the first end-of-text token (the first token where there is none), or,
    /// for configurations from before transformers #24773 that say 2, the first of the highest ids.
    fn pooled_position(&self, ids: &[i64]) -> usize {
        let eos = self.config.eos_token_id;
        if eos == 2 {
            let highest = ids.iter().max();
            return ids.iter().position(|id| Some(id) == highest).unwrap_or(0);
        }
        ids.iter().position(|&id| id == eos).unwrap_or(0)
    }
}

struct CLIPEncoderLayer {
    layer_norm1: LayerNorm,
    self_attn: CLIPAttention,
    layer_norm2: LayerNorm,
    mlp: CLIPMLP,
}

impl CLIPEncoderLayer {
    fn load(weights: &Weights, config: &CLIPTextConfig, activation: Activation) -> Result<Self> {
        let norm = |name: &str| LayerNorm::load(&weights.pp(name), config.hidden_size, config.layer_norm_eps);
        Ok(Self {
            layer_norm1: norm("layer_norm1")?,
            self_attn: CLIPAttention::load(&weights.pp("self_attn"), config)?,
            layer_norm2: norm("layer_norm2")?,
            mlp: CLIPMLP::load(&weights.pp("mlp"), config, activation)?,
        })
    }

    fn forward(&self, hidden_states: &Tensor) -> Result<Tensor> {
        let hidden_states = self.self_attn.forward(&self.layer_norm1.forward(hidden_states)?, hidden_states)?;
        self.mlp.forward(&self.layer_norm2.forward(&hidden_states)?, &hidden_states)
    }
}

struct CLIPAttention {
    /// `q_proj`, `k_proj` and `v_proj`, stacked.
    qkv_proj: Linear,
    out_proj: Linear,
    width: usize,
    num_heads: usize,
}

impl CLIPAttention {
    fn load(weights: &Weights, config: &CLIPTextConfig) -> Result<Self> {
        let width = config.hidden_size;
        let [q, k, v] = ["q_proj", "k_proj", "v_proj"].map(|name| weights.pp(name));
        Ok(Self {
            qkv_proj: Linear::load_stacked(&[&q, &k, &v], width, &[width; 3], true)?,
            out_proj: Linear::load(&weights.pp("out_proj"), width, width, true)?,
            width,
            num_heads: config.num_attention_heads,
        })
    }

    fn forward(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let qkv = self.qkv_proj.forward_to_attention(x)?;
        let [q, k, v] = [0, 1, 2].map(|n| Columns::of(&qkv, n * self.width..(n + 1) * self.width));
        let attended = multi_head_attention(q, k, v, self.num_heads, self.num_heads, None, true, None)?;
        Ok(self.out_proj.forward_residual(&attended, residual)?)
    }
}

#[expect(clippy::upper_case_acronyms, reason = "the name in transformers")]
struct CLIPMLP {
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
}

impl CLIPMLP {
    fn load(weights: &Weights, config: &CLIPTextConfig, activation: Activation) -> Result<Self> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        Ok(Self {
            fc1: Linear::load(&weights.pp("fc1"), width, inner, true)?,
            fc2: Linear::load(&weights.pp("fc2"), inner, width, true)?,
            activation,
        })
    }

    fn forward(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        Ok(self.fc2.forward_residual(&self.fc1.forward_act(x, self.activation)?, residual)?)
    }
}
