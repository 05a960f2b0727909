//! LTX-Video: text to video with a latent transformer.

pub mod vae;
