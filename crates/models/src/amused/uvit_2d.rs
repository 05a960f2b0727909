//! The transformer that predicts masked image tokens. Follows `diffusers/models/unets/uvit_2d.py`.

use std::path::Path;

use sango_tensor::nn::{Embedding, Linear, RmsNorm};
use sango_tensor::{Activation, DType, Tensor, Weights};

use super::transformer_block::{BasicTransformerBlock, BlockConditioning};
use super::uvit_block::{Resample, UVitBlock, UVitBlockConditioning};
use super::uvit_config::{MICRO_CONDS, UVit2DConfig};
use crate::config::Config;
use crate::embeddings::timestep_embedding;
use crate::error::{ModelError, Result};

/// `UVit2DModel`: token ids and text in, logits over the codebook out.
///
/// Text does not change from step to step, so what the layers make of it ([`UVit2DModel::condition`]) is kept apart
/// from what they make of the tokens ([`UVit2DModel::hidden_states`]); logits are made for the rows that need them.
pub struct UVit2DModel {
    encoder_proj: Linear,
    encoder_proj_layer_norm: RmsNorm,
    embed: UVit2DConvEmbed,
    cond_embed: (Linear, Linear),
    down_block: UVitBlock,
    project_to_hidden_norm: RmsNorm,
    project_to_hidden: Linear,
    transformer_layers: Vec<BasicTransformerBlock>,
    project_from_hidden_norm: RmsNorm,
    project_from_hidden: Linear,
    up_block: UVitBlock,
    mlm_layer: ConvMlmLayer,
    config: UVit2DConfig,
    parameters: usize,
}

/// What every layer makes of the text of a batch.
pub struct UVit2DConditioning {
    down_block: UVitBlockConditioning,
    transformer_layers: Vec<BlockConditioning>,
    up_block: UVitBlockConditioning,
}

impl UVit2DModel {
    /// Loads `config.json` and `diffusion_pytorch_model.safetensors` (or its shards) from `dir`.
    ///
    /// # Errors
    /// When the configuration is not supported, or a tensor is missing or has another shape.
    pub fn load(dir: &Path, dtype: DType) -> Result<Self> {
        Self::load_config(dir, UVit2DConfig::read(&dir.join("config.json"))?, dtype)
    }

    pub(super) fn load_config(dir: &Path, config: Config<UVit2DConfig>, dtype: DType) -> Result<Self> {
        let config = config.value;
        let weights = Weights::open(dir, "diffusion_pytorch_model")?.with_dtype(dtype);
        let (hidden, channels, bias) = (config.hidden_size, config.block_out_channels, config.use_bias);
        let linear = |name: &str, from: usize, to: usize| Linear::load(&weights.pp(name), from, to, bias);
        let norm = |name: &str, width: usize| {
            RmsNorm::load(&weights.pp(name), width, config.layer_norm_eps, config.ln_elementwise_affine)
        };
        let layers = weights.pp("transformer_layers");
        let (down, up) = match config.downsample {
            true => (Resample::Down, Resample::Up),
            false => (Resample::None, Resample::None),
        };
        let cond_width = config.micro_cond_embed_dim + config.cond_embed_dim;
        let model = Self {
            encoder_proj: linear("encoder_proj", config.encoder_hidden_size, hidden)?,
            encoder_proj_layer_norm: norm("encoder_proj_layer_norm", hidden)?,
            embed: UVit2DConvEmbed::load(&weights.pp("embed"), &config)?,
            cond_embed: (
                linear("cond_embed.linear_1", cond_width, hidden)?,
                linear("cond_embed.linear_2", hidden, hidden)?,
            ),
            down_block: UVitBlock::load(&weights.pp("down_block"), &config, down)?,
            project_to_hidden_norm: norm("project_to_hidden_norm", channels)?,
            project_to_hidden: linear("project_to_hidden", channels, hidden)?,
            transformer_layers: (0..config.num_hidden_layers)
                .map(|n| BasicTransformerBlock::load(&layers.pp(n), &config))
                .collect::<Result<_>>()?,
            project_from_hidden_norm: norm("project_from_hidden_norm", hidden)?,
            project_from_hidden: linear("project_from_hidden", hidden, channels)?,
            up_block: UVitBlock::load(&weights.pp("up_block"), &config, up)?,
            mlm_layer: ConvMlmLayer::load(&weights.pp("mlm_layer"), &config)?,
            parameters: weights.parameter_count(),
            config,
        };
        weights.check_all_used(|_| false)?;
        Ok(model)
    }

    /// The configuration that was read.
    pub fn config(&self) -> &UVit2DConfig {
        &self.config
    }

    /// Number of parameters.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// Everything that depends on the text only: `encoder_hidden_states` `[B, S, encoder_hidden_size]`,
    /// `pooled_text_emb` `[B, cond_embed_dim]`, `micro_conds` `[B, 5]` (width, height, crop x, crop y, score).
    ///
    /// # Errors
    /// When shapes do not fit.
    pub fn condition(
        &self,
        encoder_hidden_states: &Tensor,
        pooled_text_emb: &Tensor,
        micro_conds: &Tensor,
    ) -> Result<UVit2DConditioning> {
        let context = self.encoder_proj.forward(encoder_hidden_states)?;
        let context = self.encoder_proj_layer_norm.forward(&context)?;
        let [batch, count] = micro_conds.dims()?;
        if count != MICRO_CONDS {
            return Err(ModelError::request(
                "micro_conds",
                format!("holds {count} values; it must hold {MICRO_CONDS}"),
            ));
        }
        let encoded = timestep_embedding(micro_conds.as_f32()?, self.config.micro_cond_encode_dim);
        let encoded = Tensor::from_vec(encoded, &[batch, self.config.micro_cond_embed_dim])?;
        let cond = Tensor::cat(&[pooled_text_emb, &encoded], 1)?;
        let cond = self.cond_embed.0.forward_act(&cond, Activation::Silu)?;
        // Every use of the condition starts with silu.
        let cond = self.cond_embed.1.forward_act(&cond, Activation::Silu)?;
        let layers = self.transformer_layers.iter();
        Ok(UVit2DConditioning {
            down_block: self.down_block.condition(&cond, &context)?,
            transformer_layers: layers.map(|layer| layer.condition(&cond, &context)).collect::<Result<_>>()?,
            up_block: self.up_block.condition(&cond, &context)?,
        })
    }

    /// `input_ids` `[B, H, W]` → the states that logits are made of, `[B · H · W, block_out_channels]`.
    ///
    /// # Errors
    /// For ids outside the vocabulary, and odd sides of the grid in a model that works at half resolution.
    pub fn hidden_states(&self, input_ids: &Tensor, conditioning: &UVit2DConditioning) -> Result<Tensor> {
        let x = self.embed.forward(input_ids)?;
        let x = self.down_block.forward(&x, &conditioning.down_block)?;
        let [batch, height, width, channels] = x.dims()?;
        let x = self.project_to_hidden_norm.forward(&x.reshape(&[batch, height * width, channels])?)?;
        let mut hidden_states = self.project_to_hidden.forward(&x)?;
        for (layer, conditioning) in self.transformer_layers.iter().zip(&conditioning.transformer_layers) {
            hidden_states = layer.forward(&hidden_states, conditioning)?;
        }
        let x = self.project_from_hidden.forward(&self.project_from_hidden_norm.forward(&hidden_states)?)?;
        let x = self.up_block.forward(&x.reshape(&[batch, height, width, channels])?, &conditioning.up_block)?;
        if x.shape()[..3] != *input_ids.shape() {
            let detail = format!("of {:?} are not even, as this model needs them to be", &input_ids.shape()[1..]);
            return Err(ModelError::request("token grid", detail));
        }
        Ok(x.reshape(&[input_ids.numel(), channels])?)
    }

    /// Logits `[rows, codebook_size]` of rows of [`UVit2DModel::hidden_states`].
    ///
    /// # Errors
    /// When the width differs.
    pub fn logits(&self, rows: &Tensor) -> Result<Tensor> {
        self.mlm_layer.forward(rows)
    }

    /// The whole model at once: logits `[B, H, W, codebook_size]`.
    ///
    /// # Errors
    /// As [`UVit2DModel::condition`] and [`UVit2DModel::hidden_states`].
    pub fn forward(
        &self,
        input_ids: &Tensor,
        encoder_hidden_states: &Tensor,
        pooled_text_emb: &Tensor,
        micro_conds: &Tensor,
    ) -> Result<Tensor> {
        let [batch, height, width] = input_ids.dims()?;
        let conditioning = self.condition(encoder_hidden_states, pooled_text_emb, micro_conds)?;
        let logits = self.logits(&self.hidden_states(input_ids, &conditioning)?)?;
        Ok(logits.reshape(&[batch, height, width, self.config.codebook_size])?)
    }
}

struct UVit2DConvEmbed {
    embeddings: Embedding,
    layer_norm: RmsNorm,
    conv: Linear,
}

impl UVit2DConvEmbed {
    fn load(weights: &Weights, config: &UVit2DConfig) -> Result<Self> {
        let width = config.in_channels;
        let (eps, affine) = (config.layer_norm_eps, config.ln_elementwise_affine);
        Ok(Self {
            embeddings: Embedding::load(&weights.pp("embeddings"), config.vocab_size, width)?,
            layer_norm: RmsNorm::load(&weights.pp("layer_norm"), width, eps, affine)?,
            conv: Linear::load_conv1x1(&weights.pp("conv"), width, config.block_out_channels, config.use_bias)?,
        })
    }

    /// `[B, H, W]` → `[B, H, W, block_out_channels]`.
    fn forward(&self, input_ids: &Tensor) -> Result<Tensor> {
        let embeddings = self.embeddings.forward(input_ids)?;
        Ok(self.conv.forward(&self.layer_norm.forward(&embeddings)?)?)
    }
}

struct ConvMlmLayer {
    conv1: Linear,
    layer_norm: RmsNorm,
    conv2: Linear,
}

impl ConvMlmLayer {
    fn load(weights: &Weights, config: &UVit2DConfig) -> Result<Self> {
        let (width, bias) = (config.in_channels, config.use_bias);
        let (eps, affine) = (config.layer_norm_eps, config.ln_elementwise_affine);
        Ok(Self {
            conv1: Linear::load_conv1x1(&weights.pp("conv1"), config.block_out_channels, width, bias)?,
            layer_norm: RmsNorm::load(&weights.pp("layer_norm"), width, eps, affine)?,
            conv2: Linear::load_conv1x1(&weights.pp("conv2"), width, config.codebook_size, bias)?,
        })
    }

    fn forward(&self, rows: &Tensor) -> Result<Tensor> {
        Ok(self.conv2.forward(&self.layer_norm.forward(&self.conv1.forward(rows)?)?)?)
    }
}
