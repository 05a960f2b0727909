//! What every handler shares.

use std::sync::Arc;

use sango_jobs::{Engine, ErrorKind, JobError};
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::server::ServeConfig;

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct AppState {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) config: Arc<ServeConfig>,
    pub(crate) metrics: Arc<Metrics>,
    /// Turns true when the server goes down.
    pub(crate) closing: watch::Receiver<bool>,
}

impl AppState {
    /// Calls the engine on a thread that may block.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&dyn Engine) -> Result<T, JobError> + Send + 'static,
    ) -> Result<T, JobError> {
        let engine = Arc::clone(&self.engine);
        let called = tokio::task::spawn_blocking(move || call(&*engine)).await;
        called.unwrap_or_else(|error| Err(JobError::new(ErrorKind::Internal, format!("a bug in Sango: {error}"))))
    }
}
