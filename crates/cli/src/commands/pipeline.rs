//! `sango pipeline`: what happens in a clip, a picture of it, and a new clip of both.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::ProgressBar;
use sango_jobs::worker::ModelRunner;
use sango_jobs::{
    EmbeddedConfig, EmbeddedEngine, Engine, Event, EventName, JobKind, JobRequest, Next, PipelineModels,
    PipelineOptions, PipelineTask, STAGES, State, Submission, Task, Upload,
};
use sango_models::LoadOptions;
use serde_json::{Value, json};

use crate::args::PipelineArgs;
use crate::{files, model_dir, report};

/// How the files of the stages are called.
fn file_of(stage: JobKind) -> &'static str {
    match stage {
        JobKind::Image => "image.png",
        JobKind::Video => "video.mp4",
        JobKind::Understand | JobKind::Pipeline => "text.txt",
    }
}

/// Runs the stages and saves what each has made as soon as it has.
pub fn run(args: &PipelineArgs, json: bool) -> anyhow::Result<()> {
    let started = Instant::now();
    for path in &args.media {
        anyhow::ensure!(!path.is_dir(), "{} is a folder; name a video or a picture", path.display());
    }
    let made = std::fs::create_dir_all(&args.output);
    made.with_context(|| format!("cannot make the folder {}", args.output.display()))?;
    let models = model_dir::models_dir(args.models_dir.models.as_deref())?;
    let runner = ModelRunner::new(&models, LoadOptions::new(args.dtype.into()));
    // The engine of `sango serve`, in a folder that goes with the command.
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let engine = EmbeddedEngine::open(EmbeddedConfig::new(folder.path()), Arc::new(runner))?;
    let id = engine.submit(submission(args))?.job.id;

    let mut show = Show::new(json);
    let mut stages: Vec<Value> = Vec::new();
    let mut events = engine.subscribe(id, 0)?;
    let mut began = Instant::now();
    while let Next::Event(event) = events.next_blocking(Duration::from_secs(3_600)) {
        show.event(&event);
        match (event.event, event.data["state"].as_str()) {
            (EventName::Stage, Some("running")) => began = Instant::now(),
            (EventName::Stage, Some("finished")) => {
                let stage = JobKind::stage(event.data["name"].as_str().unwrap_or_default())?;
                let path = save(&engine, &event, stage, &args.output)?;
                let seconds = began.elapsed().as_secs_f64();
                show.made(&path, seconds);
                stages.push(summary(&event.data, &path, seconds));
            }
            _ => {}
        }
    }
    show.end();
    let job = engine.get(id)?;
    if let Some(error) = job.error {
        return Err(error.into());
    }
    anyhow::ensure!(job.state == State::Finished, "the pipeline stopped: it is {}", job.state.as_str());

    let Task::Pipeline(task) = &job.request.task else { anyhow::bail!("the pipeline became another job") };
    let models = json!(task.models);
    let value = json!({
        "output": args.output, "media": args.media, "question": task.question, "seed": task.options.seed,
        "models": models, "stages": stages, "options": task.options, "total_ms": started.elapsed().as_secs_f64() * 1e3,
    });
    let path = args.output.join("summary.json");
    sango_media::write_atomic(&path, format!("{value:#}\n").as_bytes())?;
    report::result(json, &value, || {
        let seed = task.options.seed.unwrap_or(0);
        format!("{} (seed {seed}, {:.1} s)", args.output.display(), started.elapsed().as_secs_f64())
    })
}

fn submission(args: &PipelineArgs) -> Submission {
    let task = PipelineTask {
        question: args.question.clone(),
        models: PipelineModels {
            understand: args.understand_model.clone(),
            image: args.image_model.clone(),
            video: args.video_model.clone(),
        },
        options: PipelineOptions { seed: Some(files::seed(args.seed)), ..PipelineOptions::default() },
        media: Vec::new(),
    };
    let request = JobRequest { model: None, priority: 0, task: Task::Pipeline(Box::new(task)) };
    let media = args.media.iter().cloned().map(Upload::Path).collect();
    Submission { request, image: None, mask: None, media, idempotency_key: None }
}

/// Puts what a stage has made into the folder.
fn save(engine: &EmbeddedEngine, event: &Event, stage: JobKind, folder: &Path) -> anyhow::Result<PathBuf> {
    let path = folder.join(file_of(stage));
    let bytes = match &event.data["result"]["text"] {
        Value::String(text) => format!("{}\n", text.trim()).into_bytes(),
        _ => {
            let file = engine.stage_result(event.job, stage)?;
            std::fs::read(&file.path).with_context(|| format!("cannot read {}", file.path.display()))?
        }
    };
    sango_media::write_atomic(&path, &bytes)?;
    Ok(path)
}

/// A stage for the summary.
fn summary(stage: &Value, path: &Path, seconds: f64) -> Value {
    let result = &stage["result"];
    let mut value = json!({
        "stage": stage["name"], "prompt": stage["prompt"], "file": path, "content_type": result["content_type"],
        "sha256": result["sha256"], "ms": seconds * 1e3
    });
    if result["text"].is_string() {
        value["text"] = result["text"].clone();
        value["content_type"] = "text/plain".into();
        // That of the file beside it is another one's.
        value["sha256"] = Value::Null;
    }
    value
}

/// Tells what is going on.
struct Show {
    json: bool,
    bar: ProgressBar,
    doing: String,
    /// An answer is being written on the last line.
    saying: bool,
}

impl Show {
    fn new(json: bool) -> Self {
        Self { json, bar: report::progress(1, json), doing: String::new(), saying: false }
    }

    fn event(&mut self, event: &Event) {
        let data = &event.data;
        match event.event {
            EventName::Stage if data["state"] == "running" => {
                let (name, number) =
                    (data["name"].as_str().unwrap_or_default(), data["index"].as_u64().unwrap_or(0) + 1);
                let prompt = data["prompt"].as_str().unwrap_or_default();
                self.say(&format!("{number}/{} {name}: {prompt}", STAGES.len()));
                self.doing = name.to_owned();
            }
            EventName::Progress => {
                let doing = data["phase"].as_str().unwrap_or(&self.doing).to_owned();
                if self.bar.message() != doing {
                    self.bar.set_message(doing);
                    self.bar.reset_eta();
                }
                self.bar.set_length(data["total"].as_u64().unwrap_or(1));
                self.bar.set_position(data["step"].as_u64().unwrap_or(0));
            }
            EventName::Token if !self.json => {
                let text = data["text"].as_str().unwrap_or_default();
                if data["index"] == 0 {
                    self.bar.finish_and_clear();
                    self.end();
                    eprint!("    ");
                }
                self.saying = true;
                eprint!("{text}");
                // Whoever does not want to see it has closed it.
                let _ = io::stderr().flush();
            }
            _ => {}
        }
    }

    fn made(&mut self, path: &Path, seconds: f64) {
        self.bar.finish_and_clear();
        self.end();
        self.say(&format!("    {} ({seconds:.1} s)", path.display()));
        self.bar = report::progress(1, self.json);
    }

    fn say(&self, line: &str) {
        if !self.json {
            self.bar.suspend(|| eprintln!("{line}"));
        }
    }

    /// Ends the line that an answer was written on.
    fn end(&mut self) {
        if std::mem::take(&mut self.saying) {
            eprintln!();
        }
    }
}
