//! `vqvae/config.json`.

use std::path::Path;

use serde::Deserialize;

use super::resnet::ActFn;
use crate::config::Config;
use crate::error::Result;

/// The sizes of a VQ autoencoder; names and defaults are those of `diffusers.VQModel`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct VQConfig {
    /// Channels of the pictures that are encoded.
    pub in_channels: usize,
    /// Channels of the pictures that are decoded.
    pub out_channels: usize,
    /// Class names of the encoder's blocks.
    pub down_block_types: Vec<String>,
    /// Class names of the decoder's blocks.
    pub up_block_types: Vec<String>,
    /// Channels of each block of the encoder, and of the decoder in reverse.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks in each block of the encoder (the decoder has one more).
    pub layers_per_block: usize,
    /// Activation of the residual blocks.
    pub act_fn: String,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Number of codes.
    pub num_vq_embeddings: usize,
    /// Groups of the group norms.
    pub norm_num_groups: usize,
    /// Width of a code; `latent_channels` unless given.
    pub vq_embed_dim: Option<usize>,
    /// Kind of norm.
    pub norm_type: String,
    /// Whether all pixels attend to each other in the middle.
    pub mid_block_add_attention: bool,
    /// Whether token ids are decoded through the codebook, which aMUSEd needs.
    pub lookup_from_codebook: bool,
}

impl Default for VQConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec!["DownEncoderBlock2D".into()],
            up_block_types: vec!["UpDecoderBlock2D".into()],
            block_out_channels: vec![64],
            layers_per_block: 1,
            act_fn: "silu".into(),
            latent_channels: 3,
            num_vq_embeddings: 256,
            norm_num_groups: 32,
            vq_embed_dim: None,
            norm_type: "group".into(),
            mid_block_add_attention: true,
            lookup_from_codebook: false,
        }
    }
}

impl VQConfig {
    /// Reads and checks a configuration.
    pub(super) fn read(path: &Path) -> Result<(Config<Self>, ActFn)> {
        let config = Config::<Self>::read_class(path, "VQModel")?;
        let c = &config.value;
        let blocks = c.block_out_channels.len();
        if !(1..=8).contains(&blocks) {
            return Err(config.error("block_out_channels", format!("lists {blocks} blocks; 1 to 8 are supported")));
        }
        for (field, types, known) in [
            ("down_block_types", &c.down_block_types, "DownEncoderBlock2D"),
            ("up_block_types", &c.up_block_types, "UpDecoderBlock2D"),
        ] {
            config.equal(field, types.len(), "the number of block_out_channels", blocks)?;
            if let Some(other) = types.iter().find(|name| *name != known) {
                return Err(config.error(field, format!("names a `{other}`; the only known block is {known}")));
            }
        }
        config.positive("norm_num_groups", c.norm_num_groups)?;
        for &channels in &c.block_out_channels {
            config.multiple("block_out_channels", channels, "norm_num_groups", c.norm_num_groups)?;
        }
        for (field, value) in [
            // The decoder has one more than this; an encoder may do with its convolutions alone.
            ("layers_per_block", c.layers_per_block.saturating_add(1)),
            ("latent_channels", c.latent_channels),
            ("num_vq_embeddings", c.num_vq_embeddings),
            ("vq_embed_dim", c.code_width()),
        ] {
            config.positive(field, value)?;
        }
        if c.layers_per_block == 0 && c.block_out_channels.windows(2).any(|pair| pair[0] != pair[1]) {
            let detail = "is 0, which leaves nothing to change the number of channels between block_out_channels";
            return Err(config.error("layers_per_block", detail));
        }
        config.equal("in_channels", c.in_channels, "the number of colours", 3)?;
        config.equal("out_channels", c.out_channels, "the number of colours", 3)?;
        if c.norm_type != "group" {
            return Err(config.error("norm_type", format!("is \"{}\"; the only known type is group", c.norm_type)));
        }
        if !c.lookup_from_codebook {
            return Err(config.error("lookup_from_codebook", "is false; aMUSEd decodes token ids, which needs true"));
        }
        let act = ActFn::by_name(&c.act_fn)
            .ok_or_else(|| config.error("act_fn", format!("is \"{}\"; known are {}", c.act_fn, ActFn::NAMES)))?;
        Ok((config, act))
    }

    /// Width of a code.
    pub fn code_width(&self) -> usize {
        self.vq_embed_dim.unwrap_or(self.latent_channels)
    }

    /// Pixels per token along a side.
    pub fn scale_factor(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }
}
