//! The forms in which LTX-Video is published: folders in diffusers layout, and Lightricks' single files.

use std::path::{Path, PathBuf};

use sango_tensor::Weights;
use serde_json::{Value, json};

use super::generation::{LtxFamily, LtxGeneration};
use super::single_file::SingleFile;
use crate::config::read_json;
use crate::error::{ModelError, Result};

/// Pipeline classes whose folders can be opened.
pub const PIPELINES: [&str; 3] = ["LTXPipeline", "LTXImageToVideoPipeline", "LTXConditionPipeline"];

/// The steps that distilled models were distilled for. From 0.9.7 on, the last belongs to the second pass, at twice the size.
const DISTILLED_TIMESTEPS: [f64; 8] = [1.0, 0.9937, 0.9875, 0.9812, 0.975, 0.9094, 0.725, 0.4219];
const FIRST_PASS: usize = 7;

/// An LTX-Video checkpoint in either form. Configurations and names are those of diffusers whatever the form.
///
/// ```no_run
/// use sango_models::ltx_video::LtxCheckpoint;
/// # fn main() -> Result<(), sango_models::ModelError> {
/// let checkpoint = LtxCheckpoint::open("models/ltxv-2b-0.9.8-distilled.safetensors")?;
/// println!("{}: {}", checkpoint.generation(), checkpoint.transformer()?.config["num_layers"]);
/// # Ok(()) }
/// ```
pub struct LtxCheckpoint {
    path: PathBuf,
    form: Form,
    generation: LtxGeneration,
}

enum Form {
    /// A folder, with its `model_index.json`.
    Folder {
        class: String,
    },
    SingleFile(Box<SingleFile>),
}

/// A part of a checkpoint.
#[derive(Clone)]
pub struct LtxComponent {
    /// Its configuration as diffusers has it.
    pub config: Value,
    /// What messages about the configuration call it.
    pub path: PathBuf,
    /// Its tensors, by the names of diffusers.
    pub weights: Weights,
}

/// The times at which a model is run, where no others are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LtxSampler {
    /// Equal steps, shifted by the number of tokens (`LTXPipeline`).
    Uniform,
    /// `linear_quadratic_schedule` (`LTXConditionPipeline`).
    LinearQuadratic,
}

impl LtxCheckpoint {
    /// Opens a folder with `model_index.json`, a single file, or a folder that holds just one. Reads configurations and
    /// headers; tensors stay in the files.
    ///
    /// # Errors
    /// [`ModelError::UnknownModel`] for what is no LTX-Video or of an unknown generation, and errors naming the file and
    /// the key for what is damaged.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if path.is_dir() {
            if path.join("model_index.json").is_file() {
                return Self::open_folder(path);
            }
            return Self::open_file(&only_file(path)?);
        }
        Self::open_file(path)
    }

    fn open_folder(path: &Path) -> Result<Self> {
        let index: Value = read_json(&path.join("model_index.json"))?;
        let class = index["_class_name"].as_str().unwrap_or_default().to_owned();
        if !PIPELINES.contains(&class.as_str()) {
            let detail = format!("holds a `{class}`; LTX-Video folders hold one of {}", PIPELINES.join(", "));
            return Err(ModelError::UnknownModel { dir: path.to_owned(), detail });
        }
        let vae: Value = read_json(&path.join("vae/config.json"))?;
        let transformer: Value = read_json(&path.join("transformer/config.json"))?;
        let generation = LtxGeneration::new(&transformer, &vae, path, None);
        Ok(Self { path: path.to_owned(), form: Form::Folder { class }, generation })
    }

    fn open_file(path: &Path) -> Result<Self> {
        let file = SingleFile::open(path)?;
        let generation = LtxGeneration::new(&file.transformer_config, &file.vae_config, path, file.steps.as_deref());
        Ok(Self { path: path.to_owned(), form: Form::SingleFile(Box::new(file)), generation })
    }

    /// The folder or file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The transformer (`LTXVideoTransformer3DModel`).
    ///
    /// # Errors
    /// When its files are missing or damaged.
    pub fn transformer(&self) -> Result<LtxComponent> {
        match &self.form {
            Form::Folder { .. } => self.folder_component("transformer"),
            Form::SingleFile(file) => file.transformer(),
        }
    }

    /// The autoencoder (`AutoencoderKLLTXVideo`).
    ///
    /// # Errors
    /// As [`Self::transformer`].
    pub fn vae(&self) -> Result<LtxComponent> {
        match &self.form {
            Form::Folder { .. } => self.folder_component("vae"),
            Form::SingleFile(file) => file.vae(),
        }
    }

    fn folder_component(&self, name: &str) -> Result<LtxComponent> {
        let dir = self.path.join(name);
        let path = dir.join("config.json");
        Ok(LtxComponent { config: read_json(&path)?, path, weights: Weights::open(&dir, "diffusion_pytorch_model")? })
    }

    /// The configuration of the transformer, without its tensors.
    ///
    /// # Errors
    /// As [`Self::transformer`].
    pub fn transformer_config(&self) -> Result<Value> {
        match &self.form {
            Form::Folder { .. } => read_json(&self.path.join("transformer/config.json")),
            Form::SingleFile(file) => Ok(file.transformer_config.clone()),
        }
    }

    /// The configuration of the autoencoder, without its tensors.
    ///
    /// # Errors
    /// As [`Self::transformer`].
    pub fn vae_config(&self) -> Result<Value> {
        match &self.form {
            Form::Folder { .. } => read_json(&self.path.join("vae/config.json")),
            Form::SingleFile(file) => Ok(file.vae_config.clone()),
        }
    }

    /// The configuration of the scheduler (`FlowMatchEulerDiscreteScheduler`).
    ///
    /// # Errors
    /// As [`Self::transformer`].
    pub fn scheduler(&self) -> Result<Value> {
        match &self.form {
            Form::Folder { .. } => read_json(&self.path.join("scheduler/scheduler_config.json")),
            Form::SingleFile(file) => Ok(scheduler_config(file.shift_terminal)),
        }
    }

    /// The folder of the text encoder: inside a folder, beside a single file; nothing where there is none.
    pub fn text_encoder_dir(&self) -> Option<PathBuf> {
        self.dir("text_encoder")
    }

    /// The folder of the tokenizer, where there is one.
    pub fn tokenizer_dir(&self) -> Option<PathBuf> {
        self.dir("tokenizer")
    }

    fn dir(&self, name: &str) -> Option<PathBuf> {
        let base = match self.form {
            Form::Folder { .. } => self.path.as_path(),
            Form::SingleFile(_) => self.path.parent().unwrap_or(Path::new("")),
        };
        Some(base.join(name)).filter(|dir| dir.is_dir())
    }

    /// What the model is.
    pub fn generation(&self) -> &LtxGeneration {
        &self.generation
    }

    /// The pipeline class whose behaviour the checkpoint was made for.
    pub fn pipeline_class(&self) -> &str {
        match &self.form {
            Form::Folder { class } => class,
            Form::SingleFile(_) if self.generation.family >= LtxFamily::V0_9_5 => "LTXConditionPipeline",
            Form::SingleFile(_) => "LTXPipeline",
        }
    }

    /// Whether positions in time take into account that the first latent is one frame only.
    pub fn causal_temporal_positioning(&self) -> bool {
        match &self.form {
            Form::Folder { class } => class == "LTXConditionPipeline",
            Form::SingleFile(file) => {
                file.causal_temporal_positioning.unwrap_or(self.generation.family >= LtxFamily::V0_9_5)
            }
        }
    }

    /// How times are chosen.
    pub fn sampler(&self) -> LtxSampler {
        match &self.form {
            Form::SingleFile(file) => file.sampler,
            Form::Folder { class } if class == "LTXConditionPipeline" => LtxSampler::LinearQuadratic,
            Form::Folder { .. } => LtxSampler::Uniform,
        }
    }

    /// The times (from 1 down, the final 0 left out) that a distilled model was distilled for; nothing for other models.
    pub fn default_timesteps(&self) -> Option<Vec<f64>> {
        let LtxGeneration { release, distilled, .. } = &self.generation;
        if !distilled {
            return None;
        }
        let allowed = match &self.form {
            Form::SingleFile(file) => file.steps.as_deref(),
            Form::Folder { .. } => None,
        };
        let published = |steps: &[f64]| {
            DISTILLED_TIMESTEPS.iter().all(|step| steps.iter().any(|other| (step - other).abs() < 1e-3))
        };
        // Steps that are none of the published ones are all of the model's.
        if let Some(steps) = allowed.filter(|steps| !published(steps)) {
            return Some(steps.to_vec());
        }
        let passes = if release.as_deref() == Some("0.9.6") { DISTILLED_TIMESTEPS.len() } else { FIRST_PASS };
        Some(DISTILLED_TIMESTEPS[..passes].to_vec())
    }
}

/// The single file in a folder.
fn only_file(dir: &Path) -> Result<PathBuf> {
    let unknown = |detail: String| ModelError::UnknownModel { dir: dir.to_owned(), detail };
    let entries = std::fs::read_dir(dir).map_err(|source| ModelError::Io { path: dir.to_owned(), source })?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.is_file() && path.extension().is_some_and(|extension| extension == "safetensors"));
    files.sort();
    match files.as_slice() {
        [file] => Ok(file.clone()),
        [] => Err(unknown("has neither model_index.json nor a safetensors file".into())),
        several => {
            let names = several.iter().filter_map(|path| path.file_name()).map(|name| name.to_string_lossy());
            let names = names.collect::<Vec<_>>().join(", ");
            Err(unknown(format!("has several safetensors files ({names}); name the one that is meant")))
        }
    }
}

/// The scheduler of diffusers that does what Lightricks' does. `shift_terminal` is given where times are shifted by the
/// number of tokens.
fn scheduler_config(shift_terminal: Option<Option<f64>>) -> Value {
    json!({
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "num_train_timesteps": 1000,
        "shift": 1.0,
        "use_dynamic_shifting": shift_terminal.is_some(),
        "base_shift": 0.95,
        "max_shift": 2.05,
        "base_image_seq_len": 1024,
        "max_image_seq_len": 4096,
        "shift_terminal": shift_terminal.flatten(),
        "time_shift_type": "exponential",
        "invert_sigmas": false,
        "use_beta_sigmas": false,
        "use_exponential_sigmas": false,
        "use_karras_sigmas": false,
    })
}
