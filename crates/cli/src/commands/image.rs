//! `sango image`: one picture, from words, from a picture, or inside a mask.

use crate::args::{ImageArgs, Size};
use crate::{model_dir, pixels, report};
use sango_media::{Filter, Limits, MediaError, RgbImage};
use sango_models::amused::{AmusedPipeline, AmusedRequest};
use sango_models::pixels::to_tensor;
use sango_models::{LoadOptions, ModelKind};
use std::hash::{BuildHasher, Hasher};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long each frame of the animation is shown.
const FRAME: Duration = Duration::from_millis(250);

/// Draws and saves the picture.
pub fn run(args: &ImageArgs, json: bool) -> anyhow::Result<()> {
    let started = Instant::now();
    check_writable(&args.output)?;
    args.animation.as_deref().map_or(Ok(()), check_writable)?;
    let dir = model_dir::resolve(args.model.as_deref(), args.models_dir.models.as_deref(), ModelKind::Amused)?;
    let pipeline = AmusedPipeline::load(&dir, &LoadOptions::new(args.dtype.into()))?;
    let load = started.elapsed();

    // Without a seed asked for, any number will do; it is reported, so that the picture can be made again.
    let seed = args.seed.unwrap_or_else(|| std::hash::RandomState::new().build_hasher().finish() >> 32);
    let mut request = request(args, &pipeline)?;
    request.seed = seed;

    let bar = report::progress(args.steps.unwrap_or(pipeline.summary().steps), json);
    bar.set_message("drawing");
    let mut first_step = None;
    let mut frames: Vec<RgbImage> = Vec::new();
    let mut preview_failed = None;
    let output = pipeline.generate(&request, &mut |step| {
        first_step.get_or_insert_with(|| started.elapsed());
        bar.set_length(step.total as u64);
        bar.set_position(step.step as u64);
        if args.animation.is_some() {
            match step.preview().map_err(anyhow::Error::from).and_then(|preview| pixels::picture(&preview)) {
                Ok(frame) => frames.push(frame),
                Err(error) => {
                    preview_failed = Some(error);
                    return ControlFlow::Break(());
                }
            }
        }
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    if let Some(error) = preview_failed {
        return Err(error.context("could not decode a step for the animation"));
    }
    let output = output?;

    let picture = pixels::picture(&output.images)?;
    let seed_text = seed.to_string();
    let made_by = concat!("sango ", env!("CARGO_PKG_VERSION"));
    let notes = [("prompt", args.prompt.as_str()), ("seed", seed_text.as_str()), ("Software", made_by)];
    sango_media::save_png(&args.output, &picture, &notes)?;
    if let Some(path) = &args.animation {
        let still = picture.dimensions();
        let frames: Vec<_> = frames.iter().map(|f| sango_media::resize(f, still.0, still.1, Filter::Nearest)).collect();
        sango_media::write_atomic(path, &sango_media::encode_gif(&frames, FRAME)?)?;
    }

    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let value = serde_json::json!({
        "output": args.output,
        "animation": args.animation,
        "model": dir,
        "seed": seed,
        "width": picture.width(),
        "height": picture.height(),
        "load_ms": ms(load),
        "cold_start_ms": first_step.map(ms),
        "total_ms": ms(started.elapsed() - load),
    });
    report::result(json, &value, || {
        format!("{} (seed {seed}, {:.2} s)", args.output.display(), (started.elapsed() - load).as_secs_f64())
    })
}

/// The request that the options describe; pictures given are scaled to the size asked for.
fn request(args: &ImageArgs, pipeline: &AmusedPipeline) -> anyhow::Result<AmusedRequest> {
    let mut request = AmusedRequest::new(args.prompt.as_str());
    request.negative_prompt = args.negative.as_str().into();
    request.steps = args.steps;
    request.guidance_scale = args.guidance;
    request.strength = args.strength;
    request.width = args.size.map(|size| size.width);
    request.height = args.size.map(|size| size.height);
    let Some(path) = &args.image else { return Ok(request) };

    let limits = Limits::default();
    let image = sango_media::load_image(path, &limits).map_err(|error| about("--image", path, error))?;
    let Size { width, height } = args.size.unwrap_or_else(|| {
        let model = pipeline.summary();
        Size { width: model.width, height: model.height }
    });
    // Sizes the model refuses are refused by it, with the ones it takes; here they only must fit the resizer.
    let side = |side: usize| u32::try_from(side).ok().filter(|&side| side <= 8192);
    let (Some(width), Some(height)) = (side(width), side(height)) else {
        anyhow::bail!("--size {width}x{height} is too large");
    };
    (request.width, request.height) = (Some(width as usize), Some(height as usize));
    let image = sango_media::resize(&image, width, height, Filter::Lanczos);
    request.image = Some(to_tensor(image.as_raw(), 3, image.dimensions())?);
    if let Some(path) = &args.mask {
        let mask = sango_media::load_mask(path, &limits).map_err(|error| about("--mask", path, error))?;
        let mask = sango_media::resize_mask(&mask, width, height, Filter::Nearest);
        request.mask = Some(to_tensor(mask.as_raw(), 1, mask.dimensions())?);
    }
    Ok(request)
}

/// Says which option and which file an error is about, as two may be given.
fn about(option: &str, path: &Path, error: MediaError) -> anyhow::Error {
    let context = match error {
        MediaError::Io { .. } => option.to_owned(), // It names the file itself.
        _ => format!("{option} {}", path.display()),
    };
    anyhow::Error::new(error).context(context)
}

/// Fails before any work where the picture could not be saved in the end.
fn check_writable(output: &Path) -> anyhow::Result<()> {
    let folder = match output.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    anyhow::ensure!(folder.is_dir(), "the folder {} does not exist; create it first", folder.display());
    anyhow::ensure!(!output.is_dir(), "{} is a folder; name a file, as in -o picture.png", output.display());
    Ok(())
}
