//! `image` jobs on aMUSEd: text-to-image, image-to-image, inpainting.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use sango_media::{Filter, Limits, RgbImage, encode_png, fit_within, load_image_bytes, load_mask_bytes, preview_png};
use sango_models::amused::{AmusedPipeline, AmusedRequest, StepEvent};
use sango_models::pixels::{self, Rgb8};
use sango_tensor::Tensor;

use super::preview::{PREVIEW_SIDE, PreviewBudget};
use super::registry::ImageModel;
use super::{Output, Preview, RunContext};
use crate::{ErrorKind, ImageOptions, ImageTask, JobError};

/// Fills in every default and refuses what the model cannot draw.
pub(super) fn prepare(task: &mut ImageTask, model: &ImageModel) -> Result<(), JobError> {
    let side = model.side;
    let (width, height) = match &task.image {
        Some(image) => fit_within(image.width, image.height, side),
        None => (side, side),
    };
    let multiple = model.multiple_of;
    let rounded = |length: u32| (length - length % multiple).max(multiple);
    let options = &mut task.options;
    options.width.get_or_insert(rounded(width));
    options.height.get_or_insert(rounded(height));
    options.negative_prompt.get_or_insert_default();
    options.guidance_scale.get_or_insert(model.guidance_scale);
    options.temperature.get_or_insert(model.temperature);
    let steps = *options.steps.get_or_insert(model.steps);
    if task.image.is_some() {
        let strength = *options.strength.get_or_insert(if task.mask.is_some() { 1.0 } else { 0.5 });
        if (f64::from(steps) * strength) as u32 == 0 {
            let message = format!("`options.strength` {strength} leaves none of {steps} steps: raise it or the steps");
            return Err(JobError::new(ErrorKind::InvalidOption, message));
        }
    }
    check_side("width", options.width, model)?;
    check_side("height", options.height, model)
}

/// Draws the picture.
pub(super) fn run(
    pipeline: &AmusedPipeline,
    task: &ImageTask,
    files: &[PathBuf],
    context: &RunContext,
) -> Result<Output, JobError> {
    let request = amused_request(task, files)?;
    context.begin();
    let mut previews = PreviewBudget::new();
    let made = pipeline.generate(&request, &mut |event: &StepEvent<'_>| {
        if context.is_cancelled() {
            return ControlFlow::Break(());
        }
        // The result follows the last step at once.
        let preview = if event.step < event.total { previews.within(|| preview(event)) } else { None };
        let preview = preview.as_deref().map(|bytes| Preview { content_type: "image/png", bytes });
        context.progress(event.step as u32, event.total as u32, preview)
    });
    let picture = picture(&made?.images)?;
    let options = serde_json::json!(task.options).to_string();
    let metadata = [("Software", "Sango"), ("prompt", task.prompt.as_str()), ("options", options.as_str())];
    Ok(Output { content_type: "image/png".into(), bytes: encode_png(&picture, &metadata)?, text: None })
}

fn check_side(field: &str, length: Option<u32>, model: &ImageModel) -> Result<(), JobError> {
    let (length, multiple, largest) = (length.unwrap_or(model.side), model.multiple_of, model.largest);
    if length >= multiple && length <= largest && length.is_multiple_of(multiple) {
        return Ok(());
    }
    let near = (length - length % multiple).clamp(multiple, largest);
    let message = format!(
        "`options.{field}` is {length}: it must be a multiple of {multiple} up to {largest}, for example {near}"
    );
    Err(JobError::new(ErrorKind::InvalidOption, message))
}

fn amused_request(task: &ImageTask, files: &[PathBuf]) -> Result<AmusedRequest, JobError> {
    let ImageTask { prompt, options, image, mask } = task;
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
    // As `JobRequest::uploads` lists them.
    let mut files = files.iter();
    if let Some(path) = image.as_ref().and_then(|_| files.next()) {
        let picture = load_image_bytes(&upload(path)?, &limits)?;
        let picture = sango_media::resize(&picture, width, height, Filter::Lanczos);
        request.image = Some(pixels::to_tensor(picture.as_raw(), 3, (width, height))?);
    }
    if let Some(path) = mask.as_ref().and_then(|_| files.next()) {
        let mask = load_mask_bytes(&upload(path)?, &limits)?;
        let mask = sango_media::resize_mask(&mask, width, height, Filter::Nearest);
        request.mask = Some(pixels::to_tensor(mask.as_raw(), 1, (width, height))?);
    }
    Ok(request)
}

pub(super) fn upload(path: &Path) -> Result<Vec<u8>, JobError> {
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
