//! LTX-Video against the reference's outputs: pipelines, the transformer, the text encoder, its tokenizer, the scheduler.
//!
//! `tests/parity/ltx_video.py` and `tests/parity/t5_tokenizer.py` make the cases; the bars are those of the design: f32
//! within 1e-4 of the largest reference value, bf16 within 2 % (relative L2) or 1.5 times the reference's own error.
//! `SANGO_LTX_VIDEO_CASES` names a folder of more cases.

use std::path::{Path, PathBuf};

use sango_models::ltx_video::{
    FlowMatchEulerDiscreteScheduler, LTXVideoTransformer3DConfig, LTXVideoTransformer3DModel, Levels,
    linear_quadratic_sigmas, linear_sigmas,
};
use sango_models::t5::{T5EncoderModel, T5Tokenizer};
use sango_models::{DType, LoadOptions, parity};
use sango_tensor::{Tensor, Weights};
use sango_tests::{cases, folders, max_relative, relative_l2, runs_of, tensor};
use serde_json::Value;

/// The folders of pipelines with runs.
fn models() -> Vec<PathBuf> {
    let ours = |case: &PathBuf| case.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ltx-video-"));
    let mut found: Vec<PathBuf> = folders(&cases()).into_iter().filter(ours).collect();
    if let Some(more) = std::env::var_os("SANGO_LTX_VIDEO_CASES") {
        found.extend(folders(Path::new(&more)));
    }
    found.retain(|case| case.join("model/model_index.json").is_file());
    assert!(found.len() >= 4, "only {} cases found: are they checked out?", found.len());
    found
}

fn runs() -> Vec<(PathBuf, PathBuf)> {
    models().iter().flat_map(|case| runs_of(case)).collect()
}

const NAMES: [&str; 4] = ["prompt_embeds", "velocity", "latents", "video"];

/// The pixels of a video that the cases hold: every fifth row, every third column.
fn sampled(video: &Tensor) -> Tensor {
    let every = |size: usize, step: usize| {
        let ids: Vec<i64> = (0..size as i64).step_by(step).collect();
        let len = ids.len();
        Tensor::from_i64(ids, &[len]).expect("ids")
    };
    let [.., height, width] = video.dims::<5>().expect("a video");
    let rows = video.index_select(3, &every(height, 5)).expect("rows");
    rows.index_select(4, &every(width, 3)).expect("columns")
}

fn run(model: &Path, run: &Path, dtype: DType) -> Vec<(&'static str, Tensor, Tensor)> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let outputs = dir.path().join("outputs.safetensors");
    parity::run(model, &run.join("inputs.safetensors"), &outputs, dtype)
        .unwrap_or_else(|error| panic!("{}: {error}", run.display()));
    let outputs = Weights::from_bytes(std::fs::read(outputs).expect("written"), "outputs").expect("safetensors");
    let expected = Weights::open_file(run.join("expected.safetensors")).expect("the case has expected outputs");
    let pair = |name| {
        let (value, reference) = (tensor(&outputs, name), tensor(&expected, name));
        let value = if name == "video" { sampled(&value) } else { value };
        (name, value, reference)
    };
    NAMES.map(pair).into()
}

#[test]
fn f32_agrees_with_the_reference_on_every_tensor() {
    let mut missed = Vec::new();
    for (model, case) in runs() {
        for (name, value, reference) in run(&model, &case, DType::F32) {
            let error = max_relative(&value, &reference);
            let line = format!("{} {name} {error:.1e}", case.display());
            println!("{line}");
            if !matches!(error, 0.0..=1e-4) {
                missed.push(line);
            }
        }
    }
    assert!(missed.is_empty(), "beyond 1e-4 of the largest value:\n{}", missed.join("\n"));
}

#[test]
fn bf16_stays_within_its_bar() {
    let mut missed = Vec::new();
    for (model, case) in runs() {
        let bars = std::fs::read_to_string(case.join("bars.json")).expect("the case has bars");
        let bars: Value = serde_json::from_str(&bars).expect("bars are JSON");
        for (name, value, reference) in run(&model, &case, DType::BF16) {
            let error = relative_l2(&value, &reference);
            let bar = (1.5 * bars["bf16"][name].as_f64().expect("a bar for every tensor")).max(2e-2);
            let line = format!("{} {name} {error:.4} of {bar:.4}", case.display());
            println!("{line}");
            if error.is_nan() || error > bar {
                missed.push(line);
            }
        }
    }
    assert!(missed.is_empty(), "beyond the bar:\n{}", missed.join("\n"));
}

#[test]
fn parts_agree_with_the_reference_on_their_own() {
    for case in models() {
        let parts = Weights::open_file(case.join("components.safetensors")).expect("the case can be read");
        let get = |name: &str| tensor(&parts, name);
        let check = |name: &str, value: &Tensor| {
            let error = max_relative(value, &get(name));
            println!("{} {name} {error:.1e}", case.display());
            assert!(error <= 1e-4, "{}: {name} is {error:.1e} away", case.display());
        };
        let options = LoadOptions::new(DType::F32);
        let encoder = T5EncoderModel::load(&case.join("model/text_encoder"), &options).expect("the encoder loads");
        let mask = get("attention_mask");
        check("embeds", &encoder.forward(&get("input_ids"), Some(&mask)).expect("it runs"));
        check("long_embeds", &encoder.forward(&get("long_ids"), None).expect("it runs"));

        let dir = case.join("model/transformer");
        let config: Value =
            serde_json::from_str(&std::fs::read_to_string(dir.join("config.json")).expect("a config")).expect("JSON");
        let config = LTXVideoTransformer3DConfig::from_json(&dir.join("config.json"), config).expect("it can be run");
        let weights = Weights::open(&dir, "diffusion_pytorch_model").expect("weights");
        let transformer = LTXVideoTransformer3DModel::load(&weights, config).expect("the transformer loads");
        let text = transformer.condition(&get("encoder_hidden_states"), &mask).expect("the text fits");
        let (hidden_states, timestep) = (get("hidden_states"), get("timestep"));
        let [_, tokens] = timestep.dims().expect("a timestep for every token");
        let last = timestep.narrow(1, tokens - 1, 1).expect("the last one");
        let scale = [8.0 / 25.0, 32.0, 32.0];
        let rotary = transformer.rope().forward_grid([2, 3, 2], Some(scale)).expect("a grid");
        let by_grid = transformer.forward(&hidden_states, &text, &last, &rotary, None).expect("it runs");
        check("by_grid", &by_grid);
        let rotary = transformer.rope().forward_coords(&get("video_coords")).expect("coordinates");
        let by_coords = transformer.forward(&hidden_states, &text, &timestep, &rotary, None).expect("it runs");
        check("by_coords", &by_coords);
    }
}

#[test]
fn int8_text_encoders_stay_close() {
    let case = cases().join("ltx-video-plain");
    let parts = Weights::open_file(case.join("components.safetensors")).expect("the case can be read");
    let options = LoadOptions::default().int8();
    let encoder = T5EncoderModel::load(&case.join("model/text_encoder"), &options).expect("the encoder loads");
    let mask = tensor(&parts, "attention_mask");
    let embeds = encoder.forward(&tensor(&parts, "input_ids"), Some(&mask)).expect("it runs");
    let error = relative_l2(&embeds, &tensor(&parts, "embeds"));
    println!("int8 {error:.4}");
    assert!(error < 4e-2, "{error}");
}

#[test]
fn the_scheduler_makes_the_levels_of_the_reference() {
    let text = std::fs::read_to_string(cases().join("ltx-video-schedule.json")).expect("the schedule case");
    let json: Value = serde_json::from_str(&text).expect("JSON");
    let numbers = |value: &Value| -> Vec<f32> { serde_json::from_value(value.clone()).expect("numbers") };
    let close =
        |a: &[f32], b: &[f32], of: f32| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 2e-7 * of);
    let rows = json["rows"].as_array().expect("rows");
    assert!(rows.len() > 100);
    for row in rows {
        let path = Path::new("scheduler_config.json");
        let scheduler = FlowMatchEulerDiscreteScheduler::from_json(path, row["config"].clone()).expect("a scheduler");
        let mu = scheduler.calculate_shift(row["tokens"].as_u64().expect("a number") as usize);
        let ask = &row["ask"];
        let schedule = match (&ask["sigmas"], &ask["timesteps"]) {
            (Value::Null, Value::Null) => {
                let sigmas = linear_sigmas(ask["steps"].as_u64().expect("steps") as usize);
                scheduler.set_timesteps(Levels::Sigmas(&sigmas), mu)
            }
            (Value::Null, timesteps) => scheduler.set_timesteps(Levels::Timesteps(&numbers(timesteps)), mu),
            (sigmas, _) => scheduler.set_timesteps(Levels::Sigmas(&numbers(sigmas)), mu),
        };
        let schedule = schedule.expect("levels");
        let (sigmas, timesteps) = (numbers(&row["sigmas"]), numbers(&row["timesteps"]));
        assert!(close(&schedule.sigmas, &sigmas, 1.0), "{row}\n{:?}", schedule.sigmas);
        assert!(close(&schedule.timesteps, &timesteps, 1000.0), "{row}\n{:?}", schedule.timesteps);
    }
    for row in json["linear_quadratic"].as_array().expect("rows") {
        let steps = row[0].as_u64().expect("steps") as usize;
        assert!(close(&linear_quadratic_sigmas(steps), &numbers(&row[1]), 1.0), "{row}");
    }
}

#[test]
fn the_tokenizer_gives_the_reference_ids() {
    let forms = folders(&cases().join("t5-tokenizer"));
    assert!(forms.len() >= 4);
    for dir in forms {
        let tokenizer = T5Tokenizer::load(&dir).expect("the tokenizer loads");
        let text = std::fs::read_to_string(dir.join("cases.json")).expect("the strings");
        let strings: Vec<Value> = serde_json::from_str(&text).expect("strings with ids");
        assert!(strings.len() >= 30);
        for string in strings {
            let text = string["text"].as_str().expect("a text");
            let length = string["length"].as_u64().expect("a length") as usize;
            let mut ids: Vec<i64> = serde_json::from_value(string["ids"].clone()).expect("ids");
            let mut mask = vec![1; ids.len()];
            ids.resize(length, string["pad"].as_i64().expect("an id"));
            mask.resize(length, 0);
            // Where a prompt fills its length, the last id is its end and not padding.
            let encoding = tokenizer.encode(text, length).expect("any text has ids");
            assert_eq!(encoding.ids, ids, "{}: {text:?}", dir.display());
            assert_eq!(encoding.mask, mask, "{}: {text:?}", dir.display());
        }
    }
}
