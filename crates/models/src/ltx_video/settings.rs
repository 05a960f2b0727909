//! What a model says about requests, without its weights: sizes from the configurations, defaults of the pipeline classes or
//! from an optional `sango.json`.
//!
//! `sango.json` may lie beside `model_index.json` and hold any of these keys (`frames` and `fps` are other words for two of
//! them); everything else in the folder stays as
//! `diffusers` wants it:
//!
//! ```json
//! {
//!   "width": 64, "height": 64, "num_frames": 17, "frame_rate": 8, "steps": 16, "guidance_scale": 3.0,
//!   "guidance_rescale": 0.0, "stg": { "scale": 1.0, "blocks": [19], "mode": "attention_values" },
//!   "timesteps": [1000, 993.7, 725], "decode_timestep": 0.05, "decode_noise_scale": 0.025, "max_sequence_length": 128
//! }
//! ```

use std::path::Path;

use serde::Deserialize;

use super::parts::Parts;
use super::request::{Stg, StgMode};
use super::vae::AutoencoderKLLTXVideoConfig;
use crate::config::Config;
use crate::error::Result;

/// What requests to a model may ask for, and what one that does not say otherwise gets.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LTXVideoSettings {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Number of frames.
    pub num_frames: usize,
    /// Frames per second.
    pub frame_rate: f64,
    /// Number of steps; that of `timesteps` where the model has its own.
    pub steps: usize,
    /// The timesteps of a distilled model.
    pub timesteps: Option<Vec<f32>>,
    /// Guidance scale.
    pub guidance_scale: f64,
    /// How far the guided prediction is brought back to the deviation of the unguided one.
    pub guidance_rescale: f64,
    /// Spatio-temporal guidance.
    pub stg: Option<Stg>,
    /// The noise level that a decoder with timestep conditioning is told.
    pub decode_timestep: f64,
    /// How much noise is mixed into the latents before such a decoder.
    pub decode_noise_scale: f64,
    /// Length of prompts in tokens, where the folder says so.
    pub max_sequence_length: Option<usize>,
    /// What widths and heights must be multiples of.
    pub size_multiple: usize,
    /// Numbers of frames are multiples of this, and one.
    pub frame_multiple: usize,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct SangoJson {
    width: Option<usize>,
    height: Option<usize>,
    #[serde(alias = "frames")]
    num_frames: Option<usize>,
    #[serde(alias = "fps")]
    frame_rate: Option<f64>,
    steps: Option<usize>,
    timesteps: Option<Vec<f32>>,
    guidance_scale: Option<f64>,
    guidance_rescale: Option<f64>,
    stg: Option<StgJson>,
    decode_timestep: Option<f64>,
    decode_noise_scale: Option<f64>,
    max_sequence_length: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StgJson {
    scale: f32,
    blocks: Vec<usize>,
    #[serde(default)]
    mode: StgMode,
}

/// The most steps a request may ask for.
pub(super) const MAX_STEPS: usize = 1000;
/// The most frames and the longest side that are thought of at all; memory sets the limit that counts.
pub(super) const MAX_FRAMES: usize = 1 << 13;
pub(super) const MAX_SIDE: usize = 1 << 13;
/// The longest prompt in tokens.
pub(super) const MAX_TOKENS_OF_TEXT: usize = 1024;

impl LTXVideoSettings {
    /// The settings of a folder in diffusers layout or of one of Lightricks' single files.
    ///
    /// # Errors
    /// When a configuration is missing, damaged, or asks for something that cannot be run.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let parts = Parts::open(path.as_ref())?;
        Self::of(&parts, &parts.vae_config()?)
    }

    /// The same, of configurations that have been read.
    pub(super) fn of(parts: &Parts, vae: &AutoencoderKLLTXVideoConfig) -> Result<Self> {
        let told = vae.timestep_conditioning;
        let timesteps = parts.default_timesteps();
        let steps = match (&timesteps, parts.is_distilled()) {
            (Some(timesteps), _) => timesteps.len(),
            (None, true) => 8,
            (None, false) => 50,
        };
        let settings = Self {
            width: 704,
            height: 512,
            num_frames: 161,
            frame_rate: 25.0,
            steps,
            timesteps,
            // Distillation has taken the guidance in.
            guidance_scale: if parts.is_distilled() { 1.0 } else { 3.0 },
            guidance_rescale: 0.0,
            stg: None,
            // The pipelines' own 0 leaves such decoders without what they were trained for; this is what their makers use.
            decode_timestep: if told { 0.05 } else { 0.0 },
            decode_noise_scale: if told { 0.025 } else { 0.0 },
            max_sequence_length: None,
            size_multiple: vae.spatial_compression_ratio(),
            frame_multiple: vae.temporal_compression_ratio(),
        };
        let path = parts.sango_json();
        if path.is_file() { settings.with(&Config::read(&path)?) } else { Ok(settings) }
    }

    /// The same, with what a `sango.json` says instead.
    fn with(mut self, config: &Config<SangoJson>) -> Result<Self> {
        let given = &config.value;
        let (side, step) = (self.size_multiple, self.frame_multiple);
        for (field, value, to) in [("width", given.width, &mut self.width), ("height", given.height, &mut self.height)]
        {
            let Some(value) = value else { continue };
            if value == 0 || !value.is_multiple_of(side) || value > MAX_SIDE {
                return Err(
                    config.error(field, format!("is {value}; it must be a multiple of {side} up to {MAX_SIDE}"))
                );
            }
            *to = value;
        }
        if let Some(frames) = given.num_frames {
            if frames == 0 || frames % step != 1 % step || frames > MAX_FRAMES {
                let detail = format!("is {frames}; it must be a multiple of {step} and one, up to {MAX_FRAMES}");
                return Err(config.error("num_frames", detail));
            }
            self.num_frames = frames;
        }
        let number = |field, value: Option<f64>, (min, max): (f64, f64), to: &mut f64| {
            let Some(value) = value else { return Ok(()) };
            if !(min..=max).contains(&value) {
                return Err(config.error(field, format!("is {value}; it must be between {min} and {max}")));
            }
            *to = value;
            Ok(())
        };
        number("frame_rate", given.frame_rate, (0.1, 1000.0), &mut self.frame_rate)?;
        number("guidance_scale", given.guidance_scale, (0.0, 100.0), &mut self.guidance_scale)?;
        number("guidance_rescale", given.guidance_rescale, (0.0, 1.0), &mut self.guidance_rescale)?;
        number("decode_timestep", given.decode_timestep, (0.0, 1.0), &mut self.decode_timestep)?;
        number("decode_noise_scale", given.decode_noise_scale, (0.0, 1.0), &mut self.decode_noise_scale)?;
        if let Some(timesteps) = &given.timesteps {
            if timesteps.is_empty() || timesteps.len() > MAX_STEPS {
                return Err(
                    config.error("timesteps", format!("has {} entries; 1 to {MAX_STEPS} are run", timesteps.len()))
                );
            }
            self.steps = timesteps.len();
            self.timesteps = Some(timesteps.clone());
        }
        if let Some(steps) = given.steps {
            if !(1..=MAX_STEPS).contains(&steps) {
                return Err(config.error("steps", format!("is {steps}; it must be between 1 and {MAX_STEPS}")));
            }
            self.steps = steps;
            // A number of steps of the folder's own comes before those of the model, unless both are its own.
            if given.timesteps.is_none() {
                self.timesteps = None;
            }
        }
        if let Some(StgJson { scale, blocks, mode }) = &given.stg {
            self.stg = Some(Stg { scale: *scale, blocks: blocks.clone(), mode: *mode });
        }
        if let Some(length) = given.max_sequence_length {
            if !(1..=MAX_TOKENS_OF_TEXT).contains(&length) {
                let detail = format!("is {length}; it must be between 1 and {MAX_TOKENS_OF_TEXT}");
                return Err(config.error("max_sequence_length", detail));
            }
            self.max_sequence_length = Some(length);
        }
        Ok(self)
    }
}
