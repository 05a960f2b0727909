//! aMUSEd: text to image by unmasking tokens, with image-to-image and inpainting.
//!
//! A CLIP text encoder reads the prompt, a U-ViT ([`UVit2DModel`]) predicts the tokens of a picture that are still
//! masked, a scheduler ([`AmusedScheduler`]) keeps the most certain predictions of each step, and a VQ decoder
//! ([`VQModel`]) turns tokens into pixels. [`AmusedPipeline`] joins them.

mod ada_norm;
mod attention;
mod denoise;
mod noise;
mod picture;
mod pipeline;
mod request;
mod resnet;
mod scheduler;
mod settings;
mod transformer_block;
mod uvit_2d;
mod uvit_block;
mod uvit_config;
mod vae;
mod vq_config;
mod vq_model;

pub(crate) mod parity;

pub use denoise::StepEvent;
pub use noise::StepNoise;
pub use pipeline::{AmusedOutput, AmusedPipeline, AmusedSummary, Timings};
pub use request::{AmusedRequest, MicroConditioning, Prompts};
pub use scheduler::{AmusedScheduler, MaskingSchedule, Progress};
pub use settings::AmusedSettings;
pub use uvit_2d::{UVit2DConditioning, UVit2DModel};
pub use uvit_config::UVit2DConfig;
pub use vq_config::VQConfig;
pub use vq_model::VQModel;
