//! What a job is: its request, its states and the view of it that clients see.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{ErrorKind, ImageTask, JobError, MediaInfo, PipelineTask, STAGES, UnderstandTask, VideoTask};

/// The id of a job; ids sort by the time they were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(Uuid);

impl JobId {
    /// A new id.
    pub(crate) fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for JobId {
    type Err = JobError;

    /// # Errors
    /// [`ErrorKind::UnknownJob`]: what is not an id cannot be the id of a job.
    fn from_str(text: &str) -> Result<Self, JobError> {
        // The hyphenated form only, so that one job has one address.
        match Uuid::try_parse(text) {
            Ok(id) if text.len() == 36 => Ok(Self(id)),
            _ => Err(unknown_job(&text.chars().take(64).collect::<String>())),
        }
    }
}

/// [`ErrorKind::UnknownJob`] for this id.
pub(crate) fn unknown_job(id: &dyn fmt::Display) -> JobError {
    let message = format!("there is no job {id}: ids come from submitting one, and old jobs are forgotten");
    JobError::new(ErrorKind::UnknownJob, message)
}

/// What is asked of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobKind {
    /// Media and a question to text.
    Understand,
    /// Text (and an image, and a mask) to an image.
    Image,
    /// Text (and a first image) to a video.
    Video,
    /// Media to text to image to video.
    Pipeline,
}

impl JobKind {
    /// The name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Understand => "understand",
            Self::Image => "image",
            Self::Video => "video",
            Self::Pipeline => "pipeline",
        }
    }

    /// The stage of a pipeline with this name.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for any other name.
    pub fn stage(name: &str) -> Result<Self, JobError> {
        STAGES.into_iter().find(|stage| stage.as_str() == name).ok_or_else(|| {
            let names = STAGES.map(Self::as_str).join(", ");
            let name: String = name.chars().take(64).collect();
            JobError::new(ErrorKind::NotFound, format!("there is no stage `{name}`: there are {names}"))
        })
    }
}

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Waits for a worker.
    Queued,
    /// A worker has it.
    Running,
    /// There is a result.
    Finished,
    /// There is an error.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
    /// The server stopped while it ran; it waits to run again.
    Interrupted,
    /// It finished, and the result's bytes are gone.
    Expired,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 7] =
        [Self::Queued, Self::Running, Self::Finished, Self::Failed, Self::Cancelled, Self::Interrupted, Self::Expired];

    /// The name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
            Self::Expired => "expired",
        }
    }

    /// Nothing more will happen to a job in this state.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Finished | Self::Failed | Self::Cancelled | Self::Expired)
    }

    /// The job waits for a worker.
    pub fn is_waiting(self) -> bool {
        matches!(self, Self::Queued | Self::Interrupted)
    }
}

impl FromStr for State {
    type Err = JobError;

    fn from_str(text: &str) -> Result<Self, JobError> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::as_str).join(", ");
            JobError::new(ErrorKind::InvalidOption, format!("`{text}` is not a state: it is one of {names}"))
        })
    }
}

/// What is to be made, without the bytes of its media.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobRequest {
    /// Which model; `None` is the default one.
    pub model: Option<String>,
    /// Higher runs first.
    pub priority: i32,
    /// The task, and what belongs to it alone.
    #[serde(flatten)]
    pub task: Task,
}

/// What is asked, by kind of job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Task {
    /// A picture from words.
    Image(ImageTask),
    /// An answer to a question about media.
    Understand(UnderstandTask),
    /// A video from words.
    Video(VideoTask),
    /// Media to text to a picture to a video.
    Pipeline(Box<PipelineTask>),
}

impl JobRequest {
    /// Which kind of job this is.
    pub fn kind(&self) -> JobKind {
        match self.task {
            Task::Image(_) => JobKind::Image,
            Task::Understand(_) => JobKind::Understand,
            Task::Video(_) => JobKind::Video,
            Task::Pipeline(_) => JobKind::Pipeline,
        }
    }

    /// The hashes of every upload that the job needs.
    pub fn uploads(&self) -> Vec<&str> {
        match &self.task {
            Task::Image(task) => [&task.image, &task.mask].into_iter().flatten().map(|m| m.sha256.as_str()).collect(),
            Task::Video(task) => task.image.iter().map(|image| image.sha256.as_str()).collect(),
            Task::Understand(_) | Task::Pipeline(_) => self.media().iter().map(|media| media.sha256.as_str()).collect(),
        }
    }

    /// The videos and pictures that the job is about.
    pub fn media(&self) -> &[MediaInfo] {
        match &self.task {
            Task::Understand(task) => &task.media,
            Task::Pipeline(task) => &task.media,
            Task::Image(_) | Task::Video(_) => &[],
        }
    }

    /// Draws a seed where the task is random and names none, so that what it made can be made again.
    pub(crate) fn draw_seed(&mut self) {
        // 53 bits, which every JSON reader keeps exactly.
        let draw = || rand::random::<u64>() >> 11;
        match &mut self.task {
            Task::Image(task) => _ = task.options.seed.get_or_insert_with(draw),
            Task::Understand(task) if task.options.is_sampled() => _ = task.options.seed.get_or_insert_with(draw),
            Task::Understand(_) => {}
            Task::Video(task) => _ = task.options.seed.get_or_insert_with(draw),
            Task::Pipeline(task) => {
                let options = &mut task.options;
                let seed = *options.seed.get_or_insert_with(draw);
                options.image.seed.get_or_insert(seed);
                options.video.seed.get_or_insert(seed);
                if options.understand.is_sampled() {
                    options.understand.seed.get_or_insert(seed);
                }
            }
        }
    }
}

/// A job as a runner gets it.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// The first of the jobs that share this run.
    pub id: JobId,
    /// The request with every default filled in.
    pub request: JobRequest,
    /// Where the uploads are, as [`JobRequest::uploads`] lists them.
    pub files: Vec<PathBuf>,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps done.
    pub step: u32,
    /// Steps in all.
    pub total: u32,
    /// Estimated time left in milliseconds.
    pub eta_ms: Option<u64>,
    /// What the steps are of; only of runs that do more than one thing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
}

/// The parts of making a video, each with steps of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The prompt is read.
    Text,
    /// The first picture is read.
    Encode,
    /// The video takes shape.
    Denoise,
    /// What has taken shape becomes pixels.
    Decode,
}

impl Phase {
    const ALL: [Self; 4] = [Self::Text, Self::Encode, Self::Denoise, Self::Decode];

    /// The name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Encode => "encode",
            Self::Denoise => "denoise",
            Self::Decode => "decode",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == name)
    }
}

/// Where the result is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultView {
    /// Path on this server.
    pub url: String,
    /// `image/png`.
    pub content_type: String,
    /// How many bytes.
    pub bytes: u64,
    /// SHA-256 of the bytes, lower-case hex.
    pub sha256: String,
    /// Whether an earlier job had made it already.
    pub cached: bool,
    /// The answer of an `understand` job, and of the first stage of a `pipeline`; other results have no such field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Where a stage of a pipeline is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StageState {
    /// Its turn has not come, or the job waits.
    Waiting,
    /// It is being done.
    Running,
    /// There is a result.
    Finished,
    /// The job failed here.
    Failed,
    /// The job ended before.
    Cancelled,
    /// The result's bytes are gone.
    Expired,
}

/// A stage of a `pipeline` job as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StageView {
    /// Which task.
    pub name: JobKind,
    /// Which stage, counted from 0.
    pub index: usize,
    /// How many stages there are.
    pub total: usize,
    /// Where it is.
    pub state: StageState,
    /// The prompt that came of the text, once there is one; the question of the first stage.
    pub prompt: Option<String>,
    /// Once finished.
    pub result: Option<ResultView>,
}

/// A job as clients see it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JobView {
    /// Its id.
    pub id: JobId,
    /// Which task.
    pub kind: JobKind,
    /// The model that does it.
    pub model: Option<String>,
    /// Where it is in its life.
    pub state: State,
    /// Milliseconds since 1970, as all times.
    pub created_at: i64,
    /// When a worker took it (the last time, if it was interrupted).
    pub started_at: Option<i64>,
    /// When it finished, failed or was cancelled.
    pub finished_at: Option<i64>,
    /// 1 for the job that runs next; `None` unless it waits.
    pub position: Option<u64>,
    /// `None` before the first step.
    pub progress: Option<Progress>,
    /// Once finished.
    pub result: Option<ResultView>,
    /// Once failed.
    pub error: Option<JobError>,
    /// Number of its newest event.
    pub last_event: u64,
    /// The stages of a `pipeline` job; other jobs have no such field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stages: Option<Vec<StageView>>,
    /// The request with every default filled in.
    pub request: JobRequest,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_id_is_an_id() {
        let id = JobId::generate();
        assert_eq!(id.to_string().parse::<JobId>().unwrap(), id);
        let simple = id.to_string().replace('-', "");
        for wrong in ["", "1", "{}", simple.as_str(), &format!("urn:uuid:{id}"), &"é".repeat(36)] {
            assert_eq!(wrong.parse::<JobId>().unwrap_err().kind, ErrorKind::UnknownJob, "{wrong}");
        }
    }

    #[test]
    fn states_are_written_as_in_the_protocol() {
        for state in State::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
            assert_eq!(state.as_str().parse::<State>().unwrap(), state);
        }
        assert!("done".parse::<State>().unwrap_err().message.contains("finished"));
    }
}
