//! The forms in which LTX-Video is published, whole and damaged. `tests/parity/ltx_video_single_file.py` makes the single
//! files and checks them with diffusers.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use sango_models::DType;
use sango_models::ltx_video::vae::{AutoencoderKLLTXVideo, AutoencoderKLLTXVideoConfig, DecodeOptions, Tiling};
use sango_models::ltx_video::{LtxCheckpoint, LtxComponent, LtxFamily, LtxSampler};
use sango_tensor::{Tensor, Weights};
use serde_json::{Value, json};

const CASES: [&str; 3] = ["ltx-video-2b-v0.9", "ltx-video-2b-v0.9.1", "ltxv-2b-0.9.6-distilled-04-25"];

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("parity/cases/ltx-video-single-file").join(name)
}

fn file(name: &str) -> PathBuf {
    case(&format!("{name}.safetensors"))
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).expect("a JSON file")).expect("JSON")
}

/// Every tensor of a component has the shape, the sum and the sum of squares that it has in diffusers, and there is no other.
fn check_tensors(component: &LtxComponent, expected: &Value) {
    let expected = expected.as_object().expect("tensors by name");
    assert_eq!(component.weights.names().count(), expected.len());
    for (name, facts) in expected {
        let shape: Vec<usize> = serde_json::from_value(facts[0].clone()).expect("a shape");
        let tensor = component.weights.get_f32(name, &shape).expect("the tensor");
        let values = tensor.as_f32().expect("f32").iter().map(|&x| f64::from(x));
        let (sum, squares) = values.fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
        let near = |a: f64, b: &Value| (a - b.as_f64().expect("a sum")).abs() <= 1e-9 * (1.0 + squares);
        assert!(near(sum, &facts[1]) && near(squares, &facts[2]), "{name}: {sum} {squares}, not {facts}");
    }
}

/// What both configurations say is the same (numbers as numbers: 1 is 1.0).
fn check_config(ours: &Value, diffusers: &Value) {
    for (key, value) in ours.as_object().expect("an object") {
        let expected = &diffusers[key];
        if key.starts_with('_') || (expected.is_null() && key.ends_with("compression_ratio")) {
            continue;
        }
        let same = value == expected || (value.is_number() && value.as_f64() == expected.as_f64());
        assert!(same, "{key} is {value}, in diffusers {expected}");
    }
}

fn load_vae(component: &LtxComponent) -> AutoencoderKLLTXVideo {
    let config = AutoencoderKLLTXVideoConfig::from_value(&component.path, component.config.clone()).expect("supported");
    AutoencoderKLLTXVideo::load(&component.weights.with_dtype(DType::F32), config).expect("it loads")
}

fn decode(vae: &AutoencoderKLLTXVideo) -> Tensor {
    let values = (0..6 * 2 * 2 * 3).map(|n| ((n * 37 % 19) as f32 - 9.0) / 6.0).collect();
    let latents = Tensor::from_vec(values, &[1, 6, 2, 2, 3]).expect("latents");
    let mut on = |_, _| ControlFlow::Continue(());
    vae.decode(&latents, Some(0.05), &DecodeOptions::default(), &mut on).expect("it decodes")
}

/// The tensors of a safetensors file.
fn tensors(path: &Path) -> Vec<(String, Tensor)> {
    let weights = Weights::open_file(path).expect("a file");
    let names: Vec<String> = weights.names().map(str::to_owned).collect();
    let get = |name: String| {
        let tensor = weights.get(&name, &weights.shape(&name).expect("a shape")).expect("a tensor");
        (name, tensor)
    };
    names.into_iter().map(get).collect()
}

fn write(path: &Path, tensors: &[(String, Tensor)], config: Option<&Value>) {
    let tensors: Vec<(&str, &Tensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let metadata = config.map(|config| HashMap::from([("config".to_owned(), config.to_string())]));
    sango_tensor::save(path, &tensors, metadata).expect("written");
}

fn metadata(name: &str) -> Value {
    let weights = Weights::open_file(file(name)).expect("a file");
    serde_json::from_str(weights.metadata("config").expect("metadata")).expect("JSON")
}

#[test]
fn single_files_have_the_tensors_and_configurations_of_diffusers() {
    for name in CASES {
        let checkpoint = LtxCheckpoint::open(file(name)).expect("it opens");
        let (configs, expected) = (read(&case(name).join("config.json")), read(&case(name).join("tensors.json")));
        for (part, component) in [("vae", checkpoint.vae()), ("transformer", checkpoint.transformer())] {
            let component = component.expect("a part");
            check_tensors(&component, &expected[part]);
            check_config(&component.config, &configs[part]);
        }
        let video = decode(&load_vae(&checkpoint.vae().expect("the autoencoder")));
        assert!(video.numel() > 0);
        assert!(checkpoint.text_encoder_dir().is_none() && checkpoint.tokenizer_dir().is_none());
    }
}

#[test]
fn a_file_without_metadata_is_known_by_its_tensors() {
    let dir = tempfile::tempdir().expect("a folder");
    for name in CASES {
        let bare = dir.path().join("model.safetensors");
        write(&bare, &tensors(&file(name)), None);
        let known = LtxCheckpoint::open(file(name)).expect("it opens").vae().expect("the autoencoder");
        if metadata(name)["transformer"]["num_attention_heads"] != 32 {
            let error = LtxCheckpoint::open(&bare).err().expect("no published model has so few heads").to_string();
            assert!(error.contains("unknown generation"), "{error}");
            continue;
        }
        let inferred = LtxCheckpoint::open(&bare).expect("it opens");
        let configs = read(&case(name).join("config.json"));
        check_config(&inferred.transformer_config().expect("a configuration"), &configs["transformer"]);
        let inferred = inferred.vae().expect("the autoencoder");
        assert_eq!(inferred.config, known.config);
        let (a, b) = (decode(&load_vae(&inferred)), decode(&load_vae(&known)));
        assert_eq!(a.as_f32().expect("f32"), b.as_f32().expect("f32"));
    }
}

#[test]
fn a_generation_says_how_it_is_run() {
    let [first, second, distilled] = CASES.map(|name| LtxCheckpoint::open(file(name)).expect("it opens"));
    assert_eq!(first.generation().to_string(), "0.9.0");
    assert_eq!(second.generation().to_string(), "0.9.1");
    assert_eq!(distilled.generation().to_string(), "0.9.6 distilled");
    assert_eq!(distilled.generation().family, LtxFamily::V0_9_5);
    for (checkpoint, class, shifts, sampler) in [
        (&first, "LTXPipeline", true, LtxSampler::Uniform),
        (&second, "LTXPipeline", true, LtxSampler::Uniform),
        (&distilled, "LTXConditionPipeline", false, LtxSampler::LinearQuadratic),
    ] {
        assert_eq!(checkpoint.pipeline_class(), class);
        assert_eq!(checkpoint.causal_temporal_positioning(), !shifts);
        assert_eq!(checkpoint.sampler(), sampler);
        let scheduler = checkpoint.scheduler().expect("a scheduler");
        assert_eq!(scheduler["use_dynamic_shifting"], json!(shifts));
        assert_eq!(scheduler["shift_terminal"], if shifts { json!(0.1) } else { Value::Null });
    }
    assert_eq!(first.default_timesteps(), None);
    assert_eq!(distilled.default_timesteps().map(|steps| (steps.len(), steps[0])), Some((8, 1.0)));
}

#[test]
fn a_folder_is_known_by_its_index_and_a_lone_file_by_itself() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    let error = |path: &Path| LtxCheckpoint::open(path).err().expect("nothing to open").to_string();
    assert!(error(dir.path()).contains("neither model_index.json nor"));
    assert!(error(&at("missing.safetensors")).contains("missing.safetensors"));
    std::fs::copy(file(CASES[0]), at("ltxv.safetensors")).expect("copied");
    std::fs::create_dir(at("text_encoder")).expect("a folder");
    let checkpoint = LtxCheckpoint::open(dir.path()).expect("the file in it");
    assert_eq!(checkpoint.text_encoder_dir(), Some(at("text_encoder")));
    std::fs::copy(file(CASES[1]), at("other.safetensors")).expect("copied");
    let message = error(dir.path());
    assert!(message.contains("ltxv.safetensors, other.safetensors"), "{message}");

    // The same model as a folder of diffusers, the autoencoder in shards.
    let parts = LtxCheckpoint::open(file(CASES[2])).expect("it opens");
    let folder = at("folder");
    for (part, component) in [("vae", parts.vae()), ("transformer", parts.transformer())] {
        let (component, dir) = (component.expect("a part"), folder.join(part));
        std::fs::create_dir_all(&dir).expect("a folder");
        std::fs::write(dir.join("config.json"), component.config.to_string()).expect("written");
        let names: Vec<String> = component.weights.names().map(str::to_owned).collect();
        let get = |name: &String| component.weights.get(name, &component.weights.shape(name).expect("shape"));
        let all: Vec<(String, Tensor)> =
            names.iter().map(|name| (name.clone(), get(name).expect("a tensor"))).collect();
        if part == "transformer" {
            write(&dir.join("diffusion_pytorch_model.safetensors"), &all, None);
            continue;
        }
        let mut map = serde_json::Map::new();
        for (n, half) in [&all[..all.len() / 2], &all[all.len() / 2..]].into_iter().enumerate() {
            let shard = format!("diffusion_pytorch_model-0000{}-of-00002.safetensors", n + 1);
            write(&dir.join(&shard), half, None);
            map.extend(half.iter().map(|(name, _)| (name.clone(), json!(shard))));
        }
        let index = json!({ "weight_map": map }).to_string();
        std::fs::write(dir.join("diffusion_pytorch_model.safetensors.index.json"), index).expect("written");
    }
    assert!(error(&folder).contains("neither"));
    std::fs::write(folder.join("model_index.json"), json!({"_class_name": "AmusedPipeline"}).to_string())
        .expect("written");
    let message = error(&folder);
    assert!(message.contains("`AmusedPipeline`") && message.contains("LTXConditionPipeline"), "{message}");
    let index = json!({"_class_name": "LTXConditionPipeline"}).to_string();
    std::fs::write(folder.join("model_index.json"), index).expect("written");
    let checkpoint = LtxCheckpoint::open(&folder).expect("it opens");
    assert_eq!(
        (checkpoint.sampler(), checkpoint.generation().family),
        (LtxSampler::LinearQuadratic, LtxFamily::V0_9_5)
    );
    let video = decode(&load_vae(&checkpoint.vae().expect("the autoencoder")));
    let expected = decode(&load_vae(&parts.vae().expect("the autoencoder")));
    assert_eq!(video.as_f32().expect("f32"), expected.as_f32().expect("f32"));

    // A shard that was cut off, and one that is missing.
    let shard = folder.join("vae/diffusion_pytorch_model-00002-of-00002.safetensors");
    let bytes = std::fs::read(&shard).expect("a shard");
    for length in [bytes.len() - 1, bytes.len() / 2, 100, 8, 3, 0] {
        std::fs::write(&shard, &bytes[..length]).expect("written");
        let message = checkpoint.vae().err().expect("a damaged shard").to_string();
        assert!(message.contains("00002-of-00002") && message.contains("truncated"), "{length}: {message}");
    }
    std::fs::remove_file(&shard).expect("removed");
    let message = checkpoint.vae().err().expect("a missing shard").to_string();
    assert!(message.contains("00002-of-00002"), "{message}");
}

#[test]
fn what_is_no_model_of_a_known_generation_says_so() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("model.safetensors");
    let error = |tensors: &[(String, Tensor)], config: Option<&Value>| {
        write(&path, tensors, config);
        LtxCheckpoint::open(&path).err().expect("it cannot be opened").to_string()
    };
    let all = tensors(&file(CASES[1]));
    let without = |part: &str| all.iter().filter(|(name, _)| !name.contains(part)).cloned().collect::<Vec<_>>();
    let message = error(&without("patchify_proj"), None);
    assert!(message.contains("patchify_proj.weight") && message.contains("0.9.8"), "{message}");
    let message = error(&without("vae.encoder"), None);
    assert!(message.contains("no autoencoder"), "{message}");
    let mut sound = all.clone();
    sound.push(("model.diffusion_model.audio_patchify_proj.weight".into(), Tensor::scalar(1.0)));
    let message = error(&sound, None);
    assert!(message.contains("LTX-2"), "{message}");

    let config = metadata(CASES[1]);
    let changed = |pointer: &str, value: Value| {
        let mut config = config.clone();
        *config.pointer_mut(pointer).expect("a key") = value;
        config
    };
    for (pointer, value, expected) in [
        ("/vae/_class_name", json!("VideoAutoencoder"), "vae._class_name"),
        ("/vae/norm_layer", json!("group_norm"), "vae.norm_layer"),
        ("/vae/latent_log_var", json!("per_channel"), "vae.latent_log_var"),
        ("/vae/encoder_blocks/1/0", json!("compress_everything"), "compress_everything"),
        ("/vae/encoder_blocks", json!([]), "vae.encoder_blocks"),
        ("/vae/encoder_blocks", json!("res_x"), "vae.encoder_blocks"),
        ("/vae/encoder_blocks", json!([["compress_all", 1]]), "vae.encoder_blocks"),
        ("/vae/decoder_blocks/0/1/num_layers", json!(-3), "vae.decoder_blocks"),
        ("/vae/decoder_blocks/0/1/num_layers", json!(1u64 << 60), "vae.decoder_blocks"),
        ("/vae/decoder_blocks/1/1/multiplier", json!(0), "vae.decoder_blocks"),
        ("/vae/decoder_blocks/1/1/multiplier", json!(1 << 23), "vae.decoder_blocks"),
        ("/vae/latent_channels", json!(0), "vae.latent_channels"),
        ("/vae/encoder_base_channels", json!(1u64 << 63), "vae.encoder_base_channels"),
        ("/transformer/_class_name", json!("Transformer2DModel"), "transformer._class_name"),
        ("/transformer/positional_embedding_theta", json!(500.0), "positional_embedding_theta"),
        ("/transformer/num_layers", json!(-1), "transformer.num_layers"),
        ("/scheduler/shifting", json!("SimpleDiffusion"), "scheduler.shifting"),
        ("/scheduler/target_shift_terminal", json!(1.5), "scheduler.target_shift_terminal"),
    ] {
        let message = error(&all, Some(&changed(pointer, value)));
        assert!(message.contains(expected) && message.contains("model.safetensors"), "{pointer}: {message}");
    }
    let mut steps = config.clone();
    steps["allowed_inference_steps"] = json!([1.0, "soon"]);
    assert!(error(&all, Some(&steps)).contains("allowed_inference_steps"));

    write(&path, &all, None);
    let bytes = std::fs::read(&path).expect("a file");
    for length in [0, 7, 8, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..length]).expect("written");
        let message = LtxCheckpoint::open(&path).err().expect("cut off").to_string();
        assert!(message.contains("truncated"), "{length}: {message}");
    }
}

#[test]
fn floats_of_8_bits_are_refused() {
    // The header of a safetensors file by hand: no tensor type here is written as 8 bits.
    let header = json!({
        "model.diffusion_model.patchify_proj.weight": {"dtype": "F8_E4M3", "shape": [2, 2], "data_offsets": [0, 4]},
    });
    let header = header.to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend([0; 4]);
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("ltxv-13b-0.9.8-dev-fp8.safetensors");
    std::fs::write(&path, bytes).expect("written");
    let message = LtxCheckpoint::open(&path).err().expect("it cannot be read").to_string();
    assert!(message.contains("8-bit floats"), "{message}");
}

#[test]
fn configurations_that_cannot_be_run_name_the_key() {
    let component = LtxCheckpoint::open(file(CASES[1])).expect("it opens").vae().expect("the autoencoder");
    for (key, value) in [
        ("_class_name", json!("AutoencoderKL")),
        ("latent_channels", json!(0)),
        ("latent_channels", json!(1u64 << 62)),
        ("patch_size", json!(0)),
        ("patch_size", json!(1 << 20)),
        ("block_out_channels", json!([])),
        ("block_out_channels", json!([4, 0, 8, 8])),
        ("decoder_block_out_channels", json!(vec![8; 40])),
        ("decoder_layers_per_block", json!([1, 1])),
        ("decoder_layers_per_block", json!([1 << 30, 1, 1, 1])),
        ("layers_per_block", json!([1, 1])),
        ("decoder_inject_noise", json!([true])),
        ("upsample_factor", json!([2, 0, 2])),
        ("upsample_factor", json!([2, 2, 1000])),
        ("upsample_residual", json!([])),
        ("spatio_temporal_scaling", json!([true])),
        ("down_block_types", json!(["LTXVideoDownBlock3D", "UpBlock", "LTXVideoDownBlock3D", "LTXVideoDownBlock3D"])),
        ("resnet_norm_eps", json!(-1.0)),
        ("scaling_factor", json!(0.0)),
        ("spatial_compression_ratio", json!(0)),
    ] {
        let mut config = component.config.clone();
        config[key] = value.clone();
        let error = AutoencoderKLLTXVideoConfig::from_value(Path::new("config.json"), config);
        let message = error.expect_err(&format!("{key} {value}")).to_string();
        assert!(message.contains(key) && message.contains("config.json"), "{key} {value}: {message}");
    }
    for value in [json!(-5), json!("many"), json!([[1]]), json!(1.5)] {
        let mut config = component.config.clone();
        config["latent_channels"] = value.clone();
        let error = AutoencoderKLLTXVideoConfig::from_value(Path::new("config.json"), config);
        let message = error.expect_err(&value.to_string()).to_string();
        assert!(message.contains("config.json"), "{value}: {message}");
    }
    // Sizes that could be run, but are not those of the tensors.
    for (key, value) in
        [("latent_channels", json!(7)), ("patch_size", json!(4)), ("layers_per_block", json!([2, 1, 2, 1, 1]))]
    {
        let mut json = component.config.clone();
        json[key] = value;
        let config = AutoencoderKLLTXVideoConfig::from_value(Path::new("config.json"), json).expect("a configuration");
        let weights = LtxCheckpoint::open(file(CASES[1])).expect("it opens").vae().expect("the autoencoder").weights;
        let loaded = AutoencoderKLLTXVideo::load(&weights, config).and_then(|vae| vae.load_encoder());
        let message = loaded.expect_err(key).to_string();
        assert!(message.contains("shape") || message.contains("no tensor"), "{key}: {message}");
    }
}

#[test]
fn videos_and_latents_that_cannot_be_used_say_why() {
    let vae = load_vae(&LtxCheckpoint::open(file(CASES[2])).expect("it opens").vae().expect("the autoencoder"));
    let mut on = |_, _| ControlFlow::Continue(());
    let full = |shape: &[usize], value: f32| Tensor::full(shape, value).expect("a tensor");
    for (latents, timestep, expected) in [
        (full(&[1, 6, 1, 1, 1], f32::NAN), Some(0.1), "not finite"),
        (full(&[1, 6, 1, 1, 1], f32::INFINITY), Some(0.1), "not finite"),
        (full(&[1, 5, 1, 1, 1], 0.0), Some(0.1), "[batch, 6, frames, height, width]"),
        (full(&[1, 6, 1, 1], 0.0), Some(0.1), "[batch, 6, frames, height, width]"),
        (full(&[1, 6, 0, 1, 1], 0.0), Some(0.1), "[batch, 6, frames, height, width]"),
        (full(&[1, 6, 1, 1, 1], 0.0), None, "decode_timestep"),
        (full(&[1, 6, 1, 1, 1], 0.0), Some(f32::NAN), "decode_timestep"),
    ] {
        let error = vae.decode(&latents, timestep, &DecodeOptions::default(), &mut on).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
    for (video, expected) in [
        (full(&[1, 3, 9, 16, 16], f32::NAN), "not finite"),
        (full(&[1, 4, 9, 16, 16], 0.0), "[batch, 3, frames, height, width]"),
        (full(&[1, 3, 9, 16, 15], 0.0), "multiples of 2"),
        (full(&[1, 3, 9, 18, 16], 0.0), "cannot be made smaller"),
        (full(&[1, 3, 8, 16, 16], 0.0), "cannot be made smaller"),
    ] {
        let error = vae.encode(&video, &Tiling::Never, &mut on).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
}
