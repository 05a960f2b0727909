//! `diffusers` `UVit2DModel`: predicts the code of every masked cell from the others and the text.

use serde::{Deserialize, Serialize};
use tch::nn::Path;
use tch::{Kind, Tensor};

use crate::nn::{
    AdaLayerNormContinuous, Attention, Conv2d, Embedding, GlobalResponseNorm, Linear, RmsNorm, fan_in_uniform,
};

/// The fields of `transformer/config.json`. Biases are always off and RMS norms always have weights, as in the
/// published checkpoints.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct UVitConfig {
    /// Width of the transformer layers.
    pub hidden_size: i64,
    /// Width of the pooled text embedding.
    pub cond_embed_dim: i64,
    /// Sinusoids per micro-condition.
    pub micro_cond_encode_dim: i64,
    /// Five times that.
    pub micro_cond_embed_dim: i64,
    /// Width of the text states.
    pub encoder_hidden_size: i64,
    /// Codes and the mask, rounded up.
    pub vocab_size: i64,
    /// Codes.
    pub codebook_size: i64,
    /// Width of the code embeddings.
    pub in_channels: i64,
    /// Width of the convolution blocks.
    pub block_out_channels: i64,
    /// Convolution blocks before and after the transformer layers.
    pub num_res_blocks: i64,
    /// Whether the first block halves the grid.
    pub downsample: bool,
    /// Whether the last block doubles it again.
    pub upsample: bool,
    /// Heads in the convolution blocks.
    pub block_num_heads: i64,
    /// Transformer layers.
    pub num_hidden_layers: i64,
    /// Heads in the transformer layers.
    pub num_attention_heads: i64,
    /// Width inside the feed-forward layers.
    pub intermediate_size: i64,
    /// Cells along an edge of the grid.
    pub sample_size: i64,
}

const EPS: f64 = 1e-6;

/// Text and micro-conditions of a batch.
#[derive(Debug)]
pub struct Condition {
    /// Text states `[B, L, encoder_hidden_size]`.
    pub encoder_hidden_states: Tensor,
    /// Pooled text `[B, cond_embed_dim]`.
    pub pooled_text_emb: Tensor,
    /// Width, height, crop (twice) and aesthetic score `[B, 5]`.
    pub micro_conds: Tensor,
}

/// What every block is given.
struct Context {
    text: Tensor,
    /// The embedded condition through SiLU.
    cond: Tensor,
}

/// `ConvNextBlock` with its condition.
#[derive(Debug)]
struct ConvNextBlock {
    depthwise: Conv2d,
    norm: RmsNorm,
    channelwise_linear_1: Linear,
    channelwise_norm: GlobalResponseNorm,
    channelwise_linear_2: Linear,
    cond_embeds_mapper: Linear,
}

impl ConvNextBlock {
    fn new(path: &Path, channels: i64, hidden: i64) -> Self {
        let depthwise = path / "depthwise";
        Self {
            depthwise: Conv2d::build(&depthwise, channels, channels, 3, 1, 1, channels, false),
            norm: RmsNorm::new(&(path / "norm"), channels, EPS),
            channelwise_linear_1: Linear::new(&(path / "channelwise_linear_1"), channels, 4 * channels, false),
            channelwise_norm: GlobalResponseNorm::new(&(path / "channelwise_norm"), 4 * channels),
            channelwise_linear_2: Linear::new(&(path / "channelwise_linear_2"), 4 * channels, channels, false),
            cond_embeds_mapper: Linear::zeros(&(path / "cond_embeds_mapper"), hidden, 2 * channels, false),
        }
    }

    /// `[B, H·W, C]` → `[B, H·W, C]`.
    fn forward(&self, x: &Tensor, side: i64, context: &Context) -> Tensor {
        let (b, l, c) = x.size3().unwrap_or((0, 0, 0));
        // Already channels-last in memory, so neither permutation copies.
        let grid = x.view([b, side, side, c]).permute([0, 3, 1, 2]);
        let h = self.depthwise.forward(&grid).permute([0, 2, 3, 1]).reshape([b, l, c]);
        let h = self.channelwise_linear_1.forward(&self.norm.forward(&h)).gelu("none");
        let h = self.channelwise_linear_2.forward(&self.channelwise_norm.forward(&h)) + x;
        let modulation = self.cond_embeds_mapper.forward(&context.cond).unsqueeze(1).chunk(2, -1);
        modulation[1].addcmul(&h, &(&modulation[0] + 1.0))
    }
}

/// `SkipFFTransformerBlock`: both attentions look at the text.
#[derive(Debug)]
struct SkipFFTransformerBlock {
    kv_mapper: Option<Linear>,
    norm1: RmsNorm,
    attn1: Attention,
    norm2: RmsNorm,
    attn2: Attention,
}

impl SkipFFTransformerBlock {
    fn new(path: &Path, channels: i64, heads: i64, hidden: i64) -> Self {
        let attention = |name: &str| Attention::new(&(path / name), channels, channels, heads, false);
        Self {
            kv_mapper: (hidden != channels).then(|| Linear::new(&(path / "kv_mapper"), hidden, channels, false)),
            norm1: RmsNorm::new(&(path / "norm1"), channels, EPS),
            attn1: attention("attn1"),
            norm2: RmsNorm::new(&(path / "norm2"), channels, EPS),
            attn2: attention("attn2"),
        }
    }

    fn forward(&self, x: &Tensor, context: &Context) -> Tensor {
        let mapped = self.kv_mapper.as_ref().map(|m| m.forward(&context.text.silu()));
        let text = mapped.as_ref().unwrap_or(&context.text);
        let x = x + self.attn1.forward(&self.norm1.forward(x), text);
        &x + self.attn2.forward(&self.norm2.forward(&x), text)
    }
}

/// `Downsample2D` of the first block: RMS norm, then a 2×2 convolution of stride 2.
#[derive(Debug)]
struct Downsample {
    norm: RmsNorm,
    conv: Conv2d,
}

/// `Upsample2D` of the last block: RMS norm, then a 2×2 transposed convolution of stride 2.
#[derive(Debug)]
struct Upsample {
    norm: RmsNorm,
    /// `[in, out, 2, 2]`.
    weight: Tensor,
}

/// `UVitBlock`.
#[derive(Debug)]
struct UVitBlock {
    downsample: Option<Downsample>,
    res_blocks: Vec<ConvNextBlock>,
    attention_blocks: Vec<SkipFFTransformerBlock>,
    upsample: Option<Upsample>,
}

impl UVitBlock {
    fn new(path: &Path, config: &UVitConfig, down: bool, up: bool) -> Self {
        let (channels, hidden) = (config.block_out_channels, config.hidden_size);
        let downsample = down.then(|| {
            let path = path / "downsample";
            Downsample {
                norm: RmsNorm::new(&(&path / "norm"), channels, EPS),
                conv: Conv2d::build(&(&path / "conv"), channels, channels, 2, 2, 0, 1, false),
            }
        });
        let upsample = up.then(|| {
            let path = path / "upsample";
            Upsample {
                norm: RmsNorm::new(&(&path / "norm"), channels, EPS),
                weight: (&path / "conv").var("weight", &[channels, channels, 2, 2], fan_in_uniform(channels)),
            }
        });
        let (res, attention) = (path / "res_blocks", path / "attention_blocks");
        let blocks = 0..config.num_res_blocks;
        Self {
            downsample,
            res_blocks: blocks.clone().map(|i| ConvNextBlock::new(&(&res / i), channels, hidden)).collect(),
            attention_blocks: blocks
                .map(|i| {
                    let heads = config.block_num_heads;
                    SkipFFTransformerBlock::new(&(&attention / i), channels, heads, hidden)
                })
                .collect(),
            upsample,
        }
    }

    /// `[B, side², C]` and `side` → the same with another side where the block resamples.
    fn forward(&self, x: &Tensor, side: i64, context: &Context) -> (Tensor, i64) {
        let (b, _, c) = x.size3().unwrap_or((0, 0, 0));
        let grid = |x: &Tensor, side: i64| x.view([b, side, side, c]).permute([0, 3, 1, 2]);
        let rows = |x: Tensor| x.permute([0, 2, 3, 1]).reshape([b, -1, c]);
        let (mut x, mut side) = (x.shallow_clone(), side);
        if let Some(down) = &self.downsample {
            x = rows(down.conv.forward(&grid(&down.norm.forward(&x), side)));
            side /= 2;
        }
        for (res, attention) in self.res_blocks.iter().zip(&self.attention_blocks) {
            x = attention.forward(&res.forward(&x, side, context), context);
        }
        if let Some(up) = &self.upsample {
            let none: Option<&Tensor> = None;
            let h = grid(&up.norm.forward(&x), side);
            x = rows(h.conv_transpose2d(&up.weight, none, [2, 2], [0, 0], [0, 0], 1, [1, 1]));
            side *= 2;
        }
        (x, side)
    }
}

/// `BasicTransformerBlock` with conditioned norms.
#[derive(Debug)]
struct TransformerLayer {
    norm1: AdaLayerNormContinuous,
    attn1: Attention,
    norm2: AdaLayerNormContinuous,
    attn2: Attention,
    norm3: AdaLayerNormContinuous,
    ff_in: Linear,
    ff_out: Linear,
}

impl TransformerLayer {
    fn new(path: &Path, config: &UVitConfig) -> Self {
        let (dim, heads, inner) = (config.hidden_size, config.num_attention_heads, config.intermediate_size);
        let net = path / "ff" / "net";
        Self {
            norm1: AdaLayerNormContinuous::rms(&(path / "norm1"), dim, dim, EPS, false),
            attn1: Attention::new(&(path / "attn1"), dim, dim, heads, false),
            norm2: AdaLayerNormContinuous::rms(&(path / "norm2"), dim, dim, EPS, false),
            attn2: Attention::new(&(path / "attn2"), dim, dim, heads, false),
            norm3: AdaLayerNormContinuous::layer(&(path / "norm3"), dim, dim, EPS, false),
            ff_in: Linear::new(&(&net / 0 / "proj"), dim, 2 * inner, false),
            ff_out: Linear::new(&(&net / 2), inner, dim, false),
        }
    }

    fn forward(&self, x: &Tensor, context: &Context) -> Tensor {
        let h = self.norm1.forward(x, &context.cond);
        let x = x + self.attn1.forward(&h, &h);
        let h = self.norm2.forward(&x, &context.cond);
        let x = &x + self.attn2.forward(&h, &context.text);
        let h = self.norm3.forward(&x, &context.cond);
        let halves = self.ff_in.forward(&h).chunk(2, -1);
        &x + self.ff_out.forward(&(&halves[0] * halves[1].gelu("none")))
    }
}

/// The whole model.
#[derive(Debug)]
pub struct UVit2DModel {
    config: UVitConfig,
    kind: Kind,
    encoder_proj: Linear,
    encoder_proj_layer_norm: RmsNorm,
    embeddings: Embedding,
    embed_norm: RmsNorm,
    embed_conv: Conv2d,
    cond_linear_1: Linear,
    cond_linear_2: Linear,
    down_block: UVitBlock,
    project_to_hidden_norm: RmsNorm,
    project_to_hidden: Linear,
    transformer_layers: Vec<TransformerLayer>,
    project_from_hidden_norm: RmsNorm,
    project_from_hidden: Linear,
    up_block: UVitBlock,
    mlm_conv1: Conv2d,
    mlm_norm: RmsNorm,
    mlm_conv2: Conv2d,
}

impl UVit2DModel {
    /// Adds all variables below `path`; activations are of the given kind (`Float` or `BFloat16`).
    pub fn new(path: &Path, config: &UVitConfig, kind: Kind) -> Self {
        let (hidden, channels, inner) = (config.hidden_size, config.block_out_channels, config.in_channels);
        let (embed, cond, mlm) = (path / "embed", path / "cond_embed", path / "mlm_layer");
        let pointwise = |path: &Path, inputs, outputs| Conv2d::build(path, inputs, outputs, 1, 1, 0, 1, false);
        let cond_width = config.micro_cond_embed_dim + config.cond_embed_dim;
        let layers = path / "transformer_layers";
        Self {
            config: config.clone(),
            kind,
            encoder_proj: Linear::new(&(path / "encoder_proj"), config.encoder_hidden_size, hidden, false),
            encoder_proj_layer_norm: RmsNorm::new(&(path / "encoder_proj_layer_norm"), hidden, EPS),
            embeddings: Embedding::new(&(&embed / "embeddings"), config.vocab_size, inner, 1.0),
            embed_norm: RmsNorm::new(&(&embed / "layer_norm"), inner, EPS),
            embed_conv: pointwise(&(&embed / "conv"), inner, channels),
            cond_linear_1: Linear::new(&(&cond / "linear_1"), cond_width, hidden, false),
            cond_linear_2: Linear::new(&(&cond / "linear_2"), hidden, hidden, false),
            down_block: UVitBlock::new(&(path / "down_block"), config, config.downsample, false),
            project_to_hidden_norm: RmsNorm::new(&(path / "project_to_hidden_norm"), channels, EPS),
            project_to_hidden: Linear::new(&(path / "project_to_hidden"), channels, hidden, false),
            transformer_layers: (0..config.num_hidden_layers)
                .map(|i| TransformerLayer::new(&(&layers / i), config))
                .collect(),
            project_from_hidden_norm: RmsNorm::new(&(path / "project_from_hidden_norm"), hidden, EPS),
            project_from_hidden: Linear::new(&(path / "project_from_hidden"), hidden, channels, false),
            up_block: UVitBlock::new(&(path / "up_block"), config, false, config.upsample),
            mlm_conv1: pointwise(&(&mlm / "conv1"), channels, inner),
            mlm_norm: RmsNorm::new(&(&mlm / "layer_norm"), inner, EPS),
            mlm_conv2: pointwise(&(&mlm / "conv2"), inner, config.codebook_size),
        }
    }

    /// The id that stands for a masked cell.
    pub fn mask_token(&self) -> i64 {
        self.config.vocab_size - 1
    }

    /// Cells of the grid.
    pub fn cells(&self) -> i64 {
        self.config.sample_size * self.config.sample_size
    }

    /// Gives codes `features` `[codes, in_channels]` as fixed input embeddings and output weights.
    ///
    /// A code that training rarely shows is then still next to the codes that look like it, and a combination never
    /// seen composes; with free weights the model learns codes by heart and draws the corners of new combinations in
    /// the colours of known ones.
    pub fn fix_codes(&mut self, features: &Tensor) {
        tch::no_grad(|| {
            let codes = self.config.codebook_size;
            let table = &mut self.embeddings.weight;
            table.narrow(0, 0, codes).copy_(features);
            let fixed = table.detach().to_kind(self.kind);
            let _ = table.set_requires_grad(false);
            table.set_data(&fixed);
            self.mlm_conv2.fix_weight(&features.view([codes, -1, 1, 1]).to_kind(self.kind));
        });
    }

    /// Ids `[B, h·w]` → logits `[B, h·w, codes]`, f32.
    pub fn forward(&self, ids: &Tensor, condition: &Condition) -> Tensor {
        let side = self.config.sample_size;
        let context = self.context(condition);
        let x = self.embed_norm.forward(&self.embeddings.forward(ids));
        let (x, side) = self.down_block.forward(&self.embed_conv.pointwise(&x), side, &context);
        let mut x = self.project_to_hidden.forward(&self.project_to_hidden_norm.forward(&x));
        for layer in &self.transformer_layers {
            x = layer.forward(&x, &context);
        }
        let x = self.project_from_hidden.forward(&self.project_from_hidden_norm.forward(&x));
        let (x, _) = self.up_block.forward(&x, side, &context);
        let x = self.mlm_norm.forward(&self.mlm_conv1.pointwise(&x));
        self.mlm_conv2.pointwise(&x).to_kind(Kind::Float)
    }

    fn context(&self, condition: &Condition) -> Context {
        let text = condition.encoder_hidden_states.to_kind(self.kind);
        let text = self.encoder_proj_layer_norm.forward(&self.encoder_proj.forward(&text));
        let micro = sinusoids(&condition.micro_conds, self.config.micro_cond_encode_dim);
        let cond = Tensor::cat(&[condition.pooled_text_emb.to_kind(Kind::Float), micro], 1).to_kind(self.kind);
        let cond = self.cond_linear_2.forward(&self.cond_linear_1.forward(&cond).silu());
        Context { text, cond: cond.silu() }
    }
}

/// `get_timestep_embedding` with cosines first and no shift: `[B, 5]` → `[B, 5·dim]`.
fn sinusoids(values: &Tensor, dim: i64) -> Tensor {
    let half = dim / 2;
    let exponent = Tensor::arange(half, (Kind::Float, values.device())) * (-(10_000f64.ln()) / half as f64);
    let angles = values.to_kind(Kind::Float).unsqueeze(-1) * exponent.exp();
    Tensor::cat(&[angles.cos(), angles.sin()], -1).flatten(1, 2)
}
