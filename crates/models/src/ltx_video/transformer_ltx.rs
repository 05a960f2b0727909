//! The transformer (`LTXVideoTransformer3DModel`).

use sango_tensor::nn::Linear;
use sango_tensor::ops::{Columns, Modulation, layer_norm_modulated};
use sango_tensor::{Activation, DType, Tensor, Weights};

use super::ada_layer_norm::AdaLayerNormSingle;
use super::attention::KeyValue;
use super::request::StgMode;
use super::rope::{LTXVideoRotaryPosEmbed, RotaryEmbedding};
use super::transformer_block::{FEED_FORWARD_FACTOR, LTXVideoTransformerBlock};
use super::transformer_config::LTXVideoTransformer3DConfig;
use crate::error::{ModelError, Result};

/// Predicts the velocity of noisy latents.
pub struct LTXVideoTransformer3DModel {
    proj_in: Linear,
    time_embed: AdaLayerNormSingle,
    caption_projection: (Linear, Linear),
    rope: LTXVideoRotaryPosEmbed,
    transformer_blocks: Vec<LTXVideoTransformerBlock>,
    /// `[2 · width]`.
    scale_shift_table: Tensor,
    proj_out: Linear,
    config: LTXVideoTransformer3DConfig,
    parameters: usize,
}

/// What the layers make of the text: the same in every step of a request.
pub struct TextConditioning {
    key_values: Vec<KeyValue>,
    /// `[B, 1, 1, S]`, added to scores.
    mask: Tensor,
}

/// Which layers are disturbed, for a copy of the last row of the batch.
#[derive(Debug, Clone, Copy)]
pub struct Perturbation<'a> {
    /// The layers, from 0.
    pub blocks: &'a [usize],
    /// How they are disturbed.
    pub mode: StgMode,
}

/// Added to the scores of padding.
const MASKED: f32 = -10_000.0;
const NORM_OUT_EPS: f32 = 1e-6;

impl LTXVideoTransformer3DModel {
    /// Reads all weights, in the type that `weights` computes in.
    ///
    /// # Errors
    /// When a tensor is missing, has another shape, or is not part of the model.
    pub fn load(weights: &Weights, config: LTXVideoTransformer3DConfig) -> Result<Self> {
        let width = config.inner_dim();
        // Checked with the configuration; an error here would have no key to name.
        let act = config.act().map_err(|detail| ModelError::request("activation_fn", detail))?;
        let caption = weights.pp("caption_projection");
        let model = Self {
            proj_in: Linear::load(&weights.pp("proj_in"), config.in_channels, width, true)?,
            time_embed: AdaLayerNormSingle::load(&weights.pp("time_embed"), width)?,
            caption_projection: (
                Linear::load(&caption.pp("linear_1"), config.caption_channels, width, true)?,
                Linear::load(&caption.pp("linear_2"), width, width, true)?,
            ),
            rope: LTXVideoRotaryPosEmbed::new(width),
            transformer_blocks: (0..config.num_layers)
                .map(|n| LTXVideoTransformerBlock::load(&weights.pp("transformer_blocks").pp(n), &config, act))
                .collect::<Result<_>>()?,
            scale_shift_table: weights.get_f32("scale_shift_table", &[2, width])?.reshape(&[2 * width])?,
            proj_out: Linear::load(&weights.pp("proj_out"), width, config.out_channels(), true)?,
            parameters: weights.parameter_count(),
            config,
        };
        weights.check_all_used(|_| false)?;
        Ok(model)
    }

    /// The configuration that was read.
    pub fn config(&self) -> &LTXVideoTransformer3DConfig {
        &self.config
    }

    /// Number of parameters.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// The position embedding.
    pub fn rope(&self) -> &LTXVideoRotaryPosEmbed {
        &self.rope
    }

    /// Bytes that a step takes for `batch` rows of `tokens` tokens, at most.
    pub fn working_bytes(&self, batch: usize, tokens: usize, text_tokens: usize) -> u64 {
        let width = self.config.inner_dim();
        let narrow = if self.proj_in.dtype() == DType::BF16 { 2 } else { 4 };
        // The states before and after a part (f32), and the widest parts: q, k and v with their turned copies and what was
        // attended, or the inside of the feed-forward layer.
        let parts = (3 + 2 + 1 + 1).max(FEED_FORWARD_FACTOR + 1) * narrow;
        let states = batch * tokens * width * (3 * 4 + parts);
        let rotary = 2 * tokens * width / 2 * 4;
        let text = batch * text_tokens * width * 2 * narrow * self.config.num_layers;
        (states + rotary + text + batch * tokens * self.config.in_channels * 4 * 4) as u64
    }

    /// Prepares the text: states `[B, S, caption_channels]` with their mask, i64 `[B, S]`.
    ///
    /// # Errors
    /// When the shapes do not fit each other or the model.
    pub fn condition(
        &self,
        encoder_hidden_states: &Tensor,
        encoder_attention_mask: &Tensor,
    ) -> Result<TextConditioning> {
        let [batch, length, _] = encoder_hidden_states.dims()?;
        let seen = encoder_attention_mask.to_dtype(DType::F32).reshape(&[batch, 1, 1, length])?;
        let mask = seen.mul_scalar(-1.0)?.add_scalar(1.0)?.mul_scalar(MASKED)?;
        let (linear_1, linear_2) = &self.caption_projection;
        let context = linear_2.forward(&linear_1.forward_act_narrow(encoder_hidden_states, Activation::GeluTanh)?)?;
        let key_values =
            self.transformer_blocks.iter().map(|block| block.key_value(&context)).collect::<Result<_>>()?;
        Ok(TextConditioning { key_values, mask })
    }

    /// The velocity `[B, L, out_channels]` of `hidden_states` `[B, L, in_channels]`.
    ///
    /// `timestep` is `[B, R]`, where `R` divides `L`: every value is for so many tokens in a row. With a `perturbation` there
    /// is one row more in the result, of the last row with some layers disturbed; the text has it too. Up to the first
    /// disturbed layer the two are the same and are computed once.
    ///
    /// # Errors
    /// When shapes do not fit each other.
    pub fn forward(
        &self,
        hidden_states: &Tensor,
        text: &TextConditioning,
        timestep: &Tensor,
        rotary: &RotaryEmbedding,
        perturbation: Option<Perturbation<'_>>,
    ) -> Result<Tensor> {
        let mut temb = self.time_embed.forward(timestep)?;
        let mut hidden_states = self.proj_in.forward(hidden_states)?;
        let mut apart = false;
        for (n, (block, key_value)) in self.transformer_blocks.iter().zip(&text.key_values).enumerate() {
            let perturbed = perturbation.filter(|p| p.blocks.contains(&n)).map(|p| p.mode);
            if perturbed.is_some() && !apart {
                apart = true;
                hidden_states = with_last_again(&hidden_states)?;
                temb.temb = with_last_again(&temb.temb)?;
                temb.embedded_timestep = with_last_again(&temb.embedded_timestep)?;
            }
            hidden_states = block.forward(&hidden_states, &temb.temb, rotary, (key_value, &text.mask), perturbed)?;
        }
        let width = self.config.inner_dim();
        let embedded = &temb.embedded_timestep;
        let scale_shift = Tensor::cat(&[embedded, embedded], 2)?.add(&self.scale_shift_table)?;
        let [shift, scale] = [0, 1].map(|n| Columns::of(&scale_shift, n * width..(n + 1) * width));
        let (modulation, to) = (Modulation::new(scale, shift), self.proj_out.dtype());
        let normed = layer_norm_modulated(&hidden_states, None, Some(&modulation), Activation::None, NORM_OUT_EPS, to)?;
        let out = self.proj_out.forward(&normed)?;
        if perturbation.is_some() && !apart { with_last_again(&out) } else { Ok(out) }
    }
}

fn with_last_again(x: &Tensor) -> Result<Tensor> {
    let batch = x.dim(0)?;
    Ok(Tensor::cat(&[x, &x.narrow(0, batch.saturating_sub(1), 1)?], 0)?)
}
