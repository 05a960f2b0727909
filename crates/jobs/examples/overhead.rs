//! What jobs and events cost when nothing lies between the caller and the engine: the other half of
//! `elixir_app/engine/bench/overhead.exs`, which does the same through Erlang and prints both.
//!
//! `cargo run --release -p sango-jobs --example overhead -- MODELS ROUNDS PICTURES`
//!
//! Prints medians in microseconds as one JSON object.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sango_jobs::worker::ModelRunner;
use sango_jobs::{EmbeddedConfig, EmbeddedEngine, Engine, EventName, JobId, Next, Submission, Subscription};
use sango_models::LoadOptions;
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(60);
/// Subscriptions to one job that has ended.
const REPLAYS: usize = 200;
/// Pictures of a hundred steps whose events are timed.
const LONG_PICTURES: usize = 15;

type Figures = Vec<(&'static str, f64)>;
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [models, rounds, pictures] = arguments.as_slice() else {
        return Err("usage: overhead MODELS ROUNDS PICTURES".into());
    };
    let folder = tempfile::tempdir()?;
    let idle = without_a_model(Path::new(models), &folder.path().join("idle"), rounds.parse()?)?;
    let busy = with_a_model(Path::new(models), &folder.path().join("busy"), pictures.parse()?)?;
    let figures: serde_json::Map<_, _> =
        idle.into_iter().chain(busy).map(|(name, us)| (name.into(), us.into())).collect();
    println!("{}", serde_json::Value::from(figures));
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

/// Takes every event; gives for each how long ago it was stored.
fn drain(mut events: Subscription) -> Outcome<Vec<Duration>> {
    let mut ages = Vec::new();
    loop {
        match events.next_blocking(PATIENCE) {
            // Events are stamped in whole milliseconds, which adds half of one on average, on either side.
            Next::Event(event) => {
                let stored = Duration::from_millis(event.at.try_into()?);
                ages.push(SystemTime::now().duration_since(UNIX_EPOCH)?.saturating_sub(stored));
            }
            Next::Ended => return Ok(ages),
            Next::TimedOut => return Err("no event came".into()),
        }
    }
}

/// Submitting, and the time from a cancellation to its event.
fn without_a_model(models: &Path, data: &Path, rounds: usize) -> Outcome<Figures> {
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
    Ok(vec![("submit_us", median(submits)), ("cancel_us", median(cancels))])
}

/// A job from its submission to its bytes, a live event, and an event of a job that has ended.
fn with_a_model(models: &Path, data: &Path, pictures: usize) -> Outcome<Figures> {
    let engine = open(models, data, 1)?;
    // Loads the model.
    picture(&engine, 1, 0)?;
    let mut times = Vec::new();
    for seed in 1..=pictures {
        let began = Instant::now();
        picture(&engine, 1, seed)?;
        times.push(began.elapsed());
    }
    let mut ages = Vec::new();
    for seed in 1..=LONG_PICTURES {
        let id = engine.submit(job(100, seed)?)?.job.id;
        ages.extend(drain(engine.subscribe(id, 0)?)?);
    }
    let id = picture(&engine, 100, 0)?;
    let count = engine.events_after(id, 0)?.len();
    let mut replays = Vec::new();
    for _ in 0..REPLAYS {
        let began = Instant::now();
        drain(engine.subscribe(id, 0)?)?;
        replays.push(began.elapsed());
    }
    let replay = median(replays) / count as f64;
    Ok(vec![("picture_us", median(times)), ("live_us", median(ages)), ("replay_us", replay)])
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
