//! The model that is trained is the reference's: the committed cases of `transformers`, on libtorch.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sango_train::checkpoint;
use sango_train::smolvlm2::lora::{self, AdapterOptions, Part};
use sango_train::smolvlm2::model::SmolVlm;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/parity/cases")
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("a folder of cases");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths
}

fn read(path: &Path) -> BTreeMap<String, Tensor> {
    checkpoint::load(path).expect("a safetensors file")
}

/// Features of all pictures that are not padding, and logits.
fn outputs(model: &SmolVlm, inputs: &BTreeMap<String, Tensor>) -> (Option<Tensor>, Tensor) {
    tch::no_grad(|| {
        let pictures = inputs.get("pixel_values").map(|pixels| {
            let pixels = pixels.flatten(0, 1);
            let real = pixels.flatten(1, 3).ne(0.0).any_dim(-1, false).nonzero().squeeze_dim(-1);
            // Where all is padding the reference keeps one picture.
            let real = if real.numel() == 0 { Tensor::zeros([1], (Kind::Int64, Device::Cpu)) } else { real };
            let mask = inputs.get("pixel_attention_mask").map(|mask| mask.flatten(0, 1).index_select(0, &real));
            (pixels.index_select(0, &real), mask)
        });
        let (pixels, mask) = pictures.unzip();
        let mask = mask.flatten();
        let features = pixels.as_ref().map(|pixels| model.image_features(pixels, mask.as_ref(), false));
        let logits = model.forward(&inputs["input_ids"], pixels.as_ref(), mask.as_ref()).expect("they fit");
        (features, logits)
    })
}

fn assert_close(what: &str, value: &Tensor, reference: &Tensor) {
    assert_eq!(value.size(), reference.size(), "{what}");
    let error = (value - reference).abs().max().double_value(&[]) / reference.abs().max().double_value(&[]);
    println!("{what}: {error:.1e}");
    assert!(error < 1e-4, "{what} is {error:.1e} away");
}

#[test]
fn outputs_are_those_of_transformers() {
    tch::set_num_threads(1);
    let mut seen = 0;
    let case = cases().join("smolvlm2-plain");
    let (_vs, model) = SmolVlm::load(&case.join("model"), Kind::Float).expect("the model");
    for run in folders(&case).into_iter().filter(|run| run.join("inputs.safetensors").is_file()) {
        let expected = read(&run.join("expected.safetensors"));
        let (features, logits) = outputs(&model, &read(&run.join("inputs.safetensors")));
        let name = run.display();
        if let (Some(features), Some(reference)) = (features, expected.get("image_features")) {
            assert_close(&format!("{name}: features"), &features, reference);
        }
        assert_close(&format!("{name}: logits"), &logits, &expected["logits"]);
        seen += 1;
    }
    assert!(seen >= 4, "only {seen} runs found");
    // The others ask for what no SmolVLM2 has, and training refuses it.
    for case in ["smolvlm2-tied", "smolvlm2-yarn", "smolvlm2-dynamic"] {
        let error = SmolVlm::load(&cases().join(case).join("model"), Kind::Float).expect_err("refused");
        assert!(format!("{error:#}").contains("is not supported"), "{error:#}");
    }
}

#[test]
fn adapters_of_peft_have_the_same_effect() {
    tch::set_num_threads(1);
    let adapter = cases().join("smolvlm2-lora/decoder");
    let json = |name: &str| -> serde_json::Value {
        let text = std::fs::read_to_string(adapter.join(name)).expect("a file of the case");
        serde_json::from_str(&text).expect("JSON")
    };
    let (case, config) = (json("case.json"), json("adapter_config.json"));
    let projections = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
    let options = AdapterOptions {
        rank: config["r"].as_i64().expect("a rank"),
        alpha: config["lora_alpha"].as_f64().expect("alpha"),
        dropout: 0.0,
        target_modules: projections.map(str::to_owned).to_vec(),
        part: Part::Text,
    };
    let base = cases().join(case["base"].as_str().expect("a model")).join("model");
    let (_vs, mut model) = SmolVlm::load(&base, Kind::Float).expect("the model");
    let vs = VarStore::new(Device::Cpu);
    let tuned = lora::install(&mut model, &vs.root(), &options).expect("layers");
    let weights = read(&adapter.join("adapter_model.safetensors"));
    assert_eq!(weights.len(), 2 * tuned.len(), "the same layers as PEFT");
    lora::load(&mut model, &adapter).expect("an adapter");
    let (_, logits) = outputs(&model, &read(&adapter.join("inputs.safetensors")));
    let expected = read(&adapter.join("expected.safetensors"));
    assert_close("logits", &logits, &expected["logits"]);
}
