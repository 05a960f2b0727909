//! Questions about real videos, answered by the model that ships with this project.

mod support;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sango_jobs::worker::ModelRunner;
use sango_jobs::{
    EmbeddedConfig, EmbeddedEngine, Engine, ErrorKind, JobKind, JobView, MediaType, Runner, State, Submission, Task,
    Upload,
};
use sango_models::LoadOptions;
use serde_json::{Value, json};
use support::ended;

fn engine(folder: &Path) -> EmbeddedEngine {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    let runner: Arc<dyn Runner> = Arc::new(ModelRunner::new(models, LoadOptions::default()));
    EmbeddedEngine::open(EmbeddedConfig::new(folder.join("data")), runner).unwrap()
}

/// A clip of two seconds, as a phone or a page would send it.
fn clip(folder: &Path) -> PathBuf {
    let path = folder.join("clip.mp4");
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", "testsrc=size=96x64:rate=8:duration=2", "-pix_fmt", "yuv420p"])
        .arg(&path)
        .status();
    assert!(made.unwrap().success());
    path
}

fn ask(question: &str, options: Value, media: Upload) -> Submission {
    let job = json!({"kind": "understand", "question": question, "options": options});
    Submission { media: vec![media], ..Submission::from_json(job).unwrap() }
}

fn run(engine: &EmbeddedEngine, submission: Submission) -> (JobView, Value) {
    let id = engine.submit(submission).unwrap().job.id;
    let job = ended(engine, id);
    assert_eq!(job.state, State::Finished, "{:?}", job.error);
    let answer = serde_json::from_slice(&fs::read(engine.result(id).unwrap().path).unwrap()).unwrap();
    (job, answer)
}

fn uploads(folder: &Path) -> usize {
    fs::read_dir(folder.join("data/uploads")).unwrap().count()
}

#[test]
fn a_video_is_known_by_what_is_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(folder.path());
    let path = clip(folder.path());
    let about = |upload: Upload| ask("What happens?", json!({}), upload);
    let job = engine.submit(about(Upload::Path(path.clone()))).unwrap().job;
    let Task::Understand(task) = &job.request.task else { panic!("{:?}", job.request) };
    let media = &task.media[0];
    assert_eq!((media.kind, media.width, media.height), (MediaType::Video, 96, 64));
    assert_eq!((media.frames, media.duration, media.fps), (Some(16), Some(2.0), Some(8.0)));
    assert_eq!((media.content_type.as_str(), media.bytes), ("video/mp4", fs::metadata(&path).unwrap().len()));
    ended(&engine, job.id);

    let whole = fs::read(&path).unwrap();
    for cut in [whole[..whole.len() / 3].to_vec(), whole[..40].to_vec(), b"#EXTM3U\nfile:///etc/passwd\n".to_vec()] {
        let error = engine.submit(about(Upload::Bytes(cut))).unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidMedia, "{error}");
        assert!(error.message.starts_with("`media`"), "{error}");
    }
    assert_eq!(uploads(folder.path()), 1);
}

#[test]
fn an_answer_tells_what_it_was_made_from() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(folder.path());
    let options = json!({"max_tokens": 12, "frames": 3, "fps": 2});
    let (job, answer) = run(&engine, ask("What happens?", options.clone(), Upload::Path(clip(folder.path()))));
    let events = engine.events_after(job.id, 0).unwrap();
    let named = |name: &str| events.iter().filter(|event| event.event.as_str() == name).collect::<Vec<_>>();
    let told: String = named("token").iter().map(|event| event.data["text"].as_str().unwrap()).collect();
    assert_eq!(
        (answer["text"].as_str(), job.result.unwrap().text.as_deref()),
        (Some(told.as_str()), Some(told.as_str()))
    );
    let frames = answer["frames"].as_array().unwrap();
    assert_eq!((named("frames")[0].data["frames"].as_array(), frames.len()), (Some(frames), 3));
    assert!(frames.iter().all(|frame| frame["media"] == 0 && frame["time"].as_f64().unwrap() < 2.0), "{frames:?}");
    let previews = named("preview");
    assert_eq!(
        previews.iter().map(|event| event.data["step"].as_u64()).collect::<Vec<_>>(),
        [Some(1), Some(2), Some(3)]
    );
    assert_eq!(named("progress").last().unwrap().data["total"], 3);
    let usage: HashMap<String, u64> = serde_json::from_value(answer["usage"].clone()).unwrap();
    assert_eq!(usage["total_tokens"], usage["prompt_tokens"] + usage["completion_tokens"]);
    assert!(usage["prompt_tokens"] > 3 && (1..=12).contains(&usage["completion_tokens"]), "{usage:?}");
    assert!(["stop", "length"].contains(&answer["finish_reason"].as_str().unwrap()));
    assert!(answer["timings"]["first_token_ms"].as_f64().unwrap() > 0.0);

    // Asked again, it is answered at once, with the frames that it was answered from.
    let Task::Understand(task) = &job.request.task else { panic!("{:?}", job.request) };
    let known = || Upload::Known(task.media[0].sha256.clone());
    let again = engine.submit(ask("What happens?", options.clone(), known())).unwrap().job;
    assert!(again.result.unwrap().cached);
    let names: Vec<_> = engine.events_after(again.id, 0).unwrap().iter().map(|event| event.event.as_str()).collect();
    assert_eq!(names, ["queued", "frames", "preview", "preview", "preview", "finished"]);
    // Another question about the same video reads only the question.
    let (_, answer) = run(&engine, ask("Which colour is it?", options, known()));
    assert!(answer["usage"]["cached_tokens"].as_u64().unwrap() > usage["prompt_tokens"] / 2, "{answer}");
}

#[test]
fn greedy_answers_need_no_seed_and_drawn_ones_tell_theirs() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(folder.path());
    let path = clip(folder.path());
    let asked = |options: Value| run(&engine, ask("What happens?", options, Upload::Path(path.clone())));
    let options = |job: &JobView| match &job.request.task {
        Task::Understand(task) => task.options.clone(),
        other => panic!("{other:?}"),
    };
    let (greedy, _) = asked(json!({"max_tokens": 4}));
    let unset: Vec<_> = json!(options(&greedy))
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, value)| value.is_null())
        .map(|(name, _)| name.clone())
        .collect();
    assert_eq!(unset, ["min_p", "seed", "top_k", "top_p"], "which are of drawn answers");
    let (drawn, answer) = asked(json!({"max_tokens": 8, "temperature": 1.5}));
    let told = options(&drawn);
    assert!(told.seed.is_some() && told.top_k.is_some() && told.top_p == Some(1.0), "{told:?}");
    // Another folder, so that nothing is remembered: the same seed draws the same.
    let other = tempfile::tempdir().unwrap();
    let engine = self::engine(other.path());
    let (_, again) = run(&engine, ask("What happens?", json!(told), Upload::Path(path.clone())));
    assert_eq!(again["text"], answer["text"]);
}

#[test]
fn cancelling_stops_an_answer_and_the_next_one_comes() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(folder.path());
    let path = clip(folder.path());
    let begin = Instant::now();
    let jobs: Vec<_> = (0..4)
        .map(|n| {
            engine
                .submit(ask(&format!("Question {n}?"), json!({"max_tokens": 1_000}), Upload::Path(path.clone())))
                .unwrap()
                .job
                .id
        })
        .collect();
    jobs.iter().for_each(|id| _ = engine.cancel(*id).unwrap());
    let (last, _) = run(&engine, ask("And?", json!({"max_tokens": 2}), Upload::Path(path)));
    assert_eq!(last.state, State::Finished);
    assert!(begin.elapsed() < Duration::from_secs(60));
    assert!(jobs.iter().all(|id| engine.get(*id).unwrap().state == State::Cancelled));
}

#[test]
fn each_kind_of_job_has_its_model() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(folder.path());
    let models = engine.models().unwrap();
    for (kind, name) in [(JobKind::Image, "shapes/amused"), (JobKind::Understand, "shapes/smolvlm2")] {
        let model = models.iter().find(|model| model.tasks == [kind] && model.default).unwrap();
        assert_eq!(model.name, name);
    }
    let model = serde_json::to_value(models.iter().find(|model| model.name == "shapes/smolvlm2").unwrap()).unwrap();
    assert_eq!((&model["kind"], &model["width"], &model["steps"]), (&json!("smolvlm2"), &Value::Null, &Value::Null));
    assert!(model["understand"]["max_tokens"].as_u64() < model["understand"]["context"].as_u64(), "{model}");

    let path = clip(folder.path());
    let with = |model: &str, options: Value| {
        let mut submission = ask("What happens?", options, Upload::Path(path.clone()));
        submission.request.model = Some(model.into());
        engine.submit(submission).unwrap_err()
    };
    let error = with("amused", json!({}));
    assert!(error.kind == ErrorKind::InvalidOption && error.message.contains("`image` jobs"), "{error}");
    let error = with("smolvlm2", json!({"max_tokens": 4_096}));
    assert!(error.kind == ErrorKind::InvalidOption && error.message.contains("max_tokens"), "{error}");
    let image = json!({"kind": "image", "prompt": "x", "model": "smolvlm2"});
    assert_eq!(engine.submit(Submission::from_json(image).unwrap()).unwrap_err().kind, ErrorKind::InvalidOption);
    assert!(engine.load_model("smolvlm2").unwrap().loaded);
    assert!(!engine.unload_model("smolvlm2").unwrap().loaded);
}
