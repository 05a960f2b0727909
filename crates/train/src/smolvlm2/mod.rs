//! SmolVLM2: video and pictures to text, as `transformers` builds it, trained on stories of the shapes world.

pub mod card;
pub mod clips;
pub mod config;
pub mod connector;
pub mod evaluate;
pub mod export;
pub mod layers;
pub mod llama;
pub mod lora;
pub mod lora_data;
pub mod lora_train;
pub mod model;
pub mod pack;
pub mod prompt;
pub mod tokenizer;
pub mod train;
pub mod vision;
pub mod vision_train;
