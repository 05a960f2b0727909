//! LTX-Video, small, on the shapes world: a video VAE, a T5 encoder, and a transformer that learns rectified flow.

mod card;
pub mod clips;
pub mod decoder_train;
pub mod evaluate;
pub mod export;
pub mod latents;
pub mod sampler;
pub mod text;
pub mod train;
pub mod transformer;
pub mod vae;
pub mod vae_train;
