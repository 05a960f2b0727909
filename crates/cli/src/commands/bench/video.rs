//! `sango bench video`: prompt embeddings to frames, steps and decoding apart, from random embeddings and noise.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use sango_models::LoadOptions;
use sango_models::ltx_video::{LTXVideoPipeline, LTXVideoPrompt, LTXVideoRequest};
use sango_tensor::Tensor;

use super::{DiffusionTimes, spread};
use crate::args::BenchVideoArgs;

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
    let mut times = DiffusionTimes::default();
    for _ in 0..args.runs {
        let (elapsed, timings) = generate(args.steps)?;
        times.push(timings.text_encoder, timings.steps, timings.decode, elapsed);
    }
    times.report(json, load, args.dtype.name(), args.steps)
}

/// Tokens of a prompt, none of them padding: as `LTXPipeline` has them.
const TOKENS: usize = 128;

/// Random states of a text encoder.
fn embeddings(pipeline: &LTXVideoPipeline, seed: u64) -> anyhow::Result<LTXVideoPrompt> {
    let width = pipeline.text_width();
    let value = |i: u64| (spread(seed, i) >> 7) % 2001;
    let values = (0..(TOKENS * width) as u64).map(|i| value(i) as f32 / 1000.0 - 1.0).collect();
    let embeds = Tensor::from_vec(values, &[1, TOKENS, width])?;
    Ok(LTXVideoPrompt::Embeds { embeds, mask: Tensor::from_i64(vec![1; TOKENS], &[1, TOKENS])? })
}
