//! SmolVLM2: answers about pictures and videos.
//!
//! [`SmolVLMProcessor`] turns a conversation into ids and tiles, exactly as `transformers`' `AutoProcessor` does;
//! [`SmolVLMForConditionalGeneration`] turns these into an answer. [`SmolVLMPipeline`] is both, and remembers.
//!
//! The model follows `transformers/models/smolvlm` and, for generation, `transformers/generation`.

mod chat_template;
mod configuration;
mod connector;
mod generation;
mod generation_config;
mod image_processing;
mod logits_process;
mod memory;
mod message;
mod modeling;
mod number_words;
pub(crate) mod parity;
mod pipeline;
mod processing;
mod processor_config;
mod request;
mod resize;
mod settings;
mod text_stream;
mod tile;
mod tokenization;
mod video;
mod video_processing;
mod vision;

pub use configuration::{SmolVLMConfig, SmolVLMVisionConfig};
pub use generation::{FinishReason, Generated};
pub use generation_config::{GenerationConfig, SamplingParams};
pub use image_processing::{ProcessedImage, SmolVLMImageProcessor};
pub use logits_process::LogitsProcessor;
pub use message::{Content, Message, Role};
pub use modeling::SmolVLMForConditionalGeneration;
pub use pipeline::SmolVLMPipeline;
pub use processing::{FrameUsed, ProcessedInputs, ProcessorOptions, SmolVLMProcessor};
pub use request::{Answer, Timings, UnderstandEvent, UnderstandRequest};
pub use settings::SmolVLMSettings;
pub use text_stream::TextStream;
pub use tile::Tile;
pub use tokenization::SmolVLMTokenizer;
pub use video::{ProcessedVideo, SampledFrame};
pub use video_processing::{SmolVLMVideoProcessor, VideoMetadata};
