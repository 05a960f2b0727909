//! What is asked of a [`super::SmolVLMPipeline`], and what it answers.

use std::time::Duration;

use super::generation::FinishReason;
use super::generation_config::SamplingParams;
use super::message::Message;
use super::processing::FrameUsed;
use super::tile::Tile;

/// A conversation to be continued. What is `None` is as the folder wants it.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct UnderstandRequest {
    /// The turns so far; the last is what is answered.
    pub messages: Vec<Message>,
    /// The most tokens of the answer. What does not fit the model's context is cut off.
    pub max_new_tokens: Option<usize>,
    /// How tokens are drawn.
    pub sampling: SamplingParams,
    /// The most frames of each video to look at.
    pub num_frames: Option<usize>,
    /// Frames a second to look at.
    pub fps: Option<f64>,
    /// Texts that end the answer, which does not contain them.
    pub stop: Vec<String>,
}

impl UnderstandRequest {
    /// Asks for the answer to `messages`.
    pub fn new(messages: Vec<Message>) -> Self {
        Self { messages, ..Self::default() }
    }
}

/// How far an answer is.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum UnderstandEvent<'a> {
    /// Frames of a video are being read.
    Frames {
        /// Frames that are read.
        done: usize,
        /// Frames of this video.
        total: usize,
    },
    /// The prompt is made.
    Prepared {
        /// Its tokens.
        prompt_tokens: usize,
        /// The frames in it.
        frames: &'a [FrameUsed],
        /// The pictures in it, those of frames included, as the model sees them.
        tiles: &'a [Tile],
    },
    /// Pictures are being looked at. Not sent where all were seen before.
    Vision {
        /// Pictures that were looked at.
        done: usize,
        /// Pictures that are new.
        total: usize,
    },
    /// The prompt is being read.
    Prefill {
        /// Tokens that are read.
        done: usize,
        /// Tokens that are new.
        total: usize,
    },
    /// A token of the answer.
    Token {
        /// What it adds to the text: nothing where it ends inside a character or a stop text may have begun.
        text: &'a str,
        /// Which token, from 0.
        index: usize,
    },
}

/// The continuation of a conversation.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Answer {
    /// The text, without special tokens and stop texts.
    pub text: String,
    /// Its tokens, with the one that ended it.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that were read in an earlier request.
    pub cached_tokens: usize,
    /// The frames that the model was shown.
    pub frames: Vec<FrameUsed>,
    /// How long each part took.
    pub timings: Timings,
}

/// How long each part of an answer took.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Timings {
    /// Reading media and making the prompt.
    pub preprocess: Duration,
    /// Looking at pictures.
    pub vision: Duration,
    /// Reading the prompt.
    pub prefill: Duration,
    /// From the beginning to the first token.
    pub first_token: Duration,
    /// From the first token to the last.
    pub decode: Duration,
}
