//! The side of a job that does the work: what a runner is given and what it gives back.

mod model_runner;
mod registry;

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;

use crate::{ErrorKind, Job, JobError, JobRequest, Progress};

pub use model_runner::ModelRunner;

/// Does the work of jobs. One runner serves every worker thread of an engine.
pub trait Runner: Send + Sync + 'static {
    /// Fills in the model and every default of a request, and refuses what the model cannot do.
    ///
    /// # Errors
    /// What the client should be told: an unknown model, a size the model cannot draw, …
    fn prepare(&self, request: JobRequest) -> Result<Prepared, JobError>;

    /// Does the work. Calls [`RunContext::progress`] after each step and stops when it says so.
    ///
    /// # Errors
    /// Becomes the job's error. An error after a cancellation is not shown to anybody.
    fn run(&self, job: &Job, context: &RunContext) -> Result<Output, JobError>;

    /// The models there are.
    ///
    /// # Errors
    /// When the models folder cannot be read.
    fn models(&self) -> Result<Vec<ModelInfo>, JobError>;

    /// Reads a model into memory, if this runner keeps models there.
    ///
    /// # Errors
    /// `unknown_model`, `model_broken`.
    fn load_model(&self, name: &str) -> Result<ModelInfo, JobError> {
        Err(no_model_to_keep(name))
    }

    /// Lets a model go.
    ///
    /// # Errors
    /// `unknown_model`.
    fn unload_model(&self, name: &str) -> Result<ModelInfo, JobError> {
        Err(no_model_to_keep(name))
    }
}

fn no_model_to_keep(name: &str) -> JobError {
    JobError::new(ErrorKind::UnknownModel, format!("there is no model `{name}` that is kept in memory"))
}

/// A request that a runner has agreed to.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// With the model's name and every default filled in.
    pub request: JobRequest,
    /// Identifies the model's weights: equal hashes draw equal pictures.
    pub model_hash: String,
}

/// What a run made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// `image/png`.
    pub content_type: String,
    /// The file's bytes.
    pub bytes: Vec<u8>,
}

/// A model as `/v1/models` shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelInfo {
    /// The folder's name.
    pub name: String,
    /// Its architecture, `amused`.
    pub kind: String,
    /// Which kinds of job it does.
    pub tasks: Vec<crate::JobKind>,
    /// Whether a job that names no model gets it.
    pub default: bool,
    /// Whether it is in memory.
    pub loaded: bool,
    /// Pixels, when the job names none.
    pub width: u32,
    /// Pixels, when the job names none.
    pub height: u32,
    /// Width and height must be multiples of this.
    pub multiple_of: u32,
    /// Steps, when the job names none.
    pub steps: u32,
    /// Guidance, when the job names none.
    pub guidance_scale: f64,
    /// Size of its weight files.
    pub bytes: u64,
}

/// Tells a run to stop. Clones share one flag.
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// Asks the run to stop at its next step.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether somebody asked.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// One step's report: the progress and, when the runner made one, a small PNG.
pub(crate) type Report = dyn Fn(Progress, Option<&[u8]>) + Send + Sync;

/// A run's line to the engine: progress out, cancellation in.
pub struct RunContext {
    cancel: CancelToken,
    began: Mutex<Instant>,
    report: Box<Report>,
}

impl std::fmt::Debug for RunContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunContext").field("cancel", &self.cancel).finish_non_exhaustive()
    }
}

impl RunContext {
    /// A context that reports to `report` and stops when `cancel` is set.
    pub fn new(cancel: CancelToken, report: impl Fn(Progress, Option<&[u8]>) + Send + Sync + 'static) -> Self {
        Self { cancel, began: Mutex::new(Instant::now()), report: Box::new(report) }
    }

    /// Starts the clock of the estimate: call it when the model is loaded and the steps begin.
    pub fn begin(&self) {
        *self.began.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Whether the run should stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Reports that `step` of `total` is done, with a small PNG if there is one. `Break` means: stop now.
    pub fn progress(&self, step: u32, total: u32, preview: Option<&[u8]>) -> ControlFlow<()> {
        if self.is_cancelled() {
            return ControlFlow::Break(());
        }
        let began = *self.began.lock().unwrap_or_else(PoisonError::into_inner);
        let eta_ms = (step > 0).then(|| {
            let spent = began.elapsed().as_millis() as f64;
            (spent * f64::from(total.saturating_sub(step)) / f64::from(step)) as u64
        });
        (self.report)(Progress { step, total, eta_ms }, preview);
        if self.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_estimate_shrinks_and_cancelling_stops() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let cancel = CancelToken::default();
        let log = Arc::clone(&seen);
        let context = RunContext::new(cancel.clone(), move |progress, _| log.lock().unwrap().push(progress));
        context.begin();
        std::thread::sleep(Duration::from_millis(20));
        assert!(context.progress(1, 4, None).is_continue());
        assert!(context.progress(4, 4, None).is_continue());
        cancel.cancel();
        assert!(context.progress(5, 4, None).is_break());
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), 2, "nothing is reported after a cancellation");
        assert!(seen[0].eta_ms.unwrap() >= 60 && seen[1].eta_ms == Some(0), "{seen:?}");
    }
}
