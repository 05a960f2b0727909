//! The closing demonstration, judged: a clip is understood, drawn, and filmed anew, and the oracle looks whether the last
//! clip still shows what the first one did.
//!
//! `SANGO_CLIPS=100 cargo test --release -p sango-tests --test pipeline_shapes -- --nocapture` gives the figures of
//! `docs/benchmarks.md`; without the variable fewer clips go through.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sango_jobs::worker::ModelRunner;
use sango_jobs::{
    EmbeddedConfig, EmbeddedEngine, Engine, JobKind, JobRequest, JobView, Next, PIPELINE_QUESTION, PipelineOptions,
    PipelineTask, State, Submission, Task, Upload,
};
use sango_media::{EncodeOptions, FrameRate, Limits, RgbImage, Video, VideoLimits, encode_mp4, load_image};
use sango_models::LoadOptions;
use sango_shapes::oracle::{Reading, read, read_clip};
use sango_shapes::split::is_held_out;
use sango_shapes::{Clip, Prompt, rng};

/// Clips that go through unless `SANGO_CLIPS` says otherwise, and the share that arrives right.
const CLIPS: usize = 24;
const SHARE: f64 = 0.75;
/// How the clips are rendered.
const FRAMES: usize = 17;
const SIZE: usize = 64;
const FPS: u32 = 8;

/// How many of the clips a thing is right of.
#[derive(Default)]
struct Score {
    name: &'static str,
    right: usize,
}

#[test]
fn what_the_first_clip_shows_the_last_one_shows() {
    let clips = std::env::var("SANGO_CLIPS").map_or(CLIPS, |n| n.parse().expect("SANGO_CLIPS is a number"));
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let folder = tempfile::tempdir().expect("a folder");
    let runner = Arc::new(ModelRunner::new(models, LoadOptions::default()));
    let engine = EmbeddedEngine::open(EmbeddedConfig::new(folder.path().join("jobs")), runner).expect("an engine");
    let names = [
        "text: all of it",
        "picture: shape and colour",
        "clip: shape",
        "clip: colour",
        "clip: motion",
        "clip: all three",
    ];
    let mut scores = names.map(|name| Score { name, right: 0 });
    for seed in 0..clips as u64 {
        let mut rng = rng(9_000_000 + seed);
        let clip = Clip::sample_held_out(&mut rng);
        assert!(is_held_out(&clip.scene.attributes));
        let path = folder.path().join("clip.mp4");
        write_mp4(&clip, &path);
        let job = run(&engine, &path, seed);
        let text = job.result.as_ref().and_then(|result| result.text.clone()).unwrap_or_default();
        let wanted = clip.prompt();
        let picture = picture(&engine, &job);
        let last = film(&engine, &job);
        let (shape, colour, motion) =
            (last.shape == wanted.shape, last.colour == wanted.colour, last.motion == wanted.motion);
        let right = [
            Prompt::parse(text.trim().trim_end_matches('.')).is_ok_and(|said| says(&said, &wanted)),
            picture.shape == wanted.shape && picture.colour == wanted.colour,
            shape,
            colour,
            motion,
            shape && colour && motion,
        ];
        for (score, right) in scores.iter_mut().zip(right) {
            score.right += usize::from(right);
        }
        if !right[5] {
            println!("{seed}: {}; understood as {text:?}; the last shows {last:?}", clip.caption());
        }
    }
    for Score { name, right } in &scores {
        println!("{name:<28} {right:>4} of {clips:>4} {:>6.1} %", 100.0 * *right as f64 / clips as f64);
    }
    let all = scores[5].right;
    assert!(all as f64 >= SHARE * clips as f64, "{all} of {clips} clips arrive with shape, colour and motion");
}

/// Whether a caption names everything, and nothing else.
fn says(said: &Prompt, wanted: &Prompt) -> bool {
    Prompt { place: None, ..*said } == Prompt { place: None, ..*wanted }
}

/// Sends a clip through the pipeline.
fn run(engine: &EmbeddedEngine, clip: &Path, seed: u64) -> JobView {
    let task = PipelineTask {
        question: PIPELINE_QUESTION.into(),
        options: PipelineOptions { seed: Some(seed), ..PipelineOptions::default() },
        ..PipelineTask::default()
    };
    let request = JobRequest { model: None, priority: 0, task: Task::Pipeline(Box::new(task)) };
    let media = vec![Upload::Path(clip.to_owned())];
    let submission = Submission { request, image: None, mask: None, media, idempotency_key: None };
    let id = engine.submit(submission).expect("a pipeline").job.id;
    let mut events = engine.subscribe(id, 0).expect("its events");
    while let Next::Event(_) = events.next_blocking(Duration::from_secs(600)) {}
    let job = engine.get(id).expect("the job");
    assert_eq!(job.state, State::Finished, "{:?}", job.error);
    job
}

fn picture(engine: &EmbeddedEngine, job: &JobView) -> Reading {
    let file = engine.stage_result(job.id, JobKind::Image).expect("the picture");
    let picture = load_image(&file.path, &Limits::default()).expect("a picture");
    read(picture.as_raw(), picture.width() as usize, picture.height() as usize).unwrap_or_default()
}

fn film(engine: &EmbeddedEngine, job: &JobView) -> Reading {
    let file = engine.result(job.id).expect("the video");
    let video = Video::open(&file.path, &VideoLimits::default()).expect("a video");
    let mut frames: Vec<Vec<u8>> = Vec::new();
    let all: Vec<usize> = (0..video.info().frames).collect();
    let decoded = video.read_frames(&all, &mut |frame| {
        frames.push(frame.image.into_raw());
        ControlFlow::Continue(())
    });
    decoded.expect("its frames");
    read_clip(&frames, video.info().width as usize, video.info().height as usize).unwrap_or_default()
}

fn write_mp4(clip: &Clip, path: &Path) {
    let frames = clip.render(FRAMES, SIZE).into_iter();
    let frames: Vec<RgbImage> =
        frames.map(|frame| RgbImage::from_raw(SIZE as u32, SIZE as u32, frame).expect("a frame")).collect();
    let options = EncodeOptions::new(FrameRate::new(FPS, 1).expect("a rate"));
    encode_mp4(path, &frames, &options).expect("written");
}
