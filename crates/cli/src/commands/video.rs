//! `sango video`: a video from words, from its first picture, from pictures at certain frames, or from another's end.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::ProgressBar;
use sango_media::{EncodeOptions, Filter, FrameRate, Mp4Encoder, RgbImage, Video, VideoLimits};
use sango_models::ltx_video::{
    LTXVideoCondition, LTXVideoEvent, LTXVideoPipeline, LTXVideoRequest, LTXVideoSummary, Stg,
};
use sango_models::pixels::{Rgb8, to_rgb8_frames, to_tensor};
use sango_models::{LoadOptions, ModelKind};
use sango_tensor::Tensor;

use crate::args::{Size, VideoArgs};
use crate::{files, model_dir, report};

/// Of a video that is gone on with, at most so many of the last frames are shown to the model, and at most half of what
/// it makes.
const REMEMBERED: usize = 17;

/// Makes and saves the video.
pub fn run(args: &VideoArgs, json: bool) -> anyhow::Result<()> {
    let started = Instant::now();
    files::check_writable(&args.output, "video.mp4")?;
    let format = Format::of(&args.output)?;
    // Before the model, which takes longer to read.
    anyhow::ensure!(!args.prompt.trim().is_empty(), "--prompt is empty; say what the video shows");
    let image = args.image.as_deref().map(|path| files::picture("--image", path)).transpose()?;
    let pictures = args.keyframe.iter().map(|key| files::picture("--keyframe", &key.picture));
    let pictures = pictures.collect::<anyhow::Result<Vec<_>>>()?;
    let earlier = args.extend.as_deref().map(open).transpose()?;
    let dir = model_dir::resolve(args.model.as_deref(), args.models_dir.models.as_deref(), ModelKind::LtxVideo)?;
    let pipeline = LTXVideoPipeline::load(&dir, &LoadOptions::new(args.dtype.into()))?;
    let load = started.elapsed();

    let summary = pipeline.summary();
    let size = args.size.unwrap_or(Size { width: summary.width, height: summary.height });
    let mut request = request(args, size);
    request.seed = files::seed(args.seed);
    let strength = args.strength.unwrap_or(1.0);
    let condition = |frames: Tensor, frame_index: usize| LTXVideoCondition {
        strength,
        ..LTXVideoCondition::new(frames, frame_index)
    };
    let (mut before, mut remembered) = (Vec::new(), 0);
    if let Some(video) = &earlier {
        before = scaled_frames(video, size)?;
        remembered = remember(before.len(), args.frames.unwrap_or(summary.num_frames), &summary);
        request.conditions.push(condition(stack(&before[before.len() - remembered..])?, 0));
        request.frame_rate = request.frame_rate.or(Some(video.info().fps as f32));
    }
    for (key, picture) in args.keyframe.iter().zip(&pictures) {
        request.conditions.push(condition(first_frame(picture, size)?, key.frame));
    }
    if let Some(picture) = &image {
        let first = first_frame(picture, size)?;
        match request.conditions.is_empty() && strength >= 1.0 {
            true => request.image = Some(first),
            false => request.conditions.insert(0, condition(first, 0)),
        }
    }

    let bar = report::progress(1, json);
    let mut first_step = None;
    let made = pipeline.generate(&request, &mut |event| {
        if matches!(event, LTXVideoEvent::Step { .. }) {
            first_step.get_or_insert_with(|| started.elapsed());
        }
        show(&bar, &event);
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    let made = made?;

    let fps = args.fps.unwrap_or(made.frame_rate);
    let new = to_rgb8_frames(&made.video)?.skip(remembered).map(picture).collect::<anyhow::Result<Vec<_>>>()?;
    let frames: Vec<RgbImage> = before.into_iter().chain(new).collect();
    format.save(&args.output, &frames, fps)?;

    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let (seed, timings, took) = (request.seed, &made.timings, started.elapsed() - load);
    let steps: f64 = timings.steps.iter().copied().map(ms).sum();
    let value = serde_json::json!({
        "output": args.output, "model": dir, "seed": seed, "width": size.width, "height": size.height,
        "frames": frames.len(), "fps": fps, "steps": timings.steps.len(), "load_ms": ms(load),
        "text_encoder_ms": ms(timings.text_encoder), "steps_ms": steps, "decode_ms": ms(timings.decode),
        "cold_start_ms": first_step.map(ms), "total_ms": ms(took), "peak_rss_mb": report::peak_rss_mb(),
    });
    report::result(json, &value, || {
        let seconds = frames.len() as f32 / fps;
        format!(
            "{} ({} frames, {seconds:.1} s at {fps} a second, seed {seed}; made in {:.1} s)",
            args.output.display(),
            frames.len(),
            took.as_secs_f64()
        )
    })
}

/// The request that the options describe, without pictures.
fn request(args: &VideoArgs, size: Size) -> LTXVideoRequest {
    let mut request = LTXVideoRequest::new(args.prompt.as_str());
    request.negative_prompt = args.negative.as_str().into();
    (request.width, request.height) = (Some(size.width), Some(size.height));
    request.num_frames = args.frames;
    request.frame_rate = args.fps;
    request.num_inference_steps = args.steps;
    request.guidance_scale = args.guidance;
    request.guidance_rescale = args.guidance_rescale;
    request.memory_budget = args.memory.map(|bytes| bytes.0);
    request.stg = args.stg_scale.map(|scale| Stg {
        scale,
        blocks: args.stg_blocks.clone(),
        mode: args.stg_mode.map(Into::into).unwrap_or_default(),
    });
    request
}

/// How many of the last frames of a video are shown to the model: like every number of frames, a multiple and one.
fn remember(there: usize, frames: usize, summary: &LTXVideoSummary) -> usize {
    let most = there.min(REMEMBERED).min(frames / 2).max(1);
    most - (most - 1) % summary.frame_multiple.max(1)
}

fn open(path: &Path) -> anyhow::Result<Video> {
    Video::open(path, &VideoLimits::default()).map_err(|error| files::about("--extend", path, error))
}

/// Every frame of a video in the size of the new one.
fn scaled_frames(video: &Video, size: Size) -> anyhow::Result<Vec<RgbImage>> {
    let (width, height) = sides(size)?;
    let mut frames = Vec::new();
    let all: Vec<usize> = (0..video.info().frames).collect();
    let read = video.read_frames(&all, &mut |frame| {
        frames.push(sango_media::cover(&frame.image, width, height, Filter::Lanczos));
        ControlFlow::Continue(())
    });
    read.map_err(|error| files::about("--extend", video.path(), error))?;
    anyhow::ensure!(!frames.is_empty(), "--extend {}: there are no frames in it", video.path().display());
    Ok(frames)
}

/// Sizes that the model refuses are refused by it, with the ones it takes; here they only must fit the resizer.
fn sides(size: Size) -> anyhow::Result<(u32, u32)> {
    let side = |side: usize| u32::try_from(side).ok().filter(|&side| side <= 8192);
    let sides = side(size.width).zip(side(size.height));
    sides.with_context(|| format!("--size {}x{} is too large", size.width, size.height))
}

/// A picture in the size of the video, `[1, 3, H, W]`; what does not fit its shape is cut off.
fn first_frame(picture: &RgbImage, size: Size) -> anyhow::Result<Tensor> {
    let (width, height) = sides(size)?;
    let picture = sango_media::cover(picture, width, height, Filter::Lanczos);
    Ok(to_tensor(picture.as_raw(), 3, picture.dimensions())?)
}

/// Frames as `[1, 3, T, H, W]`.
fn stack(frames: &[RgbImage]) -> anyhow::Result<Tensor> {
    let planes = frames.iter().map(|frame| {
        let (width, height) = (frame.width() as usize, frame.height() as usize);
        Ok(to_tensor(frame.as_raw(), 3, frame.dimensions())?.reshape(&[1, 3, 1, height, width])?)
    });
    let planes = planes.collect::<anyhow::Result<Vec<_>>>()?;
    Ok(Tensor::cat(&planes.iter().collect::<Vec<_>>(), 2)?)
}

fn show(bar: &ProgressBar, event: &LTXVideoEvent<'_>) {
    let (doing, done, total) = match *event {
        LTXVideoEvent::TextEncoder => ("reading the prompt", 0, 1),
        LTXVideoEvent::Encode { done, total } => ("reading the picture", done, total),
        LTXVideoEvent::Step { step, total, .. } => ("drawing", step, total),
        LTXVideoEvent::Decode { done, total } => ("decoding", done, total),
    };
    if bar.message() != doing {
        bar.set_message(doing);
        bar.reset_eta();
    }
    bar.set_length(total as u64);
    bar.set_position(done as u64);
}

fn picture(Rgb8 { width, height, bytes }: Rgb8) -> anyhow::Result<RgbImage> {
    RgbImage::from_raw(width, height, bytes).context("a frame has fewer pixels than its size says")
}

/// How the video is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Mp4,
    Gif,
}

impl Format {
    fn of(path: &Path) -> anyhow::Result<Self> {
        match path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase()).as_deref() {
            Some("mp4" | "m4v" | "mov") => Ok(Self::Mp4),
            Some("gif") => Ok(Self::Gif),
            _ => anyhow::bail!("{} names no format; end it in .mp4 or .gif", path.display()),
        }
    }

    fn save(self, path: &Path, frames: &[RgbImage], fps: f32) -> anyhow::Result<()> {
        match self {
            Self::Gif => {
                let delay = Duration::from_secs_f32(1.0 / fps);
                Ok(sango_media::write_atomic(path, &sango_media::encode_gif(frames, delay)?)?)
            }
            Self::Mp4 => {
                let (width, height) = frames.first().map_or((0, 0), RgbImage::dimensions);
                let options = EncodeOptions::new(FrameRate::from_f64(f64::from(fps))?);
                let mut encoder = Mp4Encoder::create(path, width, height, &options)?;
                frames.iter().try_for_each(|frame| encoder.push(frame))?;
                Ok(encoder.finish()?)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_names_the_format() {
        assert_eq!(Format::of(Path::new("a/b.MP4")).unwrap(), Format::Mp4);
        assert_eq!(Format::of(Path::new("b.gif")).unwrap(), Format::Gif);
        for bad in ["b", "b.png", ".mp4"] {
            assert!(Format::of(Path::new(bad)).unwrap_err().to_string().contains(".mp4"), "{bad}");
        }
    }
}
