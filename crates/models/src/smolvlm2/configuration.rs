//! `config.json`.

use std::path::Path;

use sango_tensor::Activation;
use serde::Deserialize;
use serde_json::Value;

use crate::config::{Config, activation, from_value, read_json};
use crate::error::{ModelError, Result};
use crate::llama::{Checked, LlamaConfig};

/// The sizes of the vision tower; names and defaults are those of `transformers.SmolVLMVisionConfig`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct SmolVLMVisionConfig {
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width of the feed-forward layers.
    pub intermediate_size: usize,
    /// Encoder layers.
    pub num_hidden_layers: usize,
    /// Attention heads per layer.
    pub num_attention_heads: usize,
    /// Channels of a picture.
    pub num_channels: usize,
    /// Side of the pictures that the position table was made for, in pixels.
    pub image_size: usize,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Activation of the feed-forward layers.
    pub hidden_act: String,
    /// Epsilon of the norms.
    pub layer_norm_eps: f32,
}

impl Default for SmolVLMVisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 1152,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 16,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            hidden_act: "gelu_pytorch_tanh".into(),
            layer_norm_eps: 1e-6,
        }
    }
}

impl SmolVLMVisionConfig {
    /// Patches along a side of the pictures that the position table was made for.
    pub fn patches_per_side(&self) -> usize {
        self.image_size / self.patch_size
    }

    fn read(path: &Path, json: Value) -> Result<(Self, Activation)> {
        let config = Config { path: path.to_owned(), value: from_value::<Self>(path, json)? };
        let c = &config.value;
        config.positive("num_attention_heads", c.num_attention_heads)?;
        config.multiple("hidden_size", c.hidden_size, "num_attention_heads", c.num_attention_heads)?;
        if c.hidden_size / c.num_attention_heads > 256 {
            return Err(config.error("hidden_size", "makes heads wider than 256"));
        }
        config.positive("intermediate_size", c.intermediate_size)?;
        config.positive("num_hidden_layers", c.num_hidden_layers)?;
        config.equal("num_channels", c.num_channels, "the number of colours", 3)?;
        config.positive("patch_size", c.patch_size)?;
        if !(c.patch_size..=1 << 14).contains(&c.image_size) {
            let detail =
                format!("is {}; it must be between patch_size ({}) and {}", c.image_size, c.patch_size, 1 << 14);
            return Err(config.error("image_size", detail));
        }
        config.eps("layer_norm_eps", c.layer_norm_eps)?;
        let activation = activation(&c.hidden_act).map_err(|detail| config.error("hidden_act", detail))?;
        Ok((config.value, activation))
    }
}

/// The sizes of a SmolVLM; names and defaults are those of `transformers.SmolVLMConfig`.
#[derive(Debug, Clone)]
pub struct SmolVLMConfig {
    /// The vision tower.
    pub vision_config: SmolVLMVisionConfig,
    /// The decoder.
    pub text_config: LlamaConfig,
    /// Patches along a side that become one token.
    pub scale_factor: usize,
    /// The placeholder that each token of a picture replaces.
    pub image_token_id: u32,
    /// Whether the head is the token table.
    pub tie_word_embeddings: bool,
}

/// The keys at the top level.
#[derive(Deserialize)]
#[serde(default)]
struct TopLevel {
    scale_factor: usize,
    image_token_id: usize,
    tie_word_embeddings: bool,
    text_config: Option<Value>,
    vision_config: Option<Value>,
}

impl Default for TopLevel {
    fn default() -> Self {
        Self {
            scale_factor: 2,
            image_token_id: 128_257,
            tie_word_embeddings: false,
            text_config: None,
            vision_config: None,
        }
    }
}

/// A checked configuration with what follows from it.
pub(super) struct CheckedConfig {
    pub(super) vision: (SmolVLMVisionConfig, Activation),
    pub(super) text: Checked,
    pub(super) scale_factor: usize,
    pub(super) image_token_id: u32,
    pub(super) tie_word_embeddings: bool,
}

impl CheckedConfig {
    /// Reads and checks `config.json` in `dir`.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let path = &dir.join("config.json");
        let config = Config::<TopLevel>::read_class(path, "SmolVLMForConditionalGeneration")?;
        let top = &config.value;
        let text = match &top.text_config {
            Some(json) => json.clone(),
            // Without any text_config the reference's default differs from Llama's in this.
            None => serde_json::json!({ "rms_norm_eps": 1e-5 }),
        };
        let vision = top.vision_config.clone().unwrap_or_else(|| serde_json::json!({}));
        for (field, json) in [("text_config", &text), ("vision_config", &vision)] {
            if !json.is_object() {
                return Err(config.error(field, format!("is {json}; it must be an object")));
            }
        }
        config.positive("scale_factor", top.scale_factor)?;
        let text = LlamaConfig::read(path, text)?;
        let vocabulary = text.config.vocab_size;
        let image_token_id = u32::try_from(top.image_token_id).ok().filter(|&id| (id as usize) < vocabulary);
        let Some(image_token_id) = image_token_id else {
            let detail = format!("is {}, which is not in the vocabulary of {vocabulary}", top.image_token_id);
            return Err(config.error("image_token_id", detail));
        };
        Ok(Self {
            vision: SmolVLMVisionConfig::read(path, vision)?,
            text,
            scale_factor: top.scale_factor,
            image_token_id,
            tie_word_embeddings: top.tie_word_embeddings,
        })
    }
}

impl SmolVLMConfig {
    /// Tokens of a picture of `height` × `width` pixels.
    ///
    /// # Errors
    /// [`ModelError::Request`] when the connector cannot shuffle its patches: they must be a square number, whose root is
    /// a multiple of `scale_factor`.
    pub fn image_tokens(&self, height: usize, width: usize) -> Result<usize> {
        let patch = self.vision_config.patch_size;
        let patches = (height / patch) * (width / patch);
        let side = patches.isqrt();
        if patches == 0 || side * side != patches || !side.is_multiple_of(self.scale_factor) {
            let detail = format!(
                "has pictures of {height}×{width}, whose {patches} patches of {patch}×{patch} are not the square of a \
                 multiple of {}",
                self.scale_factor
            );
            return Err(ModelError::request("pixel_values", detail));
        }
        Ok(patches / (self.scale_factor * self.scale_factor))
    }
}

/// `config.json` as it is, for what other parts read from it.
pub(super) fn raw(dir: &Path) -> Result<Value> {
    read_json(&dir.join("config.json"))
}
