//! LTX-Video: text, pictures and videos to video.
//!
//! A T5 encoder reads the prompt, a diffusion transformer turns noise into latents in a few steps of a flow-matching
//! scheduler, and a causal video autoencoder turns latents into frames. [`LTXVideoPipeline`] joins them.

mod ada_layer_norm;
mod attention;
mod beta;
mod checkpoint;
mod conditioning;
mod denoise;
mod generation;
mod guidance;
mod inferred_config;
mod latents;
mod memory;
mod noise;
mod parts;
mod pipeline;
mod plan;
mod prompts;
mod request;
mod rope;
mod scheduler;
mod settings;
mod single_file;
mod transformer_block;
mod transformer_config;
mod transformer_ltx;
pub mod vae;
mod vae_blocks;

pub(crate) mod parity;

pub use checkpoint::{LtxCheckpoint, LtxComponent, LtxSampler, PIPELINES};
pub use generation::{LtxFamily, LtxGeneration};
pub use memory::MemoryEstimate;
pub use pipeline::{LTXVideoEvent, LTXVideoOutput, LTXVideoPipeline, LTXVideoSummary, Timings};
pub use request::{LTXVideoCondition, LTXVideoPrompt, LTXVideoRequest, Stg, StgMode};
pub use rope::{LTXVideoRotaryPosEmbed, RotaryEmbedding};
pub use scheduler::{
    FlowMatchEulerDiscreteConfig, FlowMatchEulerDiscreteScheduler, Levels, Schedule, linear_quadratic_sigmas,
    linear_sigmas,
};
pub use settings::LTXVideoSettings;
pub use transformer_config::LTXVideoTransformer3DConfig;
pub use transformer_ltx::{LTXVideoTransformer3DModel, Perturbation, TextConditioning};
