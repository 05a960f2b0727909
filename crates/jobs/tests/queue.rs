//! Many jobs at once: order, bounds, sharing and cancelling.

mod support;

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use sango_jobs::{EmbeddedConfig, EmbeddedEngine, Engine, ErrorKind, JobId, State};
use serde_json::json;
use support::{FakeRunner, ended, follow, image, image_task_mut, open, wait_for, with};

#[test]
fn a_hundred_identical_jobs_are_one_run() {
    let folder = tempfile::tempdir().unwrap();
    let runner = FakeRunner::new();
    let engine = Arc::new(open(folder.path(), &runner));
    let start = Arc::new(Barrier::new(100));
    let clients: Vec<_> = (0..100)
        .map(|_| {
            let (engine, start) = (Arc::clone(&engine), Arc::clone(&start));
            thread::spawn(move || {
                start.wait();
                engine.submit(image("hold the same")).unwrap().job.id
            })
        })
        .collect();
    let ids: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    let followers: Vec<_> = ids
        .iter()
        .map(|id| {
            let (engine, id) = (Arc::clone(&engine), *id);
            thread::spawn(move || follow(&*engine, id, 0))
        })
        .collect();
    runner.release();
    for follower in followers {
        let names = follower.join().unwrap();
        assert_eq!((names[0], names[1], names[names.len() - 1]), ("queued", "started", "finished"));
    }
    assert_eq!(runner.count(), 1);
    let hashes: std::collections::HashSet<_> = ids.iter().map(|id| engine.result(*id).unwrap().sha256).collect();
    assert_eq!(hashes.len(), 1);
    let unique: std::collections::HashSet<_> = ids.iter().collect();
    assert_eq!(unique.len(), 100);
    assert_eq!(engine.stats().unwrap().shared, 99);
}

#[test]
fn higher_priority_first_then_age() {
    let folder = tempfile::tempdir().unwrap();
    let runner = FakeRunner::new();
    let engine = open(folder.path(), &runner);
    let first = engine.submit(image("hold first")).unwrap().job.id;
    wait_for(&engine, first, |state| state == State::Running);
    let mut ids = Vec::new();
    for (prompt, priority) in [("low", -1), ("a", 0), ("b", 0), ("high", 9)] {
        ids.push(engine.submit(with(prompt, json!({"priority": priority}))).unwrap().job.id);
    }
    let positions: Vec<_> = ids.iter().map(|id| engine.get(*id).unwrap().position.unwrap()).collect();
    assert_eq!(positions, [4, 2, 3, 1]);
    runner.release();
    ended(&engine, ids[0]);
    assert_eq!(*runner.order.lock().unwrap(), ["hold first", "high", "a", "b", "low"]);
}

#[test]
fn an_arrangement_comes_before_priority_and_age() {
    let folder = tempfile::tempdir().unwrap();
    let runner = FakeRunner::new();
    let engine = open(folder.path(), &runner);
    let first = engine.submit(image("hold first")).unwrap().job.id;
    wait_for(&engine, first, |state| state == State::Running);
    let submit =
        |prompt: &str, priority: i32| engine.submit(with(prompt, json!({"priority": priority}))).unwrap().job.id;
    let [a, b, c, high] = [submit("a", 0), submit("b", 0), submit("c", 0), submit("high", 9)];
    let positions = |ids: &[JobId]| ids.iter().map(|id| engine.get(*id).unwrap().position).collect::<Vec<_>>();
    engine.arrange(&[b, a, high]).unwrap();
    assert_eq!(positions(&[b, a, high, c]), [Some(1), Some(2), Some(3), Some(4)]);

    // What does not wait is passed over, twice is once, and the arrangement before is forgotten.
    let stranger = "0199b2c4-5c1e-7f3a-9a55-0c8f7f1d2e3b".parse().unwrap();
    let ended = submit("ended", 0);
    engine.cancel(ended).unwrap();
    engine.arrange(&[c, stranger, first, c, ended, a]).unwrap();
    assert_eq!(positions(&[c, a, high, b]), [Some(1), Some(2), Some(3), Some(4)]);
    assert_eq!(positions(&[first, ended]), [None, None]);
    let late = submit("late", 10);
    assert_eq!(positions(&[c, a, late, high, b]), [Some(1), Some(2), Some(3), Some(4), Some(5)]);

    runner.release();
    support::ended(&engine, b);
    assert_eq!(*runner.order.lock().unwrap(), ["hold first", "c", "a", "late", "high", "b"]);
}

#[test]
fn no_arrangement_is_priority_and_age_again() {
    let folder = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig { workers: 0, ..EmbeddedConfig::new(folder.path()) };
    let engine = EmbeddedEngine::open(config, FakeRunner::new()).unwrap();
    let ids: Vec<_> = (0..40).map(|i| engine.submit(image(&format!("p{i}"))).unwrap().job.id).collect();
    let line = || ids.iter().map(|id| engine.get(*id).unwrap().position.unwrap()).collect::<Vec<_>>();
    engine.arrange(&ids.iter().rev().copied().collect::<Vec<_>>()).unwrap();
    assert_eq!(line(), (1..=40).rev().collect::<Vec<_>>());
    engine.arrange(&[]).unwrap();
    assert_eq!(line(), (1..=40).collect::<Vec<_>>());
}

#[test]
fn a_full_queue_refuses_and_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let runner = FakeRunner::new();
    let config = EmbeddedConfig { max_unfinished: 2, ..EmbeddedConfig::new(folder.path()) };
    let engine = EmbeddedEngine::open(config, Arc::clone(&runner) as Arc<dyn sango_jobs::Runner>).unwrap();
    engine.submit(image("hold a")).unwrap();
    let second = engine.submit(image("hold b")).unwrap().job.id;
    let error = engine.submit(image("hold c")).unwrap_err();
    assert_eq!(error.kind, ErrorKind::QueueFull);
    assert!(error.message.contains("2 jobs"), "{error}");
    assert_eq!(engine.stats().unwrap().refused, 1);
    runner.release();
    ended(&engine, second);
    engine.submit(image("hold c")).unwrap();
}

#[test]
fn the_same_idempotency_key_is_the_same_job() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path(), &FakeRunner::new());
    let keyed = |prompt: &str| {
        // No seed: the drawn seed must not make the repetition another request.
        let mut submission = with(prompt, json!({"idempotency_key": "k1"}));
        image_task_mut(&mut submission.request).options.seed = None;
        engine.submit(submission)
    };
    let first = keyed("x").unwrap();
    let second = keyed("x").unwrap();
    assert!(first.created && !second.created);
    assert_eq!(first.job.id, second.job.id);
    assert_eq!(keyed("y").unwrap_err().kind, ErrorKind::IdempotencyConflict);
}

#[test]
fn cancelling_a_waiting_job_means_it_never_runs() {
    let folder = tempfile::tempdir().unwrap();
    let runner = FakeRunner::new();
    let engine = open(folder.path(), &runner);
    let first = engine.submit(image("hold first")).unwrap().job.id;
    let waiting = engine.submit(image("never")).unwrap().job.id;
    assert_eq!(engine.cancel(waiting).unwrap().state, State::Cancelled);
    assert_eq!(follow(&engine, waiting, 0), ["queued", "cancelled"]);
    assert_eq!(engine.result(waiting).unwrap_err().kind, ErrorKind::NoResult);
    runner.release();
    let finished = ended(&engine, first);
    assert_eq!(engine.cancel(first).unwrap(), finished, "a job that has ended stays as it is");
    assert_eq!(*runner.order.lock().unwrap(), ["hold first"]);
}

#[test]
fn cancelling_a_running_job_stops_it_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let runner = FakeRunner::new();
    let engine = open(folder.path(), &runner);
    let id = engine.submit(image("hold")).unwrap().job.id;
    wait_for(&engine, id, |state| state == State::Running);
    assert_eq!(engine.cancel(id).unwrap().state, State::Cancelled);
    assert_eq!(follow(&engine, id, 0), ["queued", "started", "cancelled"]);
    // The worker is free again: another job ends without the gate having been opened for the first one.
    let next = engine.submit(image("next")).unwrap().job.id;
    assert_eq!(ended(&engine, next).state, State::Finished);
    // The same work again is a new run, not the cancelled one.
    let again = engine.submit(image("hold")).unwrap().job.id;
    runner.release();
    assert_eq!(ended(&engine, again).state, State::Finished);
}

#[test]
fn cancelling_one_of_a_shared_run_leaves_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let runner = FakeRunner::new();
    let engine = open(folder.path(), &runner);
    let a = engine.submit(image("hold")).unwrap().job.id;
    wait_for(&engine, a, |state| state == State::Running);
    let b = engine.submit(image("hold")).unwrap().job;
    assert_eq!(b.state, State::Running, "it joins the run");
    engine.cancel(a).unwrap();
    runner.release();
    assert_eq!(ended(&engine, b.id).state, State::Finished);
    assert_eq!(engine.get(a).unwrap().state, State::Cancelled);
    assert_eq!(runner.count(), 1);
}

#[test]
fn late_and_early_subscribers_see_the_same_events() {
    let folder = tempfile::tempdir().unwrap();
    let runner = FakeRunner::new();
    let engine = Arc::new(open(folder.path(), &runner));
    let submission = with("hold", json!({"options": {"steps": 40, "seed": 1}}));
    let id = engine.submit(submission).unwrap().job.id;
    let subscribers: Vec<_> = (0..200u64)
        .map(|i| {
            let engine = Arc::clone(&engine);
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(i % 20));
                follow(&*engine, id, i % 7).len() as u64 + i % 7
            })
        })
        .collect();
    thread::sleep(Duration::from_millis(5));
    runner.release();
    for subscriber in subscribers {
        assert_eq!(subscriber.join().unwrap(), 83, "queued, started, 40 steps of two, finished");
    }
}

#[test]
fn a_shutdown_ends_subscriptions_and_refuses_jobs() {
    let folder = tempfile::tempdir().unwrap();
    let runner = FakeRunner::new();
    let engine = open(folder.path(), &runner);
    let id = engine.submit(image("hold")).unwrap().job.id;
    wait_for(&engine, id, |state| state == State::Running);
    let began = Instant::now();
    engine.shutdown();
    assert!(began.elapsed() < Duration::from_secs(5), "the run stops at its next step");
    assert_eq!(follow(&engine, id, 0), ["queued", "started"]);
    assert_eq!(engine.get(id).unwrap().state, State::Interrupted);
    assert_eq!(engine.submit(image("x")).unwrap_err().kind, ErrorKind::ShuttingDown);
    assert_eq!(engine.ready().unwrap_err().kind, ErrorKind::ShuttingDown);
}
