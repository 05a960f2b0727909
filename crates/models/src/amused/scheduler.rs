//! `AmusedScheduler`: which tokens are drawn, and which are masked again, after each step.
//!
//! Follows `diffusers/schedulers/scheduling_amused.py`; arithmetic that decides how many tokens are masked is done in
//! f32 in the same order, because it is rounded down.

use std::path::Path;

use serde::Deserialize;

use super::noise::StepNoise;
use crate::config::Config;
use crate::error::Result;

/// How the share of masked tokens falls over the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaskingSchedule {
    /// `cos(π/2 · progress)`.
    Cosine,
    /// `1 − progress`.
    Linear,
}

/// `scheduler/scheduler_config.json`.
#[derive(Debug, Clone, Deserialize)]
struct AmusedSchedulerConfig {
    mask_token_id: i64,
    #[serde(default = "cosine")]
    masking_schedule: String,
}

fn cosine() -> String {
    "cosine".into()
}

/// The masking schedule and the id that stands for a masked token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AmusedScheduler {
    /// The id of masked tokens.
    pub mask_token_id: i64,
    /// How the share of masked tokens falls.
    pub masking_schedule: MaskingSchedule,
}

/// Where a loop of steps is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// The step that is being made, from 0.
    pub step: usize,
    /// Number of steps of the whole schedule.
    pub steps: usize,
    /// The step's temperature for the choice of tokens to mask again.
    pub temperature: f32,
    /// The share of tokens that were masked at the start (1 unless inpainting).
    pub starting_mask_ratio: f32,
}

/// The confidence of tokens that were given: log of the largest f32, as in the reference.
const KNOWN: f32 = 88.722_84;
/// log(1e-20), the floor of log confidences.
const FLOOR: f32 = -46.051_7;

impl AmusedScheduler {
    /// Reads a scheduler configuration.
    ///
    /// # Errors
    /// [`crate::ModelError::Config`] for an unknown schedule or an impossible mask id.
    pub fn load(path: &Path) -> Result<Self> {
        let config = Config::<AmusedSchedulerConfig>::read_class(path, "AmusedScheduler")?;
        let masking_schedule = match config.value.masking_schedule.as_str() {
            "cosine" => MaskingSchedule::Cosine,
            "linear" => MaskingSchedule::Linear,
            other => {
                return Err(config.error("masking_schedule", format!("is \"{other}\"; known are cosine and linear")));
            }
        };
        let mask_token_id = config.value.mask_token_id;
        if mask_token_id < 0 {
            return Err(config.error("mask_token_id", format!("is {mask_token_id}; it must not be negative")));
        }
        Ok(Self { mask_token_id, masking_schedule })
    }

    /// The temperature of each step: evenly spaced from the first value to the second, as `torch.linspace`.
    pub fn temperatures(steps: usize, (start, end): (f32, f32)) -> Vec<f32> {
        if steps < 2 {
            return vec![start; steps];
        }
        let step = (end - start) / (steps - 1) as f32;
        let at = |i: usize| {
            if i < steps / 2 { start + step * i as f32 } else { end - step * (steps - 1 - i) as f32 }
        };
        (0..steps).map(at).collect()
    }

    /// The share of tokens that is masked after `step` of `steps`.
    pub fn mask_ratio(&self, step: usize, steps: usize) -> f32 {
        let ratio = (step + 1) as f32 / steps as f32;
        match self.masking_schedule {
            // Rounded once, from a cosine in f64: at 2/3 of the way the result sits right beside a half.
            MaskingSchedule::Cosine => f64::from(ratio * std::f32::consts::PI / 2.0).cos() as f32,
            MaskingSchedule::Linear => 1.0 - ratio,
        }
    }

    /// How many of `tokens` are masked again after this step, when `unknown` were masked before it.
    pub fn mask_len(&self, progress: &Progress, tokens: usize, unknown: usize) -> usize {
        let ratio = progress.starting_mask_ratio * self.mask_ratio(progress.step, progress.steps);
        let scheduled = (tokens as f32 * ratio).floor();
        let fewer_than_before = unknown as f32 - 1.0;
        scheduled.min(fewer_than_before).max(1.0) as usize
    }

    /// One step for one picture.
    ///
    /// `log_probs` holds a row of log softmax over the codebook for every masked token of `sample`, in order.
    /// Afterwards `sample` holds the tokens with the least certain ones masked again (after the last step: all of
    /// them), and the result is the prediction for every token.
    pub fn step(
        &self,
        progress: &Progress,
        log_probs: &[f32],
        codebook_size: usize,
        sample: &mut [i64],
        noise: &mut StepNoise<'_>,
    ) -> Vec<i64> {
        let mut predicted = sample.to_vec();
        let mut confidence = vec![KNOWN; sample.len()];
        let mut rows = log_probs.chunks_exact(codebook_size);
        let mut unknown = 0;
        for (position, token) in predicted.iter_mut().enumerate() {
            if *token != self.mask_token_id {
                continue;
            }
            unknown += 1;
            if let Some(row) = rows.next() {
                let drawn = noise.draw(position, row);
                *token = drawn as i64;
                confidence[position] = row[drawn].max(FLOOR);
            }
        }
        if progress.step + 1 == progress.steps {
            sample.copy_from_slice(&predicted);
            return predicted;
        }
        for (position, value) in confidence.iter_mut().enumerate() {
            *value += progress.temperature * noise.gumbel(position);
        }
        let mask_len = self.mask_len(progress, sample.len(), unknown);
        let cut_off = nth_smallest(&confidence, mask_len);
        for ((token, &predicted), confidence) in sample.iter_mut().zip(&predicted).zip(confidence) {
            *token = if confidence < cut_off { self.mask_token_id } else { predicted };
        }
        predicted
    }

    /// Masks the tokens whose `noise` (uniform in 0..1) is below the share that is masked after `step` of `steps`.
    pub fn add_noise(&self, sample: &mut [i64], step: usize, steps: usize, noise: &[f32]) {
        let ratio = self.mask_ratio(step, steps);
        for (token, &noise) in sample.iter_mut().zip(noise) {
            if noise < ratio {
                *token = self.mask_token_id;
            }
        }
    }
}

/// The value at index `n` in ascending order.
fn nth_smallest(values: &[f32], n: usize) -> f32 {
    let mut sorted = values.to_vec();
    let n = n.min(sorted.len().saturating_sub(1));
    *sorted.select_nth_unstable_by(n, f32::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheduler() -> AmusedScheduler {
        AmusedScheduler { mask_token_id: 9, masking_schedule: MaskingSchedule::Cosine }
    }

    #[test]
    fn temperatures_are_evenly_spaced_and_exact_at_the_ends() {
        assert_eq!(AmusedScheduler::temperatures(3, (2.0, 0.0)), [2.0, 1.0, 0.0]);
        assert_eq!(AmusedScheduler::temperatures(1, (2.0, 0.0)), [2.0]);
        assert_eq!(AmusedScheduler::temperatures(12, (1.5, 0.1))[11], 0.1);
    }

    #[test]
    fn the_last_step_leaves_nothing_masked() {
        let progress = Progress { step: 1, steps: 2, temperature: 0.0, starting_mask_ratio: 1.0 };
        let mut sample = [9, 3, 9];
        let log_probs = [0.1, 0.9, 0.7, 0.3].map(f32::ln);
        let gumbels = [0.0; 6];
        let mut noise = StepNoise::given(&gumbels, &[], 2);
        scheduler().step(&progress, &log_probs, 2, &mut sample, &mut noise);
        assert_eq!(sample, [1, 3, 0]);
    }

    #[test]
    fn the_least_certain_are_masked_again_and_given_tokens_never() {
        let progress = Progress { step: 0, steps: 2, temperature: 0.0, starting_mask_ratio: 1.0 };
        let mut sample = [9, 3, 9, 9];
        let log_probs = [0.1, 0.9, 0.55, 0.45, 0.2, 0.8].map(f32::ln);
        let gumbels = [0.0; 8];
        let mut noise = StepNoise::given(&gumbels, &[0.0; 4], 2);
        let predicted = scheduler().step(&progress, &log_probs, 2, &mut sample, &mut noise);
        assert_eq!(predicted, [1, 3, 0, 1]);
        // floor(4 · cos(π/4)) = 2 of the three unknown ones.
        assert_eq!(sample, [1, 3, 9, 9]);
    }
}
