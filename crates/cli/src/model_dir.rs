//! Finding a model folder by path, by name, or by what it can do.

use anyhow::{Context, bail};
use sango_models::{ModelFolder, ModelKind};
use std::path::{Path, PathBuf};

/// The models folder: the one named, else `./models`, else `models` beside the program or two folders above it
/// (`target/release/sango` in a checkout).
pub fn models_dir(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(dir) = named {
        if !dir.is_dir() {
            bail!("the models folder {} does not exist", dir.display());
        }
        return Ok(dir.to_path_buf());
    }
    let mut candidates = vec![PathBuf::from("models")];
    if let Ok(program) = std::env::current_exe() {
        let above = program.ancestors().skip(1).take(3).map(|dir| dir.join("models"));
        candidates.extend(above);
    }
    candidates
        .into_iter()
        .find(|dir| dir.is_dir())
        .context("no models folder found; name one with --models DIR or SANGO_MODELS")
}

/// The folder of `model` (a path, or a name as [`ModelFolder::find`] takes it), or the single file that it is; without
/// `model`, the first one of `kind`.
pub fn resolve(model: Option<&str>, root: Option<&Path>, kind: ModelKind) -> anyhow::Result<PathBuf> {
    if let Some(path) = model.map(Path::new).filter(|path| path.exists()) {
        let found = sango_models::detect(path)?;
        anyhow::ensure!(found == kind, "{} is a {found} model; this needs one of the kind {kind}", path.display());
        return Ok(path.to_path_buf());
    }
    let root = models_dir(root)?;
    let models = ModelFolder::list(&root)?;
    let found = match model {
        Some(name) => ModelFolder::find(&models, name),
        None => models.iter().find(|found| found.kind == kind),
    };
    match (found, model) {
        (Some(found), _) => Ok(found.dir.clone()),
        (None, Some(name)) => {
            bail!("no model '{name}' in {}; there are: {}", root.display(), ModelFolder::names(&models))
        }
        (None, None) => bail!("no model in {} can do this; name a folder with --model DIR", root.display()),
    }
}
