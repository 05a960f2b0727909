//! The latents that a generation begins with: noise, and what is known already.

use sango_tensor::Tensor;

use super::latents::{normalize, pack};
use super::noise::{Draw, NoiseSource};
use super::plan::{Condition, PREFIX_LATENT_FRAMES, PipelineClass, Plan};
use super::rope::{LTXVideoRotaryPosEmbed, RotaryEmbedding};
use super::vae::{AutoencoderKLLTXVideo, Progress, Tiling};
use crate::error::Result;

/// Where a generation begins.
pub(super) struct Start {
    /// `[1, L, C]`.
    pub(super) tokens: Tensor,
    pub(super) rotary: RotaryEmbedding,
    pub(super) known: Known,
}

/// What of the latents is known.
pub(super) enum Known {
    Nothing,
    /// The first frame, which stays as it is.
    FirstFrame,
    /// Every token to some degree.
    Tokens {
        /// `[L]`: 0 for what is free, 1 for what is certain.
        mask: Vec<f32>,
        /// The tokens at the beginning, where noise is added to what is certain.
        initial: Option<Tensor>,
        /// How many tokens in front belong to conditions and not to the video.
        appended: usize,
    },
}

/// Encodes what is given and lays it over noise.
pub(super) fn start(
    plan: &Plan,
    given: &Given<'_>,
    rope: &LTXVideoRotaryPosEmbed,
    channels: usize,
    progress: &mut Progress<'_>,
) -> Result<Start> {
    let &Given { vae, noise, .. } = given;
    let [frames, height, width] = plan.grid;
    let shape = [1, channels, frames, height, width];
    let latents = noise.draw(Draw::Latents, &shape)?;
    let (time, space) = (vae.temporal_compression_ratio(), vae.spatial_compression_ratio());
    if plan.class == PipelineClass::Condition {
        return conditioned(plan, latents, given, rope, progress);
    }
    let scale = [(time as f64 / f64::from(plan.frame_rate)) as f32, space as f32, space as f32];
    let rotary = rope.forward_grid(plan.grid, Some(scale))?;
    let Some(image) = &plan.image else {
        return Ok(Start { tokens: pack(&latents)?, rotary, known: Known::Nothing });
    };
    let first = given.encode(image, Draw::Image, progress)?;
    let latents = match frames {
        1 => first,
        _ => Tensor::cat(&[&first, &latents.narrow(2, 1, frames - 1)?], 2)?,
    };
    Ok(Start { tokens: pack(&latents)?, rotary, known: Known::FirstFrame })
}

/// How what is given becomes latents.
pub(super) struct Given<'a> {
    pub(super) vae: &'a AutoencoderKLLTXVideo,
    pub(super) noise: &'a NoiseSource<'a>,
    pub(super) tiling: &'a Tiling,
}

impl Given<'_> {
    /// Normalised latents of frames `[1, 3, T, H, W]`.
    fn encode(&self, frames: &Tensor, draw: Draw, progress: &mut Progress<'_>) -> Result<Tensor> {
        let distribution = self.vae.encode(frames, self.tiling, progress)?;
        let latents = match self.noise.optional(draw, distribution.mean.shape())? {
            Some(noise) => distribution.sample(&noise)?,
            None => distribution.mode(),
        };
        normalize(&latents, self.vae)
    }
}

/// `LTXConditionPipeline.prepare_latents`.
fn conditioned(
    plan: &Plan,
    mut latents: Tensor,
    given: &Given<'_>,
    rope: &LTXVideoRotaryPosEmbed,
    progress: &mut Progress<'_>,
) -> Result<Start> {
    let &Given { vae, noise, .. } = given;
    let [frames, height, width] = plan.grid;
    let (time, per_frame) = (vae.temporal_compression_ratio(), height * width);
    let mut frame_mask = vec![0.0f32; frames];
    let (mut parts, mut coords, mut mask) = (Vec::new(), Coordinates::default(), Vec::new());
    for (n, condition) in plan.conditions.iter().enumerate() {
        let &Condition { frame_index, strength, .. } = condition;
        let mut known = given.encode(&condition.frames, Draw::Condition(n), progress)?;
        let mut over = |latents: &mut Tensor, at: usize, known: &Tensor| -> Result<()> {
            let count = known.dim(2)?;
            *latents = lay_over(latents, at, known, strength)?;
            frame_mask[at..at + count].fill(strength);
            Ok(())
        };
        if frame_index == 0 {
            over(&mut latents, 0, &known)?;
            continue;
        }
        let count = known.dim(2)?;
        if count > PREFIX_LATENT_FRAMES {
            let rest = known.narrow(2, PREFIX_LATENT_FRAMES, count - PREFIX_LATENT_FRAMES)?;
            over(&mut latents, frame_index / time + PREFIX_LATENT_FRAMES, &rest)?;
            known = known.narrow(2, 0, PREFIX_LATENT_FRAMES)?;
        }
        let drawn = noise.draw(Draw::ConditionNoise(n), known.shape())?;
        let known = lerp(&drawn, &known, strength)?;
        let count = known.dim(2)?;
        coords.add([count, height, width], frame_index, plan, vae);
        mask.extend(std::iter::repeat_n(strength, count * per_frame));
        parts.push(pack(&known)?);
    }
    let appended = mask.len();
    coords.add(plan.grid, 0, plan, vae);
    mask.extend(frame_mask.iter().flat_map(|&strength| std::iter::repeat_n(strength, per_frame)));
    parts.push(pack(&latents)?);
    let tokens = Tensor::cat(&parts.iter().collect::<Vec<_>>(), 1)?;
    let noisy = !plan.conditions.is_empty() && plan.image_cond_noise_scale > 0.0;
    let initial = noisy.then(|| tokens.clone());
    Ok(Start {
        tokens,
        rotary: rope.forward_coords(&coords.tensor()?)?,
        known: Known::Tokens { mask, initial, appended },
    })
}

/// `latents` with `known` mixed in from latent frame `at` on.
fn lay_over(latents: &Tensor, at: usize, known: &Tensor, strength: f32) -> Result<Tensor> {
    let (frames, count) = (latents.dim(2)?, known.dim(2)?);
    let mixed = lerp(&latents.narrow(2, at, count)?, known, strength)?;
    let (before, after) = (latents.narrow(2, 0, at)?, latents.narrow(2, at + count, frames - at - count)?);
    let parts: Vec<&Tensor> = [&before, &mixed, &after].into_iter().filter(|part| part.numel() > 0).collect();
    Ok(Tensor::cat(&parts, 2)?)
}

/// `torch.lerp`.
fn lerp(from: &Tensor, to: &Tensor, weight: f32) -> Result<Tensor> {
    let difference = to.sub(from)?;
    Ok(match weight < 0.5 {
        true => from.add(&difference.mul_scalar(weight)?)?,
        false => to.sub(&difference.mul_scalar(1.0 - weight)?)?,
    })
}

/// Where tokens are, in seconds, pixels and pixels.
#[derive(Default)]
struct Coordinates([Vec<f32>; 3]);

impl Coordinates {
    /// Adds a grid of latents that begins at frame `frame_index`. A latent is where its first pixel is; the first latent
    /// frame is one frame, so that the others begin earlier than the compression says.
    fn add(
        &mut self,
        [frames, height, width]: [usize; 3],
        frame_index: usize,
        plan: &Plan,
        vae: &AutoencoderKLLTXVideo,
    ) {
        let (time, space) = (vae.temporal_compression_ratio(), vae.spatial_compression_ratio());
        let per_second = (1.0 / f64::from(plan.frame_rate)) as f32;
        for frame in 0..frames {
            let at = ((frame * time + 1).saturating_sub(time) + frame_index) as f32 * per_second;
            for row in 0..height {
                for column in 0..width {
                    self.0[0].push(at);
                    self.0[1].push((row * space) as f32);
                    self.0[2].push((column * space) as f32);
                }
            }
        }
    }

    /// `[1, 3, L]`.
    fn tensor(&self) -> Result<Tensor> {
        Ok(Tensor::from_vec(self.0.concat(), &[1, 3, self.0[0].len()])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixing_ends_exactly_at_both_ends() {
        let (a, b) = (Tensor::full(&[1, 1, 3, 1, 1], 0.1).expect("a"), Tensor::full(&[1, 1, 1, 1, 1], 0.7).expect("b"));
        assert_eq!(lay_over(&a, 1, &b, 1.0).expect("mixed").as_f32().expect("f32"), [0.1, 0.7, 0.1]);
        assert_eq!(lay_over(&a, 2, &b, 0.0).expect("mixed").as_f32().expect("f32"), [0.1, 0.1, 0.1]);
    }
}
