//! Helpers shared by the tests that cross crates.

use std::path::{Path, PathBuf};

use sango_models::DType;
use sango_models::ltx_video::vae::{AutoencoderKLLTXVideo, AutoencoderKLLTXVideoConfig};
use sango_tensor::{Tensor, Weights};
use serde_json::Value;
use tempfile::TempDir;

/// The folder of committed parity cases.
pub fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("parity/cases")
}

/// The folders in `dir`, sorted.
pub fn folders(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("a folder of cases");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a case").path()).filter(|p| p.is_dir()).collect();
    paths.sort();
    paths
}

/// The model and the folder of each run that `case` holds inputs for.
pub fn runs_of(case: &Path) -> impl Iterator<Item = (PathBuf, PathBuf)> {
    let model = case.join("model");
    let runs = folders(case).into_iter().filter(|run| run.join("inputs.safetensors").is_file());
    runs.map(move |run| (model.clone(), run))
}

/// A tensor of a case.
pub fn tensor(weights: &Weights, name: &str) -> Tensor {
    let shape = weights.shape(name).expect("the tensor is in the case");
    weights.get(name, &shape).expect("the tensor can be read")
}

/// The LTX-Video autoencoder of a folder, to compute in `dtype`.
pub fn load_vae(folder: &Path, dtype: DType) -> AutoencoderKLLTXVideo {
    let path = folder.join("config.json");
    let config = serde_json::from_str(&std::fs::read_to_string(&path).expect("a configuration")).expect("JSON");
    let config = AutoencoderKLLTXVideoConfig::from_value(&path, config).expect("a configuration that can be run");
    let weights = Weights::open(folder, "diffusion_pytorch_model").expect("weights").with_dtype(dtype);
    AutoencoderKLLTXVideo::load(&weights, config).expect("it loads")
}

/// max |Δ| / max |reference|.
pub fn max_relative(value: &Tensor, reference: &Tensor) -> f32 {
    assert_eq!(value.shape(), reference.shape());
    let (value, reference) = (value.as_f32().expect("f32"), reference.as_f32().expect("f32"));
    let largest = reference.iter().fold(0f32, |max, x| max.max(x.abs()));
    let apart =
        value.iter().zip(reference).fold(0f32, |max, (a, b)| if (a - b).abs() <= max { max } else { (a - b).abs() });
    apart / largest
}

/// ‖Δ‖₂ / ‖reference‖₂.
pub fn relative_l2(value: &Tensor, reference: &Tensor) -> f64 {
    assert_eq!(value.shape(), reference.shape());
    let (value, reference) = (value.as_f32().expect("f32"), reference.as_f32().expect("f32"));
    let square = |x: f32| f64::from(x) * f64::from(x);
    let apart: f64 = value.iter().zip(reference).map(|(a, b)| square(a - b)).sum();
    (apart / reference.iter().map(|&x| square(x)).sum::<f64>()).sqrt()
}

/// Fails unless every one of `words` is in `message`.
pub fn assert_says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "`{word}` is missing from: {message}");
    }
}

/// A copy of a small model folder, to be damaged.
pub struct ModelCopy {
    dir: TempDir,
}

impl ModelCopy {
    /// Of the model of a committed case.
    pub fn of_case(name: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        copy_folder(&cases().join(name).join("model"), dir.path());
        Self { dir }
    }

    /// The folder itself.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Sets `key` of a JSON file.
    pub fn set(&self, file: &str, key: &str, value: Value) -> &Self {
        let text = std::fs::read_to_string(self.path(file)).unwrap_or_else(|_| "{}".into());
        let mut json: Value = serde_json::from_str(&text).expect("a JSON file");
        json[key] = value;
        std::fs::write(self.path(file), json.to_string()).expect("written");
        self
    }
}

/// Copies a folder with all that is in it.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("created");
    for entry in std::fs::read_dir(from).expect("the case is checked out").map(|entry| entry.expect("an entry")) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}
