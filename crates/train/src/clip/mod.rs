//! A small CLIP of this world; its text tower conditions the image model.

pub mod model;
pub mod tokenizer;
pub mod train;
