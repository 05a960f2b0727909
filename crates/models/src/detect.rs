//! Telling what kind of model a folder holds.

use std::fmt;
use std::path::Path;

use serde_json::Value;

use crate::config::read_json;
use crate::error::{ModelError, Result};
use crate::ltx_video::LtxCheckpoint;

/// The kinds of model that this crate runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ModelKind {
    /// Text to image by unmasking tokens: [`crate::amused::AmusedPipeline`].
    Amused,
    /// Text, pictures and videos to video: [`crate::ltx_video::LTXVideoPipeline`].
    LtxVideo,
    /// Pictures and videos to text: [`crate::smolvlm2::SmolVLMForConditionalGeneration`].
    SmolVLM2,
}

impl fmt::Display for ModelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Amused => "amused",
            Self::LtxVideo => "ltx-video",
            Self::SmolVLM2 => "smolvlm2",
        })
    }
}

const KNOWN: &str = "known are aMUSEd and LTX-Video folders in diffusers layout (model_index.json with AmusedPipeline or \
                     LTXPipeline), Lightricks' single files (.safetensors) and SmolVLM2 folders in transformers layout \
                     (config.json with SmolVLMForConditionalGeneration)";

/// Reads the kind of model from `model_index.json`, or from `transformer/config.json` where a folder lacks it. A safetensors
/// file, or a folder with nothing but one, may be one of Lightricks' single files.
///
/// # Errors
/// [`ModelError::UnknownModel`] when neither names a known model, [`ModelError::Json`] for a damaged file.
pub fn detect(dir: impl AsRef<Path>) -> Result<ModelKind> {
    let dir = dir.as_ref();
    let unknown = |detail: String| ModelError::UnknownModel { dir: dir.to_owned(), detail };
    if dir.is_file() {
        return LtxCheckpoint::open(dir).map(|_| ModelKind::LtxVideo);
    }
    if !dir.is_dir() {
        return Err(unknown("there is no such folder".into()));
    }
    for file in ["model_index.json", "transformer/config.json", "config.json"] {
        let path = dir.join(file);
        if !path.is_file() {
            continue;
        }
        let json: Value = read_json(&path)?;
        let class = json["_class_name"].as_str().or(json["architectures"][0].as_str());
        return match class {
            Some("AmusedPipeline" | "AmusedImg2ImgPipeline" | "AmusedInpaintPipeline" | "UVit2DModel") => {
                Ok(ModelKind::Amused)
            }
            Some("LTXPipeline" | "LTXImageToVideoPipeline" | "LTXConditionPipeline" | "LTXVideoTransformer3DModel") => {
                Ok(ModelKind::LtxVideo)
            }
            Some("SmolVLMForConditionalGeneration") => Ok(ModelKind::SmolVLM2),
            Some(class) => Err(unknown(format!("holds a `{class}`, which cannot be run; {KNOWN}"))),
            None => Err(unknown(format!("{file} does not name a model class; {KNOWN}"))),
        };
    }
    let single_file = LtxCheckpoint::open(dir).map(|_| ModelKind::LtxVideo);
    single_file.map_err(|_| unknown(format!("no model_index.json or config.json; {KNOWN}")))
}
