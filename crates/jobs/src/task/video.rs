//! `video` jobs: what they ask, and what of it can be checked without a model.

use sango_media::{Limits, RgbImage};
use serde::{Deserialize, Serialize};

use super::image::{MAX_SIDE, MAX_STEPS, MediaRef, media_ref};
use super::{check_prompt, check_text, invalid, option_within};
use crate::{JobError, Submission};

/// No model makes more of them at once.
pub(crate) const MAX_VIDEO_FRAMES: u32 = 2_049;
/// Blocks of a transformer that spatiotemporal guidance can name.
const MAX_BLOCKS: usize = 256;

/// A video from words, or from words and its first frame.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VideoTask {
    /// What the video shows.
    pub prompt: String,
    /// How it is made.
    pub options: VideoOptions,
    /// The picture that it begins with.
    pub image: Option<MediaRef>,
}

/// How a video is made. What is `None` takes the model's default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VideoOptions {
    /// What the video should not show.
    pub negative_prompt: Option<String>,
    /// Pixels.
    pub width: Option<u32>,
    /// Pixels.
    pub height: Option<u32>,
    /// How many frames.
    pub frames: Option<u32>,
    /// Frames per second.
    pub fps: Option<f64>,
    /// Denoising steps.
    pub steps: Option<u32>,
    /// Weight of the prompt; 1 or less turns guidance off.
    pub guidance_scale: Option<f64>,
    /// How far what guidance makes is brought back to the contrast of what the prompt alone makes, 0 to 1.
    pub guidance_rescale: Option<f64>,
    /// Weight of spatiotemporal guidance; 0 turns it off.
    pub stg_scale: Option<f64>,
    /// The transformer's blocks that it weakens.
    pub stg_blocks: Option<Vec<u32>>,
    /// What it leaves out of them.
    pub stg_mode: Option<StgMode>,
    /// Where all randomness comes from.
    pub seed: Option<u64>,
    /// How strictly the video keeps to its first picture, 0 to 1.
    pub strength: Option<f64>,
}

/// What spatiotemporal guidance leaves out of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StgMode {
    /// Attention looks nowhere: each token keeps its own values.
    AttentionValues,
    /// The attention.
    AttentionSkip,
    /// What the attention adds.
    Residual,
    /// The whole block.
    TransformerBlock,
}

impl VideoTask {
    /// Checks every range, decodes the picture once to be sure that it can be done, and fills in `image`.
    pub(crate) fn check(&mut self, image: Option<&[u8]>, limits: &Limits) -> Result<(), JobError> {
        check_prompt("prompt", &self.prompt, "say what the video shows")?;
        self.options.check()?;
        if image.is_none() && self.options.strength.is_some() {
            return Err(invalid("`strength` says how strictly the video keeps to `image`: send an image"));
        }
        let picture = |bytes: &[u8]| sango_media::load_image_bytes(bytes, limits).map(|it| RgbImage::dimensions(&it));
        self.image = image.map(|bytes| media_ref("image", bytes, picture)).transpose()?;
        Ok(())
    }
}

impl VideoOptions {
    pub(crate) fn check(&self) -> Result<(), JobError> {
        check_text("options.negative_prompt", self.negative_prompt.as_deref().unwrap_or(""))?;
        option_within("width", self.width, 1, MAX_SIDE)?;
        option_within("height", self.height, 1, MAX_SIDE)?;
        option_within("frames", self.frames, 1, MAX_VIDEO_FRAMES)?;
        option_within("fps", self.fps, 0.1, 240.0)?;
        option_within("steps", self.steps, 1, MAX_STEPS)?;
        option_within("guidance_scale", self.guidance_scale, 0.0, 50.0)?;
        option_within("guidance_rescale", self.guidance_rescale, 0.0, 1.0)?;
        option_within("stg_scale", self.stg_scale, 0.0, 50.0)?;
        option_within("strength", self.strength, 0.0, 1.0)?;
        let blocks = self.stg_blocks.as_ref().map_or(0, Vec::len);
        if blocks > MAX_BLOCKS {
            return Err(invalid(format!("`options.stg_blocks` names {blocks} blocks, more than {MAX_BLOCKS}")));
        }
        Ok(())
    }
}

/// The fields of a `video` job's JSON that are its own.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wire {
    #[serde(rename = "kind")]
    _kind: crate::JobKind,
    #[serde(default)]
    model: Option<String>,
    prompt: String,
    #[serde(default)]
    negative_prompt: Option<String>,
    #[serde(default)]
    options: Option<VideoOptions>,
    #[serde(default)]
    image: Option<String>,
    #[serde(default)]
    idempotency_key: Option<String>,
    #[serde(default)]
    priority: Option<i32>,
}

impl Wire {
    pub(crate) fn submission(self) -> Result<Submission, JobError> {
        let mut options = self.options.unwrap_or_default();
        // Beside the prompt is where one would look for it, among the options is where an `image` job has it.
        match (&options.negative_prompt, self.negative_prompt) {
            (Some(one), Some(other)) if *one != other => {
                return Err(invalid("`negative_prompt` and `options.negative_prompt` differ: send one of them"));
            }
            (None, Some(negative)) => options.negative_prompt = Some(negative),
            _ => {}
        }
        let task = VideoTask { prompt: self.prompt, options, image: None };
        Ok(Submission {
            image: self.image.map(|text| super::decode_base64("image", &text)).transpose()?,
            idempotency_key: self.idempotency_key,
            ..Submission::new(crate::Task::Video(task), self.model, self.priority)
        })
    }
}
