//! The model runner, on threads that give way to the BEAM's schedulers.

use std::thread;

use sango_jobs::worker::{ModelRunner, RunContext};
use sango_jobs::{ErrorKind, Job, JobError, JobRequest, ModelInfo, Output, Prepared, Runner};

use crate::guard::panicked;

/// A [`ModelRunner`] whose computing has a lower scheduling priority than the rest of the process.
///
/// On Linux a thread inherits its niceness from the one that starts it. The threads of the kernels' pool are started by the
/// first thread that computes, so that all of them follow from the two kinds of thread that do: workers and loaders. The
/// pool is the process's: it keeps the niceness of the first engine that used it.
pub(crate) struct NiceRunner {
    models: ModelRunner,
    niceness: i32,
}

impl NiceRunner {
    /// `niceness` as in `nice(1)`: 0 is as the BEAM, 19 gives way to everything.
    pub(crate) fn new(models: ModelRunner, niceness: i32) -> Self {
        Self { models, niceness }
    }

    /// Computes the models' content hashes, so that the first job need not wait for it.
    pub(crate) fn warm(&self) {
        give_way(self.niceness);
        if let Err(error) = self.models.warm() {
            tracing::warn!("{error}");
        }
    }
}

impl Runner for NiceRunner {
    fn prepare(&self, request: JobRequest) -> Result<Prepared, JobError> {
        self.models.prepare(request)
    }

    fn run(&self, job: &Job, context: &RunContext) -> Result<Output, JobError> {
        give_way(self.niceness);
        self.models.run(job, context)
    }

    fn models(&self) -> Result<Vec<ModelInfo>, JobError> {
        self.models.models()
    }

    fn load_model(&self, name: &str) -> Result<ModelInfo, JobError> {
        // Not on the caller's thread, which is a scheduler of the BEAM and must keep its priority.
        thread::scope(|scope| {
            let load = || {
                give_way(self.niceness);
                self.models.load_model(name)
            };
            let loader = thread::Builder::new().name("sango-loader".into()).spawn_scoped(scope, load);
            let loader = loader.map_err(|error| {
                JobError::new(ErrorKind::Internal, format!("cannot start a thread to load `{name}`: {error}"))
            })?;
            loader.join().unwrap_or_else(|panic| Err(panicked(&*panic)))
        })
    }

    fn unload_model(&self, name: &str) -> Result<ModelInfo, JobError> {
        self.models.unload_model(name)
    }
}

/// Lowers the priority of the calling thread.
#[cfg(target_os = "linux")]
fn give_way(niceness: i32) {
    // SAFETY: changes the priority of the calling thread, which is what 0 means here on Linux, and nothing else. It cannot
    // fail for a niceness that is not lower than before, and if it is the thread stays as it was.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) };
}

/// Elsewhere niceness belongs to the whole process.
#[cfg(not(target_os = "linux"))]
fn give_way(_: i32) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn niceness() -> i32 {
        // SAFETY: only reads the calling thread's priority.
        unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
    }

    #[test]
    fn only_this_thread_and_those_it_starts_give_way() {
        let before = niceness();
        let inside = thread::spawn(|| {
            give_way(19);
            (niceness(), thread::spawn(niceness).join().unwrap())
        });
        assert_eq!(inside.join().unwrap(), (19, 19));
        assert_eq!(niceness(), before);
    }
}
