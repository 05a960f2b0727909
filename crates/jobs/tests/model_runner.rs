//! The embedded engine with real, very small models: the ones of the parity cases.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sango_jobs::worker::ModelRunner;
use sango_jobs::{EmbeddedConfig, EmbeddedEngine, Engine, ErrorKind, JobView, Runner, State, Submission, Task};
use sango_media::{Limits, Rgb, RgbImage, Video, VideoLimits, encode_png, load_image};
use sango_models::LoadOptions;
use serde_json::{Value, json};
use support::{ended, follow, image_task};

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/parity/cases")
}

fn engine(models: &Path, folder: &Path) -> EmbeddedEngine {
    let runner: Arc<dyn Runner> = Arc::new(ModelRunner::new(models, LoadOptions::default()));
    EmbeddedEngine::open(EmbeddedConfig::new(folder), runner).unwrap()
}

fn job(model: &str, options: Value) -> Submission {
    let job = json!({"kind": "image", "model": model, "prompt": "a red circle", "options": options});
    Submission::from_json(job).unwrap()
}

fn run(engine: &EmbeddedEngine, submission: Submission) -> JobView {
    let id = engine.submit(submission).unwrap().job.id;
    let job = ended(engine, id);
    assert_eq!(job.state, State::Finished, "{:?}", job.error);
    job
}

#[test]
fn text_becomes_the_same_picture_each_time() {
    let hashes: Vec<String> = (0..2)
        .map(|_| {
            let folder = tempfile::tempdir().unwrap();
            let engine = engine(&cases(), folder.path());
            let job = run(&engine, job("amused-plain/model", json!({"steps": 4, "seed": 3})));
            let file = engine.result(job.id).unwrap();
            let picture = load_image(&file.path, &Limits::default()).unwrap();
            let options = &image_task(&job.request).options;
            assert_eq!(picture.dimensions(), (options.width.unwrap(), options.height.unwrap()));
            let names = follow(&engine, job.id, 0);
            assert_eq!(names.iter().filter(|name| **name == "progress").count(), 4);
            assert!(names.contains(&"preview"), "{names:?}");
            file.sha256
        })
        .collect();
    assert_eq!(hashes[0], hashes[1]);
}

#[test]
fn a_quick_model_shows_every_step_but_the_last() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(&models, folder.path());
    let job = run(&engine, job("shapes/amused", json!({"steps": 12, "seed": 3})));
    let events = engine.events_after(job.id, 0).unwrap();
    let previews: Vec<_> = events
        .iter()
        .filter(|event| event.event.as_str() == "preview")
        .map(|event| event.data["step"].clone())
        .collect();
    assert_eq!(previews, (1..12).collect::<Vec<_>>());
}

#[test]
fn every_default_is_told_and_spelling_it_out_asks_for_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(&cases(), folder.path());
    let drawn = run(&engine, job("amused-plain/model", json!({"steps": 2, "seed": 3})));
    let options = json!(image_task(&drawn.request).options);
    let unset: Vec<_> = options.as_object().unwrap().iter().filter(|(_, value)| value.is_null()).collect();
    assert_eq!(unset, [(&"strength".to_owned(), &Value::Null)], "which is of an image alone");
    let again = engine.submit(job("amused-plain/model", options)).unwrap().job;
    assert!(again.result.unwrap().cached);
}

#[test]
fn a_picture_and_a_mask_are_taken() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(&cases(), folder.path());
    let photo = RgbImage::from_fn(300, 200, |x, y| Rgb([x as u8, y as u8, 90]));
    let mut from_image = job("amused-plain/model", json!({"steps": 4, "seed": 3}));
    from_image.image = Some(encode_png(&photo, &[]).unwrap());
    let mut inpainting = from_image.clone();
    let mask = RgbImage::from_fn(300, 200, |x, _| Rgb([if x < 150 { 255 } else { 0 }; 3]));
    inpainting.mask = Some(encode_png(&mask, &[]).unwrap());
    let (from_image, inpainting) = (run(&engine, from_image), run(&engine, inpainting));
    let options = &image_task(&from_image.request).options;
    assert!(options.width > options.height, "it keeps the photo's shape: {options:?}");
    assert_eq!((options.strength, image_task(&inpainting.request).options.strength), (Some(0.5), Some(1.0)));
    assert_eq!(from_image.progress.unwrap().total, 2, "half of the steps");
    assert_ne!(from_image.result.unwrap().sha256, inpainting.result.unwrap().sha256);
}

#[test]
fn what_the_model_cannot_draw_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(&cases(), folder.path());
    let refused = |submission| engine.submit(submission).unwrap_err();
    let models = engine.models().unwrap();
    assert!(models.len() >= 4 && models[0].default && !models[0].loaded, "{models:?}");
    let multiple = models.iter().find(|model| model.name == "amused-plain/model").unwrap().multiple_of.unwrap();
    let error = refused(job("amused-plain/model", json!({"width": multiple + 1})));
    assert_eq!(error.kind, ErrorKind::InvalidOption);
    assert!(error.message.contains(&format!("multiple of {multiple}")), "{error}");
    assert_eq!(refused(job("amused-plain/model", json!({"height": 4096}))).kind, ErrorKind::InvalidOption);
    let error = refused(job("no-such-model", json!({})));
    assert!(error.kind == ErrorKind::UnknownModel && error.message.contains("amused-plain/model"), "{error}");
    let mut nothing_to_do = job("amused-plain/model", json!({"steps": 4, "strength": 0.1}));
    nothing_to_do.image = Some(encode_png(&RgbImage::new(32, 32), &[]).unwrap());
    assert!(refused(nothing_to_do).message.contains("strength"));
}

#[test]
fn a_damaged_model_fails_its_jobs_and_a_repaired_one_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().join("models");
    copy(&cases().join("amused-plain/model"), &models.join("mine"));
    let weights = models.join("mine/transformer/diffusion_pytorch_model.safetensors");
    let whole = fs::read(&weights).unwrap();
    fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    let engine = engine(&models, &folder.path().join("data"));
    let id = engine.submit(job("mine", json!({"steps": 2, "seed": 1}))).unwrap().job.id;
    let error = ended(&engine, id).error.unwrap();
    assert_eq!(error.kind, ErrorKind::ModelBroken);
    assert!(error.message.contains("diffusion_pytorch_model.safetensors"), "{error}");
    fs::write(&weights, &whole).unwrap();
    run(&engine, job("mine", json!({"steps": 2, "seed": 1})));
    assert!(engine.models().unwrap()[0].loaded);
}

/// A request for a video of the smallest model.
fn film(options: Value) -> Submission {
    let job = json!({"kind": "video", "model": "ltx-video-plain/model", "prompt": "a red circle", "options": options});
    Submission::from_json(job).unwrap()
}

#[test]
fn words_become_the_same_video_each_time() {
    let options = json!({"steps": 3, "frames": 9, "fps": 10, "width": 64, "height": 64, "seed": 3});
    let hashes: Vec<String> = (0..2)
        .map(|_| {
            let folder = tempfile::tempdir().unwrap();
            let engine = engine(&cases(), folder.path());
            let job = run(&engine, film(options.clone()));
            let file = engine.result(job.id).unwrap();
            let video = Video::open(&file.path, &VideoLimits::default()).unwrap();
            let info = video.info();
            assert_eq!((info.frames, info.width, info.height, info.codec.as_str()), (9, 64, 64, "h264"));
            assert!((info.fps - 10.0).abs() < 1e-6, "{info:?}");
            let events = engine.events_after(job.id, 0).unwrap();
            let progress = events.iter().filter(|event| event.event.as_str() == "progress");
            let told: Vec<_> =
                progress.map(|event| (event.data["phase"].clone(), event.data["step"].clone())).collect();
            let denoise: Vec<_> = told.iter().filter(|(phase, _)| phase == "denoise").map(|(_, step)| step).collect();
            assert_eq!(denoise, [1, 2, 3]);
            assert_eq!((&told[0].0, &told.last().unwrap().0), (&json!("text"), &json!("decode")));
            let previews = events.iter().filter(|event| event.event.as_str() == "preview").count();
            assert!((1..=2).contains(&previews), "{previews}");
            file.sha256
        })
        .collect();
    assert_eq!(hashes[0], hashes[1]);
}

#[test]
fn a_video_begins_with_a_picture_of_any_shape() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(&cases(), folder.path());
    let options = json!({"steps": 2, "frames": 9, "width": 64, "height": 64, "seed": 3});
    let plain = run(&engine, film(options.clone())).result.unwrap().sha256;
    let photo = RgbImage::from_fn(300, 200, |x, y| Rgb([x as u8, y as u8, 90]));
    let mut begun = film(options.clone());
    begun.image = Some(encode_png(&photo, &[]).unwrap());
    let job = run(&engine, begun.clone());
    assert_ne!(job.result.unwrap().sha256, plain);
    let Task::Video(task) = &job.request.task else { panic!("{job:?}", job = job.request) };
    assert_eq!((task.options.strength, task.image.as_ref().map(|image| image.width)), (Some(1.0), Some(300)));
    let mut loosely = film(json!({"steps": 2, "frames": 9, "width": 64, "height": 64, "seed": 3, "strength": 0.5}));
    loosely.image = begun.image.clone();
    assert_ne!(run(&engine, loosely).result.unwrap().sha256, plain);
}

#[test]
fn what_a_model_cannot_film_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(&cases(), folder.path());
    let models = engine.models().unwrap();
    let model = models.iter().find(|model| model.name == "ltx-video-plain/model").unwrap();
    let video = model.video.unwrap();
    assert_eq!((model.kind.as_str(), video.frames % video.frames_multiple_of), ("ltx-video", 1));
    for (options, words) in [
        (json!({"frames": 10}), "and one"),
        (json!({"width": model.multiple_of.unwrap() + 1}), "multiple of"),
        (json!({"stg_scale": 1.0}), "stg_blocks"),
    ] {
        let error = engine.submit(film(options)).unwrap_err();
        assert!(error.kind == ErrorKind::InvalidOption && error.message.contains(words), "{error}");
    }
}

#[test]
fn an_empty_models_folder_is_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(folder.path(), &folder.path().join("data"));
    assert_eq!(engine.ready().unwrap_err().kind, ErrorKind::NoModel);
    let job = Submission::from_json(json!({"kind": "image", "prompt": "x"})).unwrap();
    assert_eq!(engine.submit(job).unwrap_err().kind, ErrorKind::NoModel);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.as_ref().unwrap().file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(from, to).unwrap();
        }
    }
}

#[test]
fn models_are_loaded_and_let_go_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(&cases(), folder.path());
    let loaded = || engine.models().unwrap().into_iter().filter(|model| model.loaded).map(|model| model.name);
    assert_eq!(loaded().count(), 0);
    let model = engine.load_model("amused-plain/model").unwrap();
    assert!(model.loaded && engine.models().unwrap().contains(&model), "{model:?}");
    assert_eq!(loaded().collect::<Vec<_>>(), ["amused-plain/model"]);
    run(&engine, job("amused-plain/model", json!({"steps": 2, "seed": 1})));
    let model = engine.unload_model("amused-plain/model").unwrap();
    assert!(!model.loaded && loaded().count() == 0);
    engine.unload_model("amused-plain/model").unwrap();
    run(&engine, job("amused-plain/model", json!({"steps": 2, "seed": 2})));
    assert_eq!(loaded().count(), 1, "a job loads what it needs");
    assert_eq!(engine.load_model("no such").unwrap_err().kind, ErrorKind::UnknownModel);
    assert_eq!(engine.unload_model("no such").unwrap_err().kind, ErrorKind::UnknownModel);
}
