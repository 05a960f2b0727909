//! What a caller asks for.

use sango_tensor::Tensor;
use serde::Deserialize;

/// A prompt as text, as token ids where a caller tokenizes, or as the text encoder's states where a caller has them.
#[derive(Debug, Clone)]
pub enum LTXVideoPrompt {
    /// A text.
    Text(String),
    /// Ids and mask, both i64 `[1, S]`; the mask is 1 for what is text and 0 for padding.
    Ids {
        /// The ids.
        ids: Tensor,
        /// The mask.
        mask: Tensor,
    },
    /// States `[1, S, D]` of the text encoder with their mask, i64 `[1, S]`.
    Embeds {
        /// The states.
        embeds: Tensor,
        /// The mask.
        mask: Tensor,
    },
}

impl From<&str> for LTXVideoPrompt {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for LTXVideoPrompt {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// Frames that the video is to show at a certain place: `LTXVideoCondition`.
#[derive(Debug, Clone)]
pub struct LTXVideoCondition {
    /// A picture `[1, 3, H, W]` or a video `[1, 3, T, H, W]`, in 0..1.
    pub frames: Tensor,
    /// The frame of the new video that shows the first of them; for a video, a multiple of the model's temporal
    /// compression.
    pub frame_index: usize,
    /// How strongly the video keeps to them, 0 to 1.
    pub strength: f32,
}

impl LTXVideoCondition {
    /// A picture `[1, 3, H, W]` or a video `[1, 3, T, H, W]`, in 0..1, that the video shows from `frame_index` on.
    pub fn new(frames: Tensor, frame_index: usize) -> Self {
        Self { frames, frame_index, strength: 1.0 }
    }
}

/// What a layer leaves out in the pass that spatio-temporal guidance steers away from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StgMode {
    /// Self-attention gives its values as they are, unmixed.
    #[default]
    AttentionValues,
    /// Self-attention gives its input back.
    AttentionSkip,
    /// Self-attention is not added to its input but stands in its place.
    Residual,
    /// The whole layer is left out.
    TransformerBlock,
}

/// Spatio-temporal guidance: away from what the model makes with some layers disturbed.
#[derive(Debug, Clone, PartialEq)]
pub struct Stg {
    /// How far; 0 is without, and saves the third pass.
    pub scale: f32,
    /// The layers that are disturbed, from 0.
    pub blocks: Vec<usize>,
    /// How they are disturbed.
    pub mode: StgMode,
}

/// A request for a video. Fields that are `None` take the folder's defaults, then those of the pipeline class.
///
/// With `image` this is image-to-video (`LTXImageToVideoPipeline`), with `conditions` it is `LTXConditionPipeline`.
#[derive(Debug, Clone)]
pub struct LTXVideoRequest {
    /// What the video shows.
    pub prompt: LTXVideoPrompt,
    /// What it does not show.
    pub negative_prompt: LTXVideoPrompt,
    /// Width in pixels, a multiple of the model's spatial compression.
    pub width: Option<usize>,
    /// Height in pixels.
    pub height: Option<usize>,
    /// Number of frames: a multiple of the model's temporal compression, and one.
    pub num_frames: Option<usize>,
    /// Frames per second.
    pub frame_rate: Option<f32>,
    /// Number of steps.
    pub num_inference_steps: Option<usize>,
    /// The timesteps (0 to 1000, falling) in place of a number of steps: those of a distilled model, for example.
    pub timesteps: Option<Vec<f32>>,
    /// The noise levels (0 to 1, falling) before the scheduler shifts them, in place of a number of steps.
    pub sigmas: Option<Vec<f32>>,
    /// How strongly the prompt is followed; up to 1 is without guidance, which halves the work.
    pub guidance_scale: Option<f32>,
    /// How far the guided prediction is brought back to the deviation of the unguided one, 0 to 1.
    pub guidance_rescale: Option<f32>,
    /// Spatio-temporal guidance.
    pub stg: Option<Stg>,
    /// Seed of all randomness.
    pub seed: u64,
    /// The first frame, `[1, 3, H, W]` in 0..1, of the video's size.
    pub image: Option<Tensor>,
    /// Frames that the video is to show at certain places.
    pub conditions: Vec<LTXVideoCondition>,
    /// Noise that is added to the conditioning frames, less with every step; for `conditions` only.
    pub image_cond_noise_scale: Option<f32>,
    /// The noise level that a decoder with timestep conditioning is told.
    pub decode_timestep: Option<f32>,
    /// How much noise is mixed into the latents before such a decoder.
    pub decode_noise_scale: Option<f32>,
    /// The most memory in bytes that may be used; what the machine has available where it is not given.
    pub memory_budget: Option<u64>,
    /// Length that prompts are padded or cut to, in tokens.
    pub max_sequence_length: Option<usize>,
}

impl LTXVideoRequest {
    /// A request for a video of `prompt` with the model's defaults.
    pub fn new(prompt: impl Into<LTXVideoPrompt>) -> Self {
        Self {
            prompt: prompt.into(),
            negative_prompt: "".into(),
            width: None,
            height: None,
            num_frames: None,
            frame_rate: None,
            num_inference_steps: None,
            timesteps: None,
            sigmas: None,
            guidance_scale: None,
            guidance_rescale: None,
            stg: None,
            seed: 0,
            image: None,
            conditions: Vec::new(),
            image_cond_noise_scale: None,
            decode_timestep: None,
            decode_noise_scale: None,
            memory_budget: None,
            max_sequence_length: None,
        }
    }
}
