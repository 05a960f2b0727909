//! `sango models`: what is there, what can be fetched, whether a folder is sound.

use crate::args::ModelsCommand;
use crate::{model_dir, report};
use sango_models::amused::AmusedPipeline;
use sango_models::ltx_video::LTXVideoPipeline;
use sango_models::smolvlm2::{SmolVLMPipeline, SmolVLMSettings};
use sango_models::{LoadOptions, ModelFolder, ModelKind};
use serde_json::{Value, json};
use std::path::Path;

/// Runs `list`, `pull` or `check`.
pub fn run(command: ModelsCommand, json: bool) -> anyhow::Result<()> {
    match command {
        ModelsCommand::List(args) => list(args.models.as_deref(), json),
        ModelsCommand::Pull { name, models_dir } => {
            let dir = super::pull::run(&name, models_dir.models.as_deref())?;
            report::result(json, &json!({ "name": name, "dir": dir }), || format!("{name} is in {}", dir.display()))
        }
        ModelsCommand::Check { dir } => check(&dir, json),
    }
}

fn list(root: Option<&Path>, json: bool) -> anyhow::Result<()> {
    let root = model_dir::models_dir(root)?;
    let models = ModelFolder::list(&root)?;
    let rows: Vec<_> = models
        .iter()
        .map(|found| json!({ "name": found.name, "kind": found.kind.to_string(), "dir": found.dir }))
        .collect();
    report::result(json, &rows, || match models.is_empty() {
        true => format!("no models in {}", root.display()),
        false => {
            let lines = models.iter().map(|found| format!("{:<24} {}", found.name, found.kind));
            lines.collect::<Vec<_>>().join("\n")
        }
    })
}

/// Loads every weight, so that a wrong name, shape or byte count is found now and not while someone waits.
fn check(dir: &Path, json: bool) -> anyhow::Result<()> {
    let kind = sango_models::detect(dir)?;
    let (summary, words) = match kind {
        ModelKind::Amused => {
            let summary = AmusedPipeline::load(dir, &LoadOptions::default().eager())?.summary();
            (json!(summary), summary.to_string())
        }
        ModelKind::SmolVLM2 => smolvlm2(dir)?,
        ModelKind::LtxVideo => {
            let summary = LTXVideoPipeline::load(dir, &LoadOptions::default().eager())?.summary();
            (json!(summary), summary.to_string())
        }
        other => anyhow::bail!("{} holds a {other} model, which this version cannot run", dir.display()),
    };
    let value = json!({ "dir": dir, "kind": kind.to_string(), "model": summary });
    report::result(json, &value, || format!("{}: a sound {kind} model\n{words}", dir.display()))
}

/// What a SmolVLM2 folder holds, for programs and for people.
fn smolvlm2(dir: &Path) -> anyhow::Result<(Value, String)> {
    let settings = SmolVLMSettings::read(dir)?;
    let pipeline = SmolVLMPipeline::load(dir, &LoadOptions::default())?;
    let model = pipeline.model();
    let (parameters, vocabulary) = (model.parameters(), model.config().text_config.vocab_size);
    let (frames, fps, context) = (settings.num_frames, settings.fps, settings.max_position_embeddings);
    let value = json!({
        "parameters": parameters, "vocab_size": vocabulary, "num_frames": frames, "fps": fps,
        "max_new_tokens": settings.max_new_tokens, "context": context
    });
    let name = dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy();
    let frames = frames.map_or("all frames".into(), |frames| format!("{frames} frames"));
    let words = format!(
        "{name}: {:.1} M parameters, {vocabulary} tokens, a context of {context}; of a video it is shown at most {frames}",
        parameters as f64 / 1e6
    );
    Ok((value, words))
}
