//! What every engine can do, whatever it keeps its jobs in.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::broadcast;

use crate::{Event, Incoming, JobError, JobId, JobKind, JobView, ModelInfo, State, Submission, Subscription};

/// Queues jobs, runs them and remembers them. Every method may block for a moment (a disk sync, a lock) and none needs a
/// runtime: an async server calls them through `spawn_blocking`, a NIF from its own threads.
pub trait Engine: Send + Sync + 'static {
    /// Stores a job and queues it, or answers it from what is there: the job of the same idempotency key, a run in
    /// flight of the same work, a finished job that made it.
    ///
    /// # Errors
    /// `invalid_*`, `too_large`, `unknown_model` and whatever else [`Runner::prepare`](crate::Runner::prepare) refuses;
    /// `queue_full`; `idempotency_conflict`; `shutting_down`; `storage*`.
    fn submit(&self, submission: Submission) -> Result<Submitted, JobError>;

    /// A job.
    ///
    /// # Errors
    /// `unknown_job`, as in every method that takes an id.
    fn get(&self, id: JobId) -> Result<JobView, JobError>;

    /// Jobs, newest first.
    ///
    /// # Errors
    /// `unknown_job` when `query.before` is none.
    fn list(&self, query: &ListQuery) -> Result<JobPage, JobError>;

    /// Cancels a job that has not ended; one that has stays as it is. The run stops at its next step, unless other jobs
    /// share it.
    ///
    /// # Errors
    /// `unknown_job`.
    fn cancel(&self, id: JobId) -> Result<JobView, JobError>;

    /// Puts these jobs at the head of the line, in this order; all others follow by priority and age. Jobs that do not
    /// wait, and ids of no job, are passed over. Each call replaces the arrangement of the one before, and a job that is
    /// begun loses its place.
    ///
    /// # Errors
    /// `storage`.
    fn arrange(&self, ids: &[JobId]) -> Result<(), JobError>;

    /// The stored events after number `after`.
    ///
    /// # Errors
    /// `unknown_job`.
    fn events_after(&self, id: JobId, after: u64) -> Result<Vec<Event>, JobError>;

    /// The events after number `after`: first the stored ones, then live ones, each once and in order.
    ///
    /// # Errors
    /// `unknown_job`.
    fn subscribe(&self, id: JobId, after: u64) -> Result<Subscription, JobError>;

    /// Every job, each time its state or progress changes. A receiver that is too slow misses some (it is told how many)
    /// and can [`list`](Self::list).
    fn watch(&self) -> broadcast::Receiver<Arc<JobView>>;

    /// The file of a finished job.
    ///
    /// # Errors
    /// `not_finished`, `no_result` (failed or cancelled), `expired`, `unknown_job`.
    fn result(&self, id: JobId) -> Result<ResultFile, JobError>;

    /// What a stage of a `pipeline` job has made, as soon as it has.
    ///
    /// # Errors
    /// `not_found` when the job has no such stage; as [`result`](Self::result).
    fn stage_result(&self, id: JobId, stage: JobKind) -> Result<ResultFile, JobError>;

    /// A place for a file that is too large to be held in memory: written as it comes, and then handed in as
    /// [`Upload::Received`](crate::Upload::Received).
    ///
    /// # Errors
    /// `storage`, `storage_full`.
    fn receive(&self) -> Result<Incoming, JobError>;

    /// The file of a video or picture that an `understand` or `pipeline` job is about, counted from 0.
    ///
    /// # Errors
    /// `not_found` when the job has none of this number, `expired`, `unknown_job`.
    fn media(&self, id: JobId, index: usize) -> Result<ResultFile, JobError>;

    /// The models jobs can name.
    ///
    /// # Errors
    /// When the models folder cannot be read.
    fn models(&self) -> Result<Vec<ModelInfo>, JobError>;

    /// Reads a model into memory now, so that its first job need not wait. Blocks until it is there.
    ///
    /// # Errors
    /// `unknown_model`; `model_broken` when it cannot be read.
    fn load_model(&self, name: &str) -> Result<ModelInfo, JobError>;

    /// Lets a model go. A run that uses it keeps it until it ends; the next job that needs it loads it again.
    ///
    /// # Errors
    /// `unknown_model`.
    fn unload_model(&self, name: &str) -> Result<ModelInfo, JobError>;

    /// Whether a job handed in now would run.
    ///
    /// # Errors
    /// Why not: `no_model`, `shutting_down`, `storage`.
    fn ready(&self) -> Result<(), JobError>;

    /// Counts for the operator.
    ///
    /// # Errors
    /// `storage`.
    fn stats(&self) -> Result<Stats, JobError>;

    /// Stops taking jobs, marks the running ones as interrupted (they run again after the next start) and waits a moment
    /// for the workers. Calling it twice does nothing more.
    fn shutdown(&self);
}

/// What [`Engine::submit`] did.
#[derive(Debug, Clone, PartialEq)]
pub struct Submitted {
    /// The job, new or of the same idempotency key.
    pub job: JobView,
    /// Whether it is a new job.
    pub created: bool,
}

/// Which jobs to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListQuery {
    /// Only in this state.
    pub state: Option<State>,
    /// At most so many, 1 to [`MAX_LIMIT`](Self::MAX_LIMIT).
    pub limit: u32,
    /// Only older than this job.
    pub before: Option<JobId>,
}

impl ListQuery {
    /// The largest page.
    pub const MAX_LIMIT: u32 = 200;
}

impl Default for ListQuery {
    fn default() -> Self {
        Self { state: None, limit: 50, before: None }
    }
}

/// Some jobs, newest first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JobPage {
    /// The jobs.
    pub jobs: Vec<JobView>,
    /// Ask for those `before` this one next; `None` at the end.
    pub next: Option<JobId>,
}

/// A result, or what a job is about, on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultFile {
    /// Where it is.
    pub path: PathBuf,
    /// `image/png`.
    pub content_type: String,
    /// How many bytes.
    pub bytes: u64,
    /// SHA-256 of the bytes, lower-case hex.
    pub sha256: String,
}

/// Counts since the engine started, and jobs by state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// How many stored jobs are in each state.
    pub jobs: Vec<(State, u64)>,
    /// Jobs taken in.
    pub submitted: u64,
    /// Jobs refused because the queue was full.
    pub refused: u64,
    /// Runs begun.
    pub runs: u64,
    /// Jobs answered by a finished one.
    pub cache_hits: u64,
    /// Jobs that joined a run in flight.
    pub shared: u64,
    /// Runs that ended, and the milliseconds they took in all.
    pub run_count: u64,
    /// See `run_count`.
    pub run_ms: u64,
    /// Tokens of answers.
    pub tokens: u64,
    /// Answers begun, and the milliseconds from the start of the run to the first token in all.
    pub first_token_count: u64,
    /// See `first_token_count`.
    pub first_token_ms: u64,
    /// Subscriptions to jobs, now.
    pub feeds: u64,
}
