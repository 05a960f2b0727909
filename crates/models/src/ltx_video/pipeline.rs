//! Loading a model and making videos with it.

use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use sango_tensor::Tensor;
use serde::Serialize;

use super::request::LTXVideoRequest;
use crate::LoadOptions;
use crate::error::{ModelError, Result};
use crate::pixels::Rgb8;

/// Text to video, image to video and video to video with one model (`LTXPipeline`, `LTXImageToVideoPipeline` and
/// `LTXConditionPipeline` in one).
pub struct LTXVideoPipeline {
    summary: LTXVideoSummary,
}

/// What a model is, for people and programs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LTXVideoSummary {
    /// Name of the folder or file.
    pub name: String,
    /// Default width in pixels.
    pub width: usize,
    /// Default height in pixels.
    pub height: usize,
    /// Default number of frames.
    pub num_frames: usize,
    /// Default frames per second.
    pub frame_rate: f64,
    /// Default number of steps.
    pub steps: usize,
    /// Default guidance scale.
    pub guidance_scale: f64,
    /// What widths and heights must be multiples of.
    pub size_multiple: usize,
    /// Numbers of frames are multiples of this, and one.
    pub frame_multiple: usize,
    /// Parameters of the text encoder, the transformer and the autoencoder.
    pub parameters: usize,
    /// The type that matrices are kept in, `f32` or `bf16`.
    pub dtype: &'static str,
}

impl fmt::Display for LTXVideoSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, width, height, num_frames, frame_rate, steps, guidance_scale, dtype, .. } = self;
        let millions = self.parameters as f64 / 1e6;
        write!(f, "{name}: {num_frames} frames of {width}×{height} pixels at {frame_rate} a second")?;
        write!(f, ", {millions:.1} M parameters in {dtype}, {steps} steps with guidance {guidance_scale}")
    }
}

/// What a generation reports on its way.
pub enum LTXVideoEvent<'a> {
    /// The prompts are being read.
    TextEncoder,
    /// Conditioning frames are being encoded.
    Encode {
        /// Parts done.
        done: usize,
        /// Parts in all.
        total: usize,
    },
    /// A step is done.
    Step {
        /// The step, from 1.
        step: usize,
        /// Steps in all.
        total: usize,
        /// Decodes the middle frame as the model would leave it now; costs time, so only for who shows it.
        preview: &'a dyn Fn() -> Result<Rgb8>,
    },
    /// The video is being decoded.
    Decode {
        /// Parts done.
        done: usize,
        /// Parts in all.
        total: usize,
    },
}

/// A video, and how long it took.
#[derive(Debug, Clone)]
pub struct LTXVideoOutput {
    /// `[1, 3, T, H, W]` in 0..1.
    pub video: Tensor,
    /// The final latents, normalised, `[1, C, F, h, w]`.
    pub latents: Tensor,
    /// Frames per second.
    pub frame_rate: f32,
    /// How long the parts took.
    pub timings: Timings,
}

/// How long the parts of a generation took.
#[derive(Debug, Clone, Default)]
pub struct Timings {
    /// Tokenizing and encoding the prompts.
    pub text_encoder: Duration,
    /// Encoding conditioning frames.
    pub encode: Duration,
    /// Every step.
    pub steps: Vec<Duration>,
    /// Decoding the latents.
    pub decode: Duration,
}

/// How much memory a request takes at its peak.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemoryEstimate {
    /// Bytes at the peak.
    pub bytes: u64,
    /// What they are for, in bytes; stages that do not run at once do not add up.
    pub parts: Vec<(&'static str, u64)>,
}

impl LTXVideoPipeline {
    /// Loads a folder in diffusers layout or one of Lightricks' single files. The text encoder is opened when a prompt
    /// is first read; it and the tokenizer may be missing, for use with ids or states only.
    ///
    /// # Errors
    /// When a file is missing or damaged, a configuration asks for something unknown, or parts do not fit each other;
    /// the message names the file and the key.
    pub fn load(path: impl AsRef<Path>, options: &LoadOptions) -> Result<Self> {
        let (dir, _) = (path.as_ref().to_owned(), options);
        Err(ModelError::UnknownModel { dir, detail: "LTX-Video cannot be run yet".into() })
    }

    /// What the model is and its defaults.
    pub fn summary(&self) -> LTXVideoSummary {
        self.summary.clone()
    }

    /// How much memory `request` takes, beyond what the program has in use.
    ///
    /// # Errors
    /// [`ModelError::Request`] for options that make no sense.
    pub fn estimate(&self, request: &LTXVideoRequest) -> Result<MemoryEstimate> {
        let _ = request;
        Ok(MemoryEstimate { bytes: 0, parts: Vec::new() })
    }

    /// Makes a video. `on_event` is called on the way; when it breaks, the generation ends within a step or a tile, with
    /// [`ModelError::Cancelled`].
    ///
    /// The same request on the same machine gives the same video.
    ///
    /// # Errors
    /// [`ModelError::Request`] for options that make no sense and [`ModelError::Memory`] for what does not fit, both
    /// before any work is done.
    pub fn generate(
        &self,
        request: &LTXVideoRequest,
        on_event: &mut dyn FnMut(LTXVideoEvent<'_>) -> ControlFlow<()>,
    ) -> Result<LTXVideoOutput> {
        let _ = (request, on_event);
        Err(ModelError::Cancelled)
    }
}
