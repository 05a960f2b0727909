//! `diffusers` `LTXVideoTransformer3DModel`.

mod block;
mod config;
mod rope;

pub use config::TransformerConfig;
pub use rope::RotaryPosEmbed;

use tch::nn::{Init, Path};
use tch::{Kind, Tensor};

use crate::nn::{Linear, fan_in_uniform};
use block::TransformerBlock;

/// Width of the sinusoids that say the timestep.
const TIME_CHANNELS: i64 = 256;

/// The transformer.
#[derive(Debug)]
pub struct LTXVideoTransformer3DModel {
    proj_in: Linear,
    time_embed: TimeEmbed,
    caption_1: Linear,
    caption_2: Linear,
    blocks: Vec<TransformerBlock>,
    scale_shift_table: Tensor,
    proj_out: Linear,
}

/// `AdaLayerNormSingle`: the timestep, and what all blocks take from it.
#[derive(Debug)]
struct TimeEmbed {
    linear_1: Linear,
    linear_2: Linear,
    linear: Linear,
}

impl LTXVideoTransformer3DModel {
    /// Adds all parts below `path`.
    pub fn new(path: &Path, config: &TransformerConfig) -> Self {
        let dim = config.inner_dim();
        let time = path / "time_embed";
        let embedder = &time / "emb" / "timestep_embedder";
        let caption = path / "caption_projection";
        let small = Init::Randn { mean: 0.0, stdev: 0.02 };
        Self {
            proj_in: Linear::new(&(path / "proj_in"), config.in_channels, dim, true),
            time_embed: TimeEmbed {
                linear_1: Linear::with_init(&(&embedder / "linear_1"), TIME_CHANNELS, dim, true, small),
                linear_2: Linear::with_init(&(&embedder / "linear_2"), dim, dim, true, small),
                linear: Linear::zeros(&(&time / "linear"), dim, 6 * dim, true),
            },
            caption_1: Linear::new(&(&caption / "linear_1"), config.caption_channels, dim, true),
            caption_2: Linear::new(&(&caption / "linear_2"), dim, dim, true),
            blocks: (0..config.num_layers)
                .map(|i| TransformerBlock::new(&(path / "transformer_blocks" / i), config))
                .collect(),
            scale_shift_table: path.var("scale_shift_table", &[2, dim], Init::Const(0.0)),
            proj_out: Linear::with_init(&(path / "proj_out"), dim, config.out_channels, true, fan_in_uniform(dim * 16)),
        }
    }

    /// The velocity of `latents` `[B, S, C]` at the timesteps (0–1000) of their parts, given what the text encoder made
    /// of the prompts, `[B, L, caption_channels]`, with 1 where that is no padding, `[B, L]`.
    ///
    /// A part is a number of tokens and their timesteps `[B]`: one of all tokens, or first those of a frame that is given.
    pub fn forward(
        &self,
        latents: &Tensor,
        parts: &[(i64, &Tensor)],
        caption: &Tensor,
        mask: &Tensor,
        rope: &RotaryPosEmbed,
    ) -> Tensor {
        let kind = latents.kind();
        let bias = ((mask - 1.0) * 10_000.0).to_kind(kind).unsqueeze(1).unsqueeze(1);
        let parts: Vec<Part> = parts.iter().map(|&(tokens, timestep)| self.part(tokens, timestep, kind)).collect();
        let caption = self.caption_2.forward(&self.caption_1.forward(caption).gelu("tanh"));
        let x = self.proj_in.forward(latents);
        let x = self.blocks.iter().fold(x, |x, block| block.forward(&x, &caption, &bias, &parts, rope));
        let dim = [x.size()[2]];
        let normed = x.layer_norm::<Tensor>(&dim, None, None, 1e-6, false);
        let modulated = by_part(&[&normed], &parts, |part, x| {
            let table = &self.scale_shift_table + &part.embedded;
            table.narrow(1, 0, 1) + x[0] * (table.narrow(1, 1, 1) + 1.0)
        });
        self.proj_out.forward(&modulated)
    }

    fn part(&self, tokens: i64, timestep: &Tensor, kind: Kind) -> Part {
        let sinusoids = sinusoids(timestep).to_kind(kind);
        let embedded = self.time_embed.linear_2.forward(&self.time_embed.linear_1.forward(&sinusoids).silu());
        let time = self.time_embed.linear.forward(&embedded.silu());
        Part { tokens, time: time.unflatten(1, [6, -1]), embedded: embedded.unsqueeze(1) }
    }
}

/// Tokens that share a timestep, with what the model takes from it.
#[derive(Debug)]
struct Part {
    tokens: i64,
    /// `[B, 6, dim]`.
    time: Tensor,
    /// `[B, 1, dim]`.
    embedded: Tensor,
}

/// Applies `f` to the tokens of each part of `inputs` `[B, S, dim]`.
fn by_part(inputs: &[&Tensor], parts: &[Part], f: impl Fn(&Part, &[&Tensor]) -> Tensor) -> Tensor {
    if let [part] = parts {
        return f(part, inputs);
    }
    let mut start = 0;
    let done: Vec<Tensor> = parts
        .iter()
        .map(|part| {
            let tokens: Vec<Tensor> = inputs.iter().map(|x| x.narrow(1, start, part.tokens)).collect();
            start += part.tokens;
            f(part, &tokens.iter().collect::<Vec<_>>())
        })
        .collect();
    Tensor::cat(&done, 1)
}

/// Cosines, then sines of `timestep` `[B]` at falling frequencies: `[B, 256]`.
fn sinusoids(timestep: &Tensor) -> Tensor {
    let half = TIME_CHANNELS / 2;
    let steps = Tensor::arange(half, (Kind::Float, timestep.device()));
    let frequencies = (steps * (-(10_000f64.ln()) / half as f64)).exp();
    let angles = timestep.to_kind(Kind::Float).unsqueeze(1) * frequencies.unsqueeze(0);
    Tensor::cat(&[angles.cos(), angles.sin()], 1)
}
