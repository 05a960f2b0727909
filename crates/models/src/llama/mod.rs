//! The Llama decoder: grouped-query attention, rotary positions, a SwiGLU feed-forward layer and RMS norms.
//!
//! Follows `transformers/models/llama` (`LlamaConfig`, `LlamaModel`) and `transformers/modeling_rope_utils.py`.

mod configuration;
mod modeling;
mod rotary;

pub(crate) use configuration::Checked;
pub use configuration::LlamaConfig;
pub use modeling::{LlamaCache, LlamaModel, Step};
