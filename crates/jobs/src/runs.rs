//! The worker threads of the embedded engine: take a run from the queue, do it, tell everybody.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::embedded::{Inner, Run, Shared};
use crate::pipeline::{self, LOOK_AGAIN};
use crate::schema::{JobRow, Stored};
use crate::store::Found;
use crate::worker::{CancelToken, News, Output, Preview, RunContext};
use crate::{ErrorKind, EventName, Job, JobError, Task};

/// A run that a worker has taken.
struct Claim {
    run: i64,
    job: Job,
    cancel: CancelToken,
}

/// Works until the engine closes.
pub(crate) fn work(shared: &Arc<Shared>) {
    while let Some(claim) = wait_for_claim(shared) {
        if let Err(ErrorKind::Storage | ErrorKind::StorageFull) = perform(shared, claim) {
            rest(shared);
        }
    }
}

/// Does what is in the queue now, on the calling thread.
pub(crate) fn work_off(shared: &Arc<Shared>) -> Result<(), JobError> {
    loop {
        // Its own statement: the lock must be free again before the run reports.
        let claim = try_claim(shared, &mut shared.lock())?;
        let Some(claim) = claim else { return Ok(()) };
        // How it went is stored with the job.
        let _ = perform(shared, claim);
    }
}

/// A disk that has failed one run would fail the next one, and the same one again, until somebody has made room.
fn rest(shared: &Shared) {
    let waiting = shared.work_arrived.wait_timeout_while(shared.lock(), Duration::from_secs(1), |inner| inner.open);
    drop(waiting.unwrap_or_else(PoisonError::into_inner));
}

fn wait_for_claim(shared: &Shared) -> Option<Claim> {
    let mut inner = shared.lock();
    loop {
        if !inner.open {
            return None;
        }
        match try_claim(shared, &mut inner) {
            Ok(Some(claim)) => return Some(claim),
            Ok(None) => inner = shared.work_arrived.wait(inner).unwrap_or_else(PoisonError::into_inner),
            Err(error) => {
                // A full disk, most likely: the jobs stay queued, and it may have room again in a second.
                tracing::error!("cannot take a job from the queue: {error}");
                let pause = shared.work_arrived.wait_timeout(inner, Duration::from_secs(1));
                inner = pause.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }
}

fn try_claim(shared: &Shared, inner: &mut Inner) -> Result<Option<Claim>, JobError> {
    let run = inner.next_run;
    let (rows, events) = inner.store.claim(run)?;
    let Some(first) = rows.into_iter().next() else {
        return Ok(None);
    };
    inner.next_run += 1;
    inner.stats.runs += 1;
    inner.stats.shared += events.len() as u64 - 1;
    let cancel = CancelToken::default();
    inner.runs.insert(run, Run::new(first.cache_key.clone(), cancel.clone()));
    shared.publish(inner, events);
    Ok(Some(Claim { run, job: job(shared, first), cancel }))
}

fn job(shared: &Shared, row: JobRow) -> Job {
    let files = row.request.uploads().into_iter().map(|sha256| shared.uploads.path(sha256)).collect();
    Job { id: row.id, request: row.request, files }
}

/// Does a run and stores how it ended. Gives back what it failed of, if it did.
fn perform(shared: &Arc<Shared>, claim: Claim) -> Result<(), ErrorKind> {
    let Claim { run, job, cancel } = claim;
    let reporter = Arc::clone(shared);
    let began = Instant::now();
    let context = RunContext::new(cancel, move |news| report(&reporter, run, began, &news));
    let outcome = catch_unwind(AssertUnwindSafe(|| produce(shared, run, &job, &context)));
    context.flush();
    let outcome = outcome.unwrap_or_else(|panic| {
        let message = format!("the run stopped at a bug in Sango: {}", panic_message(&*panic));
        Err(JobError::new(ErrorKind::Internal, message))
    });

    let inner = &mut *shared.lock();
    inner.runs.remove(&run);
    inner.stats.run_count += 1;
    inner.stats.run_ms += began.elapsed().as_millis() as u64;
    // Whoever has cancelled or was interrupted is no longer running, so this reaches only those that still wait for it.
    let finished = outcome.and_then(|made| finish(shared, inner, run, made));
    let ended = finished.as_ref().map(drop).map_err(|error| error.kind);
    let stored = finished.or_else(|error| inner.store.fail_run(run, &error, shared.config.max_attempts));
    match stored {
        Ok(events) => shared.publish(inner, events),
        Err(error) => tracing::error!("cannot store how job {} ended, it will run again: {error}", job.id),
    }
    ended
}

/// What a run has come to.
enum Made {
    /// A result that is not kept yet.
    Output(Output),
    /// One that is: `cached` where it was there before the run.
    Kept { stored: Stored, cached: bool },
}

fn produce(shared: &Arc<Shared>, run: i64, job: &Job, context: &RunContext) -> Result<Made, JobError> {
    if let Task::Pipeline(task) = &job.request.task {
        return Ok(Made::Kept { stored: pipeline::run(shared, run, job, task, context)?, cached: false });
    }
    let key = shared.lock().runs.get(&run).map(|run| run.cache_key.clone()).unwrap_or_default();
    match wait_for_turn(shared, run, &key, context)? {
        // A stage of a pipeline has made it while the job was waiting.
        Some(found) => Ok(Made::Kept { stored: found.stored, cached: true }),
        None => shared.runner.run(job, context).map(Made::Output),
    }
}

/// Waits until no other run does the work that this key stands for. Then either it is done, or the run `run` does it.
pub(crate) fn wait_for_turn(
    shared: &Shared,
    run: i64,
    key: &str,
    context: &RunContext,
) -> Result<Option<Found>, JobError> {
    loop {
        {
            let inner = &mut *shared.lock();
            if let Some(found) = inner.found(key, &shared.files)? {
                return Ok(Some(found));
            }
            let busy = |(other, it): (&i64, &Run)| {
                *other != run && it.doing.as_deref() == Some(key) && !it.cancel.is_cancelled()
            };
            if !inner.runs.iter().any(busy) {
                inner.runs.entry(run).and_modify(|run| run.doing = Some(key.to_owned()));
                return Ok(None);
            }
        }
        if context.is_cancelled() {
            return Err(JobError::new(ErrorKind::Cancelled, "the run was stopped"));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Puts what a run made among the results. The caller holds the lock until a job has it.
pub(crate) fn keep(shared: &Shared, output: Output) -> Result<Stored, JobError> {
    let Output { content_type, bytes, text } = output;
    Ok(Stored { sha256: shared.files.put(&bytes)?, content_type, bytes: bytes.len() as u64, text })
}

fn finish(shared: &Shared, inner: &mut Inner, run: i64, made: Made) -> Result<Vec<crate::Event>, JobError> {
    let (stored, cached) = match made {
        Made::Output(output) => (keep(shared, output)?, false),
        Made::Kept { stored, cached } => (stored, cached),
    };
    inner.store.finish_run(run, &stored, cached)
}

fn report(shared: &Shared, run: i64, began: Instant, news: &News<'_>) {
    // Encoded before the lock is taken.
    let preview = match news {
        News::Step { progress, preview: Some(preview) } => Some((progress.step, preview)),
        News::Shown { step, preview } => Some((*step, preview)),
        _ => None,
    };
    let preview = preview.map(|(step, Preview { content_type, bytes })| {
        json!({"step": step, "content_type": content_type, "data": STANDARD.encode(bytes)})
    });
    let inner = &mut *shared.lock();
    let told = match news {
        News::Step { progress, .. } => inner.store.progress(run, *progress, preview.as_ref()),
        News::Frames(frames) => inner.show(run, EventName::Frames, json!({"frames": frames})),
        News::Shown { .. } => inner.show(run, EventName::Preview, preview.unwrap_or_default()),
        News::Token { text, index, count } => {
            inner.stats.tokens += u64::from(*count);
            if *index == 0 {
                inner.stats.first_token_count += 1;
                inner.stats.first_token_ms += began.elapsed().as_millis() as u64;
            }
            inner.runs.entry(run).and_modify(|run| run.hear(text, *index));
            inner.store.tell(run, EventName::Token, &json!({"text": text, "index": index}))
        }
    };
    match told {
        Ok(events) => shared.publish(inner, events),
        // The result matters more than the news of it.
        Err(error) => tracing::warn!("cannot store what run {run} tells: {error}"),
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
