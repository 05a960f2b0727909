//! The shipped video model: held-out stories are rendered to MP4 files, the pipeline watches them, and the judge reads its
//! answers.
//!
//! `SANGO_CLIPS=600 cargo test --release -p sango-tests --test shapes_smolvlm2 -- --nocapture` gives the figures of the
//! model card; without the variable fewer clips are asked about.

use sango_media::{Video, VideoLimits};
use sango_models::LoadOptions;
use sango_models::smolvlm2::{Content, Message, SmolVLMPipeline, UnderstandRequest};
use sango_shapes::rng;
use sango_shapes::split::is_held_out;
use sango_shapes::story::{Ask, Story, StoryKind, judge};
use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// Clips that are asked about unless `SANGO_CLIPS` says otherwise, questions about each, and the share that is right.
const CLIPS: usize = 80;
const ASKS: usize = 6;
const SHARE: f64 = 0.9;
/// How the clips are rendered.
const FRAMES: usize = 17;
const SIZE: usize = 64;
const FPS: &str = "8";

#[test]
fn questions_about_held_out_clips_are_answered_right() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/shapes/smolvlm2");
    let pipeline = SmolVLMPipeline::load(&dir, &LoadOptions::default()).expect("the shipped model loads");
    let clips = std::env::var("SANGO_CLIPS").map_or(CLIPS, |n| n.parse().expect("SANGO_CLIPS is a number"));
    let scratch = tempfile::tempdir().expect("a folder");
    let path = scratch.path().join("clip.mp4");
    let mut scores: BTreeMap<(&str, &str), (usize, usize)> = BTreeMap::new();
    for seed in 0..clips as u64 {
        let (story, questions) = held_out(seed);
        write_mp4(&story, &path);
        let video = Video::open(&path, &VideoLimits::default()).expect("a video");
        let video = Content::Video(Arc::new(video));
        for (ask, question) in questions {
            let message = Message::user(vec![video.clone(), Content::Text(question.clone())]);
            let mut request = UnderstandRequest::new(vec![message]);
            request.max_new_tokens = Some(48);
            let answer = pipeline.answer(&request, &mut |_| ControlFlow::Continue(())).expect("an answer");
            let right = judge(&story, ask, &answer.text);
            if !right {
                println!("{seed}: {question} {:?}, not {:?} ({})", story.answer(ask), answer.text, story.caption());
            }
            for key in [("question", ask.kind()), ("story", story.kind.name()), ("all", "")] {
                let score = scores.entry(key).or_default();
                *score = (score.0 + usize::from(right), score.1 + 1);
            }
        }
    }
    for ((of, name), (right, asked)) in &scores {
        println!("{of:<9} {name:<11} {right:>5} of {asked:>5} {:>6.1} %", 100.0 * *right as f64 / *asked as f64);
    }
    let (right, asked) = scores[&("all", "")];
    assert!(asked >= clips * 5, "only {asked} questions");
    assert!(right as f64 >= SHARE * asked as f64, "{right} of {asked} answers are right");
}

/// A story of combinations that training never shows, with questions in words.
fn held_out(seed: u64) -> (Story, Vec<(Ask, String)>) {
    // Far from the seeds that training looks at its own progress with.
    let mut rng = rng(4_000_000 + seed);
    let story = Story::sample_held_out(StoryKind::sample(&mut rng), &mut rng);
    assert!(story.actors.iter().all(|actor| is_held_out(&actor.attributes)));
    let all = story.asks();
    // Evenly spread over what can be asked, from another start each time.
    let asks = (0..ASKS.min(all.len())).map(|i| all[(seed as usize + i * all.len() / ASKS.min(all.len())) % all.len()]);
    let questions = asks.map(|ask| (ask, ask.phrase(&mut rng))).collect();
    (story, questions)
}

/// An ordinary H.264 file.
fn write_mp4(story: &Story, path: &Path) {
    let size = format!("{SIZE}x{SIZE}");
    let mut child = Command::new(std::env::var_os("SANGO_FFMPEG").unwrap_or_else(|| "ffmpeg".into()))
        .args(["-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", &size, "-r", FPS, "-i", "pipe:0"])
        .args(["-vf", "scale=out_color_matrix=bt709:out_range=tv", "-c:v", "libx264", "-pix_fmt", "yuv420p"])
        .args(["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .expect("the ffmpeg program");
    let mut pipe = child.stdin.take().expect("a pipe");
    for frame in story.render(FRAMES, SIZE) {
        pipe.write_all(&frame).expect("fed");
    }
    drop(pipe);
    assert!(child.wait().expect("it ends").success());
}
