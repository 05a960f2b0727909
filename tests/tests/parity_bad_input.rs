//! Damaged, hostile and mistaken input to the model layer: each is answered with an error that says what is wrong.

use std::ops::ControlFlow;
use std::path::Path;

use sango_models::amused::{AmusedPipeline, AmusedRequest, Prompts};
use sango_models::{DType, LoadOptions, ModelError, detect};
use sango_tensor::{Tensor, Weights, save};
use sango_tests::{ModelCopy, assert_says};
use serde_json::json;

/// A model to be damaged.
fn sound() -> ModelCopy {
    ModelCopy::of_case("amused-odd-grid")
}

trait Load {
    fn load(&self) -> Result<AmusedPipeline, ModelError>;

    fn refused(&self) -> String {
        self.load().err().expect("the folder must be refused").to_string()
    }
}

impl Load for ModelCopy {
    fn load(&self) -> Result<AmusedPipeline, ModelError> {
        AmusedPipeline::load(self.dir(), &LoadOptions::new(DType::F32).eager())
    }
}

const TRANSFORMER: &str = "transformer/diffusion_pytorch_model.safetensors";

/// Rewrites a weight file with `change` applied to its list of tensors.
fn rewrite(path: &Path, change: impl FnOnce(&mut Vec<(String, Tensor)>)) {
    let bytes = std::fs::read(path).expect("weights");
    let weights = Weights::from_bytes(bytes, "weights").expect("sound weights");
    let read = |name: &str| weights.get_f32(name, &weights.shape(name).expect("listed")).expect("floats");
    let mut tensors: Vec<(String, Tensor)> = weights.names().map(|name| (name.to_owned(), read(name))).collect();
    change(&mut tensors);
    let named: Vec<(&str, &Tensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    save(path, &named, None).expect("saved");
}

#[test]
fn the_folder_itself_is_sound() {
    let summary = sound().load().expect("nothing is wrong with it").summary();
    assert_eq!((summary.width, summary.height, summary.codebook_size), (10, 10, 32));
}

#[test]
fn folders_that_are_no_model() {
    let model = sound();
    assert_says(&detect(model.path("nowhere")).expect_err("missing").to_string(), &["nowhere", "no such folder"]);
    assert_says(&detect(model.path("tokenizer")).expect_err("no config").to_string(), &["model_index.json"]);
    model.set("model_index.json", "_class_name", json!("StableDiffusionPipeline"));
    assert_says(&detect(model.dir()).expect_err("unknown").to_string(), &["StableDiffusionPipeline", "AmusedPipeline"]);
    std::fs::write(model.path("model_index.json"), "{\"_class").expect("written");
    assert_says(&detect(model.dir()).expect_err("damaged").to_string(), &["model_index.json"]);
}

#[test]
fn configurations_that_cannot_be_run_name_file_and_key() {
    let cases = [
        (
            "vqvae/config.json",
            "down_block_types",
            json!(["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]),
            "DownEncoderBlock2D",
        ),
        ("vqvae/config.json", "up_block_types", json!(["UpDecoderBlock2D"]), "is 1"),
        ("vqvae/config.json", "act_fn", json!("snake"), "known are silu"),
        ("vqvae/config.json", "norm_type", json!("spatial"), "group"),
        ("vqvae/config.json", "norm_num_groups", json!(3), "not a multiple"),
        ("vqvae/config.json", "norm_num_groups", json!(0), "between 1"),
        ("vqvae/config.json", "block_out_channels", json!([]), "1 to 8"),
        ("vqvae/config.json", "lookup_from_codebook", json!(false), "needs true"),
        ("vqvae/config.json", "_class_name", json!("AutoencoderKL"), "VQModel"),
        ("transformer/config.json", "num_attention_heads", json!(7), "not a multiple of num_attention_heads (7)"),
        ("transformer/config.json", "num_attention_heads", json!(0), "between 1"),
        ("transformer/config.json", "block_num_heads", json!(7), "not a multiple"),
        ("transformer/config.json", "micro_cond_embed_dim", json!(41), "is 41"),
        ("transformer/config.json", "encoder_hidden_size", json!(25), "text encoder"),
        ("transformer/config.json", "cond_embed_dim", json!(31), "projection_dim"),
        ("transformer/config.json", "codebook_size", json!(31), "num_vq_embeddings"),
        ("transformer/config.json", "vocab_size", json!(32), "codebook_size"),
        ("transformer/config.json", "upsample", json!(true), "both"),
        ("transformer/config.json", "hidden_size", json!(1_000_000_000_000_000_000u64), "hidden_size"),
        ("transformer/config.json", "hidden_size", json!(-60), "config.json"),
        ("transformer/config.json", "hidden_size", json!("sixty"), "config.json"),
        ("transformer/config.json", "num_hidden_layers", json!(1_000_000), "transformer_layers.2"),
        ("transformer/config.json", "num_hidden_layers", json!(1), "not part of this model"),
        ("transformer/config.json", "intermediate_size", json!(51), "the configuration asks for [102, 60]"),
        ("transformer/config.json", "use_bias", json!(true), "no tensor"),
        ("text_encoder/config.json", "hidden_act", json!("tanh"), "quick_gelu"),
        ("text_encoder/config.json", "num_attention_heads", json!(5), "not a multiple"),
        ("text_encoder/config.json", "max_position_embeddings", json!(78), "position_embedding"),
        ("scheduler/scheduler_config.json", "masking_schedule", json!("square"), "cosine and linear"),
        ("scheduler/scheduler_config.json", "mask_token_id", json!(7), "between"),
        ("scheduler/scheduler_config.json", "mask_token_id", json!(-1), "negative"),
        ("sango.json", "guidance_scale", json!(1e9), "between 0"),
        ("sango.json", "steps", json!(0), "between 1"),
        ("sango.json", "guidence", json!(3), "guidence"),
    ];
    for (file, key, value, words) in cases {
        let message = sound().set(file, key, value.clone()).refused();
        println!("{file} {key} = {value}: {message}");
        assert_says(&message, &[words]);
        // Where the value itself is at fault, the file and the key are named; else the weights that do not fit it.
        let weights = message.contains(".safetensors");
        assert!(
            weights || message.contains(Path::new(file).file_name().and_then(|n| n.to_str()).expect("a name")),
            "{message}"
        );
    }
}

#[test]
fn missing_files_and_tensors_are_named() {
    for file in ["transformer/config.json", TRANSFORMER, "vqvae", "text_encoder/config.json", "scheduler"] {
        let model = sound();
        let path = model.path(file);
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.expect("removed");
        assert_says(&model.refused(), &[file.split('/').next().expect("a folder")]);
    }
    let model = sound();
    let key = "transformer_layers.1.attn2.to_k.weight";
    rewrite(&model.path(TRANSFORMER), |tensors| tensors.retain(|(name, _)| name != key));
    assert_says(&model.refused(), &["transformer", "no tensor", key]);

    let model = sound();
    rewrite(&model.path(TRANSFORMER), |tensors| {
        let (_, tensor) = tensors.iter_mut().find(|(name, _)| name == key).expect("listed");
        *tensor = tensor.narrow(0, 0, 59).expect("60 rows");
    });
    assert_says(&model.refused(), &[key, "[59, 60]", "[60, 60]"]);
    // The encoder of the VQ model is only read when asked for.
    let model = sound();
    rewrite(&model.path("vqvae/diffusion_pytorch_model.safetensors"), |tensors| {
        tensors.retain(|(name, _)| name != "encoder.conv_in.weight");
    });
    assert_says(&model.refused(), &["encoder.conv_in.weight"]);
    AmusedPipeline::load(model.dir(), &LoadOptions::new(DType::F32)).expect("text to image needs no encoder");
}

#[test]
fn damaged_weights_are_refused_or_survived() {
    let model = sound();
    let path = model.path(TRANSFORMER);
    let sound = std::fs::read(&path).expect("weights");
    for kept in [0, 4, 8, 100, sound.len() / 2, sound.len() - 1] {
        std::fs::write(&path, &sound[..kept]).expect("written");
        assert_says(&model.refused(), &[TRANSFORMER, "truncated"]);
    }
    // A flipped bit may be harmless, may make the header nonsense, or may make outputs nonsense, but never panics.
    let mut refused = 0;
    for n in 0..160usize {
        let mut damaged = sound.clone();
        // Most of the first flips hit the header.
        let at = if n < 100 { n * 97 % 9000 } else { n * 7919 % sound.len() };
        damaged[at] ^= 1 << (n % 8);
        std::fs::write(&path, &damaged).expect("written");
        let run = model.load().and_then(|pipeline| {
            let request = AmusedRequest { steps: Some(2), ..AmusedRequest::new("a red circle") };
            pipeline.generate(&request, &mut |_| ControlFlow::Continue(()))
        });
        refused += usize::from(run.is_err());
    }
    assert!(refused > 50, "only {refused} of 160 flips were noticed");
}

#[test]
fn weights_that_are_not_numbers_end_the_generation() {
    let model = sound();
    rewrite(&model.path(TRANSFORMER), |tensors| {
        let (_, tensor) = tensors.iter_mut().find(|(name, _)| name == "project_to_hidden.weight").expect("listed");
        *tensor = Tensor::full(tensor.shape(), f32::NAN).expect("a shape");
    });
    let pipeline = model.load().expect("NaN is a float like any other");
    let error = pipeline.generate(&AmusedRequest::new("a red circle"), &mut |_| ControlFlow::Continue(()));
    assert_says(&error.expect_err("nothing to draw").to_string(), &["step 1", "not a number", "damaged"]);
}

#[test]
fn requests_that_make_no_sense_are_refused_before_any_work() {
    let pipeline = sound().load().expect("a sound folder");
    let refused = |change: &dyn Fn(&mut AmusedRequest)| {
        let mut request = AmusedRequest::new("a red circle");
        change(&mut request);
        let mut steps = 0;
        let result = pipeline.generate(&request, &mut |_| {
            steps += 1;
            ControlFlow::Continue(())
        });
        assert_eq!(steps, 0);
        result.expect_err("the request makes no sense").to_string()
    };
    assert_says(&refused(&|r| r.prompt = "".into()), &["`prompt`", "empty"]);
    assert_says(&refused(&|r| r.prompt = "x".repeat(10_000).into()), &["`prompt`", "10000", "4096"]);
    assert_says(&refused(&|r| r.width = Some(11)), &["`width` is 11", "multiple of 2", "for example 10"]);
    assert_says(&refused(&|r| r.height = Some(0)), &["`height` is 0", "for example 2"]);
    assert_says(&refused(&|r| r.height = Some(usize::MAX)), &["`height`", "up to 128"]);
    assert_says(&refused(&|r| r.steps = Some(0)), &["`steps` is 0", "between 1 and 1000"]);
    assert_says(&refused(&|r| r.steps = Some(1_000_000)), &["`steps`", "between 1 and 1000"]);
    assert_says(&refused(&|r| r.guidance_scale = Some(f32::NAN)), &["`guidance_scale` is NaN"]);
    let image = Tensor::full(&[1, 3, 10, 10], 0.5).expect("a picture");
    assert_says(&refused(&|r| r.mask = Some(image.clone())), &["`mask`", "image"]);
    assert_says(&refused(&|r| r.image = Some(Tensor::zeros(&[1, 4, 10, 10]).expect("four"))), &["`image`", "[1, 3"]);
    assert_says(&refused(&|r| r.image = Some(Tensor::zeros(&[1, 3, 1, 10]).expect("small"))), &["`image`", "at least"]);
    assert_says(
        &refused(&|r| r.image = Some(Tensor::full(&[1, 3, 10, 10], 255.0).expect("bytes"))),
        &["`image`", "0..1"],
    );
    let image = &image;
    assert_says(
        &refused(&|r| (r.image, r.mask) = (Some(image.clone()), Some(image.clone()))),
        &["`mask`", "[1, 1, height, width]"],
    );
    assert_says(&refused(&|r| (r.image, r.strength) = (Some(image.clone()), Some(0.01))), &["`strength`", "none of"]);
    assert_says(&refused(&|r| (r.image, r.strength) = (Some(image.clone()), Some(f32::NAN))), &["`strength` is NaN"]);
    let ids = |count: usize, id: i64| Prompts::Ids(Tensor::from_i64(vec![id; count], &[1, count]).expect("ids"));
    assert_says(&refused(&|r| r.prompt = ids(77, 1_000_000)), &["1000000", "out of range"]);
    assert_says(&refused(&|r| (r.prompt, r.negative_prompt) = (ids(78, 1), ids(78, 1))), &["78 tokens", "1 to 77"]);
}

#[test]
fn a_folder_without_a_tokenizer_takes_ids_only() {
    let model = sound();
    std::fs::remove_dir_all(model.path("tokenizer")).expect("removed");
    let pipeline = model.load().expect("ids need no tokenizer");
    let error = pipeline.generate(&AmusedRequest::new("a red circle"), &mut |_| ControlFlow::Continue(()));
    assert_says(&error.expect_err("text needs one").to_string(), &["tokenizer", "ids"]);
}

#[test]
fn damaged_tokenizers_are_named() {
    for (file, text, words) in [
        ("merges.txt", "#version: 0.2\nabc\n", "a merge is two symbols"),
        ("merges.txt", "#version: 0.2\nzz yy\n", "not a CLIP tokenizer"),
        ("vocab.json", "{}", "not in the vocabulary"),
        ("vocab.json", "[1, 2]", "vocab.json"),
        ("tokenizer_config.json", r#"{"model_max_length": 1}"#, "at least 2"),
        ("tokenizer_config.json", r#"{"pad_token": "<|nothing|>"}"#, "<|nothing|>"),
    ] {
        let model = sound();
        std::fs::write(model.path("tokenizer").join(file), text).expect("written");
        assert_says(&model.refused(), &["tokenizer", words]);
    }
}
