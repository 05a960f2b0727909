//! The runner that draws: `image` jobs through `sango-models`.

use std::collections::HashMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sango_media::{Filter, Limits, RgbImage, encode_png, fit_within, load_image_bytes, load_mask_bytes, preview_png};
use sango_models::LoadOptions;
use sango_models::amused::{AmusedPipeline, AmusedRequest, StepEvent};
use sango_models::pixels::{self, Rgb8};
use sango_tensor::Tensor;

use super::registry::{Entry, ModelFile, find, scan};
use super::{ModelInfo, Output, Prepared, RunContext, Runner};
use crate::{ErrorKind, ImageOptions, Job, JobError, JobKind, JobRequest};

/// No side of a preview is longer.
const PREVIEW_SIDE: u32 = 128;
/// A preview decodes a whole picture. Those of a run may take this share of the time that its steps take.
const PREVIEW_SHARE: f64 = 0.3;
/// Until they have taken this long, they may take more: a quick model then shows every step, and its picture comes
/// later by less than anybody minds.
const PREVIEW_FREE: Duration = Duration::from_secs(1);

/// Runs `image` jobs (text-to-image, image-to-image, inpainting) with the models of a folder. A model is loaded when it
/// is first needed and kept.
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
    pipeline: Arc<AmusedPipeline>,
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

    /// The model that a job means; the first one, if it names none.
    fn find(&self, wanted: Option<&str>) -> Result<Entry, JobError> {
        match wanted {
            Some(wanted) => find(&self.root, wanted),
            None => scan(&self.root)?.into_iter().next().ok_or_else(|| {
                let root = self.root.display();
                let message = format!("there is no model in {root}: put one there, or name another folder");
                JobError::new(ErrorKind::NoModel, message)
            }),
        }
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

    fn pipeline(&self, entry: &Entry) -> Result<Arc<AmusedPipeline>, JobError> {
        let slot = Arc::clone(lock(&self.loaded).entry(entry.dir.clone()).or_default());
        let mut slot = lock(&slot);
        if let Some(loaded) = slot.as_ref().filter(|loaded| loaded.files == entry.files) {
            return Ok(Arc::clone(&loaded.pipeline));
        }
        // The old weights go before the new ones come.
        *slot = None;
        let began = Instant::now();
        let pipeline = Arc::new(AmusedPipeline::load(&entry.dir, &self.options)?);
        tracing::info!("loaded {} in {:.1} s", entry.name, began.elapsed().as_secs_f64());
        *slot = Some(Loaded { files: entry.files.clone(), pipeline: Arc::clone(&pipeline) });
        Ok(pipeline)
    }

    fn info(&self, entry: Entry, default: bool) -> ModelInfo {
        ModelInfo {
            kind: entry.kind.to_string(),
            tasks: vec![JobKind::Image],
            default,
            loaded: self.is_loaded(&entry),
            width: entry.side,
            height: entry.side,
            multiple_of: entry.multiple_of,
            steps: entry.steps,
            guidance_scale: entry.guidance_scale,
            bytes: entry.bytes(),
            name: entry.name,
        }
    }

    /// A model that was found by one of its names.
    fn shown(&self, entry: Entry) -> Result<ModelInfo, JobError> {
        let default = self.find(None)?.name == entry.name;
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
        let entry = self.find(request.model.as_deref())?;
        let model_hash = self.hash(&entry)?;
        let side = entry.side;
        let (width, height) = match &request.image {
            Some(image) => fit_within(image.width, image.height, side),
            None => (side, side),
        };
        let multiple = entry.multiple_of;
        let rounded = |length: u32| (length - length % multiple).max(multiple);
        let options = &mut request.options;
        options.width.get_or_insert(rounded(width));
        options.height.get_or_insert(rounded(height));
        options.negative_prompt.get_or_insert_default();
        options.guidance_scale.get_or_insert(entry.guidance_scale);
        options.temperature.get_or_insert(entry.temperature);
        let steps = *options.steps.get_or_insert(entry.steps);
        if request.image.is_some() {
            let strength = *options.strength.get_or_insert(if request.mask.is_some() { 1.0 } else { 0.5 });
            if (f64::from(steps) * strength) as u32 == 0 {
                let message =
                    format!("`options.strength` {strength} leaves none of {steps} steps: raise it or the steps");
                return Err(JobError::new(ErrorKind::InvalidOption, message));
            }
        }
        check_side("width", options.width, &entry)?;
        check_side("height", options.height, &entry)?;
        request.model = Some(entry.name);
        // bf16 and f32 draw slightly different pictures.
        Ok(Prepared { request, model_hash: format!("{model_hash}-{:?}", self.options.dtype) })
    }

    fn run(&self, job: &Job, context: &RunContext) -> Result<Output, JobError> {
        let entry = self.find(job.request.model.as_deref())?;
        let pipeline = self.pipeline(&entry)?;
        let request = amused_request(job)?;
        context.begin();
        let (began, mut spent) = (Instant::now(), Duration::ZERO);
        let made = pipeline.generate(&request, &mut |event: &StepEvent<'_>| {
            if context.is_cancelled() {
                return ControlFlow::Break(());
            }
            let before = Instant::now();
            let allowed = began.elapsed().saturating_sub(spent).mul_f64(PREVIEW_SHARE).max(PREVIEW_FREE);
            // The result follows the last step at once.
            let wanted = event.step < event.total && spent <= allowed;
            let preview = wanted.then(|| preview(event)).flatten();
            spent += before.elapsed();
            context.progress(event.step as u32, event.total as u32, preview.as_deref())
        });
        let picture = picture(&made?.images)?;
        let options = serde_json::json!(job.request.options).to_string();
        let metadata = [("Software", "Sango"), ("prompt", job.request.prompt.as_str()), ("options", options.as_str())];
        Ok(Output { content_type: "image/png".into(), bytes: encode_png(&picture, &metadata)? })
    }

    fn models(&self) -> Result<Vec<ModelInfo>, JobError> {
        let models = scan(&self.root)?;
        Ok(models.into_iter().enumerate().map(|(index, entry)| self.info(entry, index == 0)).collect())
    }

    fn load_model(&self, name: &str) -> Result<ModelInfo, JobError> {
        let entry = self.find(Some(name))?;
        self.pipeline(&entry)?;
        self.shown(entry)
    }

    fn unload_model(&self, name: &str) -> Result<ModelInfo, JobError> {
        let entry = self.find(Some(name))?;
        let slot = lock(&self.loaded).remove(&entry.dir);
        // Waits for whoever is loading it. A run holds the pipeline, not the slot.
        slot.map(|slot| lock(&slot).take());
        self.shown(entry)
    }
}

fn check_side(field: &str, length: Option<u32>, entry: &Entry) -> Result<(), JobError> {
    let (length, multiple, largest) = (length.unwrap_or(entry.side), entry.multiple_of, entry.largest);
    if length >= multiple && length <= largest && length.is_multiple_of(multiple) {
        return Ok(());
    }
    let near = (length - length % multiple).clamp(multiple, largest);
    let message = format!(
        "`options.{field}` is {length}: it must be a multiple of {multiple} up to {largest}, for example {near}"
    );
    Err(JobError::new(ErrorKind::InvalidOption, message))
}

fn amused_request(job: &Job) -> Result<AmusedRequest, JobError> {
    let JobRequest { prompt, options, .. } = &job.request;
    let ImageOptions { negative_prompt, steps, guidance_scale, seed, width, height, temperature, strength } = options;
    let mut request = AmusedRequest::new(prompt.as_str());
    request.negative_prompt = negative_prompt.as_deref().unwrap_or("").into();
    request.steps = steps.map(|steps| steps as usize);
    request.guidance_scale = guidance_scale.map(|scale| scale as f32);
    request.seed = seed.unwrap_or(0);
    request.width = width.map(|width| width as usize);
    request.height = height.map(|height| height as usize);
    request.temperature = temperature.map(|[start, end]| (start as f32, end as f32));
    request.strength = strength.map(|strength| strength as f32);
    // The engine has checked the uploads against its own limits.
    let limits = Limits { max_bytes: u64::MAX, max_pixels: u64::MAX >> 8 };
    let (width, height) = (width.unwrap_or(0), height.unwrap_or(0));
    if let Some(path) = &job.image {
        let picture = load_image_bytes(&upload(path)?, &limits)?;
        let picture = sango_media::resize(&picture, width, height, Filter::Lanczos);
        request.image = Some(pixels::to_tensor(picture.as_raw(), 3, (width, height))?);
    }
    if let Some(path) = &job.mask {
        let mask = load_mask_bytes(&upload(path)?, &limits)?;
        let mask = sango_media::resize_mask(&mask, width, height, Filter::Nearest);
        request.mask = Some(pixels::to_tensor(mask.as_raw(), 1, (width, height))?);
    }
    Ok(request)
}

fn upload(path: &Path) -> Result<Vec<u8>, JobError> {
    fs::read(path).map_err(|error| JobError::new(ErrorKind::Storage, format!("an upload is gone: {error}")))
}

/// The first of a model's pictures.
fn picture(images: &Tensor) -> Result<RgbImage, JobError> {
    let Rgb8 { width, height, bytes } = pixels::to_rgb8(images)?;
    RgbImage::from_raw(width, height, bytes)
        .ok_or_else(|| JobError::new(ErrorKind::Internal, format!("too few pixels for {width}x{height}")))
}

fn preview(event: &StepEvent<'_>) -> Option<Vec<u8>> {
    let drawn: Result<_, JobError> = (|| Ok(preview_png(&picture(&event.preview()?)?, PREVIEW_SIDE)?))();
    // The picture matters more than the news of it.
    drawn.inspect_err(|error| tracing::warn!("no preview: {error}")).ok()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in there is replaced as a whole, so a panic elsewhere leaves it true.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
