//! A runner without a model: the prompt says how the run goes.
#![allow(dead_code, reason = "each test file uses its part of it")]

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use sango_jobs::{
    EmbeddedConfig, EmbeddedEngine, Engine, ErrorKind, Job, JobError, JobId, JobKind, JobRequest, JobView, ModelInfo,
    Next, Output, Prepared, RunContext, Runner, State, Submission,
};
use serde_json::json;

pub const PATIENCE: Duration = Duration::from_secs(20);

/// Prompts that begin with `hold` wait before each step until [`release`](Self::release); `panic` and `fail` do that, and
/// `panic once` does it in the first run only; `big` makes 2 MB.
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
        request.options.steps.get_or_insert(3);
        Ok(Prepared { request, model_hash: "fake-1".into() })
    }

    fn run(&self, job: &Job, context: &RunContext) -> Result<Output, JobError> {
        let earlier_runs = self.runs.fetch_add(1, Ordering::SeqCst);
        let prompt = job.request.prompt.as_str();
        self.order.lock().unwrap().push(prompt.to_owned());
        let total = job.request.options.steps.unwrap_or(3);
        context.begin();
        for step in 1..=total {
            if prompt.starts_with("hold") {
                self.hold(context);
            }
            if let ControlFlow::Break(()) = context.progress(step, total, Some(b"png")) {
                return Err(JobError::new(ErrorKind::Cancelled, "stopped"));
            }
        }
        match prompt {
            "panic" => panic!("on purpose"),
            "panic once" if earlier_runs == 0 => panic!("on purpose"),
            "fail" => Err(JobError::new(ErrorKind::ModelBroken, "on purpose")),
            "big" => Ok(Output { content_type: "image/png".into(), bytes: vec![7; 2 << 20] }),
            _ => {
                let seed = job.request.options.seed.unwrap_or(0);
                let upload = job.image.as_ref().map_or(0, |path| std::fs::read(path).unwrap().len());
                let bytes = format!("{prompt} {seed} {upload}").into_bytes();
                Ok(Output { content_type: "image/png".into(), bytes })
            }
        }
    }

    fn models(&self) -> Result<Vec<ModelInfo>, JobError> {
        Ok(vec![ModelInfo {
            name: "fake".into(),
            kind: "amused".into(),
            tasks: vec![JobKind::Image],
            default: true,
            loaded: true,
            width: 64,
            height: 64,
            multiple_of: 16,
            steps: 3,
            guidance_scale: 4.0,
            bytes: 0,
        }])
    }
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
