//! `pipeline` jobs: media to text, text to a picture, text and picture to a video.
//!
//! Each stage is prepared, run and cached as a job of its kind would be, and its result is stored before the next one
//! begins. A run that begins anew therefore finds what earlier ones made, and goes on from there.

use std::sync::Arc;
use std::time::Duration;

use crate::canonical::cache_key;
use crate::embedded::{Shared, Told};
use crate::prompts::{image_prompt, video_prompt};
use crate::runs::{keep, wait_for_turn};
use crate::schema::{StageRow, Stored};
use crate::task::pipeline::{STAGES, of_stage};
use crate::worker::{Prepared, RunContext, Runner};
use crate::{
    ErrorKind, ImageTask, Job, JobError, JobId, JobKind, JobRequest, MediaRef, PipelineTask, StageState, StageView,
    State, Task, UnderstandTask, VideoTask,
};

/// Has every stage prepared: each gets its model and every default, and what a model cannot do is refused now, not when
/// an hour's work is behind it.
pub(crate) fn prepare(runner: &dyn Runner, request: JobRequest) -> Result<Prepared, JobError> {
    let Task::Pipeline(mut task) = request.task else { return runner.prepare(request) };
    let mut hashes = Vec::new();
    // Stands for what the stage before will make.
    let (text, mut picture) = ("a caption".to_owned(), None);
    for kind in STAGES {
        let stage = stage_request(&task, request.priority, kind, &text, picture.as_ref());
        let prepared = runner.prepare(stage).map_err(|error| of_stage(kind, error))?;
        hashes.push(prepared.model_hash);
        let model = prepared.request.model;
        match prepared.request.task {
            Task::Understand(stage) => (task.options.understand, task.models.understand) = (stage.options, model),
            Task::Image(stage) => {
                let (width, height) = (stage.options.width.unwrap_or(1), stage.options.height.unwrap_or(1));
                picture = Some(MediaRef { width, height, ..placeholder() });
                (task.options.image, task.models.image) = (stage.options, model);
            }
            Task::Video(stage) => (task.options.video, task.models.video) = (stage.options, model),
            Task::Pipeline(_) => {}
        }
    }
    Ok(Prepared { request: JobRequest { task: Task::Pipeline(task), ..request }, model_hash: hashes.join(" ") })
}

fn placeholder() -> MediaRef {
    MediaRef { sha256: String::new(), bytes: 0, content_type: "image/png".into(), width: 1, height: 1 }
}

/// A stage as a job of its own, after `text` has been understood and `picture` drawn.
fn stage_request(
    task: &PipelineTask,
    priority: i32,
    kind: JobKind,
    text: &str,
    picture: Option<&MediaRef>,
) -> JobRequest {
    let PipelineTask { question, models, options, media } = task;
    let (model, task) = match kind {
        JobKind::Image => {
            let task = ImageTask { prompt: image_prompt(text), options: options.image.clone(), ..ImageTask::default() };
            (&models.image, Task::Image(task))
        }
        JobKind::Video => {
            let (prompt, options) = (video_prompt(text), options.video.clone());
            (&models.video, Task::Video(VideoTask { prompt, options, image: picture.cloned() }))
        }
        JobKind::Understand | JobKind::Pipeline => {
            let (question, options, media) = (question.clone(), options.understand.clone(), media.clone());
            (&models.understand, Task::Understand(UnderstandTask { question, options, media, messages: Vec::new() }))
        }
    };
    JobRequest { model: model.clone(), priority, task }
}

/// Does the stages one after the other. What the last one makes is the result.
pub(crate) fn run(
    shared: &Arc<Shared>,
    run: i64,
    job: &Job,
    task: &PipelineTask,
    context: &RunContext,
) -> Result<Stored, JobError> {
    let mut made: Vec<Stored> = Vec::new();
    for (n, kind) in STAGES.into_iter().enumerate() {
        let stored = stage(shared, run, job, (task, n, kind), &made, context).map_err(|error| of_stage(kind, error))?;
        made.push(stored);
    }
    let text = made.first().and_then(|stored| stored.text.clone());
    let last = made.pop().ok_or_else(|| JobError::new(ErrorKind::Internal, "a pipeline without stages"))?;
    Ok(Stored { text, ..last })
}

fn stage(
    shared: &Arc<Shared>,
    run: i64,
    job: &Job,
    (task, n, kind): (&PipelineTask, usize, JobKind),
    made: &[Stored],
    context: &RunContext,
) -> Result<Stored, JobError> {
    let text = made.first().and_then(|stored| stored.text.as_deref()).unwrap_or("");
    if n > 0 && text.trim().is_empty() {
        let message = "nothing was understood, so there is nothing to show: ask another question";
        return Err(JobError::new(ErrorKind::InvalidOption, message));
    }
    let picture = made.get(1).map(|stored| MediaRef {
        sha256: stored.sha256.clone(),
        bytes: stored.bytes,
        content_type: stored.content_type.clone(),
        width: task.options.image.width.unwrap_or(1),
        height: task.options.image.height.unwrap_or(1),
    });
    let request = stage_request(task, job.request.priority, kind, text, picture.as_ref());
    let Prepared { request, model_hash } = shared.runner.prepare(request)?;
    let key = cache_key(&request, &model_hash);
    let prompt = prompt(task, n, Some(text));
    if context.is_cancelled() {
        return Err(JobError::new(ErrorKind::Cancelled, "the pipeline was stopped"));
    }
    let found = wait_for_turn(shared, run, &key, context)?;
    let mut guard = shared.lock();
    let events = guard.stage(run, Told::Begun { n, prompt: prompt.clone() })?;
    shared.publish(&mut guard, events);
    let (stored, cached) = match found {
        Some(found) => {
            // What a text was read from belongs to it.
            if kind == JobKind::Understand {
                for (name, data) in guard.store.shown(found.job)? {
                    let events = guard.show(run, name, data)?;
                    shared.publish(&mut guard, events);
                }
            }
            (found.stored, true)
        }
        None => {
            drop(guard);
            let files = match kind {
                JobKind::Video => made.get(1).map(|stored| shared.files.path(&stored.sha256)).into_iter().collect(),
                JobKind::Image => Vec::new(),
                JobKind::Understand | JobKind::Pipeline => job.files.clone(),
            };
            let output = shared.runner.run(&Job { id: job.id, request, files }, context)?;
            context.flush();
            guard = shared.lock();
            (keep(shared, output)?, false)
        }
    };
    guard.leave(run);
    let events = guard.stage(run, Told::Made { n, prompt, key, stored: stored.clone(), cached })?;
    shared.publish(&mut guard, events);
    Ok(stored)
}

/// What the stage is asked: the question, or the prompt that came of the text.
fn prompt(task: &PipelineTask, n: usize, text: Option<&str>) -> Option<String> {
    match STAGES[n] {
        JobKind::Image => text.map(image_prompt),
        JobKind::Video => text.map(video_prompt),
        JobKind::Understand | JobKind::Pipeline => Some(task.question.clone()),
    }
}

/// A stage as clients see it.
pub(crate) fn view(
    n: usize,
    state: StageState,
    prompt: Option<String>,
    made: Option<(&Stored, JobId, bool)>,
) -> StageView {
    let result = made.map(|(stored, id, cached)| stored.stage_view(id, STAGES[n], cached));
    StageView { name: STAGES[n], index: n, total: STAGES.len(), state, prompt, result }
}

/// The stages of a job in this state as clients see them; `has` says whether a result's file is still there.
pub(crate) fn views(
    id: JobId,
    task: &PipelineTask,
    state: State,
    rows: &[StageRow],
    has: impl Fn(&str) -> bool,
) -> Vec<StageView> {
    let text = rows.first().and_then(|row| row.stored.text.as_deref());
    let of = |n: usize| {
        let prompt = prompt(task, n, text);
        match rows.get(n) {
            Some(row) if has(&row.stored.sha256) => {
                view(n, StageState::Finished, prompt, Some((&row.stored, id, row.cached)))
            }
            Some(_) => view(n, StageState::Expired, prompt, None),
            None => {
                let state = match state {
                    State::Running if n == rows.len() => StageState::Running,
                    State::Failed if n == rows.len() => StageState::Failed,
                    State::Failed | State::Cancelled => StageState::Cancelled,
                    _ => StageState::Waiting,
                };
                view(n, state, prompt, None)
            }
        }
    };
    (0..STAGES.len()).map(of).collect()
}

/// What a pipeline is told that equals one that has finished with these stages.
pub(crate) fn recalled(task: &PipelineTask, rows: Vec<StageRow>) -> Vec<Told> {
    let text = rows.first().and_then(|row| row.stored.text.clone());
    let told = rows.into_iter().take(STAGES.len()).enumerate().map(|(n, row)| Told::Made {
        n,
        prompt: prompt(task, n, text.as_deref()),
        key: row.cache_key,
        stored: row.stored,
        cached: true,
    });
    told.collect()
}

/// How long a run waits before it looks again whether another one has made what it needs.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(20);
