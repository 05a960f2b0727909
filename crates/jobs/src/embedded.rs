//! The engine that needs nothing but a folder: jobs in one SQLite file, uploads and results as files beside it, runs on
//! threads of this process.

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::broadcast;

use crate::canonical::{cache_key, request_hash};
use crate::engine::{Engine, JobPage, ListQuery, ResultFile, Stats, Submitted};
use crate::feed::{Feed, Subscription};
use crate::files::Files;
use crate::intake::{Intake, not_here};
use crate::pipeline;
use crate::runs::work;
use crate::schema::{JobRow, NewJob};
use crate::store::Store;
use crate::upload::{Incoming, Upload};
use crate::worker::{ModelInfo, Runner};
use crate::{
    ErrorKind, Event, JobError, JobId, JobKind, JobView, ResultView, StageState, StageView, State, Submission, Task,
};

mod inner;
pub(crate) use inner::{Inner, Run, Told};

/// How an [`EmbeddedEngine`] is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedConfig {
    /// Where jobs, uploads and results are kept. One engine at a time.
    pub data_dir: PathBuf,
    /// Runs at the same time. A run uses every core by itself, so more than one seldom pays.
    pub workers: usize,
    /// Jobs that may be queued or running; more are refused with `queue_full`.
    pub max_unfinished: u64,
    /// Jobs that have ended are remembered up to this number.
    pub keep_jobs: u64,
    /// How often a job is begun when the server keeps stopping under it, or its run fails of what
    /// [may pass](crate::ErrorKind::may_pass).
    pub max_attempts: u32,
    /// Bounds on uploaded images.
    pub media_limits: sango_media::Limits,
    /// Bound on an uploaded video.
    pub max_video_bytes: u64,
}

impl EmbeddedConfig {
    /// One worker, 256 unfinished jobs, 1,000 remembered ones, 3 attempts, videos of 1 GiB.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            workers: 1,
            max_unfinished: 256,
            keep_jobs: 1_000,
            max_attempts: 3,
            media_limits: sango_media::Limits::default(),
            max_video_bytes: 1 << 30,
        }
    }
}

/// The embedded engine. Dropping it shuts it down.
pub struct EmbeddedEngine {
    pub(crate) shared: Arc<Shared>,
    workers: Mutex<Vec<JoinHandle<()>>>,
}

/// What the engine's handle and its worker threads share.
pub(crate) struct Shared {
    pub(crate) runner: Arc<dyn Runner>,
    pub(crate) files: Files,
    pub(crate) uploads: Files,
    pub(crate) work_arrived: Condvar,
    pub(crate) config: EmbeddedConfig,
    inner: Mutex<Inner>,
    watchers: broadcast::Sender<Arc<JobView>>,
    /// Held as long as the engine lives, so that no second one opens the folder.
    _lock: File,
}

impl EmbeddedEngine {
    /// Opens the folder (making it if need be), takes up the jobs that an earlier engine left, and starts the workers.
    ///
    /// # Errors
    /// `storage` when the folder cannot be used: no permission, damaged, or another engine has it.
    pub fn open(config: EmbeddedConfig, runner: Arc<dyn Runner>) -> Result<Self, JobError> {
        let files = Files::open(config.data_dir.join("results"))?;
        let uploads = Files::open(config.data_dir.join("uploads"))?;
        let lock = lock(&config)?;
        let mut store = Store::open(&config.data_dir.join("jobs.sqlite"))?;
        store.recover(config.max_attempts)?;
        store.prune(config.keep_jobs)?;
        let needed = store.files()?;
        files.sweep(&needed);
        uploads.sweep(&needed);
        let inner = Inner {
            store,
            open: true,
            runs: HashMap::new(),
            next_run: 1,
            stats: Stats::default(),
            feeds: HashMap::new(),
        };
        let workers = config.workers;
        let shared = Arc::new(Shared {
            runner,
            files,
            uploads,
            work_arrived: Condvar::new(),
            config,
            inner: Mutex::new(inner),
            watchers: broadcast::channel(256).0,
            _lock: lock,
        });
        let workers = (0..workers).map(|index| {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name(format!("sango-worker-{index}")).spawn(move || work(&shared))
        });
        let workers = workers
            .collect::<std::io::Result<Vec<_>>>()
            .map_err(|error| JobError::new(ErrorKind::Internal, format!("cannot start a worker thread: {error}")))?;
        Ok(Self { shared, workers: Mutex::new(workers) })
    }

    /// [`shutdown`](Engine::shutdown), and whether the data folder is free: it is not while a run has yet to come to its
    /// next step.
    pub fn close(self) -> bool {
        self.shutdown();
        Arc::strong_count(&self.shared) == 1
    }
}

fn lock(config: &EmbeddedConfig) -> Result<File, JobError> {
    let path = config.data_dir.join("lock");
    let failed = |why: &dyn std::fmt::Display| {
        JobError::new(ErrorKind::Storage, format!("cannot use the data folder {}: {why}", config.data_dir.display()))
    };
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(|error| failed(&error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(failed(&"another Sango is using it; stop that one or choose another folder"))
        }
        Err(TryLockError::Error(error)) => Err(failed(&error)),
    }
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic under the lock rolls its transaction back, so what is in there is still true.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells subscribers and watchers what has just been stored. The caller still holds the lock.
    pub(crate) fn publish(&self, inner: &mut Inner, events: Vec<Event>) {
        let mut changed: Vec<JobId> = Vec::new();
        for event in events {
            if event.event.changes_view() && changed.last() != Some(&event.job) {
                changed.push(event.job);
            }
            let (job, last) = (event.job, event.event.is_last());
            if let Some(feed) = inner.feeds.get(&job).and_then(Weak::upgrade) {
                feed.push(event);
            }
            if last {
                inner.feeds.remove(&job);
            }
        }
        if self.watchers.receiver_count() == 0 {
            return;
        }
        for id in changed {
            match inner.store.get(id).and_then(|row| self.view(inner, row)) {
                // No receiver left is no error.
                Ok(view) => drop(self.watchers.send(Arc::new(view))),
                Err(error) => tracing::warn!("cannot show job {id} to watchers: {error}"),
            }
        }
    }

    fn view(&self, inner: &mut Inner, mut row: JobRow) -> Result<JobView, JobError> {
        let gone = |row: &JobRow| row.result.as_ref().is_none_or(|result| !self.files.has(&result.sha256));
        if row.state == State::Finished && gone(&row) {
            inner.store.expire(row.id)?;
            row.state = State::Expired;
        }
        let position = inner.store.position(&row)?;
        let stages = self.stages(inner, &row)?;
        Ok(row.view(position, stages))
    }

    /// The stages of a pipeline; other jobs have none.
    fn stages(&self, inner: &Inner, row: &JobRow) -> Result<Option<Vec<StageView>>, JobError> {
        let Task::Pipeline(task) = &row.request.task else { return Ok(None) };
        let made = inner.store.stages(row.id)?;
        Ok(Some(pipeline::views(row.id, task, row.state, &made, |sha256| self.files.has(sha256))))
    }

    /// Puts a checked upload among the files of jobs.
    fn keep(&self, upload: &Upload) -> Result<(), JobError> {
        match upload {
            Upload::Received(received) if !self.uploads.has(received.sha256()) => {
                received.keep_as(&self.uploads.path(received.sha256()))
            }
            // Forgotten since it was looked up.
            Upload::Known(sha256) if !self.uploads.has(sha256) => Err(not_here(sha256)),
            _ => Ok(()),
        }
    }

    fn known(&self, inner: &mut Inner, key: Option<&str>, hash: &str) -> Result<Option<Submitted>, JobError> {
        let Some(key) = key else { return Ok(None) };
        let Some(row) = inner.store.with_idempotency_key(key)? else {
            return Ok(None);
        };
        if row.request_hash != hash {
            let message = format!("the idempotency key was used for another request, job {}: use a new key", row.id);
            return Err(JobError::new(ErrorKind::IdempotencyConflict, message));
        }
        Ok(Some(Submitted { job: self.view(inner, row)?, created: false }))
    }
}

impl Engine for EmbeddedEngine {
    fn submit(&self, mut submission: Submission) -> Result<Submitted, JobError> {
        let shared = &*self.shared;
        submission.check(&Intake {
            images: &shared.config.media_limits,
            max_video_bytes: shared.config.max_video_bytes,
            uploads: &shared.uploads,
            known: &|sha256| shared.lock().store.media(sha256),
        })?;
        let hash = request_hash(&submission.request);
        let key = submission.idempotency_key.as_deref();
        // Before the runner looks at it: a repeated request is answered even when the model has gone since.
        if let Some(submitted) = shared.known(&mut shared.lock(), key, &hash)? {
            return Ok(submitted);
        }
        let mut prepared = pipeline::prepare(&*shared.runner, submission.request)?;
        prepared.request.draw_seed();
        let new = NewJob {
            id: JobId::generate(),
            cache_key: cache_key(&prepared.request, &prepared.model_hash),
            request: prepared.request,
            request_hash: hash,
            idempotency_key: submission.idempotency_key,
        };

        let mut guard = shared.lock();
        let inner = &mut *guard;
        if !inner.open {
            return Err(JobError::new(ErrorKind::ShuttingDown, "the server is shutting down: try again in a moment"));
        }
        if let Some(submitted) = shared.known(inner, new.idempotency_key.as_deref(), &new.request_hash)? {
            return Ok(submitted);
        }
        let stored = inner.found(&new.cache_key, &shared.files)?;
        let unfinished = inner.store.unfinished()?;
        if stored.is_none() && unfinished >= shared.config.max_unfinished {
            inner.stats.refused += 1;
            let message =
                format!("{unfinished} jobs are waiting or running, as many as this server takes: try again later");
            return Err(JobError::new(ErrorKind::QueueFull, message));
        }
        // Under the lock, so that forgetting an old job cannot remove a file that this one has just found in place.
        for bytes in [&submission.image, &submission.mask].into_iter().flatten() {
            shared.uploads.put(bytes)?;
        }
        for upload in &submission.media {
            shared.keep(upload)?;
        }
        let in_flight = inner.runs.iter().find(|(_, run)| run.cache_key == new.cache_key && !run.cancel.is_cancelled());
        let events = match (stored, in_flight) {
            (Some(found), _) => {
                inner.stats.cache_hits += 1;
                let shown = inner.recall(&new.request.task, found.job)?;
                inner.store.insert_finished(&new, &found.stored, shown)?
            }
            (None, Some((run, state))) => {
                inner.stats.shared += 1;
                inner.store.insert_running(&new, *run, state.missed())?
            }
            (None, None) => inner.store.insert_queued(&new)?,
        };
        shared.publish(inner, events);
        inner.stats.submitted += 1;
        if inner.stats.submitted.is_multiple_of(64) {
            for file in inner.store.prune(shared.config.keep_jobs)? {
                [&shared.files, &shared.uploads]
                    .into_iter()
                    .filter(|files| files.has(&file))
                    .for_each(|files| files.remove(&file));
            }
        }
        let row = inner.store.get(new.id)?;
        let job = shared.view(inner, row)?;
        drop(guard);
        shared.work_arrived.notify_one();
        Ok(Submitted { job, created: true })
    }

    fn get(&self, id: JobId) -> Result<JobView, JobError> {
        let inner = &mut *self.shared.lock();
        let row = inner.store.get(id)?;
        self.shared.view(inner, row)
    }

    fn list(&self, query: &ListQuery) -> Result<JobPage, JobError> {
        let inner = &mut *self.shared.lock();
        let (rows, more) = inner.store.list(query)?;
        let next = rows.last().filter(|_| more).map(|row| row.id);
        let jobs = rows.into_iter().map(|row| self.shared.view(inner, row)).collect::<Result<_, _>>()?;
        Ok(JobPage { jobs, next })
    }

    fn cancel(&self, id: JobId) -> Result<JobView, JobError> {
        let inner = &mut *self.shared.lock();
        let row = inner.store.get(id)?;
        if !row.state.has_ended() {
            let (events, alone) = inner.store.cancel(&row)?;
            if let Some(run) = row.run.filter(|_| alone).and_then(|run| inner.runs.get(&run)) {
                run.cancel.cancel();
            }
            self.shared.publish(inner, events);
        }
        let row = inner.store.get(id)?;
        self.shared.view(inner, row)
    }

    fn arrange(&self, ids: &[JobId]) -> Result<(), JobError> {
        self.shared.lock().store.arrange(ids)
    }

    fn events_after(&self, id: JobId, after: u64) -> Result<Vec<Event>, JobError> {
        let inner = self.shared.lock();
        inner.store.get(id)?;
        inner.store.events_after(id, after)
    }

    fn subscribe(&self, id: JobId, after: u64) -> Result<Subscription, JobError> {
        let inner = &mut *self.shared.lock();
        let row = inner.store.get(id)?;
        if let Some(feed) = inner.feeds.get(&id).and_then(Weak::upgrade) {
            return Ok(feed.subscribe(after));
        }
        let closed = row.state.has_ended() || !inner.open;
        let feed = Arc::new(Feed::new(inner.store.events_after(id, 0)?, closed));
        if !closed {
            inner.feeds.insert(id, Arc::downgrade(&feed));
        }
        Ok(feed.subscribe(after))
    }

    fn watch(&self) -> broadcast::Receiver<Arc<JobView>> {
        self.shared.watchers.subscribe()
    }

    fn result(&self, id: JobId) -> Result<ResultFile, JobError> {
        let job = self.get(id)?;
        if let Some(result) = job.result {
            let path = self.shared.files.path(&result.sha256);
            return Ok(ResultFile {
                path,
                content_type: result.content_type,
                bytes: result.bytes,
                sha256: result.sha256,
            });
        }
        let (kind, message) = match (job.state, job.error) {
            (State::Expired, _) => {
                (ErrorKind::Expired, format!("the result of job {id} has been removed: submit it again"))
            }
            (State::Failed, Some(error)) => (ErrorKind::NoResult, format!("job {id} failed: {error}")),
            (State::Cancelled, _) => (ErrorKind::NoResult, format!("job {id} was cancelled")),
            (state, _) => (ErrorKind::NotFinished, format!("job {id} is {}: wait for `finished`", state.as_str())),
        };
        Err(JobError::new(kind, message))
    }

    fn stage_result(&self, id: JobId, stage: JobKind) -> Result<ResultFile, JobError> {
        let job = self.get(id)?;
        let Some(found) = job.stages.into_iter().flatten().find(|view| view.name == stage) else {
            let message = format!("job {id} has no stage `{}`: those of a `pipeline` have", stage.as_str());
            return Err(JobError::new(ErrorKind::NotFound, message));
        };
        if let Some(result) = found.result {
            let path = self.shared.files.path(&result.sha256);
            let ResultView { content_type, bytes, sha256, .. } = result;
            return Ok(ResultFile { path, content_type, bytes, sha256 });
        }
        let name = stage.as_str();
        let (kind, message) = match found.state {
            StageState::Expired => {
                (ErrorKind::Expired, format!("what stage `{name}` of job {id} made has been removed"))
            }
            StageState::Failed | StageState::Cancelled => {
                (ErrorKind::NoResult, format!("job {id} ended before stage `{name}` had a result"))
            }
            _ => {
                (ErrorKind::NotFinished, format!("stage `{name}` of job {id} has no result yet: wait for its `stage`"))
            }
        };
        Err(JobError::new(kind, message))
    }

    fn receive(&self) -> Result<Incoming, JobError> {
        Incoming::new(self.shared.uploads.folder(), self.shared.config.max_video_bytes)
    }

    fn media(&self, id: JobId, index: usize) -> Result<ResultFile, JobError> {
        let request = self.get(id)?.request;
        if request.media().is_empty() {
            return Err(JobError::new(ErrorKind::NotFound, format!("job {id} is about no media")));
        }
        let Some(media) = request.media().get(index).cloned() else {
            return Err(JobError::new(ErrorKind::NotFound, format!("job {id} has no media number {index}")));
        };
        if !self.shared.uploads.has(&media.sha256) {
            return Err(JobError::new(ErrorKind::Expired, format!("media {index} of job {id} have been removed")));
        }
        Ok(ResultFile {
            path: self.shared.uploads.path(&media.sha256),
            content_type: media.content_type,
            bytes: media.bytes,
            sha256: media.sha256,
        })
    }

    fn models(&self) -> Result<Vec<ModelInfo>, JobError> {
        self.shared.runner.models()
    }

    fn load_model(&self, name: &str) -> Result<ModelInfo, JobError> {
        self.shared.runner.load_model(name)
    }

    fn unload_model(&self, name: &str) -> Result<ModelInfo, JobError> {
        self.shared.runner.unload_model(name)
    }

    fn ready(&self) -> Result<(), JobError> {
        {
            let inner = self.shared.lock();
            if !inner.open {
                return Err(JobError::new(ErrorKind::ShuttingDown, "the server is shutting down"));
            }
            inner.store.unfinished()?;
        }
        if self.models()?.is_empty() {
            return Err(JobError::new(ErrorKind::NoModel, "there is no model: put one into the models folder"));
        }
        Ok(())
    }

    fn stats(&self) -> Result<Stats, JobError> {
        let inner = self.shared.lock();
        let feeds = inner.feeds.values().map(|feed| feed.strong_count() as u64).sum();
        Ok(Stats { jobs: inner.store.counts()?, feeds, ..inner.stats.clone() })
    }

    fn shutdown(&self) {
        /// A step of a big model can take this long; past it the worker is left to end by itself.
        const PATIENCE: Duration = Duration::from_secs(10);
        {
            let inner = &mut *self.shared.lock();
            if inner.open {
                inner.open = false;
                if let Err(error) = inner.store.interrupt() {
                    tracing::error!("cannot mark running jobs as interrupted: {error}");
                }
                inner.runs.values().for_each(|run| run.cancel.cancel());
                inner.feeds.drain().filter_map(|(_, feed)| feed.upgrade()).for_each(|feed| feed.close());
            }
        }
        self.shared.work_arrived.notify_all();
        let deadline = Instant::now() + PATIENCE;
        let workers = std::mem::take(&mut *self.workers.lock().unwrap_or_else(PoisonError::into_inner));
        for worker in workers {
            while !worker.is_finished() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(2));
            }
            if worker.is_finished() {
                // A panic in a worker has been reported where it was caught.
                let _ = worker.join();
            }
        }
    }
}

impl Drop for EmbeddedEngine {
    fn drop(&mut self) {
        self.shutdown();
    }
}
