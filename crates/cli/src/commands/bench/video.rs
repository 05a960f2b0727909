//! `sango bench video`: prompt embeddings to frames, steps and decoding apart, from random embeddings and noise.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use sango_models::LoadOptions;
use sango_models::ltx_video::{LTXVideoPipeline, LTXVideoPrompt, LTXVideoRequest};
use sango_tensor::Tensor;
use serde::Serialize;

use super::ms;
use crate::args::BenchVideoArgs;
use crate::report;

/// Figures of one model, medians over the runs; times in milliseconds.
#[derive(Debug, Serialize)]
struct Figures {
    load_ms: f64,
    /// What the transformer makes of the text once per video.
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

/// Embeddings to frames, after two steps and a decoding to warm up.
pub fn run(args: &BenchVideoArgs, json: bool) -> anyhow::Result<()> {
    anyhow::ensure!(args.runs > 0, "--runs must be at least 1");
    let started = Instant::now();
    let pipeline = LTXVideoPipeline::load(&args.model, &LoadOptions::new(args.dtype.into()))?;
    let load = started.elapsed();

    let mut request = LTXVideoRequest::new(embeddings(&pipeline, args.seed)?);
    request.negative_prompt = embeddings(&pipeline, args.seed + 1)?;
    (request.width, request.height) = (Some(args.size.width), Some(args.size.height));
    request.num_frames = Some(args.frames);
    request.guidance_scale = Some(args.guidance);
    request.seed = args.seed;
    let mut generate = |steps: usize| -> anyhow::Result<(Duration, sango_models::ltx_video::Timings)> {
        request.num_inference_steps = Some(steps);
        let started = Instant::now();
        let output = pipeline.generate(&request, &mut |_| ControlFlow::Continue(()))?;
        std::hint::black_box(&output.video);
        Ok((started.elapsed(), output.timings))
    };
    generate(args.steps.min(2))?;
    let (mut text_encoder, mut steps, mut decode, mut total) = (vec![], vec![], vec![], vec![]);
    for _ in 0..args.runs {
        let (elapsed, timings) = generate(args.steps)?;
        text_encoder.push(ms(timings.text_encoder));
        steps.extend(timings.steps.into_iter().map(ms));
        decode.push(ms(timings.decode));
        total.push(ms(elapsed));
    }
    let median = |values| report::median(values).unwrap_or_default();
    let figures = Figures {
        load_ms: ms(load),
        text_encoder_ms: median(text_encoder),
        step_ms: median(steps),
        decode_ms: median(decode),
        total_ms: median(total),
        peak_rss_mb: report::peak_rss_mb(),
        dtype: args.dtype.name(),
        threads: sango_kernels::pool::num_threads(),
        isa: sango_kernels::Isa::active().name(),
    };
    report::result(json, &figures, || {
        format!(
            "{} on {} × {}: load {:.0} ms, text {:.0} ms, {} steps of {:.0} ms, decode {:.0} ms, in all {:.0} ms; {} MiB",
            figures.dtype,
            figures.threads,
            figures.isa,
            figures.load_ms,
            figures.text_encoder_ms,
            args.steps,
            figures.step_ms,
            figures.decode_ms,
            figures.total_ms,
            figures.peak_rss_mb.map_or("?".into(), |mb| format!("{mb:.0}")),
        )
    })
}

/// Tokens of a prompt, none of them padding: as `LTXPipeline` has them.
const TOKENS: usize = 128;

/// Random states of a text encoder.
fn embeddings(pipeline: &LTXVideoPipeline, seed: u64) -> anyhow::Result<LTXVideoPrompt> {
    let width = pipeline.text_width();
    // Knuth's multiplicative hash: spread, and the same everywhere.
    let value = |i: u64| (seed.wrapping_mul(31).wrapping_add(i + 1).wrapping_mul(2_654_435_761) >> 7) % 2001;
    let values = (0..(TOKENS * width) as u64).map(|i| value(i) as f32 / 1000.0 - 1.0).collect();
    let embeds = Tensor::from_vec(values, &[1, TOKENS, width])?;
    Ok(LTXVideoPrompt::Embeds { embeds, mask: Tensor::from_i64(vec![1; TOKENS], &[1, TOKENS])? })
}
