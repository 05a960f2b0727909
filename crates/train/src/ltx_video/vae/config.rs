//! The sizes of the video VAE and its `config.json`.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What can be chosen about [`super::AutoencoderKLLTXVideo`]; the names are those of `diffusers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VaeConfig {
    /// Channels of the latents.
    pub latent_channels: i64,
    /// Width of each level of the encoder; every step to the next folds space and time by two.
    pub block_out_channels: Vec<i64>,
    /// Width of each level of the decoder before it unfolds, in the order of the encoder's levels.
    pub decoder_block_out_channels: Vec<i64>,
    /// Resnets of each level of the encoder.
    pub layers_per_block: Vec<i64>,
    /// Resnets of each level of the decoder, in the order of the encoder's levels.
    pub decoder_layers_per_block: Vec<i64>,
    /// Side of the squares of pixels that become channels first.
    pub patch_size: i64,
    /// No frame of the latents depends on later frames of the clip.
    pub encoder_causal: bool,
    /// No frame of the clip depends on later frames of the latents.
    pub decoder_causal: bool,
    /// Where the logarithm of the latents' variance starts; not part of `config.json`.
    pub initial_logvar: f64,
}

impl Default for VaeConfig {
    fn default() -> Self {
        Self {
            latent_channels: 24,
            block_out_channels: vec![32, 64, 128],
            decoder_block_out_channels: vec![64, 128],
            layers_per_block: vec![1, 1, 1],
            decoder_layers_per_block: vec![1, 1, 1],
            patch_size: 4,
            encoder_causal: true,
            decoder_causal: false,
            initial_logvar: -5.0,
        }
    }
}

impl VaeConfig {
    /// Pixels along an edge of a latent.
    pub fn spatial_compression_ratio(&self) -> i64 {
        self.patch_size << (self.block_out_channels.len() - 1)
    }

    /// Frames of a latent, but for the first, which has one.
    pub fn temporal_compression_ratio(&self) -> i64 {
        1 << (self.block_out_channels.len() - 1)
    }

    /// Checks that the widths can be folded.
    ///
    /// # Errors
    /// When they cannot, saying which.
    pub fn validate(&self) -> Result<()> {
        let (encoder, decoder) = (&self.block_out_channels, &self.decoder_block_out_channels);
        ensure!(encoder.len() >= 2, "the encoder needs at least two widths, not {encoder:?}");
        ensure!(decoder.len() == encoder.len() - 1, "{encoder:?} need {} widths to decode", encoder.len() - 1);
        for pair in encoder.windows(2) {
            ensure!(
                pair[1] % 8 == 0 && (pair[0] * 8) % pair[1] == 0,
                "{} channels cannot be folded into {}",
                pair[0],
                pair[1]
            );
        }
        ensure!(decoder.windows(2).all(|w| w[0] * 2 == w[1]), "widths of the decoder must double: {decoder:?}");
        ensure!(decoder[0] % 8 == 0, "widths of the decoder must be multiples of 8: {decoder:?}");
        ensure!(
            self.layers_per_block.len() == encoder.len() && self.decoder_layers_per_block.len() == encoder.len(),
            "one number of layers for each of {} levels",
            encoder.len()
        );
        Ok(())
    }

    /// The `config.json` of `diffusers`.
    pub fn to_json(&self) -> Value {
        let levels = self.decoder_block_out_channels.len();
        json!({
            "_class_name": "AutoencoderKLLTXVideo",
            "_diffusers_version": "0.35.0",
            "in_channels": 3,
            "out_channels": 3,
            "latent_channels": self.latent_channels,
            "block_out_channels": self.block_out_channels,
            "down_block_types": vec!["LTXVideo095DownBlock3D"; levels],
            "decoder_block_out_channels": self.decoder_block_out_channels,
            "layers_per_block": self.layers_per_block,
            "decoder_layers_per_block": self.decoder_layers_per_block,
            "spatio_temporal_scaling": vec![true; levels],
            "decoder_spatio_temporal_scaling": vec![true; levels],
            "decoder_inject_noise": vec![false; levels + 1],
            "downsample_type": vec!["spatiotemporal"; levels],
            "upsample_residual": vec![true; levels],
            "upsample_factor": vec![2; levels],
            "timestep_conditioning": false,
            "patch_size": self.patch_size,
            "patch_size_t": 1,
            "resnet_norm_eps": 1e-6,
            "scaling_factor": 1.0,
            "encoder_causal": self.encoder_causal,
            "decoder_causal": self.decoder_causal,
            "spatial_compression_ratio": self.spatial_compression_ratio(),
            "temporal_compression_ratio": self.temporal_compression_ratio(),
        })
    }
}
