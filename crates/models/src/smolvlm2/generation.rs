//! The loop of `generate`: a token is chosen, shown, and run through the decoder, until something ends it.

use std::ops::ControlFlow;

use sango_tensor::Tensor;

use super::logits_process::LogitsProcessor;
use super::modeling::SmolVLMForConditionalGeneration;
use crate::error::{ModelError, Result};
use crate::llama::LlamaCache;

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// A token or string that ends answers came.
    Stop,
    /// The answer is as long as it may be.
    Length,
    /// Whoever asked wants no more.
    Cancelled,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Generated {
    /// Its tokens, with the one that ended it.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

impl SmolVLMForConditionalGeneration {
    /// Continues `ids`, whose logits are `logits` (`[1, 1, vocab_size]`) and which are in `cache`, by at most
    /// `max_new_tokens`. `on_token(token, index)` is called for each new token before it is run, but for one that ends the
    /// answer; it may stop the rest.
    ///
    /// # Errors
    /// [`ModelError::NotFinite`] when logits are not numbers, and when the cache has no room.
    pub fn generate(
        &self,
        ids: &[u32],
        logits: Tensor,
        cache: &mut LlamaCache,
        processor: &mut LogitsProcessor,
        max_new_tokens: usize,
        on_token: &mut dyn FnMut(u32, usize) -> ControlFlow<FinishReason>,
    ) -> Result<Generated> {
        self.continue_with(ids, logits, processor, max_new_tokens, on_token, &mut |token| self.decode(token, cache))
    }

    /// [`Self::generate`] with another way to the logits after a token.
    pub(super) fn continue_with(
        &self,
        ids: &[u32],
        logits: Tensor,
        processor: &mut LogitsProcessor,
        max_new_tokens: usize,
        on_token: &mut dyn FnMut(u32, usize) -> ControlFlow<FinishReason>,
        decode: &mut dyn FnMut(u32) -> Result<Tensor>,
    ) -> Result<Generated> {
        let mut ids = ids.to_vec();
        let mut tokens = Vec::new();
        let mut logits = logits;
        let ends = &self.generation_config().eos_token_id;
        loop {
            if tokens.len() >= max_new_tokens {
                return Ok(Generated { tokens, finish_reason: FinishReason::Length });
            }
            let mut scores = logits.as_f32()?.to_vec();
            // The largest alone is enough to see: what is not a number spreads through every layer.
            if !scores.iter().copied().fold(f32::NAN, f32::max).is_finite() || scores.iter().any(|x| x.is_nan()) {
                return Err(ModelError::NotFinite { step: tokens.len() + 1 });
            }
            let token = processor.next(&ids, &mut scores);
            ids.push(token);
            tokens.push(token);
            if ends.contains(&token) {
                return Ok(Generated { tokens, finish_reason: FinishReason::Stop });
            }
            if let ControlFlow::Break(finish_reason) = on_token(token, tokens.len() - 1) {
                return Ok(Generated { tokens, finish_reason });
            }
            if tokens.len() < max_new_tokens {
                logits = decode(token)?;
            }
        }
    }
}
