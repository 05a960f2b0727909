//! What is left when the process stops, in order or by a kill.
#![cfg(unix)]

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use sango_jobs::{EmbeddedConfig, EmbeddedEngine, Engine, ErrorKind, JobId, Runner, State};
use support::{FakeRunner, ended, follow, image, open, wait_for};

const FOLDER: &str = "SANGO_TEST_ENGINE_FOLDER";

/// Not a test of its own: the process that the others kill. It opens the folder, submits three jobs that never end,
/// prints their ids and waits.
#[test]
fn child_process() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let engine = open(Path::new(&folder), &FakeRunner::new());
    for prompt in ["hold a", "hold b", "hold c"] {
        println!("id {}", engine.submit(image(prompt)).unwrap().job.id);
    }
    let first = engine.list(&sango_jobs::ListQuery::default()).unwrap().jobs[2].id;
    wait_for(&engine, first, |state| state == State::Running);
    println!("running");
    std::thread::sleep(std::time::Duration::from_secs(120));
}

/// Starts the child, kills it (SIGKILL) while its first job runs, and gives back the ids.
fn kill_an_engine(folder: &Path) -> Vec<JobId> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_process", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ids = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        // The test harness prints on the same line.
        if let Some(id) = line.split("id ").nth(1).and_then(|id| id.trim().parse().ok()) {
            ids.push(id);
        }
        if line.contains("running") && ids.len() == 3 {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(ids.len(), 3);
    ids
}

#[test]
fn a_killed_process_loses_no_job() {
    let folder = tempfile::tempdir().unwrap();
    let ids = kill_an_engine(folder.path());
    let runner = FakeRunner::new();
    let config = EmbeddedConfig { workers: 0, ..EmbeddedConfig::new(folder.path()) };
    let idle = EmbeddedEngine::open(config, Arc::clone(&runner) as Arc<dyn Runner>).unwrap();
    let states: Vec<_> = ids.iter().map(|id| idle.get(*id).unwrap().state).collect();
    assert_eq!(states, [State::Interrupted, State::Queued, State::Queued]);
    assert_eq!(idle.get(ids[0]).unwrap().position, Some(1));
    let again = idle.events_after(ids[0], 0).unwrap().pop().unwrap();
    assert_eq!((again.event.as_str(), &again.data["attempt"]), ("queued", &serde_json::json!(2)));
    drop(idle);

    let engine = open(folder.path(), &runner);
    runner.release();
    for id in &ids {
        assert_eq!(ended(&engine, *id).state, State::Finished);
    }
    assert_eq!(*runner.order.lock().unwrap(), ["hold a", "hold b", "hold c"]);
    let names = follow(&engine, ids[0], 0);
    assert_eq!(names[..4], ["queued", "started", "queued", "started"]);
}

#[test]
fn a_job_that_keeps_killing_the_server_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let ids = kill_an_engine(folder.path());
    let config = EmbeddedConfig { max_attempts: 1, workers: 0, ..EmbeddedConfig::new(folder.path()) };
    let engine = EmbeddedEngine::open(config, FakeRunner::new()).unwrap();
    let job = engine.get(ids[0]).unwrap();
    assert_eq!((job.state, job.error.unwrap().kind), (State::Failed, ErrorKind::Interrupted));
    assert_eq!(engine.get(ids[1]).unwrap().state, State::Queued, "a job that never ran is not to blame");
}

#[test]
fn an_orderly_stop_is_no_attempt() {
    let folder = tempfile::tempdir().unwrap();
    let mut id = None;
    for _ in 0..4 {
        let engine = open(folder.path(), &FakeRunner::new());
        let id = *id.get_or_insert_with(|| engine.submit(image("hold")).unwrap().job.id);
        wait_for(&engine, id, |state| state == State::Running);
        engine.shutdown();
        assert_eq!(engine.get(id).unwrap().state, State::Interrupted);
    }
    let runner = FakeRunner::new();
    runner.release();
    let engine = open(folder.path(), &runner);
    assert_eq!(ended(&engine, id.unwrap()).state, State::Finished);
}

#[test]
fn two_engines_cannot_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path(), &FakeRunner::new());
    let config = EmbeddedConfig::new(folder.path());
    let error = EmbeddedEngine::open(config.clone(), FakeRunner::new()).err().unwrap();
    assert_eq!(error.kind, ErrorKind::Storage);
    assert!(error.message.contains("another Sango"), "{error}");
    assert!(engine.close(), "nothing runs");
    EmbeddedEngine::open(config, FakeRunner::new()).unwrap();
}

#[test]
fn a_file_that_is_no_store_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("jobs.sqlite"), vec![b'x'; 8192]).unwrap();
    let error = EmbeddedEngine::open(EmbeddedConfig::new(folder.path()), FakeRunner::new()).err().unwrap();
    assert_eq!(error.kind, ErrorKind::Storage);
}
