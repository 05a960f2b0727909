//! Questions about media: what happens to the files, to the answer while it is made, and to whoever joins it.

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use sango_jobs::{
    EmbeddedConfig, EmbeddedEngine, Engine, ErrorKind, Event, InlineEngine, JobId, MediaType, Runner, State,
    Submission, Task, Upload,
};
use serde_json::json;
use support::{FakeRunner, ended, follow, image, open, picture, question, wait_for};

/// What a client has read: the answer begins anew with each piece number 0.
fn text(events: &[Event]) -> String {
    events.iter().filter(|event| event.event.as_str() == "token").fold(String::new(), |text, event| {
        let before = if event.data["index"] == 0 { String::new() } else { text };
        before + event.data["text"].as_str().unwrap()
    })
}

fn uploads(folder: &Path) -> usize {
    fs::read_dir(folder.join("uploads")).unwrap().count()
}

#[test]
fn an_answer_comes_piece_by_piece_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path(), &FakeRunner::new());
    let id = engine.submit(question("What does it show?")).unwrap().job.id;
    let names = follow(&engine, id, 0);
    assert_eq!(names[..5], ["queued", "started", "frames", "progress", "token"]);
    assert_eq!(names.last(), Some(&"finished"));
    let events = engine.events_after(id, 0).unwrap();
    assert_eq!(text(&events), "What does it show?");
    assert_eq!(events[2].data["frames"][0]["timestamp"], "00:00");

    let job = engine.get(id).unwrap();
    let result = job.result.unwrap();
    assert_eq!(
        (result.content_type.as_str(), result.text.as_deref()),
        ("application/json", Some("What does it show?"))
    );
    assert_eq!(events.last().unwrap().data["result"]["text"], "What does it show?");
    let Task::Understand(task) = &job.request.task else { panic!("{:?}", job.request) };
    let media = &task.media[0];
    assert_eq!((media.kind, media.width, media.height, media.duration), (MediaType::Image, 4, 2, None));
    let file = engine.media(id, 0).unwrap();
    assert_eq!((fs::read(&file.path).unwrap(), file.content_type.as_str()), (picture(), "image/png"));
    assert_eq!(engine.media(id, 1).unwrap_err().kind, ErrorKind::NotFound);
    let drawn = engine.submit(image("x")).unwrap().job.id;
    assert_eq!(engine.media(drawn, 0).unwrap_err().kind, ErrorKind::NotFound);

    let again = engine.submit(question("What does it show?")).unwrap().job;
    assert_eq!((again.state, again.result.unwrap().text.as_deref()), (State::Finished, Some("What does it show?")));
    let stats = engine.stats().unwrap();
    assert_eq!((stats.tokens, stats.first_token_count, stats.cache_hits), (4, 1, 1));
}

#[test]
fn the_view_is_the_one_of_the_protocol() {
    let engine = InlineEngine::new(FakeRunner::new()).unwrap();
    let job = engine.submit(question("x")).unwrap().job;
    let view = serde_json::to_value(&job).unwrap();
    let (sha256, bytes) = (view["request"]["media"][0]["sha256"].clone(), picture().len());
    assert_eq!(
        view["request"],
        json!({
            "kind": "understand", "model": "fake", "question": "x", "messages": [], "priority": 0,
            "media": [{"kind": "image", "sha256": sha256, "bytes": bytes, "content_type": "image/png", "width": 4,
                       "height": 2, "duration": null, "frames": null, "fps": null}],
            "options": {"max_tokens": 9, "frames": null, "fps": null, "temperature": null, "top_k": null, "top_p": null,
                        "min_p": null, "repetition_penalty": null, "seed": null}
        })
    );
    assert_eq!((&view["kind"], &view["result"]["text"]), (&json!("understand"), &json!("x")));
}

#[test]
fn whoever_joins_a_run_is_told_what_it_has_said() {
    let folder = tempfile::tempdir().unwrap();
    let runner = FakeRunner::new();
    let engine = open(folder.path(), &runner);
    let first = engine.submit(question("hold on a moment please")).unwrap().job.id;
    let told = || text(&engine.events_after(first, 0).unwrap()).len();
    while told() < "hold ".len() {
        std::thread::yield_now();
    }
    let second = engine.submit(question("hold on a moment please")).unwrap().job.id;
    let joined = engine.events_after(second, 0).unwrap();
    let names: Vec<_> = joined.iter().map(|event| event.event.as_str()).collect();
    assert_eq!(names, ["queued", "started", "frames", "token"]);
    assert!(text(&joined).starts_with("hold "));
    runner.release();
    for id in [first, second] {
        assert_eq!(ended(&engine, id).state, State::Finished);
        assert_eq!(text(&engine.events_after(id, 0).unwrap()), "hold on a moment please");
    }
    assert_eq!(runner.count(), 1);
}

#[test]
fn an_answer_that_was_interrupted_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path(), &FakeRunner::new());
    let id = engine.submit(question("hold on a moment please")).unwrap().job.id;
    while text(&engine.events_after(id, 0).unwrap()).is_empty() {
        std::thread::yield_now();
    }
    drop(engine);
    let runner = FakeRunner::new();
    runner.release();
    let engine = open(folder.path(), &runner);
    assert_eq!(ended(&engine, id).state, State::Finished);
    let events = engine.events_after(id, 0).unwrap();
    assert_eq!(text(&events), "hold on a moment please");
    assert_eq!(events.iter().filter(|event| event.event.as_str() == "token" && event.data["index"] == 0).count(), 2);
}

#[test]
fn a_cancelled_answer_stops_at_its_next_token_and_keeps_what_it_said() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path(), &FakeRunner::new());
    let id = engine.submit(question("hold on a moment please")).unwrap().job.id;
    while text(&engine.events_after(id, 0).unwrap()).is_empty() {
        std::thread::yield_now();
    }
    assert_eq!(engine.cancel(id).unwrap().state, State::Cancelled);
    let names = follow(&engine, id, 0);
    assert_eq!(names.last(), Some(&"cancelled"));
    let next = engine.submit(question("and now?")).unwrap().job.id;
    assert_eq!(ended(&engine, next).state, State::Finished, "the worker is free");
    assert!("hold on a moment please".starts_with(&text(&engine.events_after(id, 0).unwrap())));
}

#[test]
fn files_come_in_pieces_by_path_or_by_the_hash_of_one_that_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(&folder.path().join("data"), &FakeRunner::new());
    let mut incoming = engine.receive().unwrap();
    for piece in picture().chunks(7) {
        incoming.write(piece).unwrap();
    }
    let received = incoming.finish().unwrap();
    let sha256 = received.sha256().to_owned();
    let path = folder.path().join("clip.png");
    fs::write(&path, picture()).unwrap();
    let about = |upload: Upload, text: &str| Submission { media: vec![upload], ..question(text) };
    let known = || Upload::Known(sha256.clone());
    let error = engine.submit(about(known(), "too early")).unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidMedia);

    for (index, upload) in [Upload::Received(received), Upload::Path(path), known()].into_iter().enumerate() {
        let id = engine.submit(about(upload, &format!("question {index}"))).unwrap().job.id;
        assert_eq!(ended(&engine, id).state, State::Finished);
        assert_eq!(fs::read(engine.media(id, 0).unwrap().path).unwrap(), picture());
        assert_eq!(uploads(&folder.path().join("data")), 1, "equal files are kept once");
    }
    let refused = Submission::from_json(json!({"kind": "understand", "question": "x"})).unwrap();
    let refused = Submission { media: vec![Upload::Bytes(b"no picture".to_vec())], ..refused };
    assert_eq!(engine.submit(refused).unwrap_err().kind, ErrorKind::InvalidMedia);
    assert_eq!(uploads(&folder.path().join("data")), 1, "what is refused is not kept");
}

#[test]
fn files_go_with_the_last_job_that_is_about_them() {
    let folder = tempfile::tempdir().unwrap();
    let config = || EmbeddedConfig { keep_jobs: 2, ..EmbeddedConfig::new(folder.path()) };
    let reopen = || EmbeddedEngine::open(config(), FakeRunner::new() as Arc<dyn Runner>).unwrap();
    let engine = reopen();
    let ids: Vec<JobId> = ["a", "b", "c"].map(|text| engine.submit(question(text)).unwrap().job.id).to_vec();
    ids.iter().for_each(|id| _ = ended(&engine, *id));
    drop(engine);
    let engine = reopen();
    assert_eq!(engine.get(ids[0]).unwrap_err().kind, ErrorKind::UnknownJob);
    assert!(engine.media(ids[1], 0).is_ok() && uploads(folder.path()) == 1);
    for prompt in ["x", "y"] {
        let id = engine.submit(image(prompt)).unwrap().job.id;
        wait_for(&engine, id, State::has_ended);
    }
    drop(engine);
    drop(reopen());
    assert_eq!(uploads(folder.path()), 0);
}

#[test]
fn a_file_that_is_gone_is_said_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path(), &FakeRunner::new());
    let id = engine.submit(question("x")).unwrap().job.id;
    ended(&engine, id);
    let file = engine.media(id, 0).unwrap();
    fs::remove_file(&file.path).unwrap();
    assert_eq!(engine.media(id, 0).unwrap_err().kind, ErrorKind::Expired);
    let again = Submission { media: vec![Upload::Known(file.sha256)], ..question("y") };
    assert_eq!(engine.submit(again).unwrap_err().kind, ErrorKind::InvalidMedia);
}
