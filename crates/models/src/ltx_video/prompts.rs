//! Prompts as the transformer takes them: the text encoder's states, kept by what they were made of.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use sango_tensor::{DType, Tensor};

use super::request::LTXVideoPrompt;
use crate::LoadOptions;
use crate::error::{ModelError, Result};
use crate::t5::{T5EncoderModel, T5Tokenizer};

/// The text encoder with its tokenizer, either of which may be missing.
pub(super) struct Prompts {
    tokenizer: Option<T5Tokenizer>,
    encoder_dir: Option<PathBuf>,
    options: LoadOptions,
    encoder: Mutex<Option<Arc<T5EncoderModel>>>,
    kept: Mutex<Kept>,
    /// What the transformer's captions must be wide.
    caption_channels: usize,
}

/// States `[1, S, D]` with their mask, i64 `[1, S]`.
#[derive(Debug, Clone)]
pub(super) struct PromptEmbeds {
    pub(super) embeds: Tensor,
    pub(super) mask: Tensor,
}

/// What states were made of: ids, mask, and whether the encoder saw padding.
type Key = (Vec<i64>, Vec<i64>, bool);

/// The states that were needed last, within a budget.
#[derive(Default)]
struct Kept {
    entries: VecDeque<(Key, Tensor)>,
    bytes: usize,
}

impl Prompts {
    pub(super) fn new(
        tokenizer: Option<T5Tokenizer>,
        encoder_dir: Option<PathBuf>,
        options: &LoadOptions,
        caption_channels: usize,
    ) -> Self {
        Self {
            tokenizer,
            encoder_dir,
            options: options.clone(),
            encoder: Mutex::default(),
            kept: Mutex::default(),
            caption_channels,
        }
    }

    /// The text encoder, if the folder has one.
    pub(super) fn encoder(&self) -> Result<Option<Arc<T5EncoderModel>>> {
        let Some(dir) = &self.encoder_dir else { return Ok(None) };
        let mut slot = self.encoder.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(encoder) = &*slot {
            return Ok(Some(encoder.clone()));
        }
        let encoder = Arc::new(T5EncoderModel::load(dir, &self.options)?);
        let width = encoder.config().d_model;
        if width != self.caption_channels {
            let detail = format!("is {width}, but the transformer's caption_channels is {}", self.caption_channels);
            return Err(ModelError::Config { path: dir.join("config.json"), field: "d_model", detail });
        }
        *slot = Some(encoder.clone());
        Ok(Some(encoder))
    }

    /// Checks what can be checked without work.
    pub(super) fn check(&self, field: &'static str, prompt: &LTXVideoPrompt) -> Result<()> {
        let refuse = |detail: String| Err(ModelError::request(field, detail));
        match prompt {
            LTXVideoPrompt::Text(text) => {
                let chars = text.chars().count();
                if field == "prompt" && text.trim().is_empty() {
                    return refuse("is empty; say what the video should show".into());
                }
                if chars > MAX_PROMPT_CHARS {
                    return refuse(format!("has {chars} characters; at most {MAX_PROMPT_CHARS} are taken"));
                }
                if self.tokenizer.is_none() {
                    return refuse("is text, but the model has no `tokenizer`; give ids or embeddings".into());
                }
                if self.encoder_dir.is_none() {
                    return refuse("is text, but the model has no `text_encoder`; give embeddings".into());
                }
            }
            LTXVideoPrompt::Ids { ids, mask } => {
                if self.encoder_dir.is_none() {
                    return refuse("is ids, but the model has no `text_encoder`; give embeddings".into());
                }
                let fits = matches!(*ids.shape(), [1, length] if length > 0) && mask.shape() == ids.shape();
                if !fits || ids.dtype() != DType::I64 {
                    let shapes = format!("{:?} and {:?}", ids.shape(), mask.shape());
                    return refuse(format!("has ids and a mask of {shapes}; both must be whole numbers [1, S]"));
                }
            }
            LTXVideoPrompt::Embeds { embeds, mask } => {
                let fits = matches!(*embeds.shape(), [1, length, width]
                    if length > 0 && width == self.caption_channels && *mask.shape() == [1, length]);
                if !fits || embeds.dtype() != DType::F32 {
                    let shapes = format!("{:?} and {:?}", embeds.shape(), mask.shape());
                    let detail = format!("has embeddings and a mask of {shapes}; they must be");
                    return refuse(format!("{detail} [1, S, {}] and [1, S]", self.caption_channels));
                }
                if !embeds.as_f32()?.iter().all(|x| x.is_finite()) {
                    return refuse("has embeddings that are not numbers".into());
                }
            }
        }
        Ok(())
    }

    /// How many tokens the prompt has.
    pub(super) fn tokens(prompt: &LTXVideoPrompt, length: usize) -> usize {
        match prompt {
            LTXVideoPrompt::Text(_) => length,
            LTXVideoPrompt::Ids { mask, .. } | LTXVideoPrompt::Embeds { mask, .. } => mask.numel(),
        }
    }

    /// The states of a prompt of `length` tokens. `masked` keeps the text encoder from seeing the padding.
    pub(super) fn encode(&self, prompt: &LTXVideoPrompt, length: usize, masked: bool) -> Result<PromptEmbeds> {
        let (ids, mask) = match prompt {
            LTXVideoPrompt::Embeds { embeds, mask } => {
                return Ok(PromptEmbeds { embeds: embeds.clone(), mask: mask.to_dtype(DType::I64) });
            }
            LTXVideoPrompt::Ids { ids, mask } => (ids.as_i64()?.to_vec(), mask.to_dtype(DType::I64).as_i64()?.to_vec()),
            LTXVideoPrompt::Text(text) => {
                let Some(tokenizer) = &self.tokenizer else {
                    return Err(ModelError::request("prompt", "is text, but the model has no `tokenizer`"));
                };
                let encoding = tokenizer.encode(text, length)?;
                (encoding.ids, encoding.mask)
            }
        };
        let length = ids.len();
        let mask_tensor = Tensor::from_i64(mask.clone(), &[1, length])?;
        let key = (ids, mask, masked);
        if let Some(embeds) = self.lock().get(&key) {
            return Ok(PromptEmbeds { embeds, mask: mask_tensor });
        }
        let Some(encoder) = self.encoder()? else {
            return Err(ModelError::request("prompt", "is text, but the model has no `text_encoder`"));
        };
        let ids = Tensor::from_i64(key.0.clone(), &[1, length])?;
        let embeds = encoder.forward(&ids, masked.then_some(&mask_tensor))?;
        self.lock().keep(key, &embeds, self.options.cache_bytes);
        Ok(PromptEmbeds { embeds, mask: mask_tensor })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Far longer prompts are a mistake that should not pass silently.
const MAX_PROMPT_CHARS: usize = 16_384;

impl Kept {
    fn get(&mut self, key: &Key) -> Option<Tensor> {
        let at = self.entries.iter().position(|(known, _)| known == key)?;
        let entry = self.entries.remove(at)?;
        let embeds = entry.1.clone();
        self.entries.push_back(entry);
        Some(embeds)
    }

    /// Keeps `embeds`, and gives up what was needed longest ago until all fit in `budget` bytes.
    fn keep(&mut self, key: Key, embeds: &Tensor, budget: usize) {
        if embeds.numel() * 4 > budget || self.get(&key).is_some() {
            return;
        }
        self.bytes += embeds.numel() * 4;
        self.entries.push_back((key, embeds.clone()));
        while self.bytes > budget {
            let Some((_, oldest)) = self.entries.pop_front() else { break };
            self.bytes -= oldest.numel() * 4;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_needed_longest_ago_goes_first() {
        let key = |id| (vec![id], vec![1], false);
        let embeds = Tensor::zeros(&[1, 1, 4]).expect("zeros");
        let mut kept = Kept::default();
        for id in 0..3 {
            kept.keep(key(id), &embeds, 40);
        }
        assert!(kept.get(&key(0)).is_none() && kept.get(&key(1)).is_some());
        kept.keep(key(3), &embeds, 40);
        assert!(kept.get(&key(1)).is_some() && kept.get(&key(2)).is_none(), "asking for it made 1 the younger");
        kept.keep(key(4), &embeds, 8);
        assert_eq!(kept.bytes, 32, "what is larger than the budget is not kept");
    }
}
