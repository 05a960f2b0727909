//! A runner without a model: the prompt says how the run goes.
#![allow(dead_code, reason = "each test file uses its part of it")]

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use sango_jobs::{
    EmbeddedConfig, EmbeddedEngine, Engine, ErrorKind, ImageTask, Job, JobError, JobId, JobKind, JobRequest, JobView,
    ModelInfo, Next, Output, Phase, Prepared, Preview, RunContext, Runner, State, Submission, Task, UnderstandTask,
    VideoTask,
};
use serde_json::json;

pub const PATIENCE: Duration = Duration::from_secs(20);

/// Prompts that begin with `hold` wait before each step until [`release`](Self::release); `panic` and `fail` do that, and
/// `panic once` does it in the first run only; `big` makes 2 MB. Questions are answered word by word with themselves; those
/// that begin with `hold` wait before each word but the first two.
#[derive(Default)]
pub struct FakeRunner {
    pub runs: AtomicU32,
    pub order: Mutex<Vec<String>>,
    gate: Mutex<bool>,
    opened: Condvar,
}

impl FakeRunner {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn release(&self) {
        *self.gate.lock().unwrap() = true;
        self.opened.notify_all();
    }

    pub fn count(&self) -> u32 {
        self.runs.load(Ordering::SeqCst)
    }

    fn hold(&self, context: &RunContext) {
        let mut open = self.gate.lock().unwrap();
        while !*open && !context.is_cancelled() {
            open = self.opened.wait_timeout(open, Duration::from_millis(2)).unwrap().0;
        }
    }
}

impl Runner for FakeRunner {
    fn prepare(&self, mut request: JobRequest) -> Result<Prepared, JobError> {
        if request.model.as_deref().is_some_and(|model| model != "fake") {
            return Err(JobError::new(ErrorKind::UnknownModel, "there is only `fake`"));
        }
        request.model = Some("fake".into());
        match &mut request.task {
            Task::Image(task) => _ = task.options.steps.get_or_insert(3),
            Task::Understand(task) => _ = task.options.max_tokens.get_or_insert(9),
            Task::Video(task) => _ = task.options.frames.get_or_insert(9),
            Task::Pipeline(_) => unreachable!("the engine asks for its stages"),
        }
        Ok(Prepared { request, model_hash: "fake-1".into() })
    }

    fn run(&self, job: &Job, context: &RunContext) -> Result<Output, JobError> {
        let earlier_runs = self.runs.fetch_add(1, Ordering::SeqCst);
        context.begin();
        match &job.request.task {
            Task::Image(task) => self.draw(task, job, earlier_runs, context),
            Task::Understand(task) => self.answer(task, context),
            Task::Video(task) => self.film(task, job, context),
            Task::Pipeline(_) => unreachable!("the engine runs its stages"),
        }
    }

    fn models(&self) -> Result<Vec<ModelInfo>, JobError> {
        Ok(vec![ModelInfo {
            name: "fake".into(),
            kind: "amused".into(),
            tasks: vec![JobKind::Image, JobKind::Understand, JobKind::Video],
            default: true,
            loaded: true,
            ..ModelInfo::default()
        }])
    }
}

impl FakeRunner {
    fn draw(&self, task: &ImageTask, job: &Job, earlier_runs: u32, context: &RunContext) -> Result<Output, JobError> {
        let prompt = task.prompt.as_str();
        self.order.lock().unwrap().push(prompt.to_owned());
        let total = task.options.steps.unwrap_or(3);
        for step in 1..=total {
            if prompt.starts_with("hold") {
                self.hold(context);
            }
            if let ControlFlow::Break(()) = context.progress(step, total, Some(PREVIEW)) {
                return Err(JobError::new(ErrorKind::Cancelled, "stopped"));
            }
        }
        match prompt {
            "panic" => panic!("on purpose"),
            "panic once" if earlier_runs == 0 => panic!("on purpose"),
            "fail" => Err(JobError::new(ErrorKind::ModelBroken, "on purpose")),
            "big" => Ok(Output { content_type: "image/png".into(), bytes: vec![7; 2 << 20], text: None }),
            _ => {
                let seed = task.options.seed.unwrap_or(0);
                let upload = job.files.first().map_or(0, |path| std::fs::read(path).unwrap().len());
                let bytes = format!("{prompt} {seed} {upload}").into_bytes();
                Ok(Output { content_type: "image/png".into(), bytes, text: None })
            }
        }
    }

    /// Frames of video are made like steps of a drawing; `dim` is what there is of the picture that it begins with.
    fn film(&self, task: &VideoTask, job: &Job, context: &RunContext) -> Result<Output, JobError> {
        self.order.lock().unwrap().push(format!("video: {}", task.prompt));
        for (phase, total) in [(Phase::Denoise, 3), (Phase::Decode, 2)] {
            context.begin_phase(phase);
            for step in 1..=total {
                if task.prompt.contains("hold") {
                    self.hold(context);
                }
                let preview = Some(PREVIEW).filter(|_| phase == Phase::Denoise);
                if let ControlFlow::Break(()) = context.progress(step, total, preview) {
                    return Err(JobError::new(ErrorKind::Cancelled, "stopped"));
                }
            }
        }
        if task.prompt.contains("broken film") {
            return Err(JobError::new(ErrorKind::ModelBroken, "on purpose"));
        }
        let seed = task.options.seed.unwrap_or(0);
        let begins = job
            .files
            .first()
            .map_or("nothing".into(), |path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned());
        let bytes = format!("film of {} {seed} after {begins}", task.prompt).into_bytes();
        Ok(Output { content_type: "video/mp4".into(), bytes, text: None })
    }

    fn answer(&self, task: &UnderstandTask, context: &RunContext) -> Result<Output, JobError> {
        let stopped = |flow: ControlFlow<()>| match flow {
            ControlFlow::Break(()) => Err(JobError::new(ErrorKind::Cancelled, "stopped")),
            ControlFlow::Continue(()) => Ok(()),
        };
        stopped(context.frames(json!([{"media": 0, "index": 0, "time": 0.0, "timestamp": "00:00"}])))?;
        stopped(context.progress(1, 1, None))?;
        self.order.lock().unwrap().push(format!("question: {}", task.question));
        for (index, word) in task.question.split_inclusive(' ').enumerate() {
            if index >= 2 && task.question.starts_with("hold") {
                self.hold(context);
            }
            stopped(context.token(word, index as u32))?;
        }
        let text = Some(task.question.clone());
        Ok(Output { content_type: "application/json".into(), bytes: json!({"text": text}).to_string().into(), text })
    }
}

const PREVIEW: Preview<'_> = Preview { content_type: "image/png", bytes: b"png" };

/// The picture that questions are about.
pub fn picture() -> Vec<u8> {
    sango_media::encode_png(&sango_media::RgbImage::new(4, 2), &[]).unwrap()
}

/// A question about a picture.
pub fn question(text: &str) -> Submission {
    let mut submission = Submission::from_json(json!({"kind": "understand", "question": text})).unwrap();
    submission.media = vec![sango_jobs::Upload::Bytes(picture())];
    submission
}

/// A pipeline about a picture. The fake answers a question with itself.
pub fn pipeline(text: &str) -> Submission {
    let job = json!({"kind": "pipeline", "question": text, "options": {"seed": 1}});
    let mut submission = Submission::from_json(job).unwrap();
    submission.media = vec![sango_jobs::Upload::Bytes(picture())];
    submission
}

/// An image job with seed 1.
pub fn image(prompt: &str) -> Submission {
    with(prompt, json!({}))
}

/// An image job with more fields.
pub fn with(prompt: &str, more: serde_json::Value) -> Submission {
    let mut job = json!({"kind": "image", "prompt": prompt, "options": {"seed": 1}});
    job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Submission::from_json(job).unwrap()
}

pub fn open(folder: &Path, runner: &Arc<FakeRunner>) -> EmbeddedEngine {
    EmbeddedEngine::open(EmbeddedConfig::new(folder), Arc::clone(runner) as Arc<dyn Runner>).unwrap()
}

/// Waits until the job has ended.
pub fn ended(engine: &dyn Engine, id: JobId) -> JobView {
    wait_for(engine, id, State::has_ended)
}

/// Waits until the job's state is as asked.
pub fn wait_for(engine: &dyn Engine, id: JobId, wanted: impl Fn(State) -> bool) -> JobView {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let job = engine.get(id).unwrap();
        if wanted(job.state) {
            return job;
        }
        assert!(Instant::now() < deadline, "still waiting: {job:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What is said of an image job.
pub fn image_task(request: &JobRequest) -> &ImageTask {
    match &request.task {
        Task::Image(task) => task,
        other => panic!("{other:?}"),
    }
}

/// The same, to change it.
pub fn image_task_mut(request: &mut JobRequest) -> &mut ImageTask {
    match &mut request.task {
        Task::Image(task) => task,
        other => panic!("{other:?}"),
    }
}

/// All events of a job until its end, as `name` strings, checking that the numbers have no gap.
pub fn follow(engine: &dyn Engine, id: JobId, after: u64) -> Vec<&'static str> {
    let mut subscription = engine.subscribe(id, after).unwrap();
    let mut names = Vec::new();
    loop {
        match subscription.next_blocking(PATIENCE) {
            Next::Event(event) => {
                assert_eq!(event.n, after + names.len() as u64 + 1);
                names.push(event.event.as_str());
            }
            Next::Ended => return names,
            Next::TimedOut => panic!("no event after {names:?}"),
        }
    }
}
