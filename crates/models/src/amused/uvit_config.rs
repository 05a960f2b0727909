//! `transformer/config.json`.

use std::path::Path;

use serde::Deserialize;

use crate::config::Config;
use crate::error::Result;

/// The sizes of a U-ViT; names and defaults are those of `diffusers.UVit2DModel`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct UVit2DConfig {
    /// Width of the transformer.
    pub hidden_size: usize,
    /// Whether linear layers and convolutions have biases.
    pub use_bias: bool,
    /// Width of the pooled text embedding.
    pub cond_embed_dim: usize,
    /// Width of the encoding of each micro-condition.
    pub micro_cond_encode_dim: usize,
    /// Width of the encodings of all five micro-conditions.
    pub micro_cond_embed_dim: usize,
    /// Width of the text encoder's hidden states.
    pub encoder_hidden_size: usize,
    /// Rows of the token table: the codebook, the mask token and padding.
    pub vocab_size: usize,
    /// Number of codes that can be predicted.
    pub codebook_size: usize,
    /// Width of the token table.
    pub in_channels: usize,
    /// Width of the convolutional blocks.
    pub block_out_channels: usize,
    /// ConvNeXt and attention blocks on each side of the transformer.
    pub num_res_blocks: usize,
    /// Whether the transformer works at half the resolution: down before it…
    pub downsample: bool,
    /// …and up after it.
    pub upsample: bool,
    /// Attention heads of the convolutional blocks.
    pub block_num_heads: usize,
    /// Transformer layers.
    pub num_hidden_layers: usize,
    /// Attention heads of the transformer.
    pub num_attention_heads: usize,
    /// Width of the transformer's feed-forward layers.
    pub intermediate_size: usize,
    /// Epsilon of most norms.
    pub layer_norm_eps: f32,
    /// Whether those norms have weights.
    pub ln_elementwise_affine: bool,
    /// Side of the token grid in training.
    pub sample_size: usize,
}

impl Default for UVit2DConfig {
    fn default() -> Self {
        Self {
            hidden_size: 1024,
            use_bias: false,
            cond_embed_dim: 768,
            micro_cond_encode_dim: 256,
            micro_cond_embed_dim: 1280,
            encoder_hidden_size: 768,
            vocab_size: 8256,
            codebook_size: 8192,
            in_channels: 768,
            block_out_channels: 768,
            num_res_blocks: 3,
            downsample: false,
            upsample: false,
            block_num_heads: 12,
            num_hidden_layers: 22,
            num_attention_heads: 16,
            intermediate_size: 2816,
            layer_norm_eps: 1e-6,
            ln_elementwise_affine: true,
            sample_size: 64,
        }
    }
}

/// Micro-conditions: original width and height, crop, aesthetic score.
pub(crate) const MICRO_CONDS: usize = 5;

impl UVit2DConfig {
    /// Reads and checks a configuration.
    pub(crate) fn read(path: &Path) -> Result<Config<Self>> {
        let config = Config::<Self>::read_class(path, "UVit2DModel")?;
        let c = &config.value;
        config.positive("num_attention_heads", c.num_attention_heads)?;
        config.positive("block_num_heads", c.block_num_heads)?;
        config.positive("num_hidden_layers", c.num_hidden_layers)?;
        config.positive("num_res_blocks", c.num_res_blocks)?;
        config.multiple("hidden_size", c.hidden_size, "num_attention_heads", c.num_attention_heads)?;
        config.multiple("block_out_channels", c.block_out_channels, "block_num_heads", c.block_num_heads)?;
        for (field, value) in [
            ("cond_embed_dim", c.cond_embed_dim),
            ("micro_cond_encode_dim", c.micro_cond_encode_dim),
            ("encoder_hidden_size", c.encoder_hidden_size),
            ("codebook_size", c.codebook_size),
            ("vocab_size", c.vocab_size),
            ("in_channels", c.in_channels),
            ("intermediate_size", c.intermediate_size),
        ] {
            config.positive(field, value)?;
        }
        let encoded = format!("{MICRO_CONDS} × micro_cond_encode_dim");
        config.equal(
            "micro_cond_embed_dim",
            c.micro_cond_embed_dim,
            &encoded,
            MICRO_CONDS * c.micro_cond_encode_dim,
        )?;
        if c.vocab_size <= c.codebook_size {
            let detail = format!("is {}; it must exceed codebook_size ({})", c.vocab_size, c.codebook_size);
            return Err(config.error("vocab_size", detail));
        }
        if c.downsample != c.upsample {
            let detail = "and `downsample` must be both true or both false, or logits do not cover the picture";
            return Err(config.error("upsample", detail));
        }
        if !(1..=256).contains(&c.sample_size) {
            return Err(config.error("sample_size", format!("is {}; it must be between 1 and 256", c.sample_size)));
        }
        config.eps("layer_norm_eps", c.layer_norm_eps)?;
        Ok(config)
    }
}
