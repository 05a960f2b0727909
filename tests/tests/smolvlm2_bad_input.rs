//! Damaged, hostile and mistaken SmolVLM2 folders and inputs: each is answered with an error that says what is wrong.

use std::path::{Path, PathBuf};

use sango_models::smolvlm2::SmolVLMForConditionalGeneration;
use sango_models::{DType, LoadOptions, parity};
use sango_tensor::{Tensor, Weights, save};
use sango_tests::copy_folder;
use serde_json::{Value, json};
use tempfile::TempDir;

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("parity/cases").join(name)
}

/// A copy of a small folder, to be damaged.
fn copy(from: &Path) -> TempDir {
    let to = tempfile::tempdir().expect("a temporary folder");
    copy_folder(from, to.path());
    to
}

fn change(path: &Path, pointer: &str, value: Value) {
    let text = std::fs::read_to_string(path).expect("a file");
    let mut json: Value = serde_json::from_str(&text).expect("JSON");
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    json.pointer_mut(parent).expect("it is there")[key] = value;
    std::fs::write(path, json.to_string()).expect("written");
}

fn refused(dir: &Path, options: &LoadOptions) -> String {
    SmolVLMForConditionalGeneration::load(dir, options).err().expect("it must be refused").to_string()
}

#[test]
fn configurations_that_cannot_be_honoured_name_the_key() {
    let huge = json!(1u64 << 40);
    for (pointer, value, words) in [
        ("/text_config/model_type", json!("mamba"), "`text_config.model_type`"),
        ("/text_config/hidden_act", json!("relu6"), "`hidden_act`"),
        ("/text_config/hidden_size", json!(0), "`hidden_size`"),
        ("/text_config/hidden_size", json!(50), "`hidden_size`"),
        ("/text_config/hidden_size", json!(480), "weight"),
        ("/text_config/num_attention_heads", huge.clone(), "`num_attention_heads`"),
        ("/text_config/num_key_value_heads", json!(2), "`num_attention_heads`"),
        ("/text_config/num_hidden_layers", json!(16_000_000), "layers.3."),
        ("/text_config/num_hidden_layers", json!(2), "layers.2."),
        ("/text_config/vocab_size", json!(8_000_000), "embed_tokens"),
        ("/text_config/head_dim", json!(17), "`head_dim`"),
        ("/text_config/head_dim", json!(2048), "`head_dim`"),
        ("/text_config/rms_norm_eps", json!(-1.0), "`rms_norm_eps`"),
        ("/text_config/rope_theta", json!(0.0), "`rope_theta`"),
        ("/text_config/rope_scaling", json!({"type": "su"}), "`rope_type`"),
        ("/text_config/rope_scaling", json!({"type": "linear"}), "`factor`"),
        ("/text_config/rope_scaling", json!({"type": "linear", "factor": 0}), "`factor`"),
        ("/text_config/rope_scaling", json!({"rope_type": "llama3", "factor": 8.0}), "`low_freq_factor`"),
        ("/text_config/rope_scaling", json!({"rope_type": "longrope", "short_factor": [1.0]}), "`short_factor`"),
        ("/text_config/vocab_size", json!("many"), "config.json"),
        ("/vision_config/patch_size", json!(0), "`patch_size`"),
        ("/vision_config/image_size", json!([32, 32]), "config.json"),
        ("/vision_config/image_size", json!(2), "`image_size`"),
        ("/vision_config/num_channels", json!(4), "`num_channels`"),
        ("/vision_config/num_attention_heads", json!(5), "`hidden_size`"),
        ("/scale_factor", json!(0), "`scale_factor`"),
        ("/scale_factor", json!(2), "modality_projection"),
        ("/image_token_id", json!(96), "`image_token_id`"),
        ("/image_token_id", json!(-1), "config.json"),
        ("/text_config", json!("llama"), "`text_config`"),
        ("/architectures", json!(["Idefics3ForConditionalGeneration"]), "SmolVLMForConditionalGeneration"),
    ] {
        let dir = copy(&case("smolvlm2-plain/model"));
        change(&dir.path().join("config.json"), pointer, value.clone());
        let message = refused(dir.path(), &LoadOptions::new(DType::F32));
        assert!(message.contains(words), "{pointer} = {value}: {message}");
    }
    for (key, value) in
        [("num_beams", json!(4)), ("temperature", json!(-1)), ("bad_words_ids", json!([[1]])), ("top_p", json!(7))]
    {
        let dir = copy(&case("smolvlm2-plain/model"));
        change(&dir.path().join("generation_config.json"), &format!("/{key}"), value);
        let message = refused(dir.path(), &LoadOptions::new(DType::F32));
        assert!(message.contains(key) && message.contains("generation_config.json"), "{message}");
    }
}

#[test]
fn damaged_weights_are_refused_or_survived() {
    let dir = copy(&case("smolvlm2-plain/model"));
    let path = dir.path().join("model.safetensors");
    let sound = std::fs::read(&path).expect("weights");
    for kept in [0, 7, 200, sound.len() / 2, sound.len() - 1] {
        std::fs::write(&path, &sound[..kept]).expect("written");
        assert!(refused(dir.path(), &LoadOptions::default()).contains("truncated"));
    }
    let inputs = case("smolvlm2-plain/text/inputs.safetensors");
    let outputs = dir.path().join("outputs.safetensors");
    let mut noticed = 0;
    for n in 0..60usize {
        let mut damaged = sound.clone();
        let at = if n < 40 { n * 197 % 7000 } else { n * 7919 % sound.len() };
        damaged[at] ^= 1 << (n % 8);
        std::fs::write(&path, &damaged).expect("written");
        noticed += usize::from(parity::run(dir.path(), &inputs, &outputs, DType::F32).is_err());
    }
    assert!(noticed > 10, "only {noticed} of 60 flips were noticed");
}

#[test]
fn weights_that_are_not_numbers_end_the_answer() {
    let dir = copy(&case("smolvlm2-plain/model"));
    let path = dir.path().join("model.safetensors");
    let weights = Weights::from_bytes(std::fs::read(&path).expect("weights"), "model").expect("sound");
    let mut tensors: Vec<(String, Tensor)> = weights
        .names()
        .map(|name| (name.to_owned(), weights.get(name, &weights.shape(name).expect("listed")).expect("read")))
        .collect();
    let norm = tensors.iter_mut().find(|(name, _)| name == "model.text_model.norm.weight").expect("listed");
    norm.1 = Tensor::full(norm.1.shape(), f32::NAN).expect("a shape");
    let named: Vec<(&str, &Tensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    save(&path, &named, None).expect("saved");
    let inputs = case("smolvlm2-plain/text/inputs.safetensors");
    let error = parity::run(dir.path(), &inputs, &dir.path().join("out.safetensors"), DType::F32);
    let message = error.expect_err("nothing to say").to_string();
    assert!(message.contains("not a number") && message.contains("damaged"), "{message}");
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let model = case("smolvlm2-plain/model");
    let ids = |ids: Vec<i64>| {
        let length = ids.len();
        Tensor::from_i64(ids, &[1, length]).expect("ids")
    };
    let pixels = |shape: &[usize]| Tensor::full(shape, 0.5).expect("pixels");
    for (input_ids, pixel_values, words) in [
        (ids(vec![1, 2, 96]), None, "the id 96"),
        (ids(vec![1, -2]), None, "the id -2"),
        (ids(vec![]), None, "empty"),
        (ids(vec![1; 3]).reshape(&[3]).expect("flat"), None, "[rows, tokens]"),
        (ids(vec![1, 2, 95]), Some(pixels(&[1, 1, 3, 32, 32])), "1 image tokens, but the pictures make 4"),
        (ids(vec![95; 4]), Some(pixels(&[1, 3, 32, 32])), "[rows, pictures, 3, height, width]"),
        (ids(vec![95; 4]), Some(pixels(&[1, 1, 1, 32, 32])), "pixel_values"),
        (ids(vec![95; 4]), Some(pixels(&[1, 1, 3, 32, 28])), "not the square of a multiple of 4"),
        (ids(vec![95; 4]), Some(pixels(&[1, 1, 3, 3, 3])), "not the square of a multiple of 4"),
        (ids(vec![95; 4]), Some(pixels(&[1, 0, 3, 32, 32])), "holds nothing"),
    ] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let inputs = dir.path().join("inputs.safetensors");
        let mut named = vec![("input_ids", &input_ids)];
        named.extend(pixel_values.as_ref().map(|pixels| ("pixel_values", pixels)));
        save(&inputs, &named, None).expect("saved");
        let error = parity::run(&model, &inputs, &dir.path().join("outputs.safetensors"), DType::F32);
        let message = error.expect_err("the inputs do not fit").to_string();
        assert!(message.contains(words), "{words}: {message}");
    }
}

#[test]
fn adapters_that_do_not_fit_are_refused() {
    let model = case("smolvlm2-plain/model");
    for (pointer, value, words) in [
        ("/peft_type", json!("IA3"), "`peft_type`"),
        ("/use_dora", json!(true), "`use_dora`"),
        ("/r", json!(5), "`r`"),
        ("/rank_pattern", json!({"q_proj": 9}), "`r`"),
        ("/alpha_pattern", json!({"(": 9}), "`alpha_pattern`"),
        ("/alpha_pattern", json!({"q_proj": 9, ".*_proj": 2}), "`alpha_pattern`"),
        ("/lora_alpha", json!("much"), "adapter_config.json"),
    ] {
        let dir = copy(&case("smolvlm2-lora/decoder"));
        change(&dir.path().join("adapter_config.json"), pointer, value);
        let message = refused(&model, &LoadOptions::default().lora(dir.path()));
        assert!(message.contains(words), "{pointer}: {message}");
    }
    // One for another model.
    let message = refused(&case("smolvlm2-yarn/model"), &LoadOptions::default().lora(case("smolvlm2-lora/decoder")));
    assert!(message.contains("layers."), "{message}");
    let empty = tempfile::tempdir().expect("a temporary folder");
    let message = refused(&model, &LoadOptions::default().lora(empty.path()));
    assert!(message.contains("adapter_config.json"), "{message}");
}
