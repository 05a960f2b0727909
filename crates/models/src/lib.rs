//! The models: aMUSEd with the CLIP text encoder, VQ decoder and scheduler, and SmolVLM2 with the Llama decoder.
//!
//! Each model is read from a Hugging Face folder and written once on `sango-tensor`. Files, structs and fields have the
//! names of the `diffusers` and `transformers` implementations, which are the specification. [`parity::run`] is how
//! the two are compared.
//!
//! ```no_run
//! use sango_models::LoadOptions;
//! use sango_models::amused::{AmusedPipeline, AmusedRequest};
//! use std::ops::ControlFlow;
//!
//! # fn main() -> Result<(), sango_models::ModelError> {
//! let pipeline = AmusedPipeline::load("models/shapes/amused", &LoadOptions::default())?;
//! let request = AmusedRequest::new("a large red circle on a blue background");
//! let output = pipeline.generate(&request, &mut |step| {
//!     println!("{} of {}", step.step, step.total);
//!     ControlFlow::Continue(())
//! })?;
//! assert_eq!(output.images.shape()[1], 3);
//! # Ok(()) }
//! ```

pub mod amused;
pub mod clip;
mod config;
mod detect;
mod embeddings;
mod error;
mod folder;
pub mod llama;
mod lora;
pub mod ltx_video;
pub mod parity;
pub mod pixels;
pub mod smolvlm2;
pub mod t5;

use std::path::PathBuf;

pub use detect::{ModelKind, detect};
pub use error::{ModelError, Result};
pub use folder::ModelFolder;
pub use sango_tensor::DType;

/// How to load a model.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadOptions {
    /// The type in which matrices are kept and multiplied: `F32`, or `BF16` for half the memory and, where the CPU has
    /// bf16 instructions, more than twice the speed. Activations are f32 either way.
    pub dtype: DType,
    /// Whether to read parts at once that are otherwise read when first needed (the VQ encoder, which only requests
    /// with an image need), so that anything wrong with them shows now.
    pub eager: bool,
    /// Whether the decoder of a language model keeps its matrices in int8, with one scale per row: half the memory of
    /// bf16, and quicker where memory is what a token waits for. `dtype` is then `BF16`.
    pub int8: bool,
    /// A folder with a LoRA adapter in PEFT's format, which is added to the weights.
    pub lora: Option<PathBuf>,
    /// Bytes that a pipeline may keep of what it computed for earlier requests.
    pub cache_bytes: usize,
}

/// Enough for a few conversations about a video.
const CACHE_BYTES: usize = 256 << 20;

impl LoadOptions {
    /// Options that compute in `dtype`.
    pub fn new(dtype: DType) -> Self {
        Self { dtype, eager: false, int8: false, lora: None, cache_bytes: CACHE_BYTES }
    }

    /// The same, reading every part at once.
    pub fn eager(self) -> Self {
        Self { eager: true, ..self }
    }

    /// The same with the matrices of decoders in int8.
    pub fn int8(self) -> Self {
        Self { int8: true, dtype: DType::BF16, ..self }
    }

    /// The same with a LoRA adapter.
    pub fn lora(self, dir: impl Into<PathBuf>) -> Self {
        Self { lora: Some(dir.into()), ..self }
    }

    /// The same with `cache_bytes`.
    pub fn cache_bytes(self, cache_bytes: usize) -> Self {
        Self { cache_bytes, ..self }
    }
}

impl Default for LoadOptions {
    /// `BF16`: half the memory, faster, and within 2 % of f32 (see the parity cases).
    fn default() -> Self {
        Self::new(DType::BF16)
    }
}
