//! `sango understand`: a question about videos and pictures, answered as one reads.

use crate::args::UnderstandArgs;
use crate::{files, model_dir, report};
use anyhow::Context;
use indicatif::ProgressBar;
use sango_media::{Limits, MediaError, MediaKind, Video, VideoLimits};
use sango_models::ModelKind;
use sango_models::smolvlm2::{
    Answer, Content, FinishReason, FrameUsed, Message, SamplingParams, SmolVLMPipeline, UnderstandEvent,
    UnderstandRequest,
};
use serde_json::{Value, json};
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Prints the answer while it is made.
pub fn run(args: &UnderstandArgs, json: bool) -> anyhow::Result<()> {
    let started = Instant::now();
    anyhow::ensure!(!args.question.trim().is_empty(), "--question is empty; say what you want to know");
    // Before the model, which takes longer to read.
    let mut content = args.media.iter().map(|path| open(path)).collect::<anyhow::Result<Vec<_>>>()?;
    let videos: Vec<usize> = (0..content.len()).filter(|&n| matches!(content[n], Content::Video(_))).collect();
    content.push(Content::Text(args.question.clone()));
    let dir = model_dir::resolve(args.model.as_deref(), args.models_dir.models.as_deref(), ModelKind::SmolVLM2)?;
    let mut options = args.dtype.load_options();
    options.lora.clone_from(&args.lora);
    let pipeline = SmolVLMPipeline::load(&dir, &options)?;
    let load = started.elapsed();

    let mut request = UnderstandRequest::new(vec![Message::user(content)]);
    request.num_frames = args.frames;
    request.fps = args.fps;
    request.max_new_tokens = args.max_tokens;
    request.sampling = sampling(args);
    let drawn = pipeline.model().generation_config().sampling_for(&request.sampling).is_some();
    // Where tokens are drawn and no seed is asked for, any number will do; it is reported, so that the answer can be had
    // again.
    let seed = drawn.then(|| files::seed(args.seed));
    request.sampling.seed = seed;

    let bar = report::progress(1, json);
    bar.set_message("reading");
    let mut said = Said { json, begun: false, failed: None };
    let answered = pipeline.answer(&request, &mut |event| {
        match event {
            UnderstandEvent::Frames { done, total } => show(&bar, "reading frames", done, total),
            UnderstandEvent::Prepared { frames, .. } if !json => {
                bar.suspend(|| frames.iter().for_each(|frame| eprintln!("{}", line(args, &videos, frame))));
            }
            UnderstandEvent::Vision { done, total } => show(&bar, "looking", done, total),
            UnderstandEvent::Prefill { done, total } => show(&bar, "thinking", done, total),
            UnderstandEvent::Token { text, .. } => {
                bar.finish_and_clear();
                return said.say(text);
            }
            _ => {}
        }
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    let mut answer = answered?;
    answer.text = answer.text.trim_start().to_owned();
    if let Some(error) = said.failed {
        // Whoever reads has heard enough.
        return if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error).context("standard output") };
    }
    let value = result(args, &videos, &answer, &dir, seed, load);
    report::result(json, &value, String::new)?;
    if !json && let Some(seed) = seed.filter(|_| args.seed.is_none()) {
        eprintln!("(seed {seed})");
    }
    Ok(())
}

/// A file as the model takes it.
fn open(path: &Path) -> anyhow::Result<Content> {
    let about = |error: MediaError| {
        let context = match error {
            MediaError::Io { .. } => String::new(), // It names the file itself.
            _ => path.display().to_string(),
        };
        anyhow::Error::new(error).context(context)
    };
    anyhow::ensure!(!path.is_dir(), "{} is a folder; name a video or a picture", path.display());
    match sango_media::sniff_file(path) {
        Ok(MediaKind::Image) => {
            let picture = sango_media::load_image(path, &Limits::default()).map_err(about)?;
            Ok(Content::Image(Arc::new(picture)))
        }
        Ok(MediaKind::Video) => {
            Ok(Content::Video(Arc::new(Video::open(path, &VideoLimits::default()).map_err(about)?)))
        }
        Err(MediaError::UnknownFormat) => anyhow::bail!(
            "{} is neither a video nor a picture that can be read; give MP4, MOV, WebM, MKV, AVI, GIF, PNG, JPEG or WebP",
            path.display()
        ),
        Err(error) => Err(about(error)),
    }
}

fn sampling(args: &UnderstandArgs) -> SamplingParams {
    SamplingParams {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        repetition_penalty: args.repetition_penalty,
        seed: None,
    }
}

fn show(bar: &ProgressBar, doing: &'static str, done: usize, total: usize) {
    bar.set_message(doing);
    bar.set_length(total as u64);
    bar.set_position(done as u64);
}

/// Writes the answer out.
struct Said {
    json: bool,
    /// Templates leave the space after `Assistant:` to the model; nobody wants to read it.
    begun: bool,
    failed: Option<io::Error>,
}

impl Said {
    fn say(&mut self, text: &str) -> ControlFlow<()> {
        if self.json {
            return ControlFlow::Continue(());
        }
        let text = if self.begun { text } else { text.trim_start() };
        self.begun |= !text.is_empty();
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.failed = Some(error);
                ControlFlow::Break(())
            }
        }
    }
}

/// A frame that the model is shown, for people; which video it is of only where there are several.
fn line(args: &UnderstandArgs, videos: &[usize], frame: &FrameUsed) -> String {
    let of = match videos.get(frame.video) {
        Some(&n) if videos.len() > 1 => format!(" of {}", args.media[n].display()),
        _ => String::new(),
    };
    format!("frame {:>5} at {} ({:.2} s){of}", frame.index, frame.timestamp, frame.time)
}

fn result(
    args: &UnderstandArgs,
    videos: &[usize],
    answer: &Answer,
    dir: &Path,
    seed: Option<u64>,
    load: Duration,
) -> Value {
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let frames = answer.frames.iter().map(|frame| {
        json!({
            "media": videos.get(frame.video), "index": frame.index, "time": frame.time, "timestamp": frame.timestamp
        })
    });
    let (prompt, completion, timings) = (answer.prompt_tokens, answer.tokens.len(), &answer.timings);
    json!({
        "text": answer.text,
        "media": args.media,
        "frames": frames.collect::<Vec<_>>(),
        "usage": {
            "prompt_tokens": prompt, "cached_tokens": answer.cached_tokens, "completion_tokens": completion,
            "total_tokens": prompt + completion
        },
        "finish_reason": if answer.finish_reason == FinishReason::Length { "length" } else { "stop" },
        "model": dir,
        "seed": seed,
        "timings": {
            "load_ms": ms(load), "preprocess_ms": ms(timings.preprocess), "vision_ms": ms(timings.vision),
            "prefill_ms": ms(timings.prefill), "first_token_ms": ms(timings.first_token),
            "decode_ms": ms(timings.decode)
        }
    })
}
