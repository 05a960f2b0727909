//! `sango bench`: where the time goes, from random inputs, on any folder of weights.

pub mod understand;
pub mod video;

use crate::args::BenchImageArgs;
use crate::{pixels, report};
use sango_models::LoadOptions;
use sango_models::amused::{AmusedPipeline, AmusedRequest, Prompts};
use sango_tensor::Tensor;
use serde::Serialize;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// What one generation by denoising took, in milliseconds.
#[derive(Default)]
struct DiffusionTimes {
    text_encoder: Vec<f64>,
    steps: Vec<f64>,
    decode: Vec<f64>,
    total: Vec<f64>,
}

impl DiffusionTimes {
    fn push(&mut self, text_encoder: Duration, steps: Vec<Duration>, decode: Duration, total: Duration) {
        self.text_encoder.push(ms(text_encoder));
        self.steps.extend(steps.into_iter().map(ms));
        self.decode.push(ms(decode));
        self.total.push(ms(total));
    }

    /// Prints the medians; `steps` is how many there are in a generation.
    fn report(self, json: bool, load: Duration, dtype: &'static str, steps: usize) -> anyhow::Result<()> {
        let median = |values| report::median(values).unwrap_or_default();
        let figures = DiffusionFigures {
            load_ms: ms(load),
            text_encoder_ms: median(self.text_encoder),
            step_ms: median(self.steps),
            decode_ms: median(self.decode),
            total_ms: median(self.total),
            peak_rss_mb: report::peak_rss_mb(),
            dtype,
            threads: sango_kernels::pool::num_threads(),
            isa: sango_kernels::Isa::active().name(),
        };
        report::result(json, &figures, || {
            format!(
                "{} on {} × {}: load {:.0} ms, text {:.0} ms, {steps} steps of {:.0} ms, decode {:.0} ms, in all {:.0} ms; \
                 {} MiB",
                figures.dtype,
                figures.threads,
                figures.isa,
                figures.load_ms,
                figures.text_encoder_ms,
                figures.step_ms,
                figures.decode_ms,
                figures.total_ms,
                figures.peak_rss_mb.map_or("?".into(), |mb| format!("{mb:.0}")),
            )
        })
    }
}

/// Figures of one model that denoises, medians over the runs; times in milliseconds. The text encoder's are of a video
/// what the transformer makes of the text once.
#[derive(Debug, Serialize)]
struct DiffusionFigures {
    load_ms: f64,
    text_encoder_ms: f64,
    step_ms: f64,
    decode_ms: f64,
    total_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_rss_mb: Option<f64>,
    dtype: &'static str,
    threads: usize,
    isa: &'static str,
}

/// `sango bench image`: prompt ids to PNG bytes, after one run to warm up.
pub fn image(args: &BenchImageArgs, json: bool) -> anyhow::Result<()> {
    anyhow::ensure!(args.runs > 0, "--runs must be at least 1");
    let started = Instant::now();
    let pipeline = AmusedPipeline::load(&args.model, &LoadOptions::new(args.dtype.into()))?;
    let load = started.elapsed();

    let mut request = AmusedRequest::new(Prompts::Ids(ids(&pipeline, args.seed)?));
    request.negative_prompt = Prompts::Ids(ids(&pipeline, args.seed + 1)?);
    request.steps = Some(args.steps);
    request.guidance_scale = Some(args.guidance);
    request.seed = args.seed;

    let mut times = DiffusionTimes::default();
    for run in 0..=args.runs {
        let started = Instant::now();
        let output = pipeline.generate(&request, &mut |_| ControlFlow::Continue(()))?;
        let png = sango_media::encode_png(&pixels::picture(&output.images)?, &[])?;
        let elapsed = started.elapsed();
        std::hint::black_box(png);
        if run > 0 {
            times.push(output.timings.text_encoder, output.timings.steps, output.timings.decode, elapsed);
        }
    }
    times.report(json, load, args.dtype.name(), args.steps)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Knuth's multiplicative hash: spread, and the same everywhere.
fn spread(seed: u64, i: u64) -> u64 {
    seed.wrapping_mul(31).wrapping_add(i + 1).wrapping_mul(2_654_435_761)
}

/// A full row of ids within the vocabulary, different for every seed.
fn ids(pipeline: &AmusedPipeline, seed: u64) -> anyhow::Result<Tensor> {
    let (length, vocabulary) = pipeline.prompt_shape();
    let id = |i: u64| (spread(seed, i) % vocabulary as u64) as i64;
    Ok(Tensor::from_i64((0..length as u64).map(id).collect(), &[1, length])?)
}
