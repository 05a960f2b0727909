//! T5's encoder half: the tokenizer and the text encoder.
//!
//! Follows `transformers/models/t5` (`T5Tokenizer`, `T5EncoderModel`).

mod charsmap;
mod configuration;
mod modeling;
mod relative_position;
mod sentencepiece;
mod tokenization;

pub use configuration::T5Config;
pub use modeling::T5EncoderModel;
pub use tokenization::{T5Encoding, T5Tokenizer};
