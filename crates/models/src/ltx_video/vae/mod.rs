//! `AutoencoderKLLTXVideo`, the autoencoder between videos and latents, of all generations (0.9.0, 0.9.1, 0.9.5 and on).
//!
//! Follows `diffusers/models/autoencoders/autoencoder_kl_ltx.py`. Inside, activations are channels-last
//! (`[B, T, H, W, C]`); what comes in and goes out is `[B, C, T, H, W]` as in the reference.

mod autoencoder;
mod blend;
mod causal_conv3d;
mod configuration;
mod decoder;
mod distribution;
mod encoder;
mod layout;
mod memory;
pub(super) mod noise;
mod plan;
mod resampling;
mod resnet;
mod tiling;
mod time_embedding;

pub use autoencoder::{AutoencoderKLLTXVideo, DecodeOptions, Progress};
pub use configuration::AutoencoderKLLTXVideoConfig;
pub use distribution::DiagonalGaussian;
pub use noise::InjectedNoise;
pub use plan::TilePlan;
pub use tiling::{TileParameters, Tiling};
