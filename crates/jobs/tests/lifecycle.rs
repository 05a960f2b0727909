//! One job from its submission to its end, on both engines.

mod support;

use std::sync::Arc;
use std::thread;

use sango_jobs::{EmbeddedConfig, EmbeddedEngine, Engine, ErrorKind, InlineEngine, ListQuery, Runner, State};
use serde_json::json;
use support::{FakeRunner, ended, follow, image, image_task, image_task_mut, open, wait_for, with};

const WHOLE: [&str; 9] =
    ["queued", "started", "progress", "preview", "progress", "preview", "progress", "preview", "finished"];

fn check_one_job(engine: &dyn Engine) {
    let submitted = engine.submit(image("a red circle")).unwrap();
    assert!(submitted.created);
    let id = submitted.job.id;
    assert_eq!(follow(engine, id, 0), WHOLE);
    assert_eq!(follow(engine, id, 7), WHOLE[7..]);
    assert_eq!(follow(engine, id, 9), [] as [&str; 0]);
    let job = engine.get(id).unwrap();
    assert_eq!((job.state, job.last_event, job.position), (State::Finished, 9, None));
    assert_eq!(image_task(&job.request).options.steps, Some(3), "defaults are filled in");
    let file = engine.result(id).unwrap();
    assert_eq!(std::fs::read(&file.path).unwrap(), b"a red circle 1 0");
    assert_eq!(file.bytes, 16);
    let result = job.result.unwrap();
    assert_eq!((result.sha256, result.url), (file.sha256, format!("/v1/jobs/{id}/result")));
    assert!(!result.cached && job.started_at.unwrap() >= job.created_at);

    let again = engine.submit(image("a red circle")).unwrap().job;
    assert_eq!(again.state, State::Finished);
    assert!(again.id != id && again.result.unwrap().cached);
    assert_eq!(engine.stats().unwrap().cache_hits, 1);
    engine.ready().unwrap();
}

#[test]
fn inline() {
    let runner = FakeRunner::new();
    check_one_job(&InlineEngine::new(Arc::clone(&runner) as Arc<dyn Runner>).unwrap());
    assert_eq!(runner.count(), 1);
}

#[test]
fn embedded() {
    let folder = tempfile::tempdir().unwrap();
    let runner = FakeRunner::new();
    check_one_job(&open(folder.path(), &runner));
    assert_eq!(runner.count(), 1);
}

#[test]
fn the_view_is_the_one_of_the_protocol() {
    let engine = InlineEngine::new(FakeRunner::new()).unwrap();
    let job = engine.submit(with("x", json!({"priority": 2}))).unwrap().job;
    let mut view = serde_json::to_value(&job).unwrap();
    for volatile in ["created_at", "started_at", "finished_at"] {
        assert!(view[volatile].is_i64());
        view[volatile] = json!(0);
    }
    assert_eq!(
        view,
        json!({
            "id": job.id, "kind": "image", "model": "fake", "state": "finished",
            "created_at": 0, "started_at": 0, "finished_at": 0, "position": null,
            "progress": {"step": 3, "total": 3, "eta_ms": 0},
            "result": {"url": format!("/v1/jobs/{}/result", job.id), "content_type": "image/png", "bytes": 5,
                       "sha256": job.result.as_ref().unwrap().sha256, "cached": false},
            "error": null, "last_event": 9,
            "request": {
                "kind": "image", "model": "fake", "prompt": "x", "priority": 2, "image": null, "mask": null,
                "options": {"negative_prompt": null, "steps": 3, "guidance_scale": null, "seed": 1, "width": null,
                            "height": null, "temperature": null, "strength": null}
            }
        })
    );
}

#[test]
fn a_job_without_a_seed_gets_one_and_tells_it() {
    let engine = InlineEngine::new(FakeRunner::new()).unwrap();
    let seedless = || {
        let mut submission = image("x");
        image_task_mut(&mut submission.request).options.seed = None;
        engine.submit(submission).unwrap().job
    };
    let (a, b) = (seedless(), seedless());
    let seed = image_task(&a.request).options.seed.unwrap();
    assert!(seed < 1 << 53);
    assert_ne!(Some(seed), image_task(&b.request).options.seed, "two jobs without a seed are two pictures");
}

#[test]
fn failures_and_panics_are_typed_and_the_worker_lives_on() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path(), &FakeRunner::new());
    for (prompt, kind) in [("fail", ErrorKind::ModelBroken), ("panic", ErrorKind::Internal)] {
        let id = engine.submit(image(prompt)).unwrap().job.id;
        assert_eq!(follow(&engine, id, 0).last(), Some(&"failed"));
        let job = engine.get(id).unwrap();
        let error = job.error.unwrap();
        assert_eq!((job.state, error.kind), (State::Failed, kind));
        assert!(error.message.contains("on purpose"));
        assert_eq!(engine.result(id).unwrap_err().kind, ErrorKind::NoResult);
    }
    let id = engine.submit(image("fine")).unwrap().job.id;
    assert_eq!(ended(&engine, id).state, State::Finished);
}

#[test]
fn a_run_that_fails_of_a_passing_cause_is_tried_again() {
    let runner = FakeRunner::new();
    let engine = InlineEngine::new(Arc::clone(&runner) as Arc<dyn Runner>).unwrap();
    let job = engine.submit(image("panic once")).unwrap().job;
    assert_eq!((job.state, job.error, runner.count()), (State::Finished, None, 2));
    let names = follow(&engine, job.id, 0);
    let run = ["progress", "preview", "progress", "preview", "progress", "preview"];
    assert_eq!(names, [&["queued", "started"], &run[..], &["queued", "started"], &run[..], &["finished"]].concat());
    let again = &engine.events_after(job.id, 8).unwrap()[0];
    assert_eq!(again.data, json!({"position": 1, "attempt": 2}));
}

#[test]
fn attempts_have_a_limit_and_other_causes_have_none() {
    let folder = tempfile::tempdir().unwrap();
    let runner = FakeRunner::new();
    let config = EmbeddedConfig { max_attempts: 2, ..EmbeddedConfig::new(folder.path()) };
    let engine = EmbeddedEngine::open(config, Arc::clone(&runner) as Arc<dyn Runner>).unwrap();
    let id = engine.submit(image("panic")).unwrap().job.id;
    assert_eq!(ended(&engine, id).error.unwrap().kind, ErrorKind::Internal);
    assert_eq!(runner.count(), 2);
    let id = engine.submit(image("fail")).unwrap().job.id;
    assert_eq!(ended(&engine, id).error.unwrap().kind, ErrorKind::ModelBroken);
    assert_eq!(runner.count(), 3, "a broken model is as broken the next time");
}

#[test]
fn a_runner_without_models_has_none_to_load() {
    let engine = InlineEngine::new(FakeRunner::new()).unwrap();
    assert_eq!(engine.load_model("fake").unwrap_err().kind, ErrorKind::UnknownModel);
    assert_eq!(engine.unload_model("fake").unwrap_err().kind, ErrorKind::UnknownModel);
}

#[test]
fn what_is_not_there_is_an_error_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let runner = FakeRunner::new();
    let engine = open(folder.path(), &runner);
    let unknown = "0199b2c4-5c1e-7f3a-9a55-0c8f7f1d2e3b".parse().unwrap();
    assert_eq!(engine.get(unknown).unwrap_err().kind, ErrorKind::UnknownJob);
    assert_eq!(engine.cancel(unknown).unwrap_err().kind, ErrorKind::UnknownJob);
    assert_eq!(engine.result(unknown).unwrap_err().kind, ErrorKind::UnknownJob);
    assert_eq!(engine.events_after(unknown, 0).unwrap_err().kind, ErrorKind::UnknownJob);
    assert_eq!(engine.subscribe(unknown, 0).unwrap_err().kind, ErrorKind::UnknownJob);
    let query = ListQuery { before: Some(unknown), ..ListQuery::default() };
    assert_eq!(engine.list(&query).unwrap_err().kind, ErrorKind::UnknownJob);
    let error = engine.submit(with("x", json!({"model": "other"}))).unwrap_err();
    assert_eq!(error.kind, ErrorKind::UnknownModel);
    let held = engine.submit(image("hold")).unwrap().job.id;
    assert_eq!(engine.result(held).unwrap_err().kind, ErrorKind::NotFinished);
    runner.release();

    let gone = ended(&engine, held);
    std::fs::remove_file(engine.result(gone.id).unwrap().path).unwrap();
    assert_eq!(engine.result(held).unwrap_err().kind, ErrorKind::Expired);
    let job = engine.get(held).unwrap();
    assert_eq!((job.state, job.result), (State::Expired, None));
    let again = engine.submit(image("hold")).unwrap().job.id;
    assert_eq!(ended(&engine, again).state, State::Finished);
    assert_eq!(runner.count(), 2, "an expired result does not answer a new job");
}

#[test]
fn uploads_reach_the_runner_as_files() {
    let engine = InlineEngine::new(FakeRunner::new()).unwrap();
    let png = sango_media::encode_png(&sango_media::RgbImage::new(4, 2), &[]).unwrap();
    let mut submission = image("x");
    submission.image = Some(png.clone());
    let job = engine.submit(submission).unwrap().job;
    let media = image_task(&job.request).image.clone().unwrap();
    assert_eq!((media.width, media.height, media.bytes), (4, 2, png.len() as u64));
    let drawn = std::fs::read(engine.result(job.id).unwrap().path).unwrap();
    assert_eq!(drawn, format!("x 1 {}", png.len()).into_bytes());
}

#[test]
fn lists_are_pages_from_new_to_old() {
    let engine = InlineEngine::new(FakeRunner::new()).unwrap();
    let mut ids: Vec<_> = (0..7).map(|i| engine.submit(image(&format!("p{i}"))).unwrap().job.id).collect();
    engine.submit(image("fail")).unwrap();
    ids.reverse();
    let mut query = ListQuery { state: Some(State::Finished), limit: 3, before: None };
    let mut seen = Vec::new();
    loop {
        let page = engine.list(&query).unwrap();
        seen.extend(page.jobs.iter().map(|job| job.id));
        match page.next {
            Some(next) => query.before = Some(next),
            None => break,
        }
    }
    assert_eq!(seen, ids);
}

#[test]
fn old_jobs_and_their_files_are_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig { keep_jobs: 10, ..EmbeddedConfig::new(folder.path()) };
    let engine = EmbeddedEngine::open(config, FakeRunner::new()).unwrap();
    let ids: Vec<_> = (0..64).map(|i| engine.submit(image(&format!("p{i}"))).unwrap().job.id).collect();
    ended(&engine, ids[63]);
    for i in 0..64 {
        let id = engine.submit(image(&format!("q{i}"))).unwrap().job.id;
        ended(&engine, id);
    }
    let left = engine.list(&ListQuery { limit: 200, ..ListQuery::default() }).unwrap().jobs.len();
    assert!((10..=75).contains(&left), "{left}");
    assert_eq!(engine.get(ids[0]).unwrap_err().kind, ErrorKind::UnknownJob);
    let files = std::fs::read_dir(folder.path().join("results")).unwrap().count();
    assert!(files <= left, "{files} files for {left} jobs");
}

#[test]
fn watchers_see_every_change_of_state() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path(), &FakeRunner::new());
    let mut watch = engine.watch();
    let id = engine.submit(image("x")).unwrap().job.id;
    let seen = thread::spawn(move || {
        let mut states = Vec::new();
        while let Ok(job) = watch.blocking_recv() {
            states.push(job.state);
            if job.state.has_ended() {
                break;
            }
        }
        states
    });
    wait_for(&engine, id, State::has_ended);
    let states = seen.join().unwrap();
    assert_eq!(states.first(), Some(&State::Queued));
    assert_eq!(states.last(), Some(&State::Finished));
    assert!(states.contains(&State::Running));
}
