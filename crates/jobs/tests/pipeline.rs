//! Media to text to a picture to a video: what each stage makes, who else has it, and what is left of it after a stop.

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use sango_jobs::{
    EmbeddedConfig, EmbeddedEngine, Engine, ErrorKind, Event, JobId, JobKind, JobView, Runner, StageState, State,
    Submission, Task,
};
use serde_json::{Value, json};
use support::{FakeRunner, ended, follow, image, open, pipeline, question, wait_for};

const CAPTION: &str = "a red circle moves right over a blue background";
const PICTURE: &str = "a red circle at the top left on a blue background";

/// A caption that holds the video, and only the video: the picture's prompt has another beginning.
const HELD: &str = "The hold: a red circle moves right over a blue background";

fn stages(events: &[Event]) -> Vec<(String, String)> {
    let of = |event: &&Event| event.event.as_str() == "stage";
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    events.iter().filter(of).map(|event| (text(&event.data["name"]), text(&event.data["state"]))).collect()
}

fn states(job: &JobView) -> Vec<StageState> {
    job.stages.as_ref().unwrap().iter().map(|stage| stage.state).collect()
}

fn bytes(engine: &dyn Engine, id: JobId, stage: JobKind) -> String {
    fs::read_to_string(engine.stage_result(id, stage).unwrap().path).unwrap()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(name, state)| ((*name).into(), (*state).into())).collect()
}

const ALL: &[(&str, &str)] = &[
    ("understand", "running"),
    ("understand", "finished"),
    ("image", "running"),
    ("image", "finished"),
    ("video", "running"),
    ("video", "finished"),
];

#[test]
fn each_stage_is_told_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path(), &FakeRunner::new());
    let id = engine.submit(pipeline(CAPTION)).unwrap().job.id;
    let names = follow(&engine, id, 0);
    assert_eq!(names[..5], ["queued", "started", "stage", "frames", "progress"]);
    assert_eq!(names.last(), Some(&"finished"));
    let events = engine.events_after(id, 0).unwrap();
    assert_eq!(stages(&events), pairs(ALL));

    let job = engine.get(id).unwrap();
    let views = job.stages.clone().unwrap();
    assert_eq!(states(&job), [StageState::Finished; 3]);
    let prompts: Vec<_> = views.iter().map(|view| view.prompt.as_deref().unwrap()).collect();
    assert_eq!(prompts, [CAPTION, PICTURE, CAPTION]);
    let result = job.result.unwrap();
    assert_eq!((result.content_type.as_str(), result.text.as_deref()), ("video/mp4", Some(CAPTION)));
    assert_eq!(Some(&result.sha256), views[2].result.as_ref().map(|result| &result.sha256));
    assert_eq!(views[1].result.as_ref().unwrap().url, format!("/v1/jobs/{id}/result?stage=image"));
    assert_eq!(views[0].result.as_ref().unwrap().text.as_deref(), Some(CAPTION));
    let told: Vec<_> = events.iter().filter(|event| event.data["state"] == "finished").map(|e| &e.data).collect();
    assert_eq!(json!(told), json!(views), "a stage is told as the job shows it");

    assert_eq!(bytes(&engine, id, JobKind::Image), format!("{PICTURE} 1 0"));
    let film = fs::read_to_string(engine.result(id).unwrap().path).unwrap();
    assert_eq!(film, format!("film of {CAPTION} 1 after {PICTURE} 1 0"), "the picture is the first frame");
    assert_eq!(film, bytes(&engine, id, JobKind::Video));
    assert_eq!(engine.stage_result(id, JobKind::Pipeline).unwrap_err().kind, ErrorKind::NotFound);
    let drawn = engine.submit(image("x")).unwrap().job.id;
    assert_eq!(engine.stage_result(drawn, JobKind::Image).unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(engine.media(id, 0).unwrap().content_type, "image/png");
}

#[test]
fn the_view_is_the_one_of_the_protocol() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path(), &FakeRunner::new());
    let id = engine.submit(pipeline(CAPTION)).unwrap().job.id;
    let view = serde_json::to_value(ended(&engine, id)).unwrap();
    let request = &view["request"];
    assert_eq!((&view["kind"], &view["model"], &request["model"]), (&json!("pipeline"), &json!(null), &json!(null)));
    assert_eq!(request["models"], json!({"understand": "fake", "image": "fake", "video": "fake"}));
    let options = &request["options"];
    assert_eq!(
        (&options["seed"], &options["image"]["seed"], &options["video"]["seed"]),
        (&1.into(), &1.into(), &1.into())
    );
    assert_eq!((&options["image"]["steps"], &options["video"]["frames"]), (&json!(3), &json!(9)), "with defaults");
    let stage = &view["stages"][1];
    assert_eq!(
        stage.as_object().unwrap().keys().collect::<Vec<_>>(),
        ["index", "name", "prompt", "result", "state", "total"]
    );
    assert_eq!((&stage["index"], &stage["total"], &stage["result"]["cached"]), (&json!(1), &json!(3), &json!(false)));

    // It can be sent again as it is, and is then answered at once.
    let mut again = request.clone();
    again["media"] = json!([{"sha256": request["media"][0]["sha256"]}]);
    let again = engine.submit(Submission::from_json(again).unwrap()).unwrap().job;
    assert!(again.state == State::Finished && again.result.as_ref().unwrap().cached, "{again:?}");
    let url = again.stages.as_ref().unwrap()[2].result.as_ref().unwrap().url.clone();
    assert!(url.contains(&again.id.to_string()), "{url}");
    assert_eq!(bytes(&engine, again.id, JobKind::Image), bytes(&engine, id, JobKind::Image));
    let events = engine.events_after(again.id, 0).unwrap();
    let names: Vec<_> = events.iter().map(|event| event.event.as_str()).collect();
    assert_eq!(names, ["queued", "frames", "stage", "stage", "stage", "finished"]);
}

#[test]
fn stages_and_jobs_of_their_kinds_share_what_they_make() {
    let folder = tempfile::tempdir().unwrap();
    let runner = FakeRunner::new();
    let engine = open(folder.path(), &runner);
    ended(&engine, engine.submit(question(CAPTION)).unwrap().job.id);
    ended(&engine, engine.submit(image(PICTURE)).unwrap().job.id);
    let id = engine.submit(pipeline(CAPTION)).unwrap().job.id;
    let job = ended(&engine, id);
    let cached: Vec<_> = job.stages.unwrap().into_iter().map(|stage| stage.result.unwrap().cached).collect();
    assert_eq!((cached, runner.count()), (vec![true, true, false], 3));
    let events = engine.events_after(id, 0).unwrap();
    assert!(events.iter().any(|event| event.event.as_str() == "frames"), "what it was answered from is told, too");

    let other = "a blue ring spins over a white background";
    ended(&engine, engine.submit(pipeline(other)).unwrap().job.id);
    let runs = runner.count();
    let drawn = engine.submit(image("a blue ring in the center on a white background")).unwrap().job;
    assert!(drawn.result.unwrap().cached);
    let asked = engine.submit(question(other)).unwrap().job;
    assert_eq!(asked.result.unwrap().text.as_deref(), Some(other));
    let names = follow(&engine, asked.id, 0);
    assert_eq!((names, runner.count()), (vec!["queued", "frames", "finished"], runs));
}

#[test]
fn a_job_that_waited_for_a_pipeline_is_answered_by_its_stage() {
    let folder = tempfile::tempdir().unwrap();
    let runner = FakeRunner::new();
    let engine = open(folder.path(), &runner);
    let first = engine.submit(pipeline("hold on")).unwrap().job.id;
    wait_for(&engine, first, |state| state == State::Running);
    let waiting = engine.submit(image("hold on")).unwrap().job;
    assert_eq!(waiting.state, State::Queued);
    runner.release();
    assert!(ended(&engine, waiting.id).result.unwrap().cached);
    assert_eq!(runner.count(), 3, "understand, image and video, and the picture once");
}

#[test]
fn two_workers_never_do_the_same_work() {
    let folder = tempfile::tempdir().unwrap();
    let runner = FakeRunner::new();
    let config = EmbeddedConfig { workers: 3, ..EmbeddedConfig::new(folder.path()) };
    let engine = EmbeddedEngine::open(config, Arc::clone(&runner) as Arc<dyn Runner>).unwrap();
    let drawn = engine.submit(image("hold on")).unwrap().job.id;
    wait_for(&engine, drawn, |state| state == State::Running);
    let ids: Vec<_> = (0..2)
        .map(|priority| {
            let mut job = pipeline("hold on");
            // Not the same pipeline, but the same understanding and the same picture.
            let Task::Pipeline(task) = &mut job.request.task else { panic!() };
            task.options.video.frames = Some(9 + priority);
            engine.submit(job).unwrap().job.id
        })
        .collect();
    for id in &ids {
        wait_for(&engine, *id, |state| state == State::Running);
    }
    runner.release();
    for id in ids {
        assert_eq!(ended(&engine, id).state, State::Finished);
    }
    assert_eq!(runner.count(), 4, "a picture, an answer and two videos");
}

#[test]
fn whoever_joins_is_told_every_stage_so_far() {
    let folder = tempfile::tempdir().unwrap();
    let runner = FakeRunner::new();
    let engine = open(folder.path(), &runner);
    let first = engine.submit(pipeline(HELD)).unwrap().job.id;
    while stages(&engine.events_after(first, 0).unwrap()).len() < 5 {
        std::thread::yield_now();
    }
    let second = engine.submit(pipeline(HELD)).unwrap().job;
    assert_eq!(second.state, State::Running);
    assert_eq!(states(&second), [StageState::Finished, StageState::Finished, StageState::Running]);
    assert!(engine.stage_result(second.id, JobKind::Image).is_ok(), "a stage can be had before the end");
    assert_eq!(engine.stage_result(second.id, JobKind::Video).unwrap_err().kind, ErrorKind::NotFinished);
    let told = engine.events_after(second.id, 0).unwrap();
    assert_eq!(stages(&told), pairs(&ALL[..5]));
    let names: Vec<_> = told.iter().map(|event| event.event.as_str()).collect();
    assert_eq!(names, ["queued", "started", "stage", "frames", "token", "stage", "stage", "stage", "stage"]);

    engine.cancel(first).unwrap();
    let left = engine.get(first).unwrap();
    assert_eq!(states(&left), [StageState::Finished, StageState::Finished, StageState::Cancelled]);
    assert_eq!(engine.stage_result(first, JobKind::Video).unwrap_err().kind, ErrorKind::NoResult);
    assert!(engine.stage_result(first, JobKind::Image).is_ok(), "what was made stays");
    runner.release();
    assert_eq!(ended(&engine, second.id).state, State::Finished);
}

#[test]
fn cancelling_stops_the_stage_that_runs() {
    let folder = tempfile::tempdir().unwrap();
    let runner = FakeRunner::new();
    let engine = open(folder.path(), &runner);
    let id = engine.submit(pipeline("hold on")).unwrap().job.id;
    while stages(&engine.events_after(id, 0).unwrap()).len() < 3 {
        std::thread::yield_now();
    }
    engine.cancel(id).unwrap();
    // The worker is free again.
    assert_eq!(ended(&engine, engine.submit(image("next")).unwrap().job.id).state, State::Finished);
    assert_eq!(follow(&engine, id, 0).last(), Some(&"cancelled"));
    assert!(!runner.order.lock().unwrap().iter().any(|did| did.starts_with("video")));
}

#[test]
fn an_error_names_its_stage() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path(), &FakeRunner::new());
    for (text, stage, kind) in [
        ("fail", "`image`", ErrorKind::ModelBroken),
        ("panic", "bug", ErrorKind::Internal),
        ("a broken film", "`video`", ErrorKind::ModelBroken),
    ] {
        let job = ended(&engine, engine.submit(pipeline(text)).unwrap().job.id);
        let error = job.error.clone().unwrap();
        assert!(error.kind == kind && error.message.contains(stage), "{error}");
        assert_eq!(states(&job)[0], StageState::Finished);
        assert!(states(&job).contains(&StageState::Failed));
    }
    let mut submission = pipeline("x");
    let Task::Pipeline(task) = &mut submission.request.task else { panic!() };
    task.models.video = Some("no such".into());
    let error = engine.submit(submission).unwrap_err();
    assert!(error.kind == ErrorKind::UnknownModel && error.message.contains("stage `video`"), "{error}");
}

#[test]
fn a_stop_costs_only_the_stage_that_ran() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path(), &FakeRunner::new());
    let id = engine.submit(pipeline(HELD)).unwrap().job.id;
    while stages(&engine.events_after(id, 0).unwrap()).len() < 5 {
        std::thread::yield_now();
    }
    engine.shutdown();
    let job = engine.get(id).unwrap();
    assert_eq!(job.state, State::Interrupted);
    assert_eq!(states(&job), [StageState::Finished, StageState::Finished, StageState::Waiting]);
    let before = engine.events_after(id, 0).unwrap().len();
    drop(engine);

    let runner = FakeRunner::new();
    runner.release();
    let engine = open(folder.path(), &runner);
    assert_eq!(ended(&engine, id).state, State::Finished);
    assert_eq!(*runner.order.lock().unwrap(), [format!("video: {HELD}")]);
    let events = engine.events_after(id, 0).unwrap();
    assert_eq!(stages(&events[before..]), pairs(&ALL[4..]), "what was told is not told again");
    let cached: Vec<_> =
        engine.get(id).unwrap().stages.unwrap().into_iter().map(|stage| stage.result.unwrap().cached).collect();
    assert_eq!(cached, [false; 3]);
}

#[test]
fn files_of_stages_live_as_long_as_their_job() {
    let folder = tempfile::tempdir().unwrap();
    let count = || fs::read_dir(Path::new(folder.path()).join("results")).unwrap().count();
    let reopen = |keep_jobs| {
        let config = EmbeddedConfig { keep_jobs, ..EmbeddedConfig::new(folder.path()) };
        EmbeddedEngine::open(config, FakeRunner::new()).unwrap()
    };
    let engine = reopen(1);
    let id = engine.submit(pipeline(CAPTION)).unwrap().job.id;
    ended(&engine, id);
    assert_eq!(count(), 3);
    drop(engine);
    let engine = reopen(1);
    assert_eq!((count(), states(&engine.get(id).unwrap())), (3, vec![StageState::Finished; 3]));

    let picture = engine.stage_result(id, JobKind::Image).unwrap();
    fs::remove_file(&picture.path).unwrap();
    assert_eq!(states(&engine.get(id).unwrap())[1], StageState::Expired);
    assert_eq!(engine.stage_result(id, JobKind::Image).unwrap_err().kind, ErrorKind::Expired);
    ended(&engine, engine.submit(image("another")).unwrap().job.id);
    drop(engine);
    let engine = reopen(1);
    assert_eq!((count(), engine.get(id).unwrap_err().kind), (1, ErrorKind::UnknownJob));
}
