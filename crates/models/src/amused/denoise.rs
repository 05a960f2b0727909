//! The loop over steps that the three pipelines share.

use std::ops::Range;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use sango_tensor::Tensor;

use super::noise::StepNoise;
use super::picture::to_output;
use super::scheduler::{AmusedScheduler, Progress};
use super::uvit_2d::{UVit2DConditioning, UVit2DModel};
use super::vq_model::VQModel;
use crate::error::{ModelError, Result};

/// What a step callback is told.
pub struct StepEvent<'a> {
    /// Steps made so far, from 1.
    pub step: usize,
    /// Steps to be made in all.
    pub total: usize,
    /// Tokens `[B, h, w]` after this step; masked ones have the scheduler's `mask_token_id`.
    pub tokens: &'a Tensor,
    /// The model's present guess at every token, `[B, h, w]`.
    pub predicted: &'a Tensor,
    pub(super) vqvae: &'a VQModel,
}

impl StepEvent<'_> {
    /// Decodes the present guess: `[B, 3, H, W]` in 0..1. Takes as long as decoding the result does, so ask for it
    /// only when someone looks.
    ///
    /// # Errors
    /// When the decoder fails.
    pub fn preview(&self) -> Result<Tensor> {
        to_output(&self.vqvae.decode(self.predicted)?)
    }
}

/// Where the loop takes its randomness from.
pub(super) enum NoiseSource {
    /// `gumbel_sample` `[runs, tokens, codebook]` and `gumbel_mask` `[runs, tokens]`, for one picture; the first row
    /// belongs to the first step that is made.
    Given { sample: Tensor, mask: Tensor },
    /// A generator for every picture.
    Seeded(Vec<ChaCha8Rng>),
}

impl NoiseSource {
    fn step(&mut self, picture: usize, run: usize, tokens: usize, codebook_size: usize) -> Result<StepNoise<'_>> {
        match self {
            Self::Given { sample, mask } => Ok(StepNoise::given(
                &sample.as_f32()?[run * tokens * codebook_size..][..tokens * codebook_size],
                &mask.as_f32()?[run * tokens..][..tokens],
                codebook_size,
            )),
            Self::Seeded(generators) => Ok(StepNoise::Seeded(&mut generators[picture])),
        }
    }
}

/// Pictures in the making.
pub(super) struct Canvas {
    /// Tokens of every picture, row by row.
    pub(super) pictures: Vec<Vec<i64>>,
    /// Rows and columns of the token grid.
    pub(super) grid: (usize, usize),
}

impl Canvas {
    /// All pictures as one tensor `[B, h, w]`.
    pub(super) fn tensor(&self) -> Result<Tensor> {
        stack(&self.pictures, self.grid)
    }
}

fn stack(pictures: &[Vec<i64>], (rows, columns): (usize, usize)) -> Result<Tensor> {
    Ok(Tensor::from_i64(pictures.concat(), &[pictures.len(), rows, columns])?)
}

/// What stays the same over the steps.
pub(super) struct Plan<'a> {
    pub(super) scheduler: AmusedScheduler,
    /// The steps to make, out of `steps`.
    pub(super) run: Range<usize>,
    pub(super) steps: usize,
    pub(super) temperature: (f32, f32),
    pub(super) starting_mask_ratio: f32,
    /// `None` when the conditioning has no negative branch.
    pub(super) guidance_scale: Option<f32>,
    /// One entry per prompt, each for the negative and then the positive branch. Picture `i` uses entry `i mod len`.
    pub(super) conditionings: &'a [UVit2DConditioning],
}

/// Runs the steps of `plan` on `canvas`. `first_logits` receives the guided logits `[tokens, codebook]` of the first
/// picture's first step; without it, logits are only made for tokens that are masked.
pub(super) fn denoise(
    (transformer, vqvae): (&UVit2DModel, &VQModel),
    plan: &Plan<'_>,
    canvas: &mut Canvas,
    noise: &mut NoiseSource,
    mut first_logits: Option<&mut Option<Tensor>>,
    on_step: &mut dyn FnMut(&StepEvent<'_>) -> Result<()>,
) -> Result<Vec<Duration>> {
    let codebook_size = transformer.config().codebook_size;
    let temperatures = AmusedScheduler::temperatures(plan.steps, plan.temperature);
    let mut times = Vec::with_capacity(plan.run.len());
    for (run, step) in plan.run.clone().enumerate() {
        let started = Instant::now();
        let progress = Progress {
            step,
            steps: plan.steps,
            temperature: temperatures[step],
            starting_mask_ratio: plan.starting_mask_ratio,
        };
        let mut predictions = Vec::with_capacity(canvas.pictures.len());
        for (index, picture) in canvas.pictures.iter_mut().enumerate() {
            let conditioning = &plan.conditionings[index % plan.conditionings.len()];
            let states = hidden_states(transformer, plan, picture, canvas.grid, conditioning)?;
            if let Some(slot) = first_logits.take() {
                let all: Vec<i64> = (0..picture.len() as i64).collect();
                *slot = Some(guided_logits(transformer, &states, &all, picture.len(), plan.guidance_scale)?);
            }
            let masked: Vec<i64> = (0..picture.len() as i64)
                .filter(|&position| picture[position as usize] == plan.scheduler.mask_token_id)
                .collect();
            let log_probs = if masked.is_empty() {
                Tensor::zeros(&[0, codebook_size])?
            } else {
                guided_logits(transformer, &states, &masked, picture.len(), plan.guidance_scale)?.log_softmax(-1)?
            };
            let log_probs = log_probs.as_f32()?;
            // A single NaN in a row makes all of its log softmax NaN.
            if log_probs.iter().step_by(codebook_size).any(|p| p.is_nan()) {
                return Err(ModelError::NotFinite { step: step + 1 });
            }
            let mut noise = noise.step(index, run, picture.len(), codebook_size)?;
            predictions.push(plan.scheduler.step(&progress, log_probs, codebook_size, picture, &mut noise));
        }
        times.push(started.elapsed());
        let (tokens, predicted) = (canvas.tensor()?, stack(&predictions, canvas.grid)?);
        let total = plan.run.len();
        on_step(&StepEvent { step: run + 1, total, tokens: &tokens, predicted: &predicted, vqvae })?;
    }
    Ok(times)
}

/// The transformer on one picture, with both branches of the guidance as one batch.
fn hidden_states(
    transformer: &UVit2DModel,
    plan: &Plan<'_>,
    picture: &[i64],
    (rows, columns): (usize, usize),
    conditioning: &UVit2DConditioning,
) -> Result<Tensor> {
    let branches = if plan.guidance_scale.is_some() { 2 } else { 1 };
    let input_ids = Tensor::from_i64(picture.repeat(branches), &[branches, rows, columns])?;
    transformer.hidden_states(&input_ids, conditioning)
}

/// Logits `[positions, codebook]` of some positions of a picture with `tokens` tokens.
fn guided_logits(
    transformer: &UVit2DModel,
    states: &Tensor,
    positions: &[i64],
    tokens: usize,
    guidance_scale: Option<f32>,
) -> Result<Tensor> {
    let count = positions.len();
    let mut rows = positions.to_vec();
    if guidance_scale.is_some() {
        rows.extend(positions.iter().map(|position| position + tokens as i64));
    }
    let states = match count == tokens {
        true => states.clone(),
        false => {
            let shape = [rows.len()];
            states.index_select(0, &Tensor::from_i64(rows, &shape)?)?
        }
    };
    let logits = transformer.logits(&states)?;
    let Some(scale) = guidance_scale else { return Ok(logits) };
    let (negative, positive) = (logits.narrow(0, 0, count)?, logits.narrow(0, count, count)?);
    Ok(negative.add(&positive.sub(&negative)?.mul_scalar(scale)?)?)
}
