//! The loop from noise to latents.

use std::time::{Duration, Instant};

use sango_tensor::Tensor;

use super::conditioning::{Known, Start};
use super::latents::unpack;
use super::noise::{Draw, NoiseSource};
use super::plan::Plan;
use super::transformer_ltx::{LTXVideoTransformer3DModel, Perturbation, TextConditioning};
use crate::error::{ModelError, Result};

/// What a step left, for who looks on.
pub(super) struct AfterStep<'a> {
    /// The step, from 1.
    pub(super) step: usize,
    /// Steps in all.
    pub(super) total: usize,
    /// What the model takes the video's latents for, without their noise: `[1, C, F, h, w]`, normalised.
    pub(super) denoised: &'a dyn Fn() -> Result<Tensor>,
    /// The guided velocity `[1, C, F, h, w]` of the step.
    pub(super) velocity: &'a dyn Fn() -> Result<Tensor>,
}

/// Runs all steps; returns the normalised latents `[1, C, F, h, w]` and how long each step took.
pub(super) fn denoise(
    transformer: &LTXVideoTransformer3DModel,
    plan: &Plan,
    Start { mut tokens, rotary, known }: Start,
    text: &TextConditioning,
    noise: &NoiseSource<'_>,
    after_step: &mut dyn FnMut(&AfterStep<'_>) -> Result<()>,
) -> Result<(Tensor, Vec<Duration>)> {
    let (schedule, total) = (&plan.schedule, plan.schedule.steps());
    let per_frame = plan.grid[1] * plan.grid[2];
    let appended = match &known {
        Known::Tokens { appended, .. } => *appended,
        Known::Nothing | Known::FirstFrame => 0,
    };
    let own = |tokens: &Tensor| unpack(&tokens.narrow(1, appended, tokens.dim(1)? - appended)?, plan.grid);
    let perturbation = plan.stg.as_ref().map(|(blocks, mode)| Perturbation { blocks, mode: *mode });
    // The disturbed row comes of the last one on its way through the layers.
    let rows = plan.guidance.rows() - usize::from(perturbation.is_some());
    let mut durations = Vec::with_capacity(total);
    for (index, &t) in schedule.timesteps.iter().enumerate() {
        let started = Instant::now();
        if let Known::Tokens { mask, initial: Some(initial), .. } = &known {
            let drawn = noise.draw(Draw::ConditionStep(index), tokens.shape())?;
            let scale = plan.image_cond_noise_scale * (t / 1000.0).powi(2);
            let noisy = initial.add(&drawn.mul_scalar(scale)?)?;
            tokens = choose(&noisy, &tokens, |token| mask[token] > 1.0 - 1e-6)?;
        }
        // One timestep for all, or one for each latent frame.
        let frames = tokens.dim(1)? / per_frame;
        let timesteps: Vec<f32> = match &known {
            Known::Nothing => vec![t],
            Known::FirstFrame => (0..frames).map(|frame| if frame == 0 { 0.0 } else { t }).collect(),
            Known::Tokens { mask, .. } => {
                (0..frames).map(|frame| t.min((1.0 - mask[frame * per_frame]) * 1000.0)).collect()
            }
        };
        let batch = Tensor::cat(&vec![&tokens; rows], 0)?;
        let timestep = Tensor::from_vec(timesteps.repeat(rows), &[rows, timesteps.len()])?;
        let velocities = transformer.forward(&batch, text, &timestep, &rotary, perturbation)?;
        let velocity = plan.guidance.apply(&velocities)?;
        if !velocity.as_f32()?.iter().all(|x| x.is_finite()) {
            return Err(ModelError::NotFinite { step: index + 1 });
        }
        let drawn = match schedule.is_stochastic() {
            true => Some(noise.draw(Draw::Step(index), tokens.shape())?),
            false => None,
        };
        let before = tokens;
        let of_token = |token: usize| timesteps[token * timesteps.len() / before.shape()[1]];
        tokens = match &known {
            Known::Nothing => schedule.step(index, &velocity, &before, drawn.as_ref())?,
            Known::FirstFrame => {
                let stepped = schedule.step(index, &velocity, &before, drawn.as_ref())?;
                choose(&before, &stepped, |token| token < per_frame)?
            }
            Known::Tokens { mask, .. } => {
                let each: Vec<f32> = (0..before.dim(1)?).map(of_token).collect();
                let stepped = schedule.step_per_token(&each, &velocity, &before, drawn.as_ref())?;
                choose(&stepped, &before, |token| t / 1000.0 - 1e-6 < 1.0 - mask[token])?
            }
        };
        durations.push(started.elapsed());
        let denoised = || {
            let levels = (0..before.dim(1)?).map(|token| of_token(token) / 1000.0).collect();
            let levels = Tensor::from_vec(levels, &[1, before.dim(1)?, 1])?;
            own(&before.sub(&velocity.mul(&levels)?)?)
        };
        let event = AfterStep { step: index + 1, total, denoised: &denoised, velocity: &|| own(&velocity) };
        after_step(&event)?;
    }
    Ok((own(&tokens)?, durations))
}

/// The tokens of `a` where `first` says so, else those of `b`; both `[1, L, C]`.
fn choose(a: &Tensor, b: &Tensor, first: impl Fn(usize) -> bool) -> Result<Tensor> {
    let [_, tokens, channels] = a.dims()?;
    let (a, b) = (a.as_f32()?, b.as_f32()?);
    let mut out = Vec::with_capacity(a.len());
    for token in 0..tokens {
        let from = if first(token) { a } else { b };
        out.extend_from_slice(&from[token * channels..(token + 1) * channels]);
    }
    Ok(Tensor::from_vec(out, &[1, tokens, channels])?)
}
