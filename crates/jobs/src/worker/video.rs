//! `video` jobs on LTX-Video: from words, or from words and a first picture.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use sango_media::{
    EncodeOptions, Filter, FrameRate, Limits, Mp4Encoder, RgbImage, cover, load_image_bytes, preview_png,
};
use sango_models::ltx_video::{
    LTXVideoCondition, LTXVideoEvent, LTXVideoPipeline, LTXVideoRequest, LTXVideoSettings, Stg, StgMode as Mode,
};
use sango_models::pixels::{Rgb8, to_rgb8_frames, to_tensor};
use sango_tensor::Tensor;

use super::image::upload;
use super::preview::{PREVIEW_SIDE, PreviewBudget};
use super::{Output, Preview, RunContext, VideoDefaults};
use crate::task::image::MAX_STEPS;
use crate::task::invalid;
use crate::task::video::MAX_VIDEO_FRAMES;
use crate::{ErrorKind, JobError, Phase, StgMode, VideoOptions, VideoTask};

/// What a model's jobs get when they name nothing else.
pub(super) fn defaults(settings: &LTXVideoSettings) -> VideoDefaults {
    VideoDefaults {
        frames: settings.num_frames as u32,
        fps: settings.frame_rate,
        frames_multiple_of: settings.frame_multiple as u32,
    }
}

/// A default that a job could not spell out would be none.
pub(super) fn steps(settings: &LTXVideoSettings) -> u32 {
    (settings.steps as u32).min(MAX_STEPS)
}

/// Fills in every default and refuses what the model cannot do.
pub(super) fn prepare(task: &mut VideoTask, settings: &LTXVideoSettings) -> Result<(), JobError> {
    let own = (settings.width as u32, settings.height as u32);
    let (width, height) = match &task.image {
        Some(image) => same_area(own, (image.width, image.height), settings.size_multiple as u32),
        None => own,
    };
    let options = &mut task.options;
    let (width, height) = (*options.width.get_or_insert(width), *options.height.get_or_insert(height));
    let VideoDefaults { frames, fps, frames_multiple_of } = defaults(settings);
    let frames = *options.frames.get_or_insert(frames);
    options.fps.get_or_insert(fps);
    options.steps.get_or_insert(steps(settings));
    options.negative_prompt.get_or_insert_default();
    options.guidance_scale.get_or_insert(settings.guidance_scale);
    options.guidance_rescale.get_or_insert(settings.guidance_rescale);
    // Its own blocks belong to the model's own scale; a scale of its own may be given for them.
    if let Some(own) = &settings.stg {
        let scale = *options.stg_scale.get_or_insert(f64::from(own.scale));
        if scale > 0.0 {
            options.stg_blocks.get_or_insert_with(|| own.blocks.iter().map(|block| *block as u32).collect());
            options.stg_mode.get_or_insert(StgMode::from(own.mode));
        }
    }
    if task.image.is_some() {
        options.strength.get_or_insert(1.0);
    }
    let multiple = settings.size_multiple as u32;
    for (field, side) in [("width", width), ("height", height)] {
        if side == 0 || !side.is_multiple_of(multiple) {
            let near = (side - side % multiple).max(multiple);
            let message =
                format!("`options.{field}` is {side}: it must be a multiple of {multiple}, for example {near}");
            return Err(invalid(message));
        }
    }
    if frames % frames_multiple_of != 1 % frames_multiple_of {
        let below = frames - frames % frames_multiple_of + 1;
        let above = (below + frames_multiple_of).min(MAX_VIDEO_FRAMES);
        let message = format!(
            "`options.frames` is {frames}: it must be a multiple of {frames_multiple_of} and one, for example {below} \
             or {above}"
        );
        return Err(invalid(message));
    }
    if options.stg_scale.is_some_and(|scale| scale > 0.0) && options.stg_blocks.as_ref().is_none_or(Vec::is_empty) {
        return Err(invalid("`options.stg_scale` needs `stg_blocks`: the blocks that are weakened, for example [19]"));
    }
    Ok(())
}

/// The size of about this area that has the shape of a picture.
fn same_area(own: (u32, u32), picture: (u32, u32), multiple: u32) -> (u32, u32) {
    let area = f64::from(own.0) * f64::from(own.1);
    let shape = f64::from(picture.0.max(1)) / f64::from(picture.1.max(1));
    // Thinner than this, a video shows nothing.
    let width = (area * shape.clamp(0.25, 4.0)).sqrt();
    let rounded = |side: f64| ((side / f64::from(multiple)).round() as u32).max(1) * multiple;
    (rounded(width), rounded(area / width))
}

/// Makes the video.
pub(super) fn run(
    pipeline: &LTXVideoPipeline,
    task: &VideoTask,
    files: &[PathBuf],
    context: &RunContext,
) -> Result<Output, JobError> {
    let mut request = ltx_request(task, files)?;
    // A model of few steps has levels of noise of its own for their usual number.
    request.num_inference_steps = request.num_inference_steps.filter(|steps| *steps != pipeline.settings().steps);
    let mut news = News { context, previews: PreviewBudget::new(), before: Instant::now(), last: None };
    let made = pipeline.generate(&request, &mut |event| news.tell(event))?;
    let options = EncodeOptions {
        stop: Some(Arc::new({
            let cancel = context.cancel_token();
            move || cancel.is_cancelled()
        })),
        ..EncodeOptions::new(FrameRate::from_f64(task.options.fps.unwrap_or(f64::from(made.frame_rate)))?)
    };
    Ok(Output { content_type: "video/mp4".into(), bytes: mp4(&made.video, &options)?, text: None })
}

/// What a generation tells, as news of a run.
struct News<'a> {
    context: &'a RunContext,
    previews: PreviewBudget,
    /// When the event before this one came.
    before: Instant,
    last: Option<(Phase, usize)>,
}

impl News<'_> {
    fn tell(&mut self, event: LTXVideoEvent<'_>) -> ControlFlow<()> {
        if self.context.is_cancelled() {
            return ControlFlow::Break(());
        }
        let (phase, done, total, preview) = match event {
            LTXVideoEvent::TextEncoder => (Phase::Text, 0, 1, None),
            LTXVideoEvent::Encode { done, total } => (Phase::Encode, done, total, None),
            LTXVideoEvent::Step { step, total, preview } => (Phase::Denoise, step, total, Some(preview)),
            LTXVideoEvent::Decode { done, total } => (Phase::Decode, done, total, None),
        };
        // Between two parts of the work there are looks at whether to go on.
        if self.last == Some((phase, done)) {
            return ControlFlow::Continue(());
        }
        let begins = self.last.is_none_or(|(last, _)| last != phase);
        if begins {
            self.context.count_from(phase, self.before, 0);
        }
        // The result follows the last step.
        let preview = preview.filter(|_| done < total).and_then(|draw| self.previews.within(|| picture(draw)));
        let preview = preview.as_deref().map(|bytes| Preview { content_type: "image/png", bytes });
        self.context.progress(done as u32, total as u32, preview)?;
        self.before = Instant::now();
        self.last = Some((phase, done));
        if begins {
            // What was done before the first step was told may have taken its own time.
            self.context.count_from(phase, self.before, done as u32);
        }
        ControlFlow::Continue(())
    }
}

fn picture(draw: &dyn Fn() -> sango_models::Result<Rgb8>) -> Option<Vec<u8>> {
    let drawn: Result<_, JobError> = (|| Ok(preview_png(&frame(draw()?)?, PREVIEW_SIDE)?))();
    // The video matters more than the news of it.
    drawn.inspect_err(|error| tracing::warn!("no preview: {error}")).ok()
}

fn ltx_request(task: &VideoTask, files: &[PathBuf]) -> Result<LTXVideoRequest, JobError> {
    let VideoOptions { width, height, strength, .. } = task.options;
    let options = &task.options;
    let mut request = LTXVideoRequest::new(task.prompt.as_str());
    request.negative_prompt = options.negative_prompt.as_deref().unwrap_or("").into();
    request.width = width.map(|width| width as usize);
    request.height = height.map(|height| height as usize);
    request.num_frames = options.frames.map(|frames| frames as usize);
    request.frame_rate = options.fps.map(|fps| fps as f32);
    request.num_inference_steps = options.steps.map(|steps| steps as usize);
    request.guidance_scale = options.guidance_scale.map(|scale| scale as f32);
    request.guidance_rescale = options.guidance_rescale.map(|rescale| rescale as f32);
    request.stg = options.stg_scale.map(|scale| Stg {
        scale: scale as f32,
        blocks: options.stg_blocks.iter().flatten().map(|block| *block as usize).collect(),
        mode: options.stg_mode.map(Mode::from).unwrap_or_default(),
    });
    request.seed = options.seed.unwrap_or(0);
    if let Some(path) = files.first() {
        // The engine has checked the uploads against its own limits.
        let limits = Limits { max_bytes: u64::MAX, max_pixels: u64::MAX >> 8 };
        let picture = load_image_bytes(&upload(path)?, &limits)?;
        let picture = cover(&picture, width.unwrap_or(1), height.unwrap_or(1), Filter::Lanczos);
        let first = to_tensor(picture.as_raw(), 3, picture.dimensions())?;
        match strength {
            Some(strength) if strength < 1.0 => {
                let condition = LTXVideoCondition::new(first, 0);
                request.conditions = vec![LTXVideoCondition { strength: strength as f32, ..condition }];
            }
            _ => request.image = Some(first),
        }
    }
    Ok(request)
}

impl From<StgMode> for Mode {
    fn from(mode: StgMode) -> Self {
        match mode {
            StgMode::AttentionValues => Self::AttentionValues,
            StgMode::AttentionSkip => Self::AttentionSkip,
            StgMode::Residual => Self::Residual,
            StgMode::TransformerBlock => Self::TransformerBlock,
        }
    }
}

impl From<Mode> for StgMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::AttentionValues => Self::AttentionValues,
            Mode::AttentionSkip => Self::AttentionSkip,
            Mode::Residual => Self::Residual,
            Mode::TransformerBlock => Self::TransformerBlock,
        }
    }
}

/// The frames of `[1, 3, T, H, W]` in 0..1 as MP4.
fn mp4(video: &Tensor, options: &EncodeOptions) -> Result<Vec<u8>, JobError> {
    let storage = |error: std::io::Error| {
        JobError::new(ErrorKind::Storage, format!("cannot write the video to the temporary folder: {error}"))
    };
    let folder = tempfile::tempdir().map_err(storage)?;
    let path = folder.path().join("video.mp4");
    let mut frames = to_rgb8_frames(video)?.map(frame).peekable();
    let (width, height) = match frames.peek() {
        Some(Ok(first)) => first.dimensions(),
        _ => (0, 0),
    };
    let mut encoder = Mp4Encoder::create(&path, width, height, options)?;
    for frame in frames {
        encoder.push(&frame?)?;
    }
    encoder.finish()?;
    std::fs::read(&path).map_err(storage)
}

fn frame(Rgb8 { width, height, bytes }: Rgb8) -> Result<RgbImage, JobError> {
    RgbImage::from_raw(width, height, bytes)
        .ok_or_else(|| JobError::new(ErrorKind::Internal, format!("too few pixels for {width}x{height}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_video_from_a_picture_has_its_shape() {
        assert_eq!(same_area((704, 480), (1920, 1080), 32), (768, 448));
        assert_eq!(same_area((704, 480), (1080, 1920), 32), (448, 768));
        assert_eq!(same_area((64, 64), (64, 64), 32), (64, 64));
        assert_eq!(same_area((64, 64), (1, 40_000_000), 32), (32, 128));
    }
}
