//! The engine for tests: a job has ended when `submit` returns, and nothing is left afterwards.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::broadcast;

use crate::embedded::{EmbeddedConfig, EmbeddedEngine};
use crate::engine::{Engine, JobPage, ListQuery, ResultFile, Stats, Submitted};
use crate::runs::work_off;
use crate::{Event, Incoming, JobError, JobId, JobKind, JobView, ModelInfo, Runner, Submission, Subscription};

/// The embedded engine without threads, in a temporary folder that goes with it: `submit` runs the job.
pub struct InlineEngine {
    // `None` only while it is dropped: the folder must go after the engine.
    engine: Option<EmbeddedEngine>,
    folder: PathBuf,
}

impl InlineEngine {
    /// An empty engine.
    ///
    /// # Errors
    /// `storage` when the system's temporary folder cannot be used.
    pub fn new(runner: Arc<dyn Runner>) -> Result<Self, JobError> {
        let folder = std::env::temp_dir().join(format!("sango-inline-{}", JobId::generate()));
        let config = EmbeddedConfig { workers: 0, ..EmbeddedConfig::new(&folder) };
        Ok(Self { engine: Some(EmbeddedEngine::open(config, runner)?), folder })
    }

    fn engine(&self) -> &EmbeddedEngine {
        self.engine.as_ref().expect("an engine until it is dropped")
    }
}

impl Drop for InlineEngine {
    fn drop(&mut self) {
        drop(self.engine.take());
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            tracing::warn!("cannot remove {}: {error}", self.folder.display());
        }
    }
}

impl Engine for InlineEngine {
    fn submit(&self, submission: Submission) -> Result<Submitted, JobError> {
        let submitted = self.engine().submit(submission)?;
        work_off(&self.engine().shared)?;
        Ok(Submitted { job: self.get(submitted.job.id)?, created: submitted.created })
    }

    fn get(&self, id: JobId) -> Result<JobView, JobError> {
        self.engine().get(id)
    }

    fn list(&self, query: &ListQuery) -> Result<JobPage, JobError> {
        self.engine().list(query)
    }

    fn cancel(&self, id: JobId) -> Result<JobView, JobError> {
        self.engine().cancel(id)
    }

    fn arrange(&self, ids: &[JobId]) -> Result<(), JobError> {
        self.engine().arrange(ids)
    }

    fn events_after(&self, id: JobId, after: u64) -> Result<Vec<Event>, JobError> {
        self.engine().events_after(id, after)
    }

    fn subscribe(&self, id: JobId, after: u64) -> Result<Subscription, JobError> {
        self.engine().subscribe(id, after)
    }

    fn watch(&self) -> broadcast::Receiver<Arc<JobView>> {
        self.engine().watch()
    }

    fn result(&self, id: JobId) -> Result<ResultFile, JobError> {
        self.engine().result(id)
    }

    fn stage_result(&self, id: JobId, stage: JobKind) -> Result<ResultFile, JobError> {
        self.engine().stage_result(id, stage)
    }

    fn receive(&self) -> Result<Incoming, JobError> {
        self.engine().receive()
    }

    fn media(&self, id: JobId, index: usize) -> Result<ResultFile, JobError> {
        self.engine().media(id, index)
    }

    fn models(&self) -> Result<Vec<ModelInfo>, JobError> {
        self.engine().models()
    }

    fn load_model(&self, name: &str) -> Result<ModelInfo, JobError> {
        self.engine().load_model(name)
    }

    fn unload_model(&self, name: &str) -> Result<ModelInfo, JobError> {
        self.engine().unload_model(name)
    }

    fn ready(&self) -> Result<(), JobError> {
        self.engine().ready()
    }

    fn stats(&self) -> Result<Stats, JobError> {
        self.engine().stats()
    }

    fn shutdown(&self) {
        self.engine().shutdown();
    }
}
