//! The parts of a model folder, opened.

use std::path::{Path, PathBuf};

use sango_tensor::Weights;
use serde_json::Value;

use super::plan::PipelineClass;
use super::scheduler::FlowMatchEulerDiscreteScheduler;
use super::transformer_config::LTXVideoTransformer3DConfig;
use super::vae::AutoencoderKLLTXVideoConfig;
use crate::config::read_json;
use crate::error::{ModelError, Result};

/// A folder in diffusers layout.
pub(super) struct Parts {
    dir: PathBuf,
}

const WEIGHTS: &str = "diffusion_pytorch_model";

impl Parts {
    pub(super) fn open(path: &Path) -> Result<Self> {
        if !path.is_dir() {
            return Err(ModelError::UnknownModel { dir: path.to_owned(), detail: "there is no such folder".into() });
        }
        Ok(Self { dir: path.to_owned() })
    }

    /// Whose ways the folder asks for.
    pub(super) fn class(&self) -> Result<PipelineClass> {
        let path = self.dir.join("model_index.json");
        if !path.is_file() {
            return Ok(PipelineClass::Text);
        }
        let index: Value = read_json(&path)?;
        Ok(match index["_class_name"].as_str() {
            Some("LTXConditionPipeline") => PipelineClass::Condition,
            _ => PipelineClass::Text,
        })
    }

    pub(super) fn scheduler(&self) -> Result<FlowMatchEulerDiscreteScheduler> {
        let path = self.dir.join("scheduler/scheduler_config.json");
        FlowMatchEulerDiscreteScheduler::from_json(&path, read_json(&path)?)
    }

    pub(super) fn transformer_config(&self) -> Result<LTXVideoTransformer3DConfig> {
        let path = self.transformer_path();
        LTXVideoTransformer3DConfig::from_json(&path, read_json(&path)?)
    }

    /// The file that [`Self::transformer_config`] reads.
    pub(super) fn transformer_path(&self) -> PathBuf {
        self.dir.join("transformer/config.json")
    }

    pub(super) fn transformer(&self) -> Result<Weights> {
        Ok(Weights::open(self.dir.join("transformer"), WEIGHTS)?)
    }

    pub(super) fn vae_config(&self) -> Result<AutoencoderKLLTXVideoConfig> {
        let path = self.dir.join("vae/config.json");
        AutoencoderKLLTXVideoConfig::from_value(&path, read_json(&path)?)
    }

    pub(super) fn vae(&self) -> Result<Weights> {
        Ok(Weights::open(self.dir.join("vae"), WEIGHTS)?)
    }

    pub(super) fn text_encoder_dir(&self) -> Option<PathBuf> {
        Some(self.dir.join("text_encoder")).filter(|dir| dir.is_dir())
    }

    pub(super) fn tokenizer_dir(&self) -> Option<PathBuf> {
        Some(self.dir.join("tokenizer")).filter(|dir| dir.is_dir())
    }

    pub(super) fn sango_json(&self) -> PathBuf {
        self.dir.join("sango.json")
    }

    /// What the model is called.
    pub(super) fn name(&self) -> String {
        let dir = self.dir.canonicalize().unwrap_or_else(|_| self.dir.clone());
        dir.file_name().map_or_else(|| "ltx-video".into(), |name| name.to_string_lossy().into_owned())
    }
}
