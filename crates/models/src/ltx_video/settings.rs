//! What a model says about requests, without its weights: sizes from the configurations, defaults of the pipeline class or
//! from an optional `sango.json`.

use std::path::Path;

use crate::error::{ModelError, Result};

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
    /// Number of steps.
    pub steps: usize,
    /// Guidance scale.
    pub guidance_scale: f64,
    /// What widths and heights must be multiples of.
    pub size_multiple: usize,
    /// Numbers of frames are multiples of this, and one.
    pub frame_multiple: usize,
}

impl LTXVideoSettings {
    /// The settings of a folder in diffusers layout or of one of Lightricks' single files.
    ///
    /// # Errors
    /// When a configuration is missing, damaged, or asks for something that cannot be run.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let dir = path.as_ref().to_owned();
        Err(ModelError::UnknownModel { dir, detail: "LTX-Video cannot be run yet".into() })
    }
}
