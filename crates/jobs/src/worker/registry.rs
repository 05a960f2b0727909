//! The models folder: which models there are, and what their configurations say, without loading a weight.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sango_models::ModelKind;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::submission::hex;
use crate::{ErrorKind, JobError};

/// How deep below the models folder a model may lie (`models/shapes/amused`).
const DEPTH: u32 = 2;
/// The longest side of the token grid that `sango-models` runs.
const MAX_SIDE_TOKENS: u32 = 64;

/// A model folder, and what its configuration files say.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    /// Path below the models folder, with `/`.
    pub(super) name: String,
    pub(super) dir: PathBuf,
    pub(super) kind: ModelKind,
    /// Width and height of a picture when nothing else is said.
    pub(super) side: u32,
    pub(super) multiple_of: u32,
    /// The longest side.
    pub(super) largest: u32,
    pub(super) steps: u32,
    pub(super) guidance_scale: f64,
    /// Of the token masking, at the first and the last step.
    pub(super) temperature: [f64; 2],
    pub(super) files: Vec<ModelFile>,
}

/// A file that decides what the model draws. Equal lists mean that nothing has changed since the last look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ModelFile {
    path: PathBuf,
    bytes: u64,
    modified: Option<SystemTime>,
}

impl Entry {
    /// Whether a job that names `wanted` means this model: by its name, the last part of it, or its kind.
    pub(super) fn answers_to(&self, wanted: &str) -> bool {
        self.name == wanted || self.name.rsplit('/').next() == Some(wanted) || self.kind.to_string() == wanted
    }

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
    let mut found = Vec::new();
    let mut pending = vec![(root.to_owned(), 0)];
    while let Some((dir, depth)) = pending.pop() {
        if let Ok(kind) = sango_models::detect(&dir) {
            match read(root, &dir, kind) {
                Ok(entry) => found.push(entry),
                Err(error) => tracing::warn!("left out: {error}"),
            }
        } else if depth < DEPTH {
            let entries = fs::read_dir(&dir).map_err(|error| {
                let message = format!("cannot list the models folder {}: {error}", dir.display());
                JobError::new(ErrorKind::NoModel, message)
            })?;
            pending.extend(entries.flatten().map(|entry| (entry.path(), depth + 1)).filter(|(path, _)| path.is_dir()));
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn read(root: &Path, dir: &Path, kind: ModelKind) -> Result<Entry, JobError> {
    let mut name = dir.strip_prefix(root).unwrap_or(dir).to_string_lossy().replace('\\', "/");
    if name.is_empty() {
        // The models folder is itself the model.
        name = dir.file_name().map_or_else(|| kind.to_string(), |name| name.to_string_lossy().into_owned());
    }
    let transformer = json(&dir.join("transformer/config.json"))?;
    let vqvae = json(&dir.join("vqvae/config.json"))?;
    let number = |key: &str, default: u64| transformer[key].as_u64().unwrap_or(default).clamp(1, 1 << 16) as u32;
    // Every level of the VQ model but the last halves the picture.
    let levels = vqvae["block_out_channels"].as_array().map_or(1, Vec::len).clamp(1, 8) as u32;
    let scale_factor = 1 << (levels - 1);
    let side = number("sample_size", 64) * scale_factor;
    let halves = transformer["downsample"].as_bool().unwrap_or(false);
    let given = match dir.join("sango.json") {
        path if path.is_file() => json(&path)?,
        _ => Value::Null,
    };
    let mut files = Vec::new();
    list_files(dir, 0, &mut files)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Entry {
        name,
        dir: dir.to_owned(),
        kind,
        side,
        multiple_of: scale_factor * if halves { 2 } else { 1 },
        largest: scale_factor * MAX_SIDE_TOKENS,
        steps: given["steps"].as_u64().map_or(12, |steps| steps.clamp(1, 100) as u32),
        // As `sango-models` has it: 4 is amused-256's best, larger models keep the pipeline's 10.
        guidance_scale: given["guidance_scale"].as_f64().unwrap_or(if side <= 256 { 4.0 } else { 10.0 }),
        temperature: serde_json::from_value(given["temperature"].clone()).unwrap_or([2.0, 0.0]),
        files,
    })
}

fn json(path: &Path) -> Result<Value, JobError> {
    let text = fs::read_to_string(path).map_err(|error| broken(path, &error))?;
    serde_json::from_str(&text).map_err(|error| broken(path, &error))
}

fn list_files(dir: &Path, depth: u32, files: &mut Vec<ModelFile>) -> Result<(), JobError> {
    for entry in fs::read_dir(dir).map_err(|error| broken(dir, &error))?.flatten() {
        let path = entry.path();
        let metadata = fs::metadata(&path).map_err(|error| broken(&path, &error))?;
        let kept = path.extension().is_some_and(|e| ["safetensors", "json", "txt", "model"].iter().any(|k| e == *k));
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
        write(&dir.join("transformer/config.json"), r#"{"sample_size": 8, "downsample": true}"#);
        write(&dir.join("transformer/model.safetensors"), "weights");
        write(&dir.join("vqvae/config.json"), r#"{"block_out_channels": [8, 8, 8]}"#);
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
        assert_eq!((entry.name.as_str(), entry.side, entry.multiple_of), ("shapes/amused", 32, 8));
        assert_eq!((entry.steps, entry.guidance_scale, entry.bytes()), (6, 2.5, 7));
        assert_eq!(entry.temperature, [1.0, 0.5]);
        assert!(entry.answers_to("shapes/amused") && entry.answers_to("amused") && !entry.answers_to("shapes"));

        fs::remove_file(folder.path().join("shapes/amused/sango.json")).unwrap();
        let alone = scan(&folder.path().join("shapes/amused")).unwrap();
        assert_eq!(alone[0].name, "amused");
        assert_eq!((alone[0].steps, alone[0].guidance_scale, alone[0].temperature), (12, 4.0, [2.0, 0.0]));
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
