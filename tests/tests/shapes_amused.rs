//! The shipped text-to-image model, judged by the oracle on combinations that training never showed it.

use sango_models::LoadOptions;
use sango_models::amused::{AmusedPipeline, AmusedRequest};
use sango_shapes::{Prompt, oracle, split};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

/// At least this many prompts, and this share of pictures with everything right.
const PROMPTS: usize = 300;
const SHARE: f64 = 0.9;

/// Every prompt of the held-out combinations: with each place, and without one.
fn prompts() -> Vec<Prompt> {
    let prompts = split::held_out_prompts();
    assert!(prompts.len() >= PROMPTS, "only {} held-out prompts", prompts.len());
    prompts
}

#[test]
fn held_out_prompts_are_drawn_right() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/shapes/amused");
    let pipeline = AmusedPipeline::load(&dir, &LoadOptions::default()).expect("the shipped model loads");
    let mut named: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let (mut right, prompts) = (0, prompts());
    for (seed, prompt) in prompts.iter().enumerate() {
        let mut request = AmusedRequest::new(prompt.caption());
        request.seed = seed as u64;
        request.steps = Some(12);
        let output = pipeline.generate(&request, &mut |_| ControlFlow::Continue(())).expect("a picture");
        let verdict = oracle::judge(*prompt, &read(&output.images));
        right += usize::from(verdict.all_right());
        for (name, right) in verdict.named() {
            let count = named.entry(name).or_default();
            *count = (count.0 + usize::from(right), count.1 + 1);
        }
    }
    let share = right as f64 / prompts.len() as f64;
    for (name, (right, asked)) in &named {
        println!("{name:<12} {right:>4} of {asked:>4} {:>6.1} %", 100.0 * *right as f64 / *asked as f64);
    }
    println!("{:<12} {right:>4} of {:>4} {:>6.1} %", "everything", prompts.len(), 100.0 * share);
    assert!(share >= SHARE, "everything right in {right} of {} pictures", prompts.len());
}

fn read(images: &sango_tensor::Tensor) -> oracle::Reading {
    let picture = sango_models::pixels::to_rgb8(images).expect("a picture");
    let (width, height) = (picture.width as usize, picture.height as usize);
    oracle::read(&picture.bytes, width, height).expect("a picture of a size the oracle reads")
}
