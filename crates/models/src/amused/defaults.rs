//! Defaults of a model folder: by size, or from an optional `sango.json`.
//!
//! `sango.json` may lie beside `model_index.json` and hold any of these keys; everything else in the folder stays as
//! `diffusers` wants it:
//!
//! ```json
//! { "guidance_scale": 2.5, "steps": 12, "temperature": [2.0, 0.0] }
//! ```

use std::path::Path;

use serde::Deserialize;

use crate::config::Config;
use crate::error::Result;

/// What a request that does not say otherwise uses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Defaults {
    pub(super) guidance_scale: f32,
    pub(super) steps: usize,
    pub(super) temperature: (f32, f32),
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct SangoJson {
    guidance_scale: Option<f32>,
    steps: Option<usize>,
    temperature: Option<(f32, f32)>,
}

/// The most steps a request may ask for.
pub(super) const MAX_STEPS: usize = 1000;
/// The highest guidance scale a request may ask for.
pub(super) const MAX_GUIDANCE: f32 = 100.0;

impl Defaults {
    /// Defaults of a model whose pictures are `side` pixels wide.
    ///
    /// Up to 256 pixels guidance is 4: openMUSE's own sweep of amused-256 has its best FID there (39.3, against 59.1
    /// at 10). Larger models keep the pipeline's 10.
    pub(super) fn of_size(side: usize) -> Self {
        Self { guidance_scale: if side <= 256 { 4.0 } else { 10.0 }, steps: 12, temperature: (2.0, 0.0) }
    }

    /// The same, with what `dir/sango.json` says instead, where there is one.
    pub(super) fn read(dir: &Path, side: usize) -> Result<Self> {
        let path = dir.join("sango.json");
        let mut defaults = Self::of_size(side);
        if !path.is_file() {
            return Ok(defaults);
        }
        let config = Config::<SangoJson>::read(&path)?;
        let given = &config.value;
        if let Some(scale) = given.guidance_scale {
            if !(0.0..=MAX_GUIDANCE).contains(&scale) {
                return Err(
                    config.error("guidance_scale", format!("is {scale}; it must be between 0 and {MAX_GUIDANCE}"))
                );
            }
            defaults.guidance_scale = scale;
        }
        if let Some(steps) = given.steps {
            if !(1..=MAX_STEPS).contains(&steps) {
                return Err(config.error("steps", format!("is {steps}; it must be between 1 and {MAX_STEPS}")));
            }
            defaults.steps = steps;
        }
        if let Some(temperature) = given.temperature {
            defaults.temperature = temperature;
        }
        Ok(defaults)
    }
}
