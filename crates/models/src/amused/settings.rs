//! What a model folder says about requests, without its weights: sizes from the configurations, defaults by size or from
//! an optional `sango.json`.
//!
//! `sango.json` may lie beside `model_index.json` and hold any of these keys; everything else in the folder stays as
//! `diffusers` wants it:
//!
//! ```json
//! { "guidance_scale": 2.5, "steps": 12, "temperature": [2.0, 0.0] }
//! ```

use std::path::Path;

use serde::Deserialize;

use super::uvit_config::UVit2DConfig;
use super::vq_config::VQConfig;
use crate::config::Config;
use crate::error::Result;

/// What requests to a model may ask for, and what one that does not say otherwise gets.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct AmusedSettings {
    /// Width and height in pixels when neither is given.
    pub side: usize,
    /// Pixels per token along a side.
    pub scale_factor: usize,
    /// What widths and heights must be multiples of.
    pub size_multiple: usize,
    /// The largest width or height.
    pub largest_side: usize,
    /// Number of steps.
    pub steps: usize,
    /// Guidance scale.
    pub guidance_scale: f64,
    /// Of the token masking, at the first and the last step.
    pub temperature: [f64; 2],
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct SangoJson {
    guidance_scale: Option<f64>,
    steps: Option<usize>,
    temperature: Option<[f64; 2]>,
}

/// The most steps a request may ask for.
pub(super) const MAX_STEPS: usize = 1000;
/// The highest guidance scale a request may ask for.
pub(super) const MAX_GUIDANCE: f32 = 100.0;
/// The longest side of the token grid that is run: attention grows with the fourth power of it.
const MAX_SIDE_TOKENS: usize = 64;

impl AmusedSettings {
    /// The settings of a folder in diffusers layout.
    ///
    /// # Errors
    /// When a configuration is missing, damaged, or asks for something that cannot be run.
    pub fn read(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let uvit = UVit2DConfig::read(&dir.join("transformer/config.json"))?;
        let (vq, _) = VQConfig::read(&dir.join("vqvae/config.json"))?;
        Self::of(dir, &uvit.value, &vq.value)
    }

    /// The same, of configurations that have been read.
    pub(super) fn of(dir: &Path, uvit: &UVit2DConfig, vq: &VQConfig) -> Result<Self> {
        let scale_factor = vq.scale_factor();
        let side = uvit.sample_size * scale_factor;
        let settings = Self {
            side,
            scale_factor,
            size_multiple: scale_factor * if uvit.downsample { 2 } else { 1 },
            largest_side: scale_factor * MAX_SIDE_TOKENS,
            steps: 12,
            // openMUSE's own sweep of amused-256 has its best FID at 4 (39.3, against 59.1 at 10). Larger models keep
            // the pipeline's 10.
            guidance_scale: if side <= 256 { 4.0 } else { 10.0 },
            temperature: [2.0, 0.0],
        };
        let path = dir.join("sango.json");
        if path.is_file() { settings.with(&Config::read(&path)?) } else { Ok(settings) }
    }

    /// The same, with what a `sango.json` says instead.
    fn with(mut self, config: &Config<SangoJson>) -> Result<Self> {
        let given = &config.value;
        if let Some(scale) = given.guidance_scale {
            if !(0.0..=f64::from(MAX_GUIDANCE)).contains(&scale) {
                return Err(
                    config.error("guidance_scale", format!("is {scale}; it must be between 0 and {MAX_GUIDANCE}"))
                );
            }
            self.guidance_scale = scale;
        }
        if let Some(steps) = given.steps {
            if !(1..=MAX_STEPS).contains(&steps) {
                return Err(config.error("steps", format!("is {steps}; it must be between 1 and {MAX_STEPS}")));
            }
            self.steps = steps;
        }
        if let Some(temperature) = given.temperature {
            self.temperature = temperature;
        }
        Ok(self)
    }
}
