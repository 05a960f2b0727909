//! `pipeline` jobs: what they ask, and what of it can be checked without a model.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::image::ImageOptions;
use super::understand::{UnderstandOptions, UnderstandTask, uploads};
use super::video::VideoOptions;
use super::{check_prompt, invalid};
use crate::{JobError, JobKind, MediaInfo, Submission};

/// What is asked about the media when the job does not say.
pub const PIPELINE_QUESTION: &str = "What happens?";

/// The stages of a pipeline, in their order: media to text, text to a picture, both to a video.
pub const STAGES: [JobKind; 3] = [JobKind::Understand, JobKind::Image, JobKind::Video];

/// Media to text, text to a picture, text and picture to a video.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PipelineTask {
    /// What is asked about the media.
    pub question: String,
    /// Which model does each stage.
    pub models: PipelineModels,
    /// How each stage is done.
    pub options: PipelineOptions,
    /// The videos and pictures that it begins with.
    pub media: Vec<MediaInfo>,
}

/// The models of a pipeline's stages; `None` is the default one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PipelineModels {
    /// Reads the media.
    pub understand: Option<String>,
    /// Draws the picture.
    pub image: Option<String>,
    /// Makes the video.
    pub video: Option<String>,
}

/// The options of a pipeline's stages, each as those of a job of its kind.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PipelineOptions {
    /// Of every stage that has no seed of its own.
    pub seed: Option<u64>,
    /// How the media are read.
    pub understand: UnderstandOptions,
    /// How the picture is drawn.
    pub image: ImageOptions,
    /// How the video is made.
    pub video: VideoOptions,
}

impl PipelineTask {
    /// Checks every range. The media are checked where they are taken in.
    pub(crate) fn check(&self) -> Result<(), JobError> {
        check_prompt("question", &self.question, "say what you want to know, or leave it out")?;
        let PipelineOptions { understand, image, video, .. } = &self.options;
        let asked =
            UnderstandTask { question: self.question.clone(), options: understand.clone(), ..Default::default() };
        asked.check().map_err(|error| of_stage(JobKind::Understand, error))?;
        image.check().map_err(|error| of_stage(JobKind::Image, error))?;
        if image.strength.is_some() {
            return Err(of_stage(JobKind::Image, invalid("`options.strength` is of pictures that start from another")));
        }
        video.check().map_err(|error| of_stage(JobKind::Video, error))
    }
}

/// An error of a stage says so.
pub(crate) fn of_stage(stage: JobKind, error: JobError) -> JobError {
    JobError::new(error.kind, format!("stage `{}`: {}", stage.as_str(), error.message))
}

/// The fields of a `pipeline` job's JSON that are its own.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wire {
    #[serde(rename = "kind")]
    _kind: JobKind,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    question: Option<String>,
    #[serde(default)]
    models: Option<PipelineModels>,
    #[serde(default)]
    options: Option<Value>,
    #[serde(default)]
    media: Option<Value>,
    #[serde(default)]
    idempotency_key: Option<String>,
    #[serde(default)]
    priority: Option<i32>,
}

impl Wire {
    pub(crate) fn submission(self) -> Result<Submission, JobError> {
        if self.model.is_some() {
            return Err(invalid("`model`: a pipeline has three; name them in `models`"));
        }
        let task = PipelineTask {
            question: self.question.unwrap_or_else(|| PIPELINE_QUESTION.to_owned()),
            models: self.models.unwrap_or_default(),
            options: options(self.options)?,
            media: Vec::new(),
        };
        Ok(Submission {
            media: uploads(self.media)?,
            idempotency_key: self.idempotency_key,
            ..Submission::new(crate::Task::Pipeline(Box::new(task)), None, self.priority)
        })
    }
}

/// The options; those of a stage may be `null`.
fn options(options: Option<Value>) -> Result<PipelineOptions, JobError> {
    let Some(mut options) = options else { return Ok(PipelineOptions::default()) };
    if let Some(fields) = options.as_object_mut() {
        let stages = STAGES.map(JobKind::as_str);
        // serde would take the fields from a list, too, in their order.
        if let Some(name) = stages.iter().find(|name| fields.get(**name).is_some_and(Value::is_array)) {
            return Err(crate::submission::not_a_job(&format!("`options.{name}` is a list, not an object")));
        }
        fields.retain(|name, value| !(value.is_null() && stages.contains(&name.as_str())));
    }
    match options {
        Value::Null => Ok(PipelineOptions::default()),
        options => serde_json::from_value(options).map_err(|error| crate::submission::not_a_job(&error)),
    }
}
