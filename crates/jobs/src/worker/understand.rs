//! `understand` jobs on SmolVLM2: questions about videos and pictures.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sango_media::{Limits, Video, VideoLimits, fit_within, load_image};
use sango_models::smolvlm2::{
    Answer, Content, FinishReason, FrameUsed, Message, Role as Speaker, SamplingParams, SmolVLMPipeline,
    SmolVLMSettings, Tile, UnderstandEvent, UnderstandRequest,
};
use serde_json::{Value, json};

use super::{Output, Preview, RunContext};
use crate::task::understand::{MAX_FRAMES, MAX_TOKENS};
use crate::{ErrorKind, JobError, MediaType, Role, Turn, UnderstandDefaults, UnderstandOptions, UnderstandTask};

/// No side of the small picture of a frame is longer.
const PREVIEW_SIDE: u32 = 128;

/// What a model's jobs get when they name nothing else.
pub(super) fn defaults(settings: &SmolVLMSettings) -> UnderstandDefaults {
    UnderstandDefaults {
        frames: settings.num_frames.map_or(MAX_FRAMES, |frames| (frames as u32).min(MAX_FRAMES)),
        fps: settings.fps.unwrap_or(1.0),
        max_tokens: (settings.max_new_tokens as u32).min(MAX_TOKENS),
        context: settings.max_position_embeddings as u32,
    }
}

/// Fills in every default and refuses what the model cannot do.
pub(super) fn prepare(task: &mut UnderstandTask, settings: &SmolVLMSettings) -> Result<(), JobError> {
    let defaults = defaults(settings);
    let options = &mut task.options;
    let tokens = *options.max_tokens.get_or_insert(defaults.max_tokens);
    if tokens >= defaults.context {
        let message = format!(
            "`options.max_tokens` is {tokens}: question, media and answer together may have {} tokens",
            defaults.context
        );
        return Err(JobError::new(ErrorKind::InvalidOption, message));
    }
    options.frames.get_or_insert(defaults.frames);
    options.fps.get_or_insert(defaults.fps);
    let params = sampling(options);
    let wanted = params.or(settings.sampling.as_ref().unwrap_or(&SamplingParams::default()));
    let draws = params.asks_to_sample().unwrap_or(settings.sampling.is_some());
    options.repetition_penalty.get_or_insert(wanted.repetition_penalty.map_or(1.0, f64::from));
    match draws {
        true => {
            options.temperature.get_or_insert(wanted.temperature.map_or(1.0, f64::from));
            // The reference's own.
            options.top_k.get_or_insert(wanted.top_k.map_or(50, |top_k| top_k as u32));
            options.top_p.get_or_insert(wanted.top_p.map_or(1.0, f64::from));
            options.min_p.get_or_insert(wanted.min_p.map_or(0.0, f64::from));
        }
        false => _ = options.temperature.get_or_insert(0.0),
    }
    Ok(())
}

fn sampling(options: &UnderstandOptions) -> SamplingParams {
    SamplingParams {
        temperature: options.temperature.map(|temperature| temperature as f32),
        top_k: options.top_k.map(|top_k| top_k as usize),
        top_p: options.top_p.map(|top_p| top_p as f32),
        min_p: options.min_p.filter(|min_p| *min_p > 0.0).map(|min_p| min_p as f32),
        repetition_penalty: options.repetition_penalty.map(|penalty| penalty as f32),
        seed: options.seed,
    }
}

/// Answers the question.
pub(super) fn run(
    pipeline: &SmolVLMPipeline,
    task: &UnderstandTask,
    files: &[PathBuf],
    context: &RunContext,
) -> Result<Output, JobError> {
    let mut request = UnderstandRequest::new(messages(task, files, context)?);
    request.max_new_tokens = task.options.max_tokens.map(|tokens| tokens as usize);
    request.num_frames = task.options.frames.map(|frames| frames as usize);
    request.fps = task.options.fps;
    request.sampling = sampling(&task.options);
    context.begin();
    let mut told = 0;
    let answer = pipeline.answer(&request, &mut |event| match event {
        UnderstandEvent::Prepared { frames, tiles, .. } => {
            context.begin();
            show(task, frames, tiles, context)
        }
        UnderstandEvent::Vision { done, total } => context.progress(done as u32, total as u32, None),
        UnderstandEvent::Token { text, index } => {
            // What was held back at the end belongs to a token that was told already.
            let index = (index as u32).max(told);
            told = index + 1;
            context.token(text, index)
        }
        _ if context.is_cancelled() => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    })?;
    if answer.finish_reason == FinishReason::Cancelled {
        return Err(JobError::new(ErrorKind::Cancelled, "the answer was stopped"));
    }
    let bytes = serde_json::to_vec(&result(task, &answer));
    let bytes = bytes.map_err(|error| JobError::new(ErrorKind::Internal, error.to_string()))?;
    Ok(Output { content_type: "application/json".into(), bytes, text: Some(answer.text) })
}

/// The conversation, with the media where it begins: what is read of them then serves every later question.
fn messages(task: &UnderstandTask, files: &[PathBuf], context: &RunContext) -> Result<Vec<Message>, JobError> {
    let mut media = Vec::new();
    for (info, path) in task.media.iter().zip(files) {
        media.push(match info.kind {
            MediaType::Image => Content::Image(Arc::new(load_image(path, &unlimited())?)),
            MediaType::Video => Content::Video(Arc::new(open(path, context)?)),
        });
    }
    let question = Turn { role: Role::User, content: task.question.clone() };
    let turns = task.messages.iter().chain([&question]).map(|turn| {
        let (speaker, mut content) = match turn.role {
            Role::System => (Speaker::System, Vec::new()),
            Role::User => (Speaker::User, std::mem::take(&mut media)),
            Role::Assistant => (Speaker::Assistant, Vec::new()),
        };
        content.push(Content::Text(turn.content.clone()));
        Message::new(speaker, content)
    });
    Ok(turns.collect())
}

/// The engine has checked the uploads against its own limits.
fn unlimited() -> Limits {
    Limits { max_bytes: u64::MAX, max_pixels: u64::MAX >> 8 }
}

fn open(path: &Path, context: &RunContext) -> Result<Video, JobError> {
    let cancel = context.cancel_token();
    let stop = Arc::new(move || cancel.is_cancelled());
    Ok(Video::open(path, &VideoLimits { max_bytes: u64::MAX, stop: Some(stop), ..VideoLimits::default() })?)
}

/// Tells which frames the model is shown, and how they look.
fn show(task: &UnderstandTask, frames: &[FrameUsed], tiles: &[Tile], context: &RunContext) -> ControlFlow<()> {
    context.frames(json!(frames_used(task, frames)))?;
    for (n, frame) in frames.iter().enumerate() {
        let Some(tile) = tiles.get(frame.tile) else { continue };
        match preview(task, frame, tile) {
            Ok(bytes) => context.preview(n as u32 + 1, Preview { content_type: "image/png", bytes: &bytes })?,
            // The answer matters more than the news of it.
            Err(error) => tracing::warn!("no preview of a frame: {error}"),
        }
    }
    ControlFlow::Continue(())
}

fn preview(task: &UnderstandTask, frame: &FrameUsed, tile: &Tile) -> Result<Vec<u8>, JobError> {
    // The model is shown squares; people know the video in its own shape.
    let shape = videos(task).nth(frame.video).map_or((1, 1), |(_, video)| (video.width, video.height));
    let (width, height) = fit_within(shape.0, shape.1, PREVIEW_SIDE);
    let picture = sango_media::resize(tile.picture(), width, height, sango_media::Filter::Lanczos);
    Ok(sango_media::encode_png(&picture, &[])?)
}

/// The videos among the media, with their places.
fn videos(task: &UnderstandTask) -> impl Iterator<Item = (usize, &crate::MediaInfo)> {
    task.media.iter().enumerate().filter(|(_, media)| media.kind == MediaType::Video)
}

fn frames_used(task: &UnderstandTask, frames: &[FrameUsed]) -> Vec<Value> {
    let places: Vec<usize> = videos(task).map(|(place, _)| place).collect();
    let frame = |frame: &FrameUsed| {
        json!({
            "media": places.get(frame.video), "index": frame.index, "time": frame.time, "timestamp": frame.timestamp
        })
    };
    frames.iter().map(frame).collect()
}

fn result(task: &UnderstandTask, answer: &Answer) -> Value {
    let ms = |duration: Duration| (duration.as_secs_f64() * 1e4).round() / 10.0;
    let (prompt, completion, timings) = (answer.prompt_tokens, answer.tokens.len(), &answer.timings);
    json!({
        "text": answer.text,
        "frames": frames_used(task, &answer.frames),
        "usage": {
            "prompt_tokens": prompt, "cached_tokens": answer.cached_tokens, "completion_tokens": completion,
            "total_tokens": prompt + completion
        },
        "finish_reason": match answer.finish_reason {
            FinishReason::Length => "length",
            _ => "stop",
        },
        "timings": {
            "preprocess_ms": ms(timings.preprocess), "vision_ms": ms(timings.vision), "prefill_ms": ms(timings.prefill),
            "first_token_ms": ms(timings.first_token), "decode_ms": ms(timings.decode)
        }
    })
}
