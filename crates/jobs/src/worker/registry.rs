//! The models folder: which models there are, and what their configurations say, without loading a weight.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sango_models::amused::AmusedSettings;
use sango_models::ltx_video::LTXVideoSettings;
use sango_models::smolvlm2::SmolVLMSettings;
use sango_models::{ModelFolder, ModelKind};
use sha2::{Digest, Sha256};

use crate::canonical::hex;
use crate::task::image::MAX_STEPS;
use crate::{ErrorKind, JobError, JobKind};

/// How deep below a model's folder a file that belongs to it may lie.
const DEPTH: u32 = 2;

/// A model folder, and what its configuration files say.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    /// Path below the models folder, with `/`.
    pub(super) name: String,
    pub(super) dir: PathBuf,
    pub(super) kind: ModelKind,
    pub(super) abilities: Abilities,
    pub(super) files: Vec<ModelFile>,
}

/// What a model can do.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Abilities {
    /// `image` jobs.
    Image(ImageModel),
    /// `understand` jobs.
    Understand(SmolVLMSettings),
    /// `video` jobs.
    Video(LTXVideoSettings),
}

impl Abilities {
    /// The kind of its jobs.
    pub(super) fn task(&self) -> JobKind {
        match self {
            Self::Image(_) => JobKind::Image,
            Self::Understand(_) => JobKind::Understand,
            Self::Video(_) => JobKind::Video,
        }
    }
}

/// What a model for `image` jobs draws.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ImageModel {
    /// Width and height of a picture when nothing else is said.
    pub(super) side: u32,
    pub(super) multiple_of: u32,
    /// The longest side.
    pub(super) largest: u32,
    pub(super) steps: u32,
    pub(super) guidance_scale: f64,
    /// Of the token masking, at the first and the last step.
    pub(super) temperature: [f64; 2],
}

/// A file that decides what the model does. Equal lists mean that nothing has changed since the last look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ModelFile {
    path: PathBuf,
    bytes: u64,
    modified: Option<SystemTime>,
}

impl Entry {
    /// Size of the weights.
    pub(super) fn bytes(&self) -> u64 {
        let weights = self.files.iter().filter(|file| file.path.extension().is_some_and(|e| e == "safetensors"));
        weights.map(|file| file.bytes).sum()
    }

    /// SHA-256 of every file's path and content.
    pub(super) fn content_hash(&self) -> Result<String, JobError> {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        for file in &self.files {
            let failed = |error: std::io::Error| broken(&file.path, &error);
            let relative = file.path.strip_prefix(&self.dir).unwrap_or(&file.path);
            hash.update(relative.to_string_lossy().as_bytes());
            hash.update([0]);
            hash.update(file.bytes.to_le_bytes());
            let mut reader = File::open(&file.path).map_err(failed)?;
            loop {
                match reader.read(&mut buffer).map_err(failed)? {
                    0 => break,
                    n => hash.update(&buffer[..n]),
                }
            }
        }
        Ok(hex(&hash.finalize()))
    }
}

/// Every model in the folder, by name. A folder that holds a model which cannot be read is left out with a warning, so
/// that one damaged download does not stop the others.
pub(super) fn scan(root: &Path) -> Result<Vec<Entry>, JobError> {
    let read = |folder| read(folder).inspect_err(|error| tracing::warn!("left out: {error}")).ok();
    Ok(list(root)?.into_iter().filter_map(read).collect())
}

/// The model that a job means: by its name, the last part of it, or its kind.
pub(super) fn find(root: &Path, wanted: &str) -> Result<Entry, JobError> {
    let models = list(root)?;
    match ModelFolder::find(&models, wanted) {
        Some(folder) => read(folder.clone()),
        None => {
            let message = format!("there is no model `{wanted}`; there are: {}", ModelFolder::names(&models));
            Err(JobError::new(ErrorKind::UnknownModel, message))
        }
    }
}

fn list(root: &Path) -> Result<Vec<ModelFolder>, JobError> {
    ModelFolder::list(root).map_err(|error| {
        let message = format!("cannot list the models folder {}: {error}", root.display());
        JobError::new(ErrorKind::NoModel, message)
    })
}

fn read(ModelFolder { name, dir, kind }: ModelFolder) -> Result<Entry, JobError> {
    let abilities = match kind {
        ModelKind::Amused => Abilities::Image(image_model(&dir)?),
        ModelKind::SmolVLM2 => Abilities::Understand(SmolVLMSettings::read(&dir)?),
        ModelKind::LtxVideo => Abilities::Video(LTXVideoSettings::read(&dir)?),
        other => {
            let message = format!("{name} is a {other} model, which jobs cannot use yet");
            return Err(JobError::new(ErrorKind::ModelBroken, message));
        }
    };
    let mut files = Vec::new();
    list_files(&dir, 0, &mut files)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Entry { name, dir, kind, abilities, files })
}

fn image_model(dir: &Path) -> Result<ImageModel, JobError> {
    let settings = AmusedSettings::read(dir)?;
    Ok(ImageModel {
        side: settings.side as u32,
        multiple_of: settings.size_multiple as u32,
        largest: settings.largest_side as u32,
        // A default that a job could not spell out would be none.
        steps: (settings.steps as u32).min(MAX_STEPS),
        guidance_scale: settings.guidance_scale,
        temperature: settings.temperature,
    })
}

fn list_files(dir: &Path, depth: u32, files: &mut Vec<ModelFile>) -> Result<(), JobError> {
    for entry in fs::read_dir(dir).map_err(|error| broken(dir, &error))?.flatten() {
        let path = entry.path();
        let metadata = fs::metadata(&path).map_err(|error| broken(&path, &error))?;
        let kept =
            path.extension().is_some_and(|e| ["safetensors", "json", "txt", "model", "jinja"].iter().any(|k| e == *k));
        if metadata.is_dir() && depth < DEPTH {
            list_files(&path, depth + 1, files)?;
        } else if metadata.is_file() && kept {
            files.push(ModelFile { path, bytes: metadata.len(), modified: metadata.modified().ok() });
        }
    }
    Ok(())
}

fn broken(path: &Path, error: &dyn std::fmt::Display) -> JobError {
    JobError::new(ErrorKind::ModelBroken, format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn model(dir: &Path) {
        write(&dir.join("model_index.json"), r#"{"_class_name": "AmusedPipeline"}"#);
        let transformer = r#"{"sample_size": 8, "downsample": true, "upsample": true}"#;
        write(&dir.join("transformer/config.json"), transformer);
        write(&dir.join("transformer/model.safetensors"), "weights");
        let vqvae = serde_json::json!({
            "block_out_channels": [32, 32, 32],
            "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
            "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"],
            "lookup_from_codebook": true,
        });
        write(&dir.join("vqvae/config.json"), &vqvae.to_string());
    }

    fn drawing(entry: &Entry) -> &ImageModel {
        match &entry.abilities {
            Abilities::Image(model) => model,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn finds_models_and_what_they_draw() {
        let folder = tempfile::tempdir().unwrap();
        model(&folder.path().join("shapes/amused"));
        model(&folder.path().join("broken"));
        write(&folder.path().join("broken/vqvae/config.json"), "{");
        write(
            &folder.path().join("shapes/amused/sango.json"),
            r#"{"guidance_scale": 2.5, "steps": 6, "temperature": [1, 0.5]}"#,
        );
        let found = scan(folder.path()).unwrap();
        let [entry] = &found[..] else { panic!("{found:?}") };
        let model = drawing(entry);
        assert_eq!((entry.name.as_str(), model.side, model.multiple_of), ("shapes/amused", 32, 8));
        assert_eq!((model.steps, model.guidance_scale, entry.bytes()), (6, 2.5, 7));
        assert_eq!(model.temperature, [1.0, 0.5]);
        for name in ["shapes/amused", "amused"] {
            assert_eq!(find(folder.path(), name).as_ref(), Ok(entry));
        }
        let error = find(folder.path(), "shapes").unwrap_err();
        assert!(error.kind == ErrorKind::UnknownModel && error.message.contains("shapes/amused"), "{error}");
        let error = find(folder.path(), "broken").unwrap_err();
        assert!(error.kind == ErrorKind::ModelBroken && error.message.contains("vqvae/config.json"), "{error}");

        fs::remove_file(folder.path().join("shapes/amused/sango.json")).unwrap();
        let alone = scan(&folder.path().join("shapes/amused")).unwrap();
        assert_eq!(alone[0].name, "amused");
        let model = drawing(&alone[0]);
        assert_eq!((model.steps, model.guidance_scale, model.temperature), (12, 4.0, [2.0, 0.0]));
        assert_eq!(scan(&folder.path().join("nowhere")).unwrap_err().kind, ErrorKind::NoModel);
    }

    #[test]
    fn the_hash_follows_the_content_and_not_the_place() {
        let folder = tempfile::tempdir().unwrap();
        model(&folder.path().join("a"));
        model(&folder.path().join("b"));
        let hashes = || scan(folder.path()).unwrap().iter().map(|e| e.content_hash().unwrap()).collect::<Vec<_>>();
        let before = hashes();
        assert_eq!(before[0], before[1]);
        write(&folder.path().join("b/transformer/model.safetensors"), "weighty");
        let after = hashes();
        assert!(after[0] == before[0] && after[1] != before[1]);
    }
}
