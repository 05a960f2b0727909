//! SmolVLM2: pictures and videos in, text out.
//!
//! Follows `transformers/models/smolvlm` (`SmolVLMConfig`, `SmolVLMForConditionalGeneration`) and, for generation,
//! `transformers/generation`.

mod configuration;
mod connector;
mod generation;
mod generation_config;
mod logits_process;
mod modeling;
pub(crate) mod parity;
mod vision;

pub use configuration::{SmolVLMConfig, SmolVLMVisionConfig};
pub use generation::{FinishReason, Generated};
pub use generation_config::{GenerationConfig, SamplingParams};
pub use logits_process::LogitsProcessor;
pub use modeling::SmolVLMForConditionalGeneration;
