//! What is said to the model: turns of text, pictures and videos.

use std::sync::Arc;

use sango_media::{RgbImage, Video};
use serde_json::{Value, json};

use super::image_processing::ProcessedImage;
use super::video::ProcessedVideo;

/// Who says a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// What the model is told before the conversation.
    System,
    /// Who asks.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// As templates name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// A part of a message.
#[derive(Debug, Clone)]
pub enum Content {
    /// Words. Special tokens spelled in them have their meaning, as in the reference; only `<image>` and `<video>` are
    /// refused, because no picture belongs to them.
    Text(String),
    /// A picture.
    Image(Arc<RgbImage>),
    /// A video file, whose frames the processor chooses and reads.
    Video(Arc<Video>),
    /// A picture that is in tiles already.
    ProcessedImage(ProcessedImage),
    /// A video whose frames are chosen and in tiles already.
    ProcessedVideo(ProcessedVideo),
}

/// One turn of a conversation.
#[derive(Debug, Clone)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said, in order.
    pub content: Vec<Content>,
}

impl Message {
    /// A turn of `role`.
    pub fn new(role: Role, content: Vec<Content>) -> Self {
        Self { role, content }
    }

    /// What the user says.
    pub fn user(content: Vec<Content>) -> Self {
        Self::new(Role::User, content)
    }

    /// What the model has said.
    pub fn assistant(text: impl Into<String>) -> Self {
        Self::new(Role::Assistant, vec![Content::Text(text.into())])
    }

    /// As a template sees it.
    pub(super) fn to_json(&self) -> Value {
        let content: Vec<Value> = self
            .content
            .iter()
            .map(|content| match content {
                Content::Text(text) => json!({"type": "text", "text": text}),
                Content::Image(_) | Content::ProcessedImage(_) => json!({"type": "image"}),
                Content::Video(_) | Content::ProcessedVideo(_) => json!({"type": "video"}),
            })
            .collect();
        json!({"role": self.role.as_str(), "content": content})
    }
}
