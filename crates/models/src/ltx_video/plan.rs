//! A request with every default filled in and every option checked: what is left is work.

use sango_tensor::Tensor;

use super::guidance::Guidance;
use super::request::{LTXVideoRequest, StgMode};
use super::scheduler::{FlowMatchEulerDiscreteScheduler, Levels, Schedule, linear_quadratic_sigmas, linear_sigmas};
use super::settings::{LTXVideoSettings, MAX_FRAMES, MAX_SIDE, MAX_STEPS, MAX_TOKENS_OF_TEXT};
use crate::error::{ModelError, Result};

/// Whose ways a generation follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PipelineClass {
    /// `LTXPipeline`.
    Text,
    /// `LTXImageToVideoPipeline`.
    Image,
    /// `LTXConditionPipeline`.
    Condition,
}

impl PipelineClass {
    /// Tokens that prompts are padded or cut to.
    pub(super) fn max_sequence_length(self) -> usize {
        match self {
            Self::Text | Self::Image => 128,
            Self::Condition => 256,
        }
    }
}

/// Frames that the video shows from `frame_index` on.
#[derive(Debug, Clone)]
pub(super) struct Condition {
    /// `[1, 3, T, H, W]` in −1..1.
    pub(super) frames: Tensor,
    pub(super) frame_index: usize,
    pub(super) strength: f32,
}

/// What is to be done.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) class: PipelineClass,
    /// Frames, height and width of the video.
    pub(super) size: [usize; 3],
    /// Frames, rows and columns of the latents.
    pub(super) grid: [usize; 3],
    pub(super) frame_rate: f32,
    pub(super) schedule: Schedule,
    pub(super) guidance: Guidance,
    /// The layers that are disturbed, and how.
    pub(super) stg: Option<(Vec<usize>, StgMode)>,
    /// The first frame, `[1, 3, 1, H, W]` in −1..1.
    pub(super) image: Option<Tensor>,
    pub(super) conditions: Vec<Condition>,
    pub(super) image_cond_noise_scale: f32,
    pub(super) decode_timestep: f32,
    pub(super) decode_noise_scale: f32,
    pub(super) text_tokens: usize,
}

/// What the model brings to a plan.
pub(super) struct Model<'a> {
    pub(super) settings: &'a LTXVideoSettings,
    pub(super) scheduler: &'a FlowMatchEulerDiscreteScheduler,
    /// The class that the folder names.
    pub(super) class: PipelineClass,
    /// Whether steps are equal whatever the class.
    pub(super) uniform: bool,
    pub(super) layers: usize,
}

impl Plan {
    pub(super) fn new(request: &LTXVideoRequest, model: &Model<'_>) -> Result<Self> {
        let settings = model.settings;
        let class = match (&request.image, request.conditions.is_empty()) {
            (Some(_), false) => {
                let detail = "is given beside conditions; make it a condition of frame 0";
                return Err(ModelError::request("image", detail));
            }
            (_, false) => PipelineClass::Condition,
            // A picture at the beginning is all that the one class knows, and one condition of the other.
            (Some(_), true) if model.class != PipelineClass::Condition => PipelineClass::Image,
            (None, true) if model.class != PipelineClass::Condition => PipelineClass::Text,
            _ => PipelineClass::Condition,
        };
        let size = size(request, settings)?;
        let [frames, height, width] = size;
        let grid = [
            (frames - 1) / settings.frame_multiple + 1,
            height / settings.size_multiple,
            width / settings.size_multiple,
        ];
        let frame_rate = request.frame_rate.unwrap_or(settings.frame_rate as f32);
        if !(0.1..=1000.0).contains(&frame_rate) {
            return Err(ModelError::request("frame_rate", format!("is {frame_rate}; it must be between 0.1 and 1000")));
        }
        let guidance_scale = in_range("guidance_scale", request.guidance_scale, settings.guidance_scale, 100.0)?;
        let rescale = in_range("guidance_rescale", request.guidance_rescale, settings.guidance_rescale, 1.0)?;
        let stg = stg(request, model)?;
        let mut conditions = Vec::new();
        if let (Some(image), PipelineClass::Condition) = (&request.image, class) {
            conditions.push(Condition { frames: picture("image", image, size)?, frame_index: 0, strength: 1.0 });
        }
        for (n, condition) in request.conditions.iter().enumerate() {
            let frames = pixels("conditions", &condition.frames, size)?;
            let (at, strength) = (condition.frame_index, condition.strength);
            let condition = Condition { frames, frame_index: at, strength };
            conditions.push(
                condition
                    .checked(size[0], settings.frame_multiple)
                    .map_err(|detail| ModelError::request("conditions", format!("number {n} {detail}")))?,
            );
        }
        let image = match (&request.image, class) {
            (Some(image), PipelineClass::Image) => Some(picture("image", image, size)?),
            _ => None,
        };
        let schedule = schedule(request, model, class, grid.iter().product())?;
        let decode_timestep = in_range("decode_timestep", request.decode_timestep, settings.decode_timestep, 1.0)?;
        let decode_noise_scale =
            in_range("decode_noise_scale", request.decode_noise_scale, settings.decode_noise_scale, 1.0)?;
        let text_tokens =
            request.max_sequence_length.or(settings.max_sequence_length).unwrap_or_else(|| class.max_sequence_length());
        if !(1..=MAX_TOKENS_OF_TEXT).contains(&text_tokens) {
            let detail = format!("is {text_tokens}; it must be between 1 and {MAX_TOKENS_OF_TEXT}");
            return Err(ModelError::request("max_sequence_length", detail));
        }
        Ok(Self {
            class,
            size,
            grid,
            frame_rate,
            schedule,
            guidance: Guidance {
                scale: (guidance_scale > 1.0).then_some(guidance_scale),
                stg_scale: stg.as_ref().map(|(scale, ..)| *scale),
                rescale,
            },
            stg: stg.map(|(_, blocks, mode)| (blocks, mode)),
            image,
            conditions,
            image_cond_noise_scale: in_range("image_cond_noise_scale", request.image_cond_noise_scale, 0.15, 1.0)?,
            decode_timestep,
            decode_noise_scale,
            text_tokens,
        })
    }

    /// Tokens that the transformer sees at once, those of appended conditions included.
    pub(super) fn tokens(&self, frame_multiple: usize) -> usize {
        let [frames, height, width] = self.grid;
        let appended: usize = self.conditions.iter().map(|c| c.appended_latent_frames(frame_multiple)).sum();
        (frames + appended) * height * width
    }
}

/// Latent frames of a condition after the first frame that are appended rather than laid over the video.
pub(super) const PREFIX_LATENT_FRAMES: usize = 2;

impl Condition {
    /// Cut to what the video has room for; the error says what does not fit.
    fn checked(mut self, frames: usize, multiple: usize) -> Result<Self, String> {
        if !(0.0..=1.0).contains(&self.strength) {
            return Err(format!("has strength {}; it must be between 0 and 1", self.strength));
        }
        let at = self.frame_index;
        if at >= frames {
            return Err(format!("begins at frame {at}; the video has {frames}"));
        }
        let given = self.frames.shape()[2];
        if given > 1 && !at.is_multiple_of(multiple) {
            return Err(format!("is a video that begins at frame {at}; that must be a multiple of {multiple}"));
        }
        let kept = (given.min(frames - at) - 1) / multiple * multiple + 1;
        if kept < given {
            self.frames = self.frames.narrow(2, 0, kept).map_err(|error| error.to_string())?;
        }
        if at > 0 && given > 1 && kept == 1 {
            let detail = format!("is a video of {given} frames at frame {at}");
            return Err(format!("{detail}, of which one is left; give a picture, or {} frames and more", multiple + 1));
        }
        Ok(self)
    }

    /// Latent frames of it.
    pub(super) fn latent_frames(&self, multiple: usize) -> usize {
        (self.frames.shape().get(2).copied().unwrap_or(1).max(1) - 1) / multiple + 1
    }

    /// How many of them are appended to the video's own.
    pub(super) fn appended_latent_frames(&self, multiple: usize) -> usize {
        if self.frame_index == 0 { 0 } else { self.latent_frames(multiple).min(PREFIX_LATENT_FRAMES) }
    }
}

/// Frames, height and width of the video.
fn size(request: &LTXVideoRequest, settings: &LTXVideoSettings) -> Result<[usize; 3]> {
    let given = |tensor: &Tensor| match *tensor.shape() {
        [.., height, width] => Some((height, width)),
        _ => None,
    };
    let shown = request.image.as_ref().or(request.conditions.first().map(|condition| &condition.frames));
    let (own_height, own_width) = shown.and_then(given).unwrap_or((settings.height, settings.width));
    let multiple = settings.size_multiple;
    let side = |field: &'static str, value: usize| {
        if value == 0 || !value.is_multiple_of(multiple) || value > MAX_SIDE {
            let below = (value - value % multiple).clamp(multiple, MAX_SIDE - MAX_SIDE % multiple);
            let detail =
                format!("is {value}; it must be a multiple of {multiple} up to {MAX_SIDE}, for example {below}");
            return Err(ModelError::request(field, detail));
        }
        Ok(value)
    };
    let height = side("height", request.height.unwrap_or(own_height))?;
    let width = side("width", request.width.unwrap_or(own_width))?;
    let (frames, step) = (request.num_frames.unwrap_or(settings.num_frames), settings.frame_multiple);
    if frames == 0 || frames % step != 1 % step || frames > MAX_FRAMES {
        let below = frames.min(MAX_FRAMES).saturating_sub(1) / step * step + 1;
        let detail = format!(
            "is {frames}; it must be a multiple of {step} and one, up to {MAX_FRAMES}: for example {below} or {}",
            below + step
        );
        return Err(ModelError::request("num_frames", detail));
    }
    Ok([frames, height, width])
}

fn stg(request: &LTXVideoRequest, model: &Model<'_>) -> Result<Option<(f32, Vec<usize>, StgMode)>> {
    let Some(stg) = request.stg.as_ref().or(model.settings.stg.as_ref()) else { return Ok(None) };
    let scale = in_range("stg_scale", Some(stg.scale), 0.0, 100.0)?;
    if scale == 0.0 {
        return Ok(None);
    }
    if stg.blocks.is_empty() {
        let detail = format!("is empty; say which of the layers 0 to {} are disturbed", model.layers - 1);
        return Err(ModelError::request("stg_blocks", detail));
    }
    if let Some(bad) = stg.blocks.iter().find(|&&block| block >= model.layers) {
        let detail = format!("names layer {bad}; the model has the layers 0 to {}", model.layers - 1);
        return Err(ModelError::request("stg_blocks", detail));
    }
    Ok(Some((scale, stg.blocks.clone(), stg.mode)))
}

fn schedule(request: &LTXVideoRequest, model: &Model<'_>, class: PipelineClass, tokens: usize) -> Result<Schedule> {
    let (settings, scheduler) = (model.settings, model.scheduler);
    let falling = |field: &'static str, values: &[f32], max: f32| {
        let range = values.iter().all(|value| *value > 0.0 && *value <= max);
        if values.is_empty() || values.len() > MAX_STEPS || !range || !values.is_sorted_by(|a, b| a > b) {
            let detail = format!("is {values:?}; 1 to {MAX_STEPS} numbers above 0 up to {max} must fall");
            return Err(ModelError::request(field, detail));
        }
        Ok(())
    };
    let mu = scheduler.calculate_shift(tokens);
    let asked = [request.timesteps.is_some(), request.sigmas.is_some(), request.num_inference_steps.is_some()];
    if asked.iter().filter(|&&asked| asked).count() > 1 {
        let detail = "is given beside another of timesteps, sigmas and num_inference_steps; give one";
        return Err(ModelError::request(if asked[0] { "timesteps" } else { "sigmas" }, detail));
    }
    if let Some(timesteps) = &request.timesteps {
        falling("timesteps", timesteps, scheduler.config().num_train_timesteps as f32)?;
        return scheduler.set_timesteps(Levels::Timesteps(timesteps), mu);
    }
    if let Some(sigmas) = &request.sigmas {
        falling("sigmas", sigmas, 1.0)?;
        return scheduler.set_timesteps(Levels::Sigmas(sigmas), mu);
    }
    if let (None, Some(timesteps)) = (request.num_inference_steps, &settings.timesteps) {
        falling("timesteps", timesteps, scheduler.config().num_train_timesteps as f32)?;
        return scheduler.set_timesteps(Levels::Timesteps(timesteps), mu);
    }
    let steps = request.num_inference_steps.unwrap_or(settings.steps);
    if !(1..=MAX_STEPS).contains(&steps) {
        return Err(ModelError::request(
            "num_inference_steps",
            format!("is {steps}; it must be between 1 and {MAX_STEPS}"),
        ));
    }
    // `LTXConditionPipeline` has no schedule for dynamic shifting; the levels of the other classes serve as well.
    if class == PipelineClass::Condition && !scheduler.config().use_dynamic_shifting && !model.uniform {
        let train = scheduler.config().num_train_timesteps as f32;
        let timesteps: Vec<f32> = linear_quadratic_sigmas(steps).iter().map(|sigma| sigma * train).collect();
        return scheduler.set_timesteps(Levels::Timesteps(&timesteps), mu);
    }
    scheduler.set_timesteps(Levels::Sigmas(&linear_sigmas(steps)), mu)
}

fn in_range(field: &'static str, value: Option<f32>, default: f64, max: f32) -> Result<f32> {
    let value = value.unwrap_or(default as f32);
    // Written so that NaN fails.
    if !(0.0..=max).contains(&value) {
        return Err(ModelError::request(field, format!("is {value}; it must be between 0 and {max}")));
    }
    Ok(value)
}

/// A picture `[1, 3, H, W]` in 0..1 of the video's size as `[1, 3, 1, H, W]` in −1..1.
fn picture(field: &'static str, image: &Tensor, size: [usize; 3]) -> Result<Tensor> {
    if image.rank() != 4 {
        let detail = format!("has shape {:?}; a picture is [1, 3, height, width]", image.shape());
        return Err(ModelError::request(field, detail));
    }
    pixels(field, image, size)
}

/// A picture or a video in 0..1 of the video's size as `[1, 3, T, H, W]` in −1..1.
fn pixels(field: &'static str, frames: &Tensor, [_, height, width]: [usize; 3]) -> Result<Tensor> {
    let frames = match *frames.shape() {
        [1, 3, _, _] => frames.unsqueeze(2)?,
        [1, 3, frame_count, _, _] if frame_count > 0 => frames.clone(),
        _ => {
            let detail = format!(
                "has shape {:?}; a picture is [1, 3, height, width], a video [1, 3, frames, height, width]",
                frames.shape()
            );
            return Err(ModelError::request(field, detail));
        }
    };
    let [.., own_height, own_width] = frames.dims::<5>()?;
    if (own_height, own_width) != (height, width) {
        let detail = format!("is {own_width}×{own_height} pixels for a video of {width}×{height}; resize it to that");
        return Err(ModelError::request(field, detail));
    }
    if let Some(bad) = frames.as_f32()?.iter().find(|x| !(-0.001..=1.001).contains(*x)) {
        return Err(ModelError::request(field, format!("has a value of {bad}; pixels are in 0..1")));
    }
    Ok(frames.mul_scalar(2.0)?.add_scalar(-1.0)?)
}
