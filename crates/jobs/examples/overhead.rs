//! What jobs and events cost when nothing lies between the caller and the engine: the other half of
//! `elixir_app/engine/bench/overhead.exs`, which does the same through Erlang and prints both.
//!
//! `cargo run --release -p sango-jobs --example overhead -- MODELS ROUNDS PICTURES`

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sango_jobs::worker::ModelRunner;
use sango_jobs::{EmbeddedConfig, EmbeddedEngine, Engine, EventName, JobId, Next, Submission, Subscription};
use sango_models::LoadOptions;
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(60);
/// Subscriptions to one job that has ended.
const REPLAYS: usize = 200;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [models, rounds, pictures] = arguments.as_slice() else {
        return Err("usage: overhead MODELS ROUNDS PICTURES".into());
    };
    let folder = tempfile::tempdir()?;
    let (submit, cancel) = without_a_model(Path::new(models), &folder.path().join("idle"), rounds.parse()?)?;
    let (picture, replay, events) = with_a_model(Path::new(models), &folder.path().join("busy"), pictures.parse()?)?;
    println!(
        "{}",
        json!({"submit_us": submit, "cancel_us": cancel, "picture_us": picture, "replay_us": replay, "events": events})
    );
    Ok(())
}

fn open(models: &Path, data: &Path, workers: usize) -> Outcome<EmbeddedEngine> {
    let runner = ModelRunner::new(models, LoadOptions::default());
    runner.warm()?;
    let config = EmbeddedConfig { workers, ..EmbeddedConfig::new(data) };
    Ok(EmbeddedEngine::open(config, Arc::new(runner))?)
}

fn job(steps: u32, seed: usize) -> Outcome<Submission> {
    let options = json!({"steps": steps, "seed": seed});
    Ok(Submission::from_json(json!({"kind": "image", "prompt": "a large red circle", "options": options}))?)
}

fn drain(mut events: Subscription) -> Outcome<usize> {
    let mut count = 0;
    loop {
        match events.next_blocking(PATIENCE) {
            Next::Event(_) => count += 1,
            Next::Ended => return Ok(count),
            Next::TimedOut => return Err("no event came".into()),
        }
    }
}

/// Submitting, and the time from a cancellation to its event.
fn without_a_model(models: &Path, data: &Path, rounds: usize) -> Outcome<(f64, f64)> {
    let engine = open(models, data, 0)?;
    let (mut submits, mut cancels) = (Vec::new(), Vec::new());
    for seed in 0..rounds {
        let began = Instant::now();
        let id = engine.submit(job(2, seed)?)?.job.id;
        submits.push(began.elapsed());
        let mut events = engine.subscribe(id, 1)?;
        let began = Instant::now();
        engine.cancel(id)?;
        match events.next_blocking(PATIENCE) {
            Next::Event(event) if event.event == EventName::Cancelled => cancels.push(began.elapsed()),
            other => return Err(format!("not `cancelled`, but {other:?}").into()),
        }
    }
    Ok((median(submits), median(cancels)))
}

/// A job from its submission to its bytes, and an event of one that has ended.
fn with_a_model(models: &Path, data: &Path, pictures: usize) -> Outcome<(f64, f64, usize)> {
    let engine = open(models, data, 1)?;
    // Loads the model.
    picture(&engine, 1, 0)?;
    let mut times = Vec::new();
    for seed in 1..=pictures {
        let began = Instant::now();
        picture(&engine, 1, seed)?;
        times.push(began.elapsed());
    }
    let id = picture(&engine, 100, 0)?;
    let count = engine.events_after(id, 0)?.len();
    let mut replays = Vec::new();
    for _ in 0..REPLAYS {
        let began = Instant::now();
        drain(engine.subscribe(id, 0)?)?;
        replays.push(began.elapsed());
    }
    Ok((median(times), median(replays) / count as f64, count))
}

fn picture(engine: &EmbeddedEngine, steps: u32, seed: usize) -> Outcome<JobId> {
    let id = engine.submit(job(steps, seed)?)?.job.id;
    drain(engine.subscribe(id, 0)?)?;
    std::fs::read(engine.result(id)?.path)?;
    Ok(id)
}

/// In microseconds.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
}
