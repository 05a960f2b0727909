//! `SmolVLMForConditionalGeneration` of `modeling_smolvlm.py`.

use std::ops::ControlFlow;
use std::path::Path;

use sango_tensor::nn::Linear;
use sango_tensor::{Tensor, Weights};

use super::configuration::{CheckedConfig, SmolVLMConfig};
use super::connector::SmolVLMConnector;
use super::generation_config::GenerationConfig;
use super::vision::{PatchMask, SmolVLMVisionTransformer};
use crate::LoadOptions;
use crate::error::{ModelError, Result};
use crate::llama::{LlamaCache, LlamaModel, Step};
use crate::lora::Adapter;

/// Patches that go through the vision tower together: enough to fill the products, few enough to keep memory small and
/// to notice soon that nobody waits any more.
const PATCHES_AT_ONCE: usize = 2048;
/// Positions that go through the decoder together, for the same reasons.
const POSITIONS_AT_ONCE: usize = 512;
/// The head, and the token table that is in its place where they are tied.
const HEAD: &str = "lm_head.weight";
const HEAD_AT: &str = "lm_head";
const TABLE: &str = "model.text_model.embed_tokens.weight";
const TABLE_AT: &str = "model.text_model.embed_tokens";

/// The vision tower, the connector and the decoder with its head. Running it changes nothing in it, so that one is
/// shared by any number of threads.
pub struct SmolVLMForConditionalGeneration {
    vision_model: SmolVLMVisionTransformer,
    connector: SmolVLMConnector,
    text_model: LlamaModel,
    lm_head: Linear,
    config: SmolVLMConfig,
    generation_config: GenerationConfig,
    parameters: usize,
}

impl SmolVLMForConditionalGeneration {
    /// Loads `config.json`, `generation_config.json` and `model.safetensors` (or its shards) from `dir`.
    ///
    /// # Errors
    /// When the configuration is not supported, or a tensor is missing or has another shape.
    pub fn load(dir: impl AsRef<Path>, options: &LoadOptions) -> Result<Self> {
        let dir = dir.as_ref();
        let checked = CheckedConfig::read(dir)?;
        let generation_config = GenerationConfig::read(dir)?;
        let published = Weights::open(dir, "model")?.with_dtype(options.dtype);
        let parameters = published.parameter_count();
        // A tied head that is in the file all the same is used as it is there, as `from_pretrained` does.
        let tied = checked.tie_word_embeddings && !published.contains(HEAD);
        let mut head = published.clone();
        let mut weights = published;
        if let Some(dir) = &options.lora {
            let mut adapter = Adapter::read(dir)?;
            // What is learned on a tied head or on its table alone is not shared with the other.
            if let Some(patch) = tied.then(|| adapter.take(HEAD)).flatten() {
                head = head.with_patches([(TABLE.to_owned(), patch)].into())?;
            }
            weights = adapter.apply(&weights)?;
        }
        let head = if tied { head.pp(TABLE_AT) } else { weights.pp(HEAD_AT) };
        let model = weights.pp("model");
        let (vision_config, vision_activation) = checked.vision;
        let (vision_width, text_width) = (vision_config.hidden_size, checked.text.config.hidden_size);
        let text_config = checked.text.config.clone();
        let config = SmolVLMConfig {
            vision_config: vision_config.clone(),
            text_config,
            scale_factor: checked.scale_factor,
            image_token_id: checked.image_token_id,
            tie_word_embeddings: checked.tie_word_embeddings,
        };
        let vision_model = SmolVLMVisionTransformer::load(&model.pp("vision_model"), vision_config, vision_activation)?;
        let connector = SmolVLMConnector::load(&model.pp("connector"), config.scale_factor, vision_width, text_width)?;
        // The tower and the connector are bound by arithmetic, of which int8 weights make no less.
        let small = |weights: Weights| if options.int8 { weights.with_int8_linears() } else { weights };
        let text_model = LlamaModel::load(&small(model.pp("text_model")), checked.text)?;
        let lm_head = Linear::load(&small(head), text_width, config.text_config.vocab_size, false)?;
        weights.check_all_used(|name| name.ends_with("position_ids") || name.ends_with("rotary_emb.inv_freq"))?;
        Ok(Self { vision_model, connector, text_model, lm_head, config, generation_config, parameters })
    }

    /// The configuration that was read.
    pub fn config(&self) -> &SmolVLMConfig {
        &self.config
    }

    /// How the folder wants text to be generated.
    pub fn generation_config(&self) -> &GenerationConfig {
        &self.generation_config
    }

    /// Number of parameters.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// The decoder.
    pub fn text_model(&self) -> &LlamaModel {
        &self.text_model
    }

    /// What the decoder is given for pictures: `pixel_values` `[N, 3, H, W]` and optionally `pixel_attention_mask`
    /// `[N, H, W]` (bytes, integers or floats; 0 is padding) → `[N, tokens, hidden_size]`. Pictures are computed a few
    /// at a time; after each few `progress(done, N)` is called and may stop the rest.
    ///
    /// # Errors
    /// [`ModelError::Request`] when the shapes do not fit, [`ModelError::Cancelled`] when `progress` says so.
    pub fn get_image_features(
        &self,
        pixel_values: &Tensor,
        pixel_attention_mask: Option<&Tensor>,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Tensor> {
        let &[n, channels, height, width] = pixel_values.shape() else {
            let detail = format!("has shape {:?}; it must be [pictures, 3, height, width]", pixel_values.shape());
            return Err(ModelError::request("pixel_values", detail));
        };
        if n == 0 || channels != self.config.vision_config.num_channels {
            let detail = format!("has shape {:?}; it must be [pictures, 3, height, width]", pixel_values.shape());
            return Err(ModelError::request("pixel_values", detail));
        }
        let tokens = self.config.image_tokens(height, width)?;
        let masks = self.patch_masks(pixel_attention_mask, [n, height, width])?;
        let at_once = self.pictures_at_once((height, width));
        let mut parts = Vec::with_capacity(n.div_ceil(at_once));
        for start in (0..n).step_by(at_once) {
            let count = at_once.min(n - start);
            let hidden_states =
                self.vision_model.forward(&pixel_values.narrow(0, start, count)?, &masks[start..start + count])?;
            parts.push(self.connector.forward(&hidden_states)?);
            if progress(start + count, n).is_break() {
                return Err(ModelError::Cancelled);
            }
        }
        let features = Tensor::cat(&parts.iter().collect::<Vec<_>>(), 0)?;
        debug_assert_eq!(features.shape()[1], tokens);
        Ok(features)
    }

    /// How many pictures of (height, width) go through the vision tower together.
    pub fn pictures_at_once(&self, (height, width): (usize, usize)) -> usize {
        let patch = self.config.vision_config.patch_size;
        (PATCHES_AT_ONCE / ((height / patch) * (width / patch)).max(1)).max(1)
    }

    fn patch_masks(&self, mask: Option<&Tensor>, [n, height, width]: [usize; 3]) -> Result<Vec<PatchMask>> {
        let patch = self.config.vision_config.patch_size;
        let Some(mask) = mask else {
            return Ok((0..n).map(|_| PatchMask::full(height / patch, width / patch)).collect());
        };
        if mask.shape() != [n, height, width] {
            let detail = format!("has shape {:?}; it must be [{n}, {height}, {width}]", mask.shape());
            return Err(ModelError::request("pixel_attention_mask", detail));
        }
        let mask = mask.to_dtype(sango_tensor::DType::F32);
        let real: Vec<bool> = mask.as_f32()?.iter().map(|&x| x != 0.0).collect();
        let pictures = real.chunks_exact(height * width);
        Ok(pictures.map(|real| PatchMask::from_pixels(real, (height, width), patch)).collect())
    }

    /// Embeddings of `ids`, `[1, L, hidden_size]`, with the rows of `image_features` (`[rows, hidden_size]`, from the
    /// first) in the place of image tokens. Without features, image tokens are tokens like others.
    ///
    /// # Errors
    /// [`ModelError::Request`] when an id is not in the vocabulary or there are more or fewer image tokens than rows.
    pub fn embed(&self, ids: &[u32], image_features: Option<&Tensor>) -> Result<Tensor> {
        let ids_tensor = Tensor::from_i64(ids.iter().map(|&id| i64::from(id)).collect(), &[1, ids.len()])?;
        let embeddings = self.text_model.embed(&ids_tensor)?;
        let Some(features) = image_features else { return Ok(embeddings) };
        let [rows, width] = features.dims()?;
        let places = ids.iter().filter(|&&id| id == self.config.image_token_id).count();
        if places != rows || width != self.config.text_config.hidden_size {
            let detail = format!("has {places} image tokens, but the pictures make {rows}");
            return Err(ModelError::request("input_ids", detail));
        }
        let mut merged = embeddings.as_f32()?.to_vec();
        let mut features = features.as_f32()?.chunks_exact(width);
        for (row, _) in merged.chunks_exact_mut(width).zip(ids).filter(|(_, id)| **id == self.config.image_token_id) {
            row.copy_from_slice(features.next().expect("as many as there are places"));
        }
        Ok(Tensor::from_vec(merged, &[1, ids.len(), width])?)
    }

    /// Logits of every one of the `L` positions `[1, L, hidden_size]`, as from an empty cache: `[1, L, vocab_size]`.
    ///
    /// # Errors
    /// When shapes do not fit.
    pub fn forward(&self, inputs_embeds: &Tensor) -> Result<Tensor> {
        let [_, length, _] = inputs_embeds.dims()?;
        let mut cache = self.text_model.cache(length)?;
        let positions: Vec<u32> = (0..length as u32).collect();
        let step = Step { positions: &positions, length, mask: None };
        Ok(self.lm_head.forward(&self.text_model.forward(inputs_embeds, &step, &mut cache, length)?)?)
    }

    /// Runs a prompt `[1, L, hidden_size]` after what is in `cache`, a part at a time, and returns the logits of its last
    /// position. After each part `progress(done, L)` is called and may stop the rest; what is done stays in the cache.
    ///
    /// # Errors
    /// [`ModelError::Cancelled`] when `progress` says so, and when shapes do not fit or the cache has no room.
    pub fn prefill(
        &self,
        inputs_embeds: &Tensor,
        cache: &mut LlamaCache,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Tensor> {
        let [_, length, _] = inputs_embeds.dims()?;
        let whole = cache.len() + length;
        let mut last = None;
        for start in (0..length).step_by(POSITIONS_AT_ONCE) {
            let count = POSITIONS_AT_ONCE.min(length - start);
            let from = cache.len() as u32;
            let positions: Vec<u32> = (from..from + count as u32).collect();
            let step = Step { positions: &positions, length: whole, mask: None };
            last = Some(self.text_model.forward(&inputs_embeds.narrow(1, start, count)?, &step, cache, 1)?);
            if progress(start + count, length).is_break() {
                return Err(ModelError::Cancelled);
            }
        }
        let last = last.ok_or_else(|| ModelError::request("input_ids", "is empty; there is nothing to continue"))?;
        Ok(self.lm_head.forward(&last)?)
    }

    /// Logits after one more token.
    ///
    /// # Errors
    /// When the id is not in the vocabulary or the cache has no room.
    pub fn decode(&self, token: u32, cache: &mut LlamaCache) -> Result<Tensor> {
        let position = cache.len() as u32;
        self.step(&self.embed(&[token], None)?, &[position], cache.len() + 1, None, cache)
    }

    /// Logits after positions that are given one by one, with what they see.
    pub(super) fn step(
        &self,
        inputs_embeds: &Tensor,
        positions: &[u32],
        length: usize,
        mask: Option<&Tensor>,
        cache: &mut LlamaCache,
    ) -> Result<Tensor> {
        let step = Step { positions, length, mask };
        Ok(self.lm_head.forward(&self.text_model.forward(inputs_embeds, &step, cache, 1)?)?)
    }
}
