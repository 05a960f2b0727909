//! Every committed parity case against the reference's outputs.
//!
//! `tests/parity/amused.py` makes the cases with `diffusers`; the bars are those of the design: f32 within 1e-4 of the
//! largest reference value and the same tokens, bf16 within 2 % (relative L2) or 1.5 times the reference's own error.

use std::path::{Path, PathBuf};

use sango_models::amused::{AmusedScheduler, MaskingSchedule, Progress, StepNoise, UVit2DModel, VQModel};
use sango_models::clip::CLIPTokenizer;
use sango_models::{DType, ModelKind, detect, parity};
use sango_tensor::{Tensor, Weights};
use sango_tests::{cases, folders, max_relative, relative_l2, runs_of, tensor};

/// The folders `case/run` that hold inputs and expected outputs.
fn runs() -> Vec<(PathBuf, PathBuf)> {
    let amused = |case: &Path| case.file_name().is_some_and(|name| name.to_string_lossy().starts_with("amused-"));
    let with_model = folders(&cases()).into_iter().filter(|case| amused(case) && case.join("model").is_dir());
    let runs: Vec<_> = with_model.flat_map(|case| runs_of(&case).collect::<Vec<_>>()).collect();
    assert!(runs.len() >= 10, "only {} runs found: are the cases checked out?", runs.len());
    runs
}

fn run(model: &Path, run: &Path, dtype: DType) -> (Weights, Weights) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let outputs = dir.path().join("outputs.safetensors");
    parity::run(model, &run.join("inputs.safetensors"), &outputs, dtype)
        .unwrap_or_else(|error| panic!("{}: {error}", run.display()));
    let outputs = std::fs::read(outputs).expect("the outputs were written");
    let outputs = Weights::from_bytes(outputs, "outputs").expect("the outputs are safetensors");
    (outputs, Weights::open_file(run.join("expected.safetensors")).expect("the case has expected outputs"))
}

#[test]
fn f32_agrees_with_the_reference_on_every_tensor() {
    for (model, case) in runs() {
        let (outputs, expected) = run(&model, &case, DType::F32);
        let what = case.display();
        for name in ["prompt_embeds", "pooled_embeds", "logits", "image"] {
            let error = max_relative(&tensor(&outputs, name), &tensor(&expected, name));
            println!("{what} {name} {error:.1e}");
            assert!(error <= 1e-4, "{what}: {name} is {error:.1e} of the largest value away");
        }
        let (tokens, reference) = (tensor(&outputs, "tokens"), tensor(&expected, "tokens"));
        assert_eq!(tokens.shape(), reference.shape(), "{what}");
        assert_eq!(tokens.as_i64().expect("ids"), reference.as_i64().expect("ids"), "{what}: tokens");
    }
}

#[test]
fn bf16_stays_within_its_bar() {
    for (model, case) in runs() {
        let (outputs, expected) = run(&model, &case, DType::BF16);
        let bars = std::fs::read_to_string(case.join("bars.json")).expect("the case has bars");
        let bars: serde_json::Value = serde_json::from_str(&bars).expect("bars are JSON");
        let same_tokens =
            tensor(&outputs, "tokens").as_i64().expect("ids") == tensor(&expected, "tokens").as_i64().expect("ids");
        // A token that rounding decided otherwise makes another picture, so pictures are compared when tokens agree.
        let names = ["prompt_embeds", "pooled_embeds", "logits", "image"];
        for name in names.into_iter().filter(|&name| name != "image" || same_tokens) {
            let error = relative_l2(&tensor(&outputs, name), &tensor(&expected, name));
            let reference = bars["bf16"][name].as_f64().expect("a bar for every tensor");
            let bar = (1.5 * reference).max(2e-2);
            println!("{} {name} {error:.4} of {bar:.4}", case.display());
            assert!(error <= bar, "{}: {name} is {error:.4} away, more than {bar:.4}", case.display());
        }
    }
}

#[test]
fn parts_agree_with_the_reference_on_their_own() {
    let mut seen = 0;
    for case in std::fs::read_dir(cases()).expect("a folder of cases").map(|entry| entry.expect("a case").path()) {
        let path = case.join("components.safetensors");
        if !path.is_file() || !detect(case.join("model")).is_ok_and(|kind| kind == ModelKind::Amused) {
            continue;
        }
        seen += 1;
        let parts = Weights::open_file(&path).expect("the case can be read");
        let check = |name: &str, value: &Tensor, expected: &Tensor| {
            let error = max_relative(value, expected);
            println!("{} {name} {error:.1e}", case.display());
            assert!(error <= 1e-4, "{}: {name} is {error:.1e} away", case.display());
        };
        let transformer =
            UVit2DModel::load(&case.join("model/transformer"), DType::F32).expect("the transformer loads");
        let inputs =
            ["input_ids", "encoder_hidden_states", "pooled_text_emb", "micro_conds"].map(|name| tensor(&parts, name));
        let [input_ids, encoder_hidden_states, pooled, micro_conds] = &inputs;
        let logits = transformer.forward(input_ids, encoder_hidden_states, pooled, micro_conds).expect("it runs");
        check("logits", &logits, &tensor(&parts, "logits"));

        let vqvae = VQModel::load(&case.join("model/vqvae")).expect("the VQ model loads");
        let channels_last = |name: &str| tensor(&parts, name).permute(&[0, 2, 3, 1]).expect("four dimensions");
        let latents = vqvae.encode(&channels_last("vq_image")).expect("it encodes");
        check("latents", &latents, &channels_last("vq_latents"));
        let tokens = vqvae.quantize(&latents).expect("it quantises");
        let expected = tensor(&parts, "vq_tokens");
        assert_eq!(tokens.as_i64().expect("ids"), expected.as_i64().expect("ids"));
        let decoded = vqvae.decode(&expected).expect("it decodes");
        check("decoded", &decoded, &channels_last("vq_decoded"));
    }
    assert!(seen >= 4, "only {seen} cases have components");
}

#[test]
fn the_scheduler_masks_as_many_tokens_as_the_reference() {
    let text = std::fs::read_to_string(cases().join("amused-schedule.json")).expect("the schedule case");
    let rows: Vec<(String, usize, usize, f32, Vec<usize>)> = serde_json::from_str(&text).expect("rows");
    assert!(rows.len() > 100);
    for (schedule, steps, tokens, starting_mask_ratio, lengths) in rows {
        let masking_schedule = if schedule == "cosine" { MaskingSchedule::Cosine } else { MaskingSchedule::Linear };
        let scheduler = AmusedScheduler { mask_token_id: 9, masking_schedule };
        let mut sample = vec![9; tokens];
        let mut found = Vec::new();
        for step in 0..steps {
            let progress = Progress { step, steps, temperature: 0.0, starting_mask_ratio };
            let unknown = sample.iter().filter(|&&token| token == 9).count();
            // Confidences that all differ, so that exactly the scheduled number is masked again.
            let log_probs: Vec<f32> = (0..unknown).map(|n| -0.001 * (n + 1) as f32).collect();
            let gumbels = vec![0.0; tokens];
            scheduler.step(&progress, &log_probs, 1, &mut sample, &mut StepNoise::given(&gumbels, &gumbels, 1));
            found.push(sample.iter().filter(|&&token| token == 9).count());
        }
        assert_eq!(found, lengths, "{schedule}, {steps} steps, {tokens} tokens, start {starting_mask_ratio}");
    }
}

#[test]
fn the_tokenizer_gives_the_reference_ids() {
    for convention in ["pad-end", "pad-bang"] {
        let dir = cases().join("amused-tokenizer").join(convention);
        let tokenizer = CLIPTokenizer::load(&dir, 77).expect("the tokenizer loads");
        let text = std::fs::read_to_string(dir.join("cases.json")).expect("the strings");
        let strings: Vec<serde_json::Value> = serde_json::from_str(&text).expect("strings with ids");
        assert!(strings.len() >= 20);
        for string in strings {
            let text = string["text"].as_str().expect("a text");
            let ids: Vec<i64> = serde_json::from_value(string["ids"].clone()).expect("ids");
            assert_eq!(tokenizer.encode(text).expect("any text has ids"), ids, "{convention}: {text:?}");
        }
    }
}
