//! The runner with models: which one does a job, and keeping them in memory.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use sango_models::LoadOptions;
use sango_models::amused::AmusedPipeline;
use sango_models::ltx_video::LTXVideoPipeline;
use sango_models::smolvlm2::SmolVLMPipeline;

use super::registry::{Abilities, Entry, ModelFile, find, scan};
use super::{ModelInfo, Output, Prepared, RunContext, Runner, image, understand, video};
use crate::{ErrorKind, Job, JobError, JobKind, JobRequest, Task};

/// Runs jobs with the models of a folder. A model is loaded when it is first needed and kept.
pub struct ModelRunner {
    root: PathBuf,
    options: LoadOptions,
    /// By folder. Loading holds the model's own lock, not this one.
    loaded: Mutex<HashMap<PathBuf, Slot>>,
    hashes: Mutex<HashMap<PathBuf, (Vec<ModelFile>, String)>>,
}

type Slot = Arc<Mutex<Option<Loaded>>>;

struct Loaded {
    /// Of the files it was read from: a model that changed on disk is read again.
    files: Vec<ModelFile>,
    pipeline: Pipeline,
}

/// A model in memory.
#[derive(Clone)]
enum Pipeline {
    Amused(Arc<AmusedPipeline>),
    SmolVLM2(Arc<SmolVLMPipeline>),
    LtxVideo(Arc<LTXVideoPipeline>),
}

impl Pipeline {
    fn load(entry: &Entry, options: &LoadOptions) -> Result<Self, JobError> {
        Ok(match entry.abilities {
            Abilities::Image(_) => Self::Amused(Arc::new(AmusedPipeline::load(&entry.dir, options)?)),
            Abilities::Understand(_) => Self::SmolVLM2(Arc::new(SmolVLMPipeline::load(&entry.dir, options)?)),
            Abilities::Video(_) => Self::LtxVideo(Arc::new(LTXVideoPipeline::load(&entry.dir, options)?)),
        })
    }
}

impl ModelRunner {
    /// A runner for the models in `root`, or `root` itself if that is one.
    pub fn new(root: impl Into<PathBuf>, options: LoadOptions) -> Self {
        Self { root: root.into(), options, loaded: Mutex::default(), hashes: Mutex::default() }
    }

    /// Computes the content hash of every model, so that the first job need not wait for it.
    ///
    /// # Errors
    /// When the models folder, or a file in it, cannot be read.
    pub fn warm(&self) -> Result<(), JobError> {
        scan(&self.root)?.iter().try_for_each(|entry| self.hash(entry).map(drop))
    }

    /// The model for a job of this kind: the one it names, or the first that can do it.
    fn find(&self, wanted: Option<&str>, kind: JobKind) -> Result<Entry, JobError> {
        let root = self.root.display();
        match wanted {
            Some(wanted) => {
                let entry = find(&self.root, wanted)?;
                if entry.abilities.task() == kind {
                    return Ok(entry);
                }
                let (name, does) = (&entry.name, entry.abilities.task().as_str());
                let message = format!("`model`: {name} does `{does}` jobs and no `{}` jobs", kind.as_str());
                Err(JobError::new(ErrorKind::InvalidOption, message))
            }
            None => scan(&self.root)?.into_iter().find(|entry| entry.abilities.task() == kind).ok_or_else(|| {
                let kind = kind.as_str();
                let message =
                    format!("there is no model for `{kind}` jobs in {root}: put one there, or name another folder");
                JobError::new(ErrorKind::NoModel, message)
            }),
        }
    }

    /// What of the options changes results: bf16, int8 and f32 give slightly different ones, an adapter quite others.
    fn variant(&self) -> String {
        let LoadOptions { dtype, int8, lora, .. } = &self.options;
        let int8 = if *int8 { "-int8" } else { "" };
        let lora = lora.as_ref().map(|lora| format!("-{}", lora.display())).unwrap_or_default();
        format!("{dtype:?}{int8}{lora}")
    }

    fn hash(&self, entry: &Entry) -> Result<String, JobError> {
        if let Some((files, hash)) = lock(&self.hashes).get(&entry.dir)
            && *files == entry.files
        {
            return Ok(hash.clone());
        }
        let hash = entry.content_hash()?;
        lock(&self.hashes).insert(entry.dir.clone(), (entry.files.clone(), hash.clone()));
        Ok(hash)
    }

    fn pipeline(&self, entry: &Entry) -> Result<Pipeline, JobError> {
        let slot = Arc::clone(lock(&self.loaded).entry(entry.dir.clone()).or_default());
        let mut slot = lock(&slot);
        if let Some(loaded) = slot.as_ref().filter(|loaded| loaded.files == entry.files) {
            return Ok(loaded.pipeline.clone());
        }
        // The old weights go before the new ones come.
        *slot = None;
        let began = Instant::now();
        let pipeline = Pipeline::load(entry, &self.options)?;
        tracing::info!("loaded {} in {:.1} s", entry.name, began.elapsed().as_secs_f64());
        *slot = Some(Loaded { files: entry.files.clone(), pipeline: pipeline.clone() });
        Ok(pipeline)
    }

    fn info(&self, entry: Entry, default: bool) -> ModelInfo {
        let info = ModelInfo {
            kind: entry.kind.to_string(),
            tasks: vec![entry.abilities.task()],
            default,
            loaded: self.is_loaded(&entry),
            bytes: entry.bytes(),
            name: entry.name,
            ..ModelInfo::default()
        };
        match entry.abilities {
            Abilities::Image(model) => ModelInfo {
                width: Some(model.side),
                height: Some(model.side),
                multiple_of: Some(model.multiple_of),
                steps: Some(model.steps),
                guidance_scale: Some(model.guidance_scale),
                ..info
            },
            Abilities::Understand(settings) => ModelInfo { understand: Some(understand::defaults(&settings)), ..info },
            Abilities::Video(settings) => ModelInfo {
                width: Some(settings.width as u32),
                height: Some(settings.height as u32),
                multiple_of: Some(settings.size_multiple as u32),
                steps: Some(video::steps(&settings)),
                guidance_scale: Some(settings.guidance_scale),
                video: Some(video::defaults(&settings)),
                ..info
            },
        }
    }

    /// A model that was found by one of its names.
    fn shown(&self, entry: Entry) -> Result<ModelInfo, JobError> {
        let default = self.find(None, entry.abilities.task())?.name == entry.name;
        Ok(self.info(entry, default))
    }

    fn is_loaded(&self, entry: &Entry) -> bool {
        let slot = lock(&self.loaded).get(&entry.dir).cloned();
        // A slot that is locked is being loaded.
        slot.is_some_and(|slot| slot.try_lock().is_ok_and(|slot| slot.is_some()))
    }
}

impl Runner for ModelRunner {
    fn prepare(&self, mut request: JobRequest) -> Result<Prepared, JobError> {
        let entry = self.find(request.model.as_deref(), request.kind())?;
        let model_hash = self.hash(&entry)?;
        match (&mut request.task, &entry.abilities) {
            (Task::Image(task), Abilities::Image(model)) => image::prepare(task, model)?,
            (Task::Understand(task), Abilities::Understand(settings)) => understand::prepare(task, settings)?,
            (Task::Video(task), Abilities::Video(settings)) => video::prepare(task, settings)?,
            _ => return Err(mismatched(&entry)),
        }
        request.model = Some(entry.name);
        Ok(Prepared { request, model_hash: format!("{model_hash}-{}", self.variant()) })
    }

    fn run(&self, job: &Job, context: &RunContext) -> Result<Output, JobError> {
        let entry = self.find(job.request.model.as_deref(), job.request.kind())?;
        match (&job.request.task, self.pipeline(&entry)?) {
            (Task::Image(task), Pipeline::Amused(pipeline)) => image::run(&pipeline, task, &job.files, context),
            (Task::Understand(task), Pipeline::SmolVLM2(pipeline)) => {
                understand::run(&pipeline, task, &job.files, context)
            }
            (Task::Video(task), Pipeline::LtxVideo(pipeline)) => video::run(&pipeline, task, &job.files, context),
            _ => Err(mismatched(&entry)),
        }
    }

    fn models(&self) -> Result<Vec<ModelInfo>, JobError> {
        let mut seen = Vec::new();
        let models = scan(&self.root)?.into_iter().map(|entry| {
            let task = entry.abilities.task();
            let default = !seen.contains(&task);
            seen.push(task);
            self.info(entry, default)
        });
        Ok(models.collect())
    }

    fn load_model(&self, name: &str) -> Result<ModelInfo, JobError> {
        let entry = find(&self.root, name)?;
        self.pipeline(&entry)?;
        self.shown(entry)
    }

    fn unload_model(&self, name: &str) -> Result<ModelInfo, JobError> {
        let entry = find(&self.root, name)?;
        let slot = lock(&self.loaded).remove(&entry.dir);
        // Waits for whoever is loading it. A run holds the pipeline, not the slot.
        slot.map(|slot| lock(&slot).take());
        self.shown(entry)
    }
}

/// The folder has changed between two looks at it.
fn mismatched(entry: &Entry) -> JobError {
    JobError::new(ErrorKind::ModelBroken, format!("{} has just become another model: try again", entry.name))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in there is replaced as a whole, so a panic elsewhere leaves it true.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
