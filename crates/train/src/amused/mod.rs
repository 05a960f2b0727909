//! aMUSEd: the VQ model, the small CLIP that conditions it, and the masked-token transformer.

mod card;
pub mod codebook;
pub mod discriminator;
pub mod evaluate;
pub mod export;
pub mod patches;
pub mod sampler;
pub mod text;
pub mod tokens;
pub mod train;
pub mod uvit_2d;
mod vq_loss;
pub mod vq_model;
pub mod vq_train;
