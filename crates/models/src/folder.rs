//! Finding the models below a folder, and the one that a name means.

use std::path::{Path, PathBuf};

use crate::detect::{ModelKind, detect};
use crate::error::{ModelError, Result};

/// How deep below the models folder a model may lie (`models/shapes/amused`).
const DEPTH: u32 = 2;

/// A model folder and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFolder {
    /// Its path below the models folder, with `/`; its own name where it is the models folder itself.
    pub name: String,
    /// The folder.
    pub dir: PathBuf,
    /// The architecture.
    pub kind: ModelKind,
}

impl ModelFolder {
    /// Every model folder at most two levels below `root`, or `root` itself, by name. Nothing but the kind is read.
    ///
    /// # Errors
    /// [`ModelError::Io`] when a folder cannot be listed.
    pub fn list(root: &Path) -> Result<Vec<Self>> {
        let mut found = Vec::new();
        let mut pending = vec![(root.to_owned(), 0)];
        while let Some((dir, depth)) = pending.pop() {
            if let Ok(kind) = detect(&dir) {
                let below = if dir == root { dir.file_name().map(Path::new) } else { dir.strip_prefix(root).ok() };
                let name = below.map_or_else(|| kind.to_string(), |path| path.to_string_lossy().replace('\\', "/"));
                found.push(Self { name, dir, kind });
            } else if depth < DEPTH {
                let entries = std::fs::read_dir(&dir).map_err(|source| ModelError::Io { path: dir, source })?;
                let below = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
                pending.extend(below.map(|path| (path, depth + 1)));
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// The model that `wanted` means: its name, else the last part of it, else its kind.
    pub fn find<'a>(models: &'a [Self], wanted: &str) -> Option<&'a Self> {
        let by = |matches: &dyn Fn(&Self) -> bool| models.iter().find(|model| matches(model));
        by(&|model| model.name == wanted)
            .or_else(|| by(&|model| model.name.rsplit('/').next() == Some(wanted)))
            .or_else(|| by(&|model| model.kind.to_string() == wanted))
    }

    /// All names, for a message that says what there is.
    pub fn names(models: &[Self]) -> String {
        match models {
            [] => "none".into(),
            _ => models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>().join(", "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> ModelFolder {
        ModelFolder { name: name.into(), dir: name.into(), kind: ModelKind::Amused }
    }

    #[test]
    fn a_full_name_comes_before_a_part_of_another() {
        let models = ["big/mine", "mine", "shapes/amused"].map(named);
        let found = |wanted| ModelFolder::find(&models, wanted).map(|model| model.name.as_str());
        assert_eq!(found("mine"), Some("mine"));
        assert_eq!(found("big/mine"), Some("big/mine"));
        assert_eq!(found("amused"), Some("shapes/amused"));
        assert_eq!(found("shapes"), None);
        assert_eq!(ModelFolder::find(&models[..2], "amused"), Some(&models[0]), "by its kind");
        assert_eq!(ModelFolder::names(&models[..2]), "big/mine, mine");
        assert_eq!(ModelFolder::names(&[]), "none");
    }

    #[test]
    fn folders_are_named_by_their_path() {
        let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
        let names = |root: &Path| ModelFolder::list(root).map(|models| ModelFolder::names(&models));
        assert!(names(&cases).expect("listed").contains("shapes/amused"));
        assert_eq!(names(&cases.join("shapes")).expect("listed"), "amused, ltx_video, smolvlm2");
        assert_eq!(names(&cases.join("shapes/amused")).expect("listed"), "amused");
        assert!(names(&cases.join("nowhere")).expect_err("missing").to_string().contains("nowhere"));
    }
}
