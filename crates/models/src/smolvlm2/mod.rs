//! SmolVLM2: answers about pictures and videos.
//!
//! [`SmolVLMProcessor`] turns a conversation into ids and tiles, exactly as `transformers`' `AutoProcessor` does.

mod chat_template;
mod image_processing;
mod message;
mod number_words;
mod processing;
mod processor_config;
mod resize;
mod text_stream;
mod tile;
mod tokenization;
mod video;
mod video_processing;

pub use image_processing::{ProcessedImage, SmolVLMImageProcessor};
pub use message::{Content, Message, Role};
pub use processing::{FrameUsed, ProcessedInputs, ProcessorOptions, SmolVLMProcessor};
pub use text_stream::TextStream;
pub use tile::Tile;
pub use tokenization::SmolVLMTokenizer;
pub use video::{ProcessedVideo, SampledFrame};
pub use video_processing::{SmolVLMVideoProcessor, VideoMetadata};
