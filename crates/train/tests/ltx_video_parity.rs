//! The models that are trained are the reference's: what `diffusers` and `transformers` computed with small ones
//! (`ltx_video.py`), on libtorch.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sango_train::checkpoint;
use sango_train::ltx_video::text::config::T5Config;
use sango_train::ltx_video::text::t5::T5EncoderModel;
use sango_train::ltx_video::text::tokenizer::T5Tokenizer;
use sango_train::ltx_video::transformer::{LTXVideoTransformer3DModel, RotaryPosEmbed, TransformerConfig};
use sango_train::ltx_video::vae::{AutoencoderKLLTXVideo, VaeConfig};
use serde::de::DeserializeOwned;
use tch::nn::{Path as VarPath, VarStore};
use tch::{Device, Kind, Tensor, no_grad};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ltx_video").join(name)
}

fn json<T: DeserializeOwned>(name: &str) -> T {
    let text = std::fs::read_to_string(file(name)).expect("a file of the case");
    serde_json::from_str(&text).expect("JSON of the case")
}

/// The model of a case with its weights, and the tensors that went in and came out.
fn open<M>(name: &str, build: impl FnOnce(&VarPath) -> M) -> (M, BTreeMap<String, Tensor>) {
    tch::set_num_threads(1);
    let tensors = checkpoint::load(&file(&format!("{name}.safetensors"))).expect("tensors");
    let vs = VarStore::new(Device::Cpu);
    let model = build(&vs.root());
    let mut variables = vs.variables();
    for (key, tensor) in &tensors {
        if let Some(key) =
            key.strip_prefix("model.").filter(|key| !key.starts_with("latents_") && !key.contains("embed_tokens"))
        {
            let mut variable = variables.remove(key).unwrap_or_else(|| panic!("{key} is none of ours"));
            assert_eq!(variable.size(), tensor.size(), "{key}");
            no_grad(|| variable.copy_(tensor));
        }
    }
    assert!(variables.is_empty(), "the reference lacks {:?}", variables.keys());
    (model, tensors)
}

fn assert_close(what: &str, value: &Tensor, reference: &Tensor) {
    assert_eq!(value.size(), reference.size(), "{what}");
    let error = (value - reference).abs().max().double_value(&[]) / reference.abs().max().double_value(&[]);
    println!("{what}: {error:.1e}");
    assert!(error < 1e-4, "{what} is {error:.1e} away");
}

#[test]
fn the_vae_is_that_of_diffusers() {
    let config: VaeConfig = json("vae.json");
    let (model, case) = open("vae", |path| AutoencoderKLLTXVideo::new(path, &config));
    let posterior = no_grad(|| model.encode(&case["clip"]));
    assert_close("mean", &posterior.mean, &case["mean"]);
    assert_close("logvar", &posterior.logvar.expand_as(&case["logvar"]), &case["logvar"]);
    assert_close("video", &no_grad(|| model.decode(&case["latents"])), &case["video"]);
}

#[test]
fn the_transformer_is_that_of_diffusers() {
    let config: TransformerConfig = json("transformer.json");
    let (model, case) = open("transformer", |path| LTXVideoTransformer3DModel::new(path, &config));
    let rope = RotaryPosEmbed::new(config.inner_dim(), [3, 2, 2], [0.5, 16.0, 16.0], Kind::Float);
    let run = |parts: &[(i64, &Tensor)]| {
        no_grad(|| model.forward(&case["latents"], parts, &case["caption"], &case["mask"], &rope))
    };
    let (timestep, still) = (&case["timestep"], Tensor::zeros_like(&case["timestep"]));
    assert_close("velocity", &run(&[(12, timestep)]), &case["velocity"]);
    assert_close("velocity with a frame given", &run(&[(4, &still), (8, timestep)]), &case["velocity_given"]);
}

#[test]
fn the_text_encoder_is_that_of_transformers() {
    let config: T5Config = json("text_encoder.json");
    let (model, case) = open("text_encoder", |path| T5EncoderModel::new(path, &config));
    assert_close("hidden states", &no_grad(|| model.forward(&case["ids"])), &case["hidden"]);
}

#[test]
fn ids_are_those_of_transformers() {
    let tokenizer = T5Tokenizer::shapes().expect("a tokenizer");
    for (prompt, expected) in json::<BTreeMap<String, Vec<i64>>>("ids.json") {
        assert_eq!(tokenizer.encode(&prompt).expect("ids").0, expected, "{prompt:?}");
    }
}
