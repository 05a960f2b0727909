//! An open engine, from `open/2` to its end.
//!
//! Three things can end it: `close/1`, the death of its owner, and the garbage collection of its handle. The last two are
//! noticed on a scheduler, which must not wait, so they only wake the session's own thread, the driver, which does the rest.

use std::convert::Infallible;
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustler::{Env, LocalPid, Monitor, Resource};
use sango_jobs::worker::ModelRunner;
use sango_jobs::{EmbeddedEngine, Engine, ErrorKind, JobError};
use sango_models::LoadOptions;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{Notify, mpsc, watch};

use crate::guard::guarded;
use crate::options::Options;
use crate::runner::NiceRunner;

/// What Elixir holds of an engine. Threads hold the [`Session`], never this: it must go when Elixir lets it go.
pub(crate) struct EngineHandle {
    pub(crate) session: Arc<Session>,
}

#[rustler::resource_impl]
impl Resource for EngineHandle {
    const IMPLEMENTS_DOWN: bool = true;

    fn down(&self, _: Env<'_>, _: LocalPid, _: Monitor) {
        self.session.released.notify_one();
    }
}

impl Drop for EngineHandle {
    fn drop(&mut self) {
        self.session.released.notify_one();
    }
}

/// An engine and the thread that sends its news.
pub(crate) struct Session {
    open: RwLock<Option<Arc<Open>>>,
    /// Where subscriptions run.
    runtime: Handle,
    driver: Mutex<Option<JoinHandle<()>>>,
    /// Nobody needs the engine any more.
    released: Notify,
    /// How the engine ended, once it has.
    ended: Mutex<Option<Ended>>,
    has_ended: Condvar,
}

/// What is there as long as the engine is open. Calls hold it while they last.
pub(crate) struct Open {
    /// The engine.
    pub(crate) engine: EmbeddedEngine,
    /// Each subscription holds a clone: the driver goes on until the last one is gone.
    alive: mpsc::Sender<Infallible>,
    /// Dropped when the engine closes.
    closing: watch::Sender<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// The data folder is free.
    Free,
    /// A run still has it.
    Busy,
}

impl Session {
    /// Opens the engine and starts the driver.
    ///
    /// # Errors
    /// As [`EmbeddedEngine::open`]; `internal` when no thread can be started.
    pub(crate) fn open(options: Options) -> Result<Arc<Self>, JobError> {
        let no_thread = |error| JobError::new(ErrorKind::Internal, format!("cannot start a thread: {error}"));
        if let Some(threads) = options.threads {
            sango_kernels::pool::set_num_threads(threads);
        }
        let models = ModelRunner::new(options.models_dir, LoadOptions::default());
        let runner = Arc::new(NiceRunner::new(models, options.niceness));
        let engine = EmbeddedEngine::open(options.engine, Arc::clone(&runner) as _)?;
        let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(no_thread)?;
        let (alive, all_gone) = mpsc::channel(1);
        let session = Arc::new(Self {
            open: RwLock::new(Some(Arc::new(Open { engine, alive, closing: watch::Sender::new(()) }))),
            runtime: runtime.handle().clone(),
            driver: Mutex::default(),
            released: Notify::new(),
            ended: Mutex::default(),
            has_ended: Condvar::new(),
        });
        let driven = Arc::clone(&session);
        let driver = thread::Builder::new().name("sango-driver".into()).spawn(move || {
            // A panic has been written to standard error by then, and there is nobody to tell.
            let _ = guarded(|| {
                driven.drive(&runtime, all_gone);
                Ok(())
            });
        });
        *session.driver.lock().unwrap_or_else(PoisonError::into_inner) = Some(driver.map_err(no_thread)?);
        // Without it the first job waits a little longer.
        let _ = thread::Builder::new().name("sango-warm".into()).spawn(move || runner.warm());
        Ok(session)
    }

    /// The engine, for as long as a call needs it.
    ///
    /// # Errors
    /// `shutting_down` once it is closed.
    pub(crate) fn get(&self) -> Result<Arc<Open>, JobError> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.clone().ok_or_else(|| JobError::new(ErrorKind::ShuttingDown, "the engine is closed: open it again"))
    }

    /// Ends the engine and waits until the data folder is free and every subscriber has been told.
    ///
    /// # Errors
    /// `shutting_down` when a run did not come to its next step in time: the folder is free when it does.
    pub(crate) fn close(&self) -> Result<(), JobError> {
        let ended = self.end();
        let driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Its panics are caught inside.
        driver.map(JoinHandle::join);
        match ended {
            Ended::Free => Ok(()),
            Ended::Busy => {
                let message =
                    "the engine is closed, but a run has not come to its next step yet and keeps the data folder";
                Err(JobError::new(ErrorKind::ShuttingDown, message))
            }
        }
    }

    /// Ends the engine, or waits for whoever is ending it.
    fn end(&self) -> Ended {
        let open = self.open.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(open) = open {
            let ended = guarded(|| Ok(open.end())).unwrap_or(Ended::Busy);
            *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
            self.has_ended.notify_all();
        }
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match *ended {
                Some(ended) => return ended,
                None => ended = self.has_ended.wait(ended).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// The driver: runs subscriptions until the engine is closed and the last of them has ended.
    fn drive(&self, runtime: &Runtime, mut all_gone: mpsc::Receiver<Infallible>) {
        runtime.block_on(async {
            tokio::select! {
                _ = all_gone.recv() => {}
                () = self.released.notified() => {
                    // Holds up the subscriptions for as long as a step takes; they have their last events to come.
                    self.end();
                    all_gone.recv().await;
                }
            }
        });
    }

    /// Runs a subscription on the driver. `open` is what makes sure that there is one.
    pub(crate) fn spawn(&self, open: &Open, subscription: impl Future<Output = ()> + Send + 'static) {
        let alive = open.alive.clone();
        self.runtime.spawn(async move {
            subscription.await;
            drop(alive);
        });
    }
}

impl Open {
    /// Resolves to an error when the engine closes.
    pub(crate) fn closing(&self) -> watch::Receiver<()> {
        self.closing.subscribe()
    }

    fn end(self: Arc<Self>) -> Ended {
        // Runs stop at their next step, and subscriptions to jobs end.
        self.engine.shutdown();
        let mut open = self;
        let Self { engine, alive, closing } = loop {
            match Arc::try_unwrap(open) {
                Ok(open) => break open,
                // A call in flight has it for a moment yet.
                Err(shared) => open = shared,
            }
            thread::sleep(Duration::from_millis(1));
        };
        drop((alive, closing));
        if engine.close() { Ended::Free } else { Ended::Busy }
    }
}
