//! `AutoencoderKLLTXVideo` against the reference, on every case of `tests/parity/ltx_video_vae.py` and those in the folder
//! that `SANGO_LTX_VIDEO_VAE_CASES` names.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use sango_models::DType;
use sango_models::ltx_video::vae::{AutoencoderKLLTXVideo, DecodeOptions, InjectedNoise, TileParameters, Tiling};
use sango_tensor::{Tensor, Weights};
use sango_tests::load_vae;
use serde_json::Value;

fn cases() -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("parity/cases/ltx-video-vae");
    let others = std::env::var_os("SANGO_LTX_VIDEO_VAE_CASES").map(PathBuf::from);
    let mut found = Vec::new();
    for dir in [Some(own), others].into_iter().flatten() {
        let entries = std::fs::read_dir(&dir).expect("a folder of cases");
        found
            .extend(entries.map(|entry| entry.expect("a case").path()).filter(|case| case.join("runs.json").is_file()));
    }
    found.sort();
    assert!(found.len() >= 9, "only {} cases found: are they checked out?", found.len());
    found
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).expect("a JSON file")).expect("JSON")
}

fn tensor(tensors: &Weights, name: &str) -> Tensor {
    tensors.get(name, &tensors.shape(name).expect(name)).expect(name)
}

fn tiling(json: &Value) -> Tiling {
    let pair = |name: &str, default: (usize, usize)| {
        let of = |n: usize| json[name][n].as_u64().map(|x| x as usize);
        (of(0).unwrap_or(default.0), of(1).unwrap_or(default.1))
    };
    if json.is_null() {
        return Tiling::Never;
    }
    let default = TileParameters::default();
    let (min_height, stride_height) =
        pair("height", (default.tile_sample_min_height, default.tile_sample_stride_height));
    let (min_width, stride_width) = pair("width", (default.tile_sample_min_width, default.tile_sample_stride_width));
    let frames = (default.tile_sample_min_num_frames, default.tile_sample_stride_num_frames);
    let (min_frames, stride_frames) = pair("frames", frames);
    Tiling::Diffusers(TileParameters {
        use_tiling: json["height"].is_array(),
        use_framewise_decoding: json["frames"].is_array(),
        tile_sample_min_height: min_height,
        tile_sample_min_width: min_width,
        tile_sample_min_num_frames: min_frames,
        tile_sample_stride_height: stride_height,
        tile_sample_stride_width: stride_width,
        tile_sample_stride_num_frames: stride_frames,
    })
}

/// What the run gives, and the reference's result.
fn run(vae: &AutoencoderKLLTXVideo, run: &Value, tensors: &Weights) -> (Tensor, Tensor) {
    let name = run["name"].as_str().expect("a name");
    let (input, expected) = (tensor(tensors, &format!("{name}.input")), tensor(tensors, &format!("{name}.output")));
    let tiling = tiling(&run["tiles"]);
    let mut tiles = (0, 0);
    let mut progress = |done: usize, total: usize| {
        assert!(done <= total && (tiles.1 == 0 || tiles.1 == total) && done >= tiles.0);
        tiles = (done, total);
        ControlFlow::Continue(())
    };
    let output = if run["kind"] == "encode" {
        let found = vae.encode(&input, &tiling, &mut progress).expect("it encodes");
        Tensor::cat(&[&found.mean, &found.logvar], 1).expect("mean and log variance")
    } else {
        let noise = run["noise"].as_u64().expect("a number");
        let noise = (0..noise).map(|n| tensor(tensors, &format!("{name}.noise.{n}"))).collect();
        let options = DecodeOptions { tiling, noise: InjectedNoise::Given(noise) };
        let timestep = run["timestep"].as_f64().map(|timestep| timestep as f32);
        vae.decode(&input, timestep, &options, &mut progress).expect("it decodes")
    };
    assert!(tiles.0 == tiles.1 && tiles.1 >= 1, "{} of {} tiles were told", tiles.0, tiles.1);
    (output, expected)
}

/// max |Δ| / max |reference|, and ‖Δ‖₂ / ‖reference‖₂.
fn apart(value: &Tensor, reference: &Tensor) -> (f64, f64) {
    assert_eq!(value.shape(), reference.shape());
    let pairs = value.as_f32().expect("f32").iter().zip(reference.as_f32().expect("f32"));
    let (mut most, mut largest, mut squares, mut all) = (0f64, 0f64, 0f64, 0f64);
    for (&a, &b) in pairs {
        let (difference, b) = (f64::from(a) - f64::from(b), f64::from(b));
        assert!(difference.is_finite());
        (most, largest) = (most.max(difference.abs()), largest.max(b.abs()));
        (squares, all) = (squares + difference * difference, all + b * b);
    }
    (most / largest, (squares / all).sqrt())
}

#[test]
fn f32_agrees_with_the_reference() {
    let mut worst = 0f64;
    for case in cases() {
        let (vae, tensors) =
            (load_vae(&case, DType::F32), Weights::open_file(case.join("runs.safetensors")).expect("runs"));
        for wanted in json(&case.join("runs.json")).as_array().expect("a list of runs") {
            let (output, expected) = run(&vae, wanted, &tensors);
            let (most, _) = apart(&output, &expected);
            println!("{} {} {most:.1e}", case.display(), wanted["name"]);
            assert!(most <= 1e-4, "{} {}: {most:.1e} of the largest value away", case.display(), wanted["name"]);
            worst = worst.max(most);
        }
    }
    println!("worst {worst:.1e}");
}

#[test]
fn bf16_stays_within_its_bar() {
    for case in cases() {
        let (vae, tensors) =
            (load_vae(&case, DType::BF16), Weights::open_file(case.join("runs.safetensors")).expect("runs"));
        for wanted in json(&case.join("runs.json")).as_array().expect("a list of runs") {
            let (output, expected) = run(&vae, wanted, &tensors);
            let (_, apart) = apart(&output, &expected);
            let bar = (1.5 * wanted["bf16"].as_f64().expect("the reference's own error")).max(2e-2);
            println!("{} {} {apart:.4} of {bar:.4}", case.display(), wanted["name"]);
            assert!(apart <= bar, "{} {}: {apart:.4} away, more than {bar:.4}", case.display(), wanted["name"]);
        }
    }
}

#[test]
fn breaking_off_ends_within_a_tile() {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("parity/cases/ltx-video-vae/tiles");
    let vae = load_vae(&case, DType::F32);
    let latents = Tensor::zeros(&[1, 3, 7, 6, 5]).expect("zeros");
    let tiles = Tiling::Diffusers(TileParameters {
        use_framewise_decoding: true,
        tile_sample_min_height: 6,
        tile_sample_min_width: 8,
        tile_sample_min_num_frames: 6,
        tile_sample_stride_height: 4,
        tile_sample_stride_width: 4,
        tile_sample_stride_num_frames: 4,
        ..TileParameters::default()
    });
    for stop in [0, 1, 3] {
        let (mut last, mut all) = (0, 0);
        let mut progress = |done: usize, total: usize| {
            (last, all) = (done, total);
            if done >= stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let options = DecodeOptions { tiling: tiles.clone(), ..DecodeOptions::default() };
        let error = vae.decode(&latents, None, &options, &mut progress).expect_err("broken off");
        assert_eq!(error.to_string(), "cancelled");
        assert_eq!(last, stop);
        assert!(all > 8, "{all} tiles");
    }
}
