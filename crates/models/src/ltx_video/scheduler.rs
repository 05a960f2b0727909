//! `FlowMatchEulerDiscreteScheduler`: which noise levels the steps go through, and the step from one to the next.
//!
//! Levels are computed in the precision in which the reference computes them (single, but for those that `beta`,
//! `exponential` and Karras' formulas give), because a step's size is their difference.

use std::path::Path;

use sango_tensor::Tensor;
use serde::Deserialize;
use serde_json::Value;

use super::beta::beta_quantile;
use crate::config::{Config, from_value};
use crate::error::{ModelError, Result};

/// The keys of `scheduler_config.json`, with the defaults of `diffusers`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "documented in diffusers under the same names")]
pub struct FlowMatchEulerDiscreteConfig {
    pub num_train_timesteps: usize,
    pub shift: f64,
    pub use_dynamic_shifting: bool,
    pub base_shift: Option<f64>,
    pub max_shift: Option<f64>,
    pub base_image_seq_len: usize,
    pub max_image_seq_len: usize,
    pub invert_sigmas: bool,
    pub shift_terminal: Option<f64>,
    pub use_karras_sigmas: bool,
    pub use_exponential_sigmas: bool,
    pub use_beta_sigmas: bool,
    pub time_shift_type: String,
    pub stochastic_sampling: bool,
}

impl Default for FlowMatchEulerDiscreteConfig {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            shift: 1.0,
            use_dynamic_shifting: false,
            base_shift: Some(0.5),
            max_shift: Some(1.15),
            base_image_seq_len: 256,
            max_image_seq_len: 4096,
            invert_sigmas: false,
            shift_terminal: None,
            use_karras_sigmas: false,
            use_exponential_sigmas: false,
            use_beta_sigmas: false,
            time_shift_type: "exponential".into(),
            stochastic_sampling: false,
        }
    }
}

/// The scheduler.
#[derive(Debug, Clone, PartialEq)]
pub struct FlowMatchEulerDiscreteScheduler {
    config: FlowMatchEulerDiscreteConfig,
}

/// What the levels are made from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Levels<'a> {
    /// Noise levels, 1 to 0, before they are shifted.
    Sigmas(&'a [f32]),
    /// Timesteps, 1000 to 0, which the model is told as they are; the levels are these, shifted.
    Timesteps(&'a [f32]),
}

/// The levels of a generation.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// Noise levels before every step, and after the last.
    pub sigmas: Vec<f32>,
    /// What the model is told in every step.
    pub timesteps: Vec<f32>,
    /// What a timestep is divided by to be a level.
    train: f32,
    stochastic: bool,
}

impl FlowMatchEulerDiscreteScheduler {
    /// Reads and checks a configuration that came from `path`.
    ///
    /// # Errors
    /// When a key has a wrong type, or a value cannot be run; the message names it.
    pub fn from_json(path: &Path, json: Value) -> Result<Self> {
        let config = Config::<FlowMatchEulerDiscreteConfig> { path: path.to_owned(), value: from_value(path, json)? };
        let c = &config.value;
        config.positive("num_train_timesteps", c.num_train_timesteps)?;
        let finite = |field, value: f64, good: bool, what| {
            if good && value.is_finite() {
                Ok(())
            } else {
                Err(config.error(field, format!("is {value}; it must be {what}")))
            }
        };
        finite("shift", c.shift, c.shift > 0.0, "a positive number")?;
        for (field, value) in [("base_shift", c.base_shift), ("max_shift", c.max_shift)] {
            finite(field, value.unwrap_or(0.0), true, "a number")?;
        }
        if c.max_image_seq_len <= c.base_image_seq_len {
            let detail = format!("is {}; it must be more than base_image_seq_len", c.max_image_seq_len);
            return Err(config.error("max_image_seq_len", detail));
        }
        if let Some(terminal) = c.shift_terminal {
            finite("shift_terminal", terminal, (0.0..1.0).contains(&terminal), "at least 0 and less than 1")?;
        }
        if !["exponential", "linear"].contains(&c.time_shift_type.as_str()) {
            let detail = format!("is \"{}\"; known are exponential and linear", c.time_shift_type);
            return Err(config.error("time_shift_type", detail));
        }
        if [c.use_karras_sigmas, c.use_exponential_sigmas, c.use_beta_sigmas].iter().filter(|&&used| used).count() > 1 {
            let detail =
                "is set beside another of use_karras_sigmas, use_exponential_sigmas and use_beta_sigmas; one can be";
            return Err(config.error("use_karras_sigmas", detail));
        }
        if c.invert_sigmas {
            return Err(config.error("invert_sigmas", "is true; LTX-Video's levels fall from noise to none"));
        }
        Ok(Self { config: config.value })
    }

    /// The configuration that was read.
    pub fn config(&self) -> &FlowMatchEulerDiscreteConfig {
        &self.config
    }

    /// The shift `mu` for a video of `tokens` latents (`calculate_shift`).
    pub fn calculate_shift(&self, tokens: usize) -> f64 {
        let c = &self.config;
        let (base, max) = (c.base_shift.unwrap_or(0.5), c.max_shift.unwrap_or(1.15));
        let m = (max - base) / (c.max_image_seq_len - c.base_image_seq_len) as f64;
        tokens as f64 * m + (base - m * c.base_image_seq_len as f64)
    }

    /// The levels that come of `levels`; `mu` is only looked at by schedulers that shift dynamically.
    ///
    /// # Errors
    /// [`ModelError::Request`] when there are none, or they leave what can be computed with.
    pub fn set_timesteps(&self, levels: Levels<'_>, mu: f64) -> Result<Schedule> {
        let c = &self.config;
        let train = c.num_train_timesteps as f32;
        let (field, given) = match levels {
            Levels::Sigmas(sigmas) => ("sigmas", sigmas.to_vec()),
            Levels::Timesteps(timesteps) => ("timesteps", timesteps.iter().map(|t| t / train).collect()),
        };
        let mut sigmas: Vec<f32> = given.iter().map(|&sigma| self.shifted(sigma, mu)).collect();
        if let (Some(terminal), Some(&last)) = (c.shift_terminal.filter(|&t| t != 0.0), sigmas.last()) {
            let scale = (1.0 - last) / (1.0 - terminal) as f32;
            // A single step ends where it begins, at pure noise: there is nothing to stretch.
            if scale > 0.0 {
                sigmas.iter_mut().for_each(|sigma| *sigma = 1.0 - (1.0 - *sigma) / scale);
            }
        }
        if let (Some(&first), Some(&last)) = (sigmas.first(), sigmas.last()) {
            let (max, min, n) = (f64::from(first), f64::from(last), sigmas.len());
            if c.use_karras_sigmas {
                const RHO: f64 = 7.0;
                let (max, min) = (max.powf(1.0 / RHO), min.powf(1.0 / RHO));
                sigmas = linspace(0.0, 1.0, n).map(|ramp| (max + ramp * (min - max)).powf(RHO) as f32).collect();
            } else if c.use_exponential_sigmas {
                sigmas = linspace(max.ln(), min.ln(), n).map(|sigma| sigma.exp() as f32).collect();
            } else if c.use_beta_sigmas {
                const ALPHA: f64 = 0.6;
                let level = |at: f64| (min + beta_quantile(1.0 - at, ALPHA, ALPHA) * (max - min)) as f32;
                sigmas = linspace(0.0, 1.0, n).map(level).collect();
            }
        }
        let timesteps = match levels {
            Levels::Sigmas(_) => sigmas.iter().map(|sigma| sigma * train).collect(),
            Levels::Timesteps(timesteps) => timesteps.to_vec(),
        };
        if sigmas.is_empty() || !sigmas.iter().all(|sigma| sigma.is_finite()) {
            let detail = format!("{given:?} give the levels {sigmas:?}; they must fall from at most 1 to above 0");
            return Err(ModelError::request(field, detail));
        }
        sigmas.push(0.0);
        Ok(Schedule { sigmas, timesteps, train, stochastic: c.stochastic_sampling })
    }

    fn shifted(&self, sigma: f32, mu: f64) -> f32 {
        let c = &self.config;
        if !c.use_dynamic_shifting {
            let shift = c.shift as f32;
            return shift * sigma / (1.0 + (c.shift - 1.0) as f32 * sigma);
        }
        let mu = if c.time_shift_type == "exponential" { mu.exp() as f32 } else { mu as f32 };
        mu / (mu + (1.0 / sigma - 1.0))
    }
}

impl Schedule {
    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.timesteps.len()
    }

    /// Whether steps need noise.
    pub fn is_stochastic(&self) -> bool {
        self.stochastic
    }

    /// The latents after step `index`, of `sample` and the `velocity` that the model predicts for it. `noise` is for
    /// schedulers that sample stochastically.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn step(&self, index: usize, velocity: &Tensor, sample: &Tensor, noise: Option<&Tensor>) -> Result<Tensor> {
        let (sigma, next) = (self.sigmas[index], self.sigmas[index + 1]);
        match noise {
            Some(noise) => {
                let x0 = sample.sub(&velocity.mul_scalar(sigma)?)?;
                Ok(x0.mul_scalar(1.0 - next)?.add(&noise.mul_scalar(next)?)?)
            }
            None => Ok(sample.add(&velocity.mul_scalar(next - sigma)?)?),
        }
    }

    /// [`Schedule::step`] for tokens `[1, L, C]` that are at timesteps of their own: each goes to the next lower level.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn step_per_token(
        &self,
        timesteps: &[f32],
        velocity: &Tensor,
        sample: &Tensor,
        noise: Option<&Tensor>,
    ) -> Result<Tensor> {
        let tokens = timesteps.len();
        let levels: Vec<(f32, f32)> = timesteps
            .iter()
            .map(|timestep| {
                let sigma = timestep / self.train;
                let lower = self.sigmas.iter().copied().filter(|&level| level < sigma - 1e-6);
                (sigma, lower.fold(0.0, f32::max))
            })
            .collect();
        let column = |f: &dyn Fn(&(f32, f32)) -> f32| Tensor::from_vec(levels.iter().map(f).collect(), &[1, tokens, 1]);
        match noise {
            Some(noise) => {
                let x0 = sample.sub(&velocity.mul(&column(&|(sigma, _)| *sigma)?)?)?;
                let kept = x0.mul(&column(&|(_, next)| 1.0 - next)?)?;
                Ok(kept.add(&noise.mul(&column(&|(_, next)| *next)?)?)?)
            }
            None => Ok(sample.sub(&velocity.mul(&column(&|(sigma, next)| sigma - next)?)?)?),
        }
    }
}

/// `numpy.linspace(start, end, n)`.
fn linspace(start: f64, end: f64, n: usize) -> impl Iterator<Item = f64> {
    let step = (end - start) / (n.max(2) - 1) as f64;
    (0..n).map(move |i| if i > 0 && i + 1 == n { end } else { start + step * i as f64 })
}

/// The levels that `LTXPipeline` starts from: `numpy.linspace(1, 1 / steps, steps)`.
pub fn linear_sigmas(steps: usize) -> Vec<f32> {
    linspace(1.0, 1.0 / steps as f64, steps).map(|sigma| sigma as f32).collect()
}

/// The levels that `LTXConditionPipeline` starts from (`linear_quadratic_schedule`): small steps at first, then larger ones.
pub fn linear_quadratic_sigmas(steps: usize) -> Vec<f32> {
    const THRESHOLD: f64 = 0.025;
    if steps < 2 {
        return vec![1.0; steps];
    }
    let (linear, all) = ((steps / 2) as f64, steps as f64);
    let rest = linear - THRESHOLD * all;
    let quadratic = (all - linear).powi(2);
    let (a, b) = (rest / (linear * quadratic), THRESHOLD / linear - 2.0 * rest / quadratic);
    let c = a * linear * linear;
    let level = |i: usize| {
        let x = i as f64;
        1.0 - if i < steps / 2 { x * THRESHOLD / linear } else { a * x * x + b * x + c }
    };
    (0..steps).map(|i| level(i) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn scheduler(json: Value) -> Result<FlowMatchEulerDiscreteScheduler> {
        FlowMatchEulerDiscreteScheduler::from_json(Path::new("scheduler_config.json"), json)
    }

    #[test]
    fn what_cannot_be_run_is_named() {
        for (key, value) in [
            ("shift", json!(0.0)),
            ("shift_terminal", json!(1.0)),
            ("num_train_timesteps", json!(0)),
            ("max_image_seq_len", json!(256)),
            ("time_shift_type", json!("cubic")),
            ("invert_sigmas", json!(true)),
        ] {
            let error = scheduler(json!({ key: value })).expect_err("it cannot be run").to_string();
            assert!(error.contains(key), "{error}");
        }
        let both = json!({ "use_karras_sigmas": true, "use_beta_sigmas": true });
        assert!(scheduler(both).expect_err("two at once").to_string().contains("one can be"));
        assert!(scheduler(json!({ "shift": "3" })).is_err());
    }

    #[test]
    fn levels_that_cannot_be_stepped_through_are_refused() {
        let plain = scheduler(json!({})).expect("the defaults");
        assert!(plain.set_timesteps(Levels::Sigmas(&[]), 0.0).is_err());
        assert!(plain.set_timesteps(Levels::Sigmas(&[f32::NAN]), 0.0).is_err());
        let dynamic = scheduler(json!({ "use_dynamic_shifting": true, "shift_terminal": 0.1 })).expect("published");
        let one = dynamic.set_timesteps(Levels::Sigmas(&[1.0]), 1.0).expect("one step from noise to none");
        assert_eq!(one.sigmas, [1.0, 0.0]);
    }

    #[test]
    fn tokens_go_to_the_next_lower_level() {
        let schedule = scheduler(json!({})).expect("the defaults").set_timesteps(Levels::Sigmas(&[1.0, 0.5]), 0.0);
        let schedule = schedule.expect("two levels");
        let (velocity, sample) = (Tensor::full(&[1, 4, 1], 1.0), Tensor::zeros(&[1, 4, 1]));
        let (velocity, sample) = (velocity.expect("ones"), sample.expect("zeros"));
        let after = schedule.step_per_token(&[1000.0, 600.0, 500.0, 0.0], &velocity, &sample, None).expect("a step");
        let expected = [-0.5, -0.1, -0.5, 0.0];
        assert!(after.as_f32().expect("f32").iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{after:?}");
    }
}
