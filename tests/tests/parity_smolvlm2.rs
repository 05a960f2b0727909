//! Every committed SmolVLM2 case against the reference's outputs.
//!
//! `tests/parity/smolvlm2.py` makes the cases with `transformers`; the bars are those of the design: f32 within 1e-4 of
//! the largest reference value and the same tokens, bf16 within 2 % (relative L2) or 1.5 times the reference's own error.

use std::path::{Path, PathBuf};

use sango_models::{DType, LoadOptions, parity};
use sango_tensor::Weights;
use sango_tests::{cases, folders, max_relative, relative_l2, runs_of, tensor};

/// The folders `smolvlm2-*/run` that hold inputs and expected outputs, with the model of each.
fn runs() -> Vec<(PathBuf, PathBuf)> {
    let own = |case: &Path| case.file_name().is_some_and(|name| name.to_string_lossy().starts_with("smolvlm2-"));
    let with_model = folders(&cases()).into_iter().filter(|case| own(case) && case.join("model").is_dir());
    let runs: Vec<_> = with_model.flat_map(|case| runs_of(&case).collect::<Vec<_>>()).collect();
    assert!(runs.len() >= 15, "only {} runs found: are the cases checked out?", runs.len());
    runs
}

fn run(model: &Path, run: &Path, dtype: DType) -> (Weights, Weights) {
    run_with(model, run, &LoadOptions::new(dtype))
}

fn run_with(model: &Path, run: &Path, options: &LoadOptions) -> (Weights, Weights) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let outputs = dir.path().join("outputs.safetensors");
    parity::run_with(model, &run.join("inputs.safetensors"), &outputs, options)
        .unwrap_or_else(|error| panic!("{}: {error}", run.display()));
    let outputs = std::fs::read(outputs).expect("the outputs were written");
    let outputs = Weights::from_bytes(outputs, "outputs").expect("the outputs are safetensors");
    (outputs, Weights::open_file(run.join("expected.safetensors")).expect("the case has expected outputs"))
}

/// The float tensors that a run has: one of text alone has no features.
fn floats(expected: &Weights) -> Vec<&str> {
    expected.names().filter(|&name| name != "generated_ids").collect()
}

#[test]
fn f32_agrees_with_the_reference_on_every_tensor() {
    let mut wrong = Vec::new();
    for (model, case) in runs() {
        let (outputs, expected) = run(&model, &case, DType::F32);
        let what = case.strip_prefix(cases()).expect("a case").display().to_string();
        for name in floats(&expected) {
            let error = max_relative(&tensor(&outputs, name), &tensor(&expected, name));
            println!("{what} {name} {error:.1e}");
            if error.is_nan() || error > 1e-4 {
                wrong.push(format!("{what}: {name} is {error:.1e} of the largest value away"));
            }
        }
        let (tokens, reference) = (tensor(&outputs, "generated_ids"), tensor(&expected, "generated_ids"));
        if tokens.shape() != reference.shape() || tokens.as_i64().expect("ids") != reference.as_i64().expect("ids") {
            wrong.push(format!("{what}: {tokens:?} generated instead of {reference:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn bf16_stays_within_its_bar() {
    let mut wrong = Vec::new();
    for (model, case) in runs() {
        let (outputs, expected) = run(&model, &case, DType::BF16);
        let bars = std::fs::read_to_string(case.join("bars.json")).expect("the case has bars");
        let bars: serde_json::Value = serde_json::from_str(&bars).expect("bars are JSON");
        let what = case.strip_prefix(cases()).expect("a case").display().to_string();
        for name in floats(&expected) {
            let error = relative_l2(&tensor(&outputs, name), &tensor(&expected, name));
            let reference = bars["bf16"][name].as_f64().expect("a bar for every tensor");
            let bar = (1.5 * reference).max(2e-2);
            println!("{what} {name} {error:.4} of {bar:.4} (reference {reference:.4})");
            if error.is_nan() || error > bar {
                wrong.push(format!("{what}: {name} is {error:.4} away, more than {bar:.4}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn int8_weights_cost_little() {
    let mut worst = 0.0f64;
    for (model, case) in runs() {
        let (outputs, expected) = run_with(&model, &case, &LoadOptions::default().int8());
        let error = relative_l2(&tensor(&outputs, "logits"), &tensor(&expected, "logits"));
        println!("{} logits {error:.4}", case.strip_prefix(cases()).expect("a case").display());
        worst = worst.max(error);
    }
    assert!(worst <= 3e-2, "logits are {worst:.4} away");
}

#[test]
fn adapters_change_weights_as_peft_does() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for adapter in std::fs::read_dir(cases().join("smolvlm2-lora")).expect("the cases").map(|e| e.expect("one").path())
    {
        seen += 1;
        let text = std::fs::read_to_string(adapter.join("case.json")).expect("the case says what it is");
        let case: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let model = cases().join(case["base"].as_str().expect("a model")).join("model");
        let what = adapter.file_name().expect("a name").to_string_lossy().into_owned();
        let (outputs, expected) = run_with(&model, &adapter, &LoadOptions::new(DType::F32).lora(&adapter));
        let (half, _) = run_with(&model, &adapter, &LoadOptions::new(DType::BF16).lora(&adapter));
        for name in floats(&expected) {
            let error = max_relative(&tensor(&outputs, name), &tensor(&expected, name));
            let in_half = relative_l2(&tensor(&half, name), &tensor(&expected, name));
            let bar = (1.5 * case["bf16"][name].as_f64().expect("a bar")).max(2e-2);
            println!("{what} {name} {error:.1e}, bf16 {in_half:.4} of {bar:.4}");
            if error.is_nan() || error > 1e-4 || in_half.is_nan() || in_half > bar {
                wrong.push(format!("{what}: {name} is {error:.1e} away, in bf16 {in_half:.4}"));
            }
        }
        let (tokens, reference) = (tensor(&outputs, "generated_ids"), tensor(&expected, "generated_ids"));
        if tokens.as_i64().expect("ids") != reference.as_i64().expect("ids") {
            wrong.push(format!("{what}: {tokens:?} generated instead of {reference:?}"));
        }
    }
    assert!(seen >= 4, "only {seen} adapters found");
    assert!(wrong.is_empty(), "{wrong:#?}");
}
