//! The parts of a checkpoint, with their configurations checked.

use std::path::{Path, PathBuf};

use sango_tensor::Weights;

use super::checkpoint::{LtxCheckpoint, LtxSampler};
use super::plan::PipelineClass;
use super::scheduler::FlowMatchEulerDiscreteScheduler;
use super::transformer_config::LTXVideoTransformer3DConfig;
use super::vae::AutoencoderKLLTXVideoConfig;
use crate::error::Result;

/// A checkpoint in any form.
pub(super) struct Parts {
    checkpoint: LtxCheckpoint,
}

impl Parts {
    pub(super) fn open(path: &Path) -> Result<Self> {
        Ok(Self { checkpoint: LtxCheckpoint::open(path)? })
    }

    /// Whose ways the checkpoint asks for.
    pub(super) fn class(&self) -> PipelineClass {
        match self.checkpoint.pipeline_class() {
            "LTXConditionPipeline" => PipelineClass::Condition,
            _ => PipelineClass::Text,
        }
    }

    /// Whether the checkpoint is one of Lightricks' and wants equal steps, whatever the pipeline class has.
    pub(super) fn uniform(&self) -> bool {
        self.checkpoint.path().is_file() && self.checkpoint.sampler() == LtxSampler::Uniform
    }

    pub(super) fn is_distilled(&self) -> bool {
        self.checkpoint.generation().distilled
    }

    /// The timesteps, 1000 to 0, that a distilled model was distilled for.
    pub(super) fn default_timesteps(&self) -> Option<Vec<f32>> {
        let sigmas = self.checkpoint.default_timesteps()?;
        Some(sigmas.into_iter().map(|sigma| (sigma * 1000.0) as f32).collect())
    }

    pub(super) fn scheduler(&self) -> Result<FlowMatchEulerDiscreteScheduler> {
        FlowMatchEulerDiscreteScheduler::from_json(
            &self.path_of("scheduler/scheduler_config.json"),
            self.checkpoint.scheduler()?,
        )
    }

    pub(super) fn transformer_config(&self) -> Result<LTXVideoTransformer3DConfig> {
        let json = self.checkpoint.transformer_config()?;
        LTXVideoTransformer3DConfig::from_json(&self.path_of("transformer/config.json"), json)
    }

    pub(super) fn transformer(&self) -> Result<Weights> {
        Ok(self.checkpoint.transformer()?.weights)
    }

    pub(super) fn vae_config(&self) -> Result<AutoencoderKLLTXVideoConfig> {
        AutoencoderKLLTXVideoConfig::from_value(&self.path_of("vae/config.json"), self.checkpoint.vae_config()?)
    }

    pub(super) fn vae(&self) -> Result<Weights> {
        Ok(self.checkpoint.vae()?.weights)
    }

    pub(super) fn text_encoder_dir(&self) -> Option<PathBuf> {
        self.checkpoint.text_encoder_dir()
    }

    pub(super) fn tokenizer_dir(&self) -> Option<PathBuf> {
        self.checkpoint.tokenizer_dir()
    }

    /// Inside a folder, beside a single file.
    pub(super) fn sango_json(&self) -> PathBuf {
        let path = self.checkpoint.path();
        if path.is_dir() { path.join("sango.json") } else { path.with_file_name("sango.json") }
    }

    /// What messages call a configuration: the file in a folder, or the single file.
    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        let path = self.checkpoint.path();
        if path.is_dir() { path.join(name) } else { path.to_owned() }
    }

    /// What the model is called.
    pub(super) fn name(&self) -> String {
        let path = self.checkpoint.path();
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
        name.map_or_else(|| "ltx-video".into(), |name| name.to_string_lossy().into_owned())
    }
}
