//! The VQ autoencoder: picture ↔ tokens. Follows `diffusers/models/autoencoders/vq_model.py`.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use sango_tensor::nn::Linear;
use sango_tensor::{DType, Tensor, Weights};

use super::resnet::ActFn;
use super::vae::{Decoder, Encoder};
use super::vq_config::VQConfig;
use crate::config::Config;
use crate::error::Result;

/// `VQModel`. Always computes in f32: in half precision the published decoder overflows (`force_upcast`).
///
/// The encoder is only needed to start from a picture, and is loaded when that first happens.
pub struct VQModel {
    weights: Weights,
    encoder: Mutex<Option<Arc<EncoderHalf>>>,
    /// `[num_vq_embeddings, code_width]`.
    codebook: Tensor,
    post_quant_conv: Linear,
    decoder: Decoder,
    config: VQConfig,
    act: ActFn,
}

struct EncoderHalf {
    encoder: Encoder,
    quant_conv: Linear,
    /// The codebook as a matrix to multiply latents with.
    codebook: Linear,
    /// Half the squared length of every code.
    half_lengths: Vec<f32>,
}

impl VQModel {
    /// Loads `config.json` and `diffusion_pytorch_model.safetensors` (or its shards) from `dir`.
    ///
    /// # Errors
    /// When the configuration is not supported, or a tensor is missing or has another shape.
    pub fn load(dir: &Path) -> Result<Self> {
        let (config, act) = VQConfig::read(&dir.join("config.json"))?;
        Self::load_config(dir, config, act)
    }

    pub(super) fn load_config(dir: &Path, config: Config<VQConfig>, act: ActFn) -> Result<Self> {
        let config = config.value;
        let weights = Weights::open(dir, "diffusion_pytorch_model")?.with_dtype(DType::F32);
        let width = config.code_width();
        let model = Self {
            encoder: Mutex::new(None),
            codebook: weights.pp("quantize.embedding").get_f32("weight", &[config.num_vq_embeddings, width])?,
            post_quant_conv: Linear::load_conv1x1(&weights.pp("post_quant_conv"), width, config.latent_channels, true)?,
            decoder: Decoder::load(&weights.pp("decoder"), &config, act)?,
            config,
            act,
            weights,
        };
        model.weights.check_all_used(|name| name.starts_with("encoder.") || name.starts_with("quant_conv."))?;
        Ok(model)
    }

    /// The configuration that was read.
    pub fn config(&self) -> &VQConfig {
        &self.config
    }

    /// Number of parameters, the encoder's included.
    pub fn parameters(&self) -> usize {
        self.weights.parameter_count()
    }

    /// Loads the encoder now rather than with the first picture.
    ///
    /// # Errors
    /// When a tensor of it is missing or has another shape.
    pub fn load_encoder(&self) -> Result<()> {
        self.encoder_half().map(drop)
    }

    fn encoder_half(&self) -> Result<Arc<EncoderHalf>> {
        let mut slot = self.encoder.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(half) = &*slot {
            return Ok(half.clone());
        }
        let (width, latent) = (self.config.code_width(), self.config.latent_channels);
        let codes = self.codebook.as_f32()?.chunks_exact(width);
        let half = Arc::new(EncoderHalf {
            encoder: Encoder::load(&self.weights.pp("encoder"), &self.config, self.act)?,
            quant_conv: Linear::load_conv1x1(&self.weights.pp("quant_conv"), latent, width, true)?,
            codebook: Linear::new(&self.codebook, None)?,
            half_lengths: codes.map(|code| code.iter().map(|x| x * x).sum::<f32>() / 2.0).collect(),
        });
        Ok(slot.insert(half).clone())
    }

    /// A picture `[B, H, W, 3]` → its latents `[B, h, w, code_width]` (channels last, unlike the reference).
    ///
    /// # Errors
    /// When the picture is smaller than a token, or the encoder cannot be loaded.
    pub fn encode(&self, image: &Tensor) -> Result<Tensor> {
        let half = self.encoder_half()?;
        Ok(half.quant_conv.forward(&half.encoder.forward(image)?)?)
    }

    /// The nearest code of every latent: `[B, h, w, code_width]` → ids `[B, h, w]`.
    ///
    /// # Errors
    /// When the width differs.
    pub fn quantize(&self, latents: &Tensor) -> Result<Tensor> {
        let half = self.encoder_half()?;
        let products = half.codebook.forward(latents)?;
        // ‖z − e‖² = ‖z‖² + ‖e‖² − 2 z·e, and ‖z‖² is the same for every code.
        let rows = products.as_f32()?.chunks_exact(self.config.num_vq_embeddings);
        let nearest = rows.map(|row| {
            let distances = row.iter().zip(&half.half_lengths).map(|(product, length)| length - product);
            let best = distances.enumerate().fold((0, f32::INFINITY), |best, (index, distance)| {
                if distance < best.1 { (index, distance) } else { best }
            });
            best.0 as i64
        });
        let shape = &latents.shape()[..latents.rank() - 1];
        Ok(Tensor::from_i64(nearest.collect(), shape)?)
    }

    /// Token ids `[B, h, w]` → a picture `[B, H, W, 3]`, not clamped.
    ///
    /// # Errors
    /// For an id that is not in the codebook.
    pub fn decode(&self, tokens: &Tensor) -> Result<Tensor> {
        let codes = self.codebook.embedding(tokens)?;
        self.decoder.forward(&self.post_quant_conv.forward(&codes)?)
    }
}
