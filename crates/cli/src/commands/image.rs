//! `sango image`: one picture, from words, from a picture, or inside a mask.

use crate::args::{ImageArgs, Size};
use crate::{files, model_dir, pixels, report};
use sango_media::{Filter, Limits, RgbImage};
use sango_models::amused::{AmusedPipeline, AmusedRequest};
use sango_models::pixels::to_tensor;
use sango_models::{LoadOptions, ModelKind};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// How long each frame of the animation is shown.
const FRAME: Duration = Duration::from_millis(250);

/// Draws and saves the picture.
pub fn run(args: &ImageArgs, json: bool) -> anyhow::Result<()> {
    let started = Instant::now();
    files::check_writable(&args.output, "picture.png")?;
    args.animation.as_deref().map_or(Ok(()), |path| files::check_writable(path, "steps.gif"))?;
    let dir = model_dir::resolve(args.model.as_deref(), args.models_dir.models.as_deref(), ModelKind::Amused)?;
    let pipeline = AmusedPipeline::load(&dir, &LoadOptions::new(args.dtype.into()))?;
    let load = started.elapsed();

    let seed = files::seed(args.seed);
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

    let image = files::picture("--image", path)?;
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
        let mask = sango_media::load_mask(path, &Limits::default());
        let mask = mask.map_err(|error| files::about("--mask", path, error))?;
        let mask = sango_media::resize_mask(&mask, width, height, Filter::Nearest);
        request.mask = Some(to_tensor(mask.as_raw(), 1, mask.dimensions())?);
    }
    Ok(request)
}
