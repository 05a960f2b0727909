//! The side of a job that does the work: what a runner is given and what it gives back.

mod image;
mod model_runner;
mod preview;
mod registry;
mod understand;
mod video;

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use crate::{ErrorKind, Job, JobError, JobRequest, Phase, Progress};

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
    /// With the model's name and every default filled in, but for a seed that the client left to chance.
    pub request: JobRequest,
    /// Identifies the model's weights: equal hashes make equal things of equal requests.
    pub model_hash: String,
}

/// What a run made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// `image/png`.
    pub content_type: String,
    /// The file's bytes.
    pub bytes: Vec<u8>,
    /// What there is to read in it, for the job's view.
    pub text: Option<String>,
}

/// A model as `/v1/models` shows it. What does not apply to its tasks is `None`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ModelInfo {
    /// The folder's name.
    pub name: String,
    /// Its architecture, `amused`, `smolvlm2` or `ltx-video`.
    pub kind: String,
    /// Which kinds of job it does.
    pub tasks: Vec<crate::JobKind>,
    /// Whether jobs of its kind that name no model get it.
    pub default: bool,
    /// Whether it is in memory.
    pub loaded: bool,
    /// Pixels, when the job names none.
    pub width: Option<u32>,
    /// Pixels, when the job names none.
    pub height: Option<u32>,
    /// Width and height must be multiples of this.
    pub multiple_of: Option<u32>,
    /// Steps, when the job names none.
    pub steps: Option<u32>,
    /// Guidance, when the job names none.
    pub guidance_scale: Option<f64>,
    /// Size of its weight files.
    pub bytes: u64,
    /// What `understand` jobs get when they name nothing else; other models have no such field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub understand: Option<UnderstandDefaults>,
    /// What `video` jobs get when they name nothing else; other models have no such field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub video: Option<VideoDefaults>,
}

/// What a `video` job gets of a model when it names nothing else, beside what [`ModelInfo`] has.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct VideoDefaults {
    /// Frames.
    pub frames: u32,
    /// Frames per second.
    pub fps: f64,
    /// A video has one frame more than a multiple of this.
    pub frames_multiple_of: u32,
}

/// What an `understand` job gets of a model when it names nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct UnderstandDefaults {
    /// Frames of a video.
    pub frames: u32,
    /// Frames of a second.
    pub fps: f64,
    /// Tokens of an answer.
    pub max_tokens: u32,
    /// Tokens that the model can read and write in all.
    pub context: u32,
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

/// What a run tells the engine.
#[derive(Debug, Clone, PartialEq)]
pub enum News<'a> {
    /// A step is done.
    Step {
        /// Which one.
        progress: Progress,
        /// How it looks.
        preview: Option<Preview<'a>>,
    },
    /// The frames that the model is shown, as they are in the result.
    Frames(Value),
    /// How one of them looks, counted from 1.
    Shown {
        /// Which one.
        step: u32,
        /// How it looks.
        preview: Preview<'a>,
    },
    /// More of the answer.
    Token {
        /// The words.
        text: &'a str,
        /// How many tokens came before them; 0 begins the answer anew.
        index: u32,
        /// How many tokens they are.
        count: u32,
    },
}

/// A small picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preview<'a> {
    /// `image/png` and the like.
    pub content_type: &'a str,
    /// The file's bytes.
    pub bytes: &'a [u8],
}

/// Where news go.
type Report = dyn Fn(News<'_>) + Send + Sync;

/// Tokens that come faster than this are told together, so that neither the store nor a socket is held up by them.
const TOKEN_PAUSE: Duration = Duration::from_millis(40);

/// Tokens that have not been told yet.
#[derive(Debug, Default)]
struct Untold {
    text: String,
    index: u32,
    count: u32,
    told_at: Option<Instant>,
}

/// What the steps are of, and since when how many of them have been done.
#[derive(Debug, Clone, Copy)]
struct Clock {
    phase: Option<Phase>,
    began: Instant,
    done: u32,
}

impl Clock {
    fn start(phase: Option<Phase>) -> Self {
        Self { phase, began: Instant::now(), done: 0 }
    }
}

/// A run's line to the engine: progress out, cancellation in.
pub struct RunContext {
    cancel: CancelToken,
    clock: Mutex<Clock>,
    untold: Mutex<Untold>,
    report: Box<Report>,
}

impl std::fmt::Debug for RunContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunContext").field("cancel", &self.cancel).finish_non_exhaustive()
    }
}

impl RunContext {
    /// A context that reports to `report` and stops when `cancel` is set.
    pub fn new(cancel: CancelToken, report: impl Fn(News<'_>) + Send + Sync + 'static) -> Self {
        Self { cancel, clock: Mutex::new(Clock::start(None)), untold: Mutex::default(), report: Box::new(report) }
    }

    /// Starts the clock of the estimate: call it when the model is loaded and the steps begin.
    pub fn begin(&self) {
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner) = Clock::start(None);
    }

    /// The same where a run has steps of more than one kind: those that follow are of `phase`.
    pub fn begin_phase(&self, phase: Phase) {
        self.count_from(phase, Instant::now(), 0);
    }

    /// [`begin_phase`](Self::begin_phase) for steps of which `done` are done, and the others took and take from `began`
    /// on: the first one of a phase can take longer, or is known only when it is over.
    pub fn count_from(&self, phase: Phase, began: Instant, done: u32) {
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner) = Clock { phase: Some(phase), began, done };
    }

    /// What tells the run to stop.
    pub fn cancel_token(&self) -> CancelToken {
        self.cancel.clone()
    }

    /// Whether the run should stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Reports that `step` of `total` is done, with a small picture if there is one. `Break` means: stop now.
    pub fn progress(&self, step: u32, total: u32, preview: Option<Preview<'_>>) -> ControlFlow<()> {
        if self.is_cancelled() {
            return ControlFlow::Break(());
        }
        let Clock { phase, began, done } = *self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        let eta_ms = (step > done).then(|| {
            let spent = began.elapsed().as_millis() as f64;
            (spent * f64::from(total.saturating_sub(step)) / f64::from(step - done)) as u64
        });
        (self.report)(News::Step { progress: Progress { step, total, eta_ms, phase }, preview });
        self.go_on()
    }

    /// Reports the frames that the model is shown. `Break` means: stop now.
    pub fn frames(&self, frames: Value) -> ControlFlow<()> {
        if !self.is_cancelled() {
            (self.report)(News::Frames(frames));
        }
        self.go_on()
    }

    /// Reports how a frame looks that the model is shown, counted from 1. `Break` means: stop now.
    pub fn preview(&self, step: u32, preview: Preview<'_>) -> ControlFlow<()> {
        if !self.is_cancelled() {
            (self.report)(News::Shown { step, preview });
        }
        self.go_on()
    }

    /// Reports token number `index` (from 0) of the answer, whose text may be empty while a character is not whole.
    /// `Break` means: stop now.
    pub fn token(&self, text: &str, index: u32) -> ControlFlow<()> {
        let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        if untold.count == 0 {
            untold.index = index;
        }
        untold.text.push_str(text);
        untold.count += 1;
        let now = Instant::now();
        if untold.told_at.is_none_or(|told| now.duration_since(told) >= TOKEN_PAUSE) {
            self.tell(&mut untold, now);
        }
        self.go_on()
    }

    /// Reports the tokens that have not been told yet.
    pub(crate) fn flush(&self) {
        let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        self.tell(&mut untold, Instant::now());
    }

    fn tell(&self, untold: &mut Untold, now: Instant) {
        let Untold { text, index, count, .. } =
            std::mem::replace(untold, Untold { told_at: Some(now), ..Untold::default() });
        // The first piece is told even where it has no text yet: it is what an answer that is begun anew begins with.
        if count > 0 && !self.is_cancelled() {
            (self.report)(News::Token { text: &text, index, count });
        }
    }

    fn go_on(&self) -> ControlFlow<()> {
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
        let context = RunContext::new(cancel.clone(), move |news| match news {
            News::Step { progress, .. } => log.lock().unwrap().push(progress),
            other => panic!("{other:?}"),
        });
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

    #[test]
    fn tokens_that_come_quickly_are_told_together_and_none_is_lost() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let context = RunContext::new(CancelToken::default(), move |news| match news {
            News::Token { text, index, count } => log.lock().unwrap().push((text.to_owned(), index, count)),
            other => panic!("{other:?}"),
        });
        for (index, text) in ["a ", "", "red ", "circle", " moves"].into_iter().enumerate() {
            assert!(context.token(text, index as u32).is_continue());
        }
        context.flush();
        context.flush();
        let told = std::mem::take(&mut *seen.lock().unwrap());
        assert_eq!(told[0], ("a ".to_owned(), 0, 1), "the first is told at once");
        assert_eq!(told.iter().map(|(text, ..)| text.as_str()).collect::<String>(), "a red circle moves");
        let mut next = 0;
        for (_, index, count) in told {
            assert_eq!(index, next);
            next += count;
        }
        assert_eq!(next, 5);
    }
}
