//! What a job is: its request, its states and the view of it that clients see.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{ErrorKind, JobError};

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

/// How an image is made. What is `None` takes the model's default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImageOptions {
    /// What the picture should not show.
    pub negative_prompt: Option<String>,
    /// Denoising steps.
    pub steps: Option<u32>,
    /// Weight of the prompt; 1 or less turns guidance off.
    pub guidance_scale: Option<f64>,
    /// Where all randomness comes from.
    pub seed: Option<u64>,
    /// Pixels.
    pub width: Option<u32>,
    /// Pixels.
    pub height: Option<u32>,
    /// Of the token masking, at the first and the last step.
    pub temperature: Option<[f64; 2]>,
    /// How much of the input image is drawn anew, 0 to 1.
    pub strength: Option<f64>,
}

/// An uploaded image, kept as a file under its own hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaRef {
    /// SHA-256 of the bytes, lower-case hex.
    pub sha256: String,
    /// How many bytes.
    pub bytes: u64,
    /// `image/png` and the like.
    pub content_type: String,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

/// What is to be made, without the bytes of its media.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobRequest {
    /// Which task.
    pub kind: JobKind,
    /// Which model; `None` is the default one.
    pub model: Option<String>,
    /// What the picture shows.
    pub prompt: String,
    /// How it is made.
    pub options: ImageOptions,
    /// The picture to start from.
    pub image: Option<MediaRef>,
    /// Where that picture is drawn anew.
    pub mask: Option<MediaRef>,
    /// Higher runs first.
    pub priority: i32,
}

/// A job as a runner gets it.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// The first of the jobs that share this run.
    pub id: JobId,
    /// The request with every default filled in.
    pub request: JobRequest,
    /// The file of `request.image`.
    pub image: Option<std::path::PathBuf>,
    /// The file of `request.mask`.
    pub mask: Option<std::path::PathBuf>,
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

    #[test]
    fn options_refuse_unknown_names() {
        let error = serde_json::from_str::<ImageOptions>(r#"{"stepz": 3}"#).unwrap_err();
        assert!(error.to_string().contains("stepz") && error.to_string().contains("steps"), "{error}");
    }
}
