//! LTX-Video: text, pictures and videos to video.
//!
//! A T5 encoder reads the prompt, a diffusion transformer turns noise into latents in a few steps of a flow-matching
//! scheduler, and a causal video autoencoder turns latents into frames. [`LTXVideoPipeline`] joins them.

mod checkpoint;
mod generation;
mod inferred_config;
mod pipeline;
mod request;
mod settings;
mod single_file;
pub mod vae;
mod vae_blocks;

pub use checkpoint::{LtxCheckpoint, LtxComponent, LtxSampler, PIPELINES};
pub use generation::{LtxFamily, LtxGeneration};
pub use pipeline::{LTXVideoEvent, LTXVideoOutput, LTXVideoPipeline, LTXVideoSummary, MemoryEstimate, Timings};
pub use request::{LTXVideoCondition, LTXVideoPrompt, LTXVideoRequest, Stg, StgMode};
pub use settings::LTXVideoSettings;
