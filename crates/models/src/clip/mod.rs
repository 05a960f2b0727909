//! CLIP's text half: the tokenizer and the text encoder with projection.
//!
//! Follows `transformers/models/clip` (`CLIPTokenizer`, `CLIPTextModelWithProjection`).

mod configuration;
mod modeling;
mod tokenization;

pub use configuration::CLIPTextConfig;
pub use modeling::{CLIPTextModelOutput, CLIPTextModelWithProjection};
pub use tokenization::CLIPTokenizer;
