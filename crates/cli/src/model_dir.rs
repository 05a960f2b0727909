//! Finding a model folder by path, by name, or by what it can do.

use anyhow::{Context, bail};
use sango_models::ModelKind;
use std::path::{Path, PathBuf};

/// A model folder and what it holds.
#[derive(Debug, Clone)]
pub struct Found {
    /// Name for `--model`: its path under the models folder.
    pub name: String,
    /// The folder.
    pub dir: PathBuf,
    /// The architecture.
    pub kind: ModelKind,
}

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

/// Every model folder at most two levels below `root`, by name.
pub fn list(root: &Path) -> anyhow::Result<Vec<Found>> {
    let mut found = Vec::new();
    let mut pending = vec![(root.to_path_buf(), 0)];
    while let Some((dir, depth)) = pending.pop() {
        if let Ok(kind) = sango_models::detect(&dir) {
            let name = dir.strip_prefix(root).unwrap_or(&dir).to_string_lossy().into_owned();
            found.push(Found { name, dir, kind });
        } else if depth < 2 {
            let entries = std::fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))?;
            let below = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
            pending.extend(below.map(|path| (path, depth + 1)));
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The folder of `model` (a path, a name, or the last part of one); without `model`, the first one of `kind`.
pub fn resolve(model: Option<&str>, root: Option<&Path>, kind: ModelKind) -> anyhow::Result<PathBuf> {
    if let Some(dir) = model.map(Path::new).filter(|dir| dir.is_dir()) {
        return Ok(dir.to_path_buf());
    }
    let root = models_dir(root)?;
    let models = list(&root)?;
    let wanted = |found: &&Found| match model {
        Some(name) => found.name == name || found.dir.file_name().is_some_and(|last| last == name),
        None => found.kind == kind,
    };
    if let Some(found) = models.iter().find(wanted) {
        return Ok(found.dir.clone());
    }
    let known: Vec<&str> = models.iter().map(|found| found.name.as_str()).collect();
    match model {
        Some(name) => bail!("no model '{name}' in {}; there are: {}", root.display(), known.join(", ")),
        None => bail!("no model in {} can do this; name a folder with --model DIR", root.display()),
    }
}
