//! Jobs, events, the queue and the worker that runs models.
//!
//! A client hands a [`Submission`] to an [`Engine`], which stores it, runs it through a [`Runner`] and publishes numbered
//! [`Event`]s. Two engines: [`EmbeddedEngine`] (SQLite and files in one folder, worker threads) and [`InlineEngine`] (for
//! tests). Nothing here needs an async runtime; `docs/protocol.md` describes the JSON.

mod canonical;
mod embedded;
mod engine;
mod error;
mod event;
mod feed;
mod files;
mod inline;
mod intake;
mod job;
mod list_params;
mod pipeline;
mod prompts;
mod runs;
mod schema;
mod store;
mod submission;
mod task;
mod upload;
pub mod worker;

pub use embedded::{EmbeddedConfig, EmbeddedEngine};
pub use engine::{Engine, JobPage, ListQuery, ResultFile, Stats, Submitted};
pub use error::{ErrorKind, JobError};
pub use event::{Event, EventName};
pub use feed::{Next, Subscription};
pub use inline::InlineEngine;
pub use job::{
    Job, JobId, JobKind, JobRequest, JobView, Phase, Progress, ResultView, StageState, StageView, State, Task,
};
pub use list_params::ListParams;
pub use prompts::{image_prompt, video_prompt};
pub use submission::Submission;
pub use task::MAX_PROMPT_CHARS;
pub use task::image::{ImageOptions, ImageTask, MediaRef};
pub use task::pipeline::{PIPELINE_QUESTION, PipelineModels, PipelineOptions, PipelineTask, STAGES};
pub use task::understand::{MAX_MEDIA, MediaInfo, MediaType, Role, Turn, UnderstandOptions, UnderstandTask};
pub use task::video::{StgMode, VideoOptions, VideoTask};
pub use upload::{Incoming, Received, Upload};
pub use worker::{
    CancelToken, ModelInfo, News, Output, Prepared, Preview, RunContext, Runner, UnderstandDefaults, VideoDefaults,
};
