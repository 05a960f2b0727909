//! Which LTX-Video a checkpoint is.

use std::fmt;
use std::path::Path;

use serde_json::Value;

/// Generations that differ in what is computed, by their first release; later ones of a family have other weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LtxFamily {
    /// 0.9.0: a decoder that is not told the time.
    V0_9_0,
    /// 0.9.1: a decoder that finishes the denoising.
    V0_9_1,
    /// 0.9.5, and the 2B models of 0.9.6 and 0.9.8: another encoder, causal positions.
    V0_9_5,
    /// The 13B models of 0.9.7 and 0.9.8.
    V0_9_7,
}

/// What a checkpoint says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LtxGeneration {
    /// What is computed, as the configurations have it.
    pub family: LtxFamily,
    /// The release that the name of the file or folder tells, `0.9.8` for example.
    pub release: Option<String>,
    /// Whether the model was distilled to few steps without guidance.
    pub distilled: bool,
}

impl LtxGeneration {
    /// From configurations in the words of diffusers, the checkpoint's name, and the only steps it allows, where it says so.
    pub(super) fn new(transformer: &Value, vae: &Value, path: &Path, steps: Option<&[f64]>) -> Self {
        let blocks = vae["down_block_types"].as_array();
        let is_095 = blocks.is_some_and(|blocks| blocks.iter().any(|name| name == "LTXVideo095DownBlock3D"));
        let family = if transformer["num_layers"].as_u64().is_some_and(|layers| layers >= 48) {
            LtxFamily::V0_9_7
        } else if is_095 {
            LtxFamily::V0_9_5
        } else if vae["timestep_conditioning"].as_bool() == Some(true) {
            LtxFamily::V0_9_1
        } else {
            LtxFamily::V0_9_0
        };
        let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
        let distilled = steps.is_some() || name.contains("distilled");
        Self { family, release: release(&name), distilled }
    }
}

/// `0.9` or `0.9.N` in a name.
fn release(name: &str) -> Option<String> {
    let rest = &name[name.find("0.9")?..];
    let minor = rest.strip_prefix("0.9.").and_then(|rest| rest.chars().next()).filter(char::is_ascii_digit);
    Some(format!("0.9.{}", minor.unwrap_or('0')))
}

impl fmt::Display for LtxGeneration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            LtxFamily::V0_9_0 => "0.9.0",
            LtxFamily::V0_9_1 => "0.9.1",
            LtxFamily::V0_9_5 => "0.9.5",
            LtxFamily::V0_9_7 => "0.9.7",
        };
        f.write_str(self.release.as_deref().unwrap_or(family))?;
        if self.distilled { f.write_str(" distilled") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_tell_the_release() {
        for (name, expected) in [
            ("ltx-video-2b-v0.9.safetensors", Some("0.9.0")),
            ("ltx-video-2b-v0.9.1.safetensors", Some("0.9.1")),
            ("ltxv-2b-0.9.6-distilled-04-25.safetensors", Some("0.9.6")),
            ("LTX-Video", None),
        ] {
            assert_eq!(release(name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn configurations_tell_the_family() {
        let of =
            |transformer: Value, vae: Value, name: &str| LtxGeneration::new(&transformer, &vae, Path::new(name), None);
        let new = json!({"down_block_types": ["LTXVideo095DownBlock3D"], "timestep_conditioning": true});
        assert_eq!(of(json!({}), json!({}), "x").family, LtxFamily::V0_9_0);
        assert_eq!(of(json!({}), json!({"timestep_conditioning": true}), "x").family, LtxFamily::V0_9_1);
        assert_eq!(of(json!({"num_layers": 28}), new.clone(), "x").to_string(), "0.9.5");
        let large = of(json!({"num_layers": 48}), new, "a/ltxv-13b-0.9.8-distilled.safetensors");
        assert_eq!((large.family, large.to_string().as_str()), (LtxFamily::V0_9_7, "0.9.8 distilled"));
    }
}
