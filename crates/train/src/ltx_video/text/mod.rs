//! The text side of LTX-Video: a SentencePiece tokenizer and a small T5 encoder.

pub mod config;
pub mod t5;
pub mod tokenizer;
pub mod train;
