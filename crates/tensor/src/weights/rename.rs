//! Reading a checkpoint under other names than its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::{Patches, Place, Source, Weights};
use crate::error::{Result, TensorError};

impl Weights {
    /// The same tensors under other names: `rename` is told what a tensor is called from here down, and says what it is to
    /// be called, or nothing to leave it out. Nothing is copied; messages go on naming tensors as the file does.
    ///
    /// # Errors
    /// [`TensorError::Renamed`] when two tensors would have one name.
    pub fn renamed(&self, rename: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let source = &self.source;
        let mut names: BTreeMap<String, Place> = BTreeMap::new();
        for name in self.names() {
            let Some(new) = rename(name) else { continue };
            let key = source.key_in_file(&self.key(name)).to_owned();
            if let Some(other) = names.get(&new) {
                let (path, first) = (source.path.clone(), other.key.clone().unwrap_or_default());
                return Err(TensorError::Renamed { path, first, second: key, name: new });
            }
            let file = source.names[&self.key(name)].file;
            names.insert(new, Place { file, key: Some(key) });
        }
        let (path, files) = (source.path.clone(), source.files.clone());
        let source = Arc::new(Source { path, files, names, used: Mutex::default() });
        Ok(Self { source, prefix: String::new(), patches: Patches::default(), ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;

    fn weights() -> Weights {
        let dir = std::env::temp_dir().join(format!("sango-rename-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a temporary folder");
        let path = dir.join(format!("{:?}.safetensors", std::thread::current().id()));
        let tensor = Tensor::scalar(3.0);
        crate::save(&path, &["a.x", "a.y", "b.x"].map(|name| (name, &tensor)), None).expect("written");
        Weights::open_file(&path).expect("opened")
    }

    #[test]
    fn tensors_are_found_under_their_new_names_only() {
        let renamed = weights().pp("a").renamed(|name| (name != "y").then(|| format!("c.{name}"))).expect("renamed");
        assert_eq!(renamed.names().collect::<Vec<_>>(), ["c.x"]);
        assert_eq!(renamed.pp("c").get_f32("x", &[]).expect("there").item().expect("one"), 3.0);
        assert!(!renamed.contains("a.x") && renamed.unused().is_empty());
        let error = renamed.get_f32("c.x", &[2]).expect_err("another shape").to_string();
        assert!(error.contains("`a.x`"), "{error}");
        let again = renamed.renamed(|name| Some(format!("d.{name}"))).expect("renamed");
        let error = again.check_all_used(|_| false).expect_err("not used").to_string();
        assert!(error.contains("`a.x`"), "{error}");
        assert_eq!(again.parameter_count(), 1);
    }

    #[test]
    fn two_tensors_cannot_have_one_name() {
        let error = weights().renamed(|name| Some(name[2..].to_owned())).err().expect("two are called x").to_string();
        assert!(error.contains("`a.x`") && error.contains("`b.x`"), "{error}");
    }
}
