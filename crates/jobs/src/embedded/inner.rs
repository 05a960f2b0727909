//! What the engine's lock guards: the store, and the runs in flight with what a job that joins one later has missed.

use std::collections::HashMap;
use std::sync::Weak;

use serde_json::{Value, json};

use crate::engine::Stats;
use crate::feed::Feed;
use crate::files::Files;
use crate::pipeline;
use crate::schema::Stored;
use crate::store::{Found, Missed, Store};
use crate::worker::CancelToken;
use crate::{Event, EventName, JobError, JobId, Task};

/// What changes together: a change of a job is stored and published under one lock, so that events are published in the
/// order of their numbers.
pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) open: bool,
    pub(crate) runs: HashMap<i64, Run>,
    pub(crate) next_run: i64,
    pub(crate) stats: Stats,
    pub(super) feeds: HashMap<JobId, Weak<Feed>>,
}

/// A run in flight.
pub(crate) struct Run {
    pub(crate) cache_key: String,
    pub(crate) cancel: CancelToken,
    /// The work that it is doing now, which for a pipeline is that of a stage.
    pub(crate) doing: Option<String>,
    /// What a job that joins later has missed: which frames the model is shown and how they look, and the stages so far.
    told: Vec<Missed>,
    /// The answer so far.
    text: Option<String>,
}

/// What a run tells of a stage.
#[derive(Debug, Clone)]
pub(crate) enum Told {
    /// It begins.
    Begun { n: usize, prompt: Option<String> },
    /// It has a result.
    Made { n: usize, prompt: Option<String>, key: String, stored: Stored, cached: bool },
}

impl Told {
    /// Which stage.
    pub(crate) fn index(&self) -> usize {
        match self {
            Self::Begun { n, .. } | Self::Made { n, .. } => *n,
        }
    }
}

impl Inner {
    /// A run tells what the model is shown.
    pub(crate) fn show(&mut self, run: i64, name: EventName, data: Value) -> Result<Vec<Event>, JobError> {
        let told = self.store.tell(run, name, &data);
        self.runs.entry(run).and_modify(|run| run.told.push(Missed::Event(name, data)));
        told
    }

    /// A run tells of a stage.
    pub(crate) fn stage(&mut self, run: i64, told: Told) -> Result<Vec<Event>, JobError> {
        let events = self.store.stage(run, &told);
        self.runs.entry(run).and_modify(|run| {
            // The answer belongs to the stage that has ended.
            let text = run.text.take().map(|text| said(&text));
            run.told.extend(text);
            run.told.push(Missed::Stage(told));
        });
        events
    }

    /// What a job is told that another one's result answers. What a question was answered from belongs to the answer, as
    /// the steps of a drawing do not.
    pub(super) fn recall(&self, task: &Task, other: JobId) -> Result<Vec<Missed>, JobError> {
        let shown = match task {
            Task::Understand(_) | Task::Pipeline(_) => self.store.shown(other)?,
            Task::Image(_) | Task::Video(_) => Vec::new(),
        };
        let shown = shown.into_iter().map(|(name, data)| Missed::Event(name, data));
        let Task::Pipeline(task) = task else { return Ok(shown.collect()) };
        let made = pipeline::recalled(task, self.store.stages(other)?).into_iter().map(Missed::Stage);
        Ok(shown.chain(made).collect())
    }

    /// What a run was doing is done.
    pub(crate) fn leave(&mut self, run: i64) {
        self.runs.entry(run).and_modify(|run| run.doing = None);
    }

    /// A result that is there already. `has` says whether its file is.
    pub(crate) fn found(&self, cache_key: &str, files: &Files) -> Result<Option<Found>, JobError> {
        Ok(self.store.made(cache_key)?.into_iter().find(|found| files.has(&found.stored.sha256)))
    }
}

impl Run {
    pub(crate) fn new(cache_key: String, cancel: CancelToken) -> Self {
        Self { cache_key, cancel, doing: None, told: Vec::new(), text: None }
    }

    /// The run has told more of the answer.
    pub(crate) fn hear(&mut self, text: &str, index: u32) {
        let heard = self.text.get_or_insert_default();
        if index == 0 {
            heard.clear();
        }
        heard.push_str(text);
    }

    pub(super) fn missed(&self) -> Vec<Missed> {
        self.told.iter().cloned().chain(self.text.as_deref().map(said)).collect()
    }
}

/// An answer so far, in one piece.
fn said(text: &str) -> Missed {
    Missed::Event(EventName::Token, json!({"text": text, "index": 0}))
}
