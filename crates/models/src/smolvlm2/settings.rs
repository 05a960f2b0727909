//! What a model folder says about requests, without its weights and its tokenizer.

use std::path::Path;

use super::configuration::CheckedConfig;
use super::generation_config::{GenerationConfig, SamplingParams};
use super::pipeline::MAX_NEW_TOKENS;
use super::video_processing::SmolVLMVideoProcessor;
use crate::error::Result;

/// What a request gets that does not say otherwise.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SmolVLMSettings {
    /// The most frames of a video; `None` where the folder wants all of them.
    pub num_frames: Option<usize>,
    /// Frames a second.
    pub fps: Option<f64>,
    /// The most tokens of an answer.
    pub max_new_tokens: usize,
    /// Tokens that a prompt and its answer may have together.
    pub max_position_embeddings: usize,
    /// How the folder's author wants tokens to be drawn; `None` where the most likely one is taken each time.
    pub sampling: Option<SamplingParams>,
}

impl SmolVLMSettings {
    /// Reads the configurations of the folder `dir`.
    ///
    /// # Errors
    /// When one of them is missing, damaged or not supported.
    pub fn read(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let config = CheckedConfig::read(dir)?.text.config;
        let video = SmolVLMVideoProcessor::load(dir)?;
        let generation = GenerationConfig::read(dir)?;
        Ok(Self {
            num_frames: video.num_frames(),
            fps: video.fps(),
            max_new_tokens: generation.max_new_tokens.unwrap_or(MAX_NEW_TOKENS).min(config.max_position_embeddings),
            max_position_embeddings: config.max_position_embeddings,
            sampling: generation.sampling_for(&SamplingParams::default()),
        })
    }
}
