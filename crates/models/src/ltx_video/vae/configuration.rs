//! `vae/config.json`.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::layout::Layout;
use crate::config::{Config, from_value};
use crate::error::{ModelError, Result};

/// The sizes of the autoencoder; names and defaults are those of `diffusers.AutoencoderKLLTXVideo`.
///
/// Lists that begin with `decoder_`, and the `upsample_` ones, are in the encoder's order: the last entry is the block
/// that the decoder runs first.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct AutoencoderKLLTXVideoConfig {
    /// Channels of the videos that are encoded.
    pub in_channels: usize,
    /// Channels of the videos that are decoded.
    pub out_channels: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels of each block of the encoder; from 0.9.5 on, what comes out of each, after what goes into the first.
    pub block_out_channels: Vec<usize>,
    /// Class names of the encoder's blocks.
    pub down_block_types: Vec<String>,
    /// Channels of each block of the decoder.
    pub decoder_block_out_channels: Vec<usize>,
    /// Residual blocks in each block of the encoder, and in its middle one.
    pub layers_per_block: Vec<usize>,
    /// Residual blocks in each block of the decoder, and in its middle one.
    pub decoder_layers_per_block: Vec<usize>,
    /// Whether each block of the encoder makes the video smaller.
    pub spatio_temporal_scaling: Vec<bool>,
    /// Whether each block of the decoder makes the video larger.
    pub decoder_spatio_temporal_scaling: Vec<bool>,
    /// Whether noise is added in the blocks of the decoder and in its middle one.
    pub decoder_inject_noise: Vec<bool>,
    /// How blocks of 0.9.5 make the video smaller: `conv`, `spatial`, `temporal` or `spatiotemporal`.
    pub downsample_type: Vec<String>,
    /// Whether what is enlarged is also added, rearranged, to what the convolution makes of it.
    pub upsample_residual: Vec<bool>,
    /// By what enlarging divides the number of channels.
    pub upsample_factor: Vec<usize>,
    /// Whether the decoder is told how noisy the latents still are.
    pub timestep_conditioning: bool,
    /// Pixels in a patch along a side.
    pub patch_size: usize,
    /// Frames in a patch.
    pub patch_size_t: usize,
    /// Epsilon of the layer norms (the other norms have 1e-8).
    pub resnet_norm_eps: f32,
    /// What latents are multiplied with before the transformer sees them.
    pub scaling_factor: f32,
    /// Whether a frame of the encoder depends on none after it.
    pub encoder_causal: bool,
    /// Whether a frame of the decoder depends on none after it.
    pub decoder_causal: bool,
    /// Pixels per latent along a side, where it is not what `spatio_temporal_scaling` says.
    pub spatial_compression_ratio: Option<usize>,
    /// Frames per latent, where it is not what `spatio_temporal_scaling` says.
    pub temporal_compression_ratio: Option<usize>,
}

impl Default for AutoencoderKLLTXVideoConfig {
    fn default() -> Self {
        let scaling = vec![true, true, true, false];
        Self {
            in_channels: 3,
            out_channels: 3,
            latent_channels: 128,
            block_out_channels: vec![128, 256, 512, 512],
            down_block_types: vec!["LTXVideoDownBlock3D".into(); 4],
            decoder_block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: vec![4, 3, 3, 3, 4],
            decoder_layers_per_block: vec![4, 3, 3, 3, 4],
            spatio_temporal_scaling: scaling.clone(),
            decoder_spatio_temporal_scaling: scaling,
            decoder_inject_noise: vec![false; 5],
            downsample_type: vec!["conv".into(); 4],
            upsample_residual: vec![false; 4],
            upsample_factor: vec![1; 4],
            timestep_conditioning: false,
            patch_size: 4,
            patch_size_t: 1,
            resnet_norm_eps: 1e-6,
            scaling_factor: 1.0,
            encoder_causal: true,
            decoder_causal: false,
            spatial_compression_ratio: None,
            temporal_compression_ratio: None,
        }
    }
}

impl AutoencoderKLLTXVideoConfig {
    /// Reads and checks a configuration; `path` is what messages call it.
    ///
    /// # Errors
    /// [`ModelError::Json`] for values of another type, [`ModelError::Config`] for what cannot be run.
    pub fn from_value(path: &Path, json: Value) -> Result<Self> {
        if let Some(found) = json["_class_name"].as_str().filter(|&name| name != "AutoencoderKLLTXVideo") {
            let detail = format!("is `{found}`; this part must be an `AutoencoderKLLTXVideo`");
            return Err(ModelError::Config { path: path.to_owned(), field: "_class_name", detail });
        }
        let config = Config { path: path.to_owned(), value: from_value::<Self>(path, json)? };
        Layout::new(&config)?;
        Ok(config.value)
    }

    /// Pixels per latent along a side. Follows the reference, which counts every block that scales, whatever it scales.
    pub fn spatial_compression_ratio(&self) -> usize {
        self.spatial_compression_ratio.unwrap_or_else(|| self.patch_size << self.scalings())
    }

    /// Frames per latent (but for the first, which is one frame).
    pub fn temporal_compression_ratio(&self) -> usize {
        self.temporal_compression_ratio.unwrap_or_else(|| self.patch_size_t << self.scalings())
    }

    fn scalings(&self) -> usize {
        self.spatio_temporal_scaling.iter().filter(|&&scales| scales).count()
    }
}
