//! `sango models pull`: a published checkpoint from the Hugging Face Hub, safetensors only.

use std::path::{Path, PathBuf};

/// Downloads `name` into the models folder and returns where it is. Built without the `hub` feature, it says how to get
/// the same files by hand.
#[cfg(not(feature = "hub"))]
pub fn run(name: &str, _models: Option<&Path>) -> anyhow::Result<PathBuf> {
    let repository = repository(name)?;
    anyhow::bail!(
        "this build cannot download. Build it with `cargo build --release -p sango --features hub`, or fetch \
         {repository} any other way and name its folder with --model DIR"
    )
}

/// Downloads `name` into the models folder and returns where it is.
#[cfg(feature = "hub")]
pub fn run(name: &str, models: Option<&Path>) -> anyhow::Result<PathBuf> {
    use anyhow::Context;

    let repository = repository(name)?;
    let (owner, model) = repository.split_once('/').context("a repository is written owner/name")?;
    let root = match models {
        Some(dir) => dir.to_path_buf(),
        None => crate::model_dir::models_dir(None).unwrap_or_else(|_| PathBuf::from("models")),
    };
    let dir = root.join(model);
    // Half-precision copies and pickles are left out: they would double the download and are never read. So are the single
    // files that Lightricks keeps beside the folders: every version of the model, some 200 GB.
    let allowed =
        ["**/*.json", "*.json", "**/*.txt", "*.jinja", "**/*.model", "**/*.safetensors", "*.safetensors", "*.md"];
    hf_hub::HFClientSync::new()?
        .model(owner, model)
        .snapshot_download()
        .allow_patterns(allowed.map(String::from).to_vec())
        .ignore_patterns(["**/*.fp16.safetensors", "*.fp16.safetensors", "ltx*.safetensors"].map(String::from).to_vec())
        .local_dir(dir.clone())
        .send()
        .map_err(|error| explain(repository, error))?;
    sango_models::detect(&dir).context("downloaded, but not a model that can be run")?;
    Ok(dir)
}

/// What a failed download means for who asked for it.
#[cfg(feature = "hub")]
fn explain(repository: &str, error: hf_hub::HFError) -> anyhow::Error {
    use hf_hub::HFError;

    let error = match error {
        // The Hub does not tell what is missing from what is private.
        HFError::RepoNotFound { .. } | HFError::AuthRequired { .. } | HFError::Forbidden { .. } => {
            return anyhow::anyhow!("there is no public model {repository}; check how it is spelled");
        }
        // Each error of the chain tells those below it, and the address again.
        HFError::Request { .. } => anyhow::Error::msg(anyhow::Error::new(error).root_cause().to_string()),
        error => error.into(),
    };
    error.context(format!(
        "could not download {repository} (try again with a network, or fetch it any other way and name its folder \
         with --model DIR)"
    ))
}

/// The repository of a short name, or the repository itself.
fn repository(name: &str) -> anyhow::Result<&str> {
    match name {
        "amused" | "amused-256" => Ok("amused/amused-256"),
        "amused-512" => Ok("amused/amused-512"),
        "ltx-video" | "ltx-video-2b" => Ok("Lightricks/LTX-Video"),
        "ltx-video-0.9.1" => Ok("a-r-r-o-w/LTX-Video-0.9.1-diffusers"),
        "ltx-video-0.9.5" => Ok("Lightricks/LTX-Video-0.9.5"),
        "ltx-video-0.9.7-dev" => Ok("Lightricks/LTX-Video-0.9.7-dev"),
        "ltx-video-0.9.7-distilled" => Ok("Lightricks/LTX-Video-0.9.7-distilled"),
        "smolvlm2" | "smolvlm2-256m" => Ok("HuggingFaceTB/SmolVLM2-256M-Video-Instruct"),
        "smolvlm2-500m" => Ok("HuggingFaceTB/SmolVLM2-500M-Video-Instruct"),
        "smolvlm2-2.2b" => Ok("HuggingFaceTB/SmolVLM2-2.2B-Instruct"),
        other if is_repository(other) => Ok(other),
        other => anyhow::bail!(
            "unknown model '{other}'; known are amused-256, amused-512, smolvlm2-256m, smolvlm2-500m, smolvlm2-2.2b, \
             ltx-video, or any owner/repository"
        ),
    }
}

/// Whether `name` is `owner/name` in the Hub's alphabet, and so also safe as a folder name.
fn is_repository(name: &str) -> bool {
    let part = |part: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(plain)
    };
    name.split_once('/').is_some_and(|(owner, model)| part(owner) && part(model))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_and_repositories() {
        assert_eq!(repository("amused").ok(), Some("amused/amused-256"));
        assert_eq!(repository("smolvlm2").ok(), Some("HuggingFaceTB/SmolVLM2-256M-Video-Instruct"));
        assert_eq!(repository("ltx-video").ok(), Some("Lightricks/LTX-Video"));
        assert_eq!(repository("someone/model").ok(), Some("someone/model"));
        for bad in ["", "nothing", "a/b/c", "/x", "../..", "a/..", "a b/c"] {
            assert!(repository(bad).is_err(), "{bad} was accepted");
        }
    }
}
