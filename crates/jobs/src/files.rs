//! Uploads and results: files that are named by the hash of what is in them.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::canonical::sha256_hex;
use crate::{ErrorKind, JobError};

/// A folder of files, each named by its SHA-256, so that equal bytes are kept once.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    folder: PathBuf,
}

impl Files {
    /// Opens the folder, making it if need be.
    pub(crate) fn open(folder: PathBuf) -> Result<Self, JobError> {
        fs::create_dir_all(&folder).map_err(|error| {
            JobError::new(ErrorKind::Storage, format!("cannot make the folder {}: {error}", folder.display()))
        })?;
        Ok(Self { folder })
    }

    /// The folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the file with this hash is, if it is.
    pub(crate) fn path(&self, sha256: &str) -> PathBuf {
        self.folder.join(sha256)
    }

    /// Whether the file is there.
    pub(crate) fn has(&self, sha256: &str) -> bool {
        self.path(sha256).is_file()
    }

    /// Keeps the bytes and gives back their hash.
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<String, JobError> {
        let sha256 = sha256_hex(bytes);
        if !self.has(&sha256) {
            sango_media::write_atomic(&self.path(&sha256), bytes)?;
        }
        Ok(sha256)
    }

    /// Removes every file that is not in `keep`, temporary files of a crash included.
    pub(crate) fn sweep(&self, keep: &HashSet<String>) {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return;
        };
        for entry in entries.flatten() {
            if entry.file_name().to_str().is_none_or(|name| !keep.contains(name)) {
                remove(&entry.path());
            }
        }
    }

    /// Removes one file.
    pub(crate) fn remove(&self, sha256: &str) {
        remove(&self.path(sha256));
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!("cannot remove {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_bytes_are_kept_once_and_sweeping_keeps_what_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::open(folder.path().join("results")).unwrap();
        let (a, b) = (files.put(b"a").unwrap(), files.put(b"b").unwrap());
        assert_eq!(files.put(b"a").unwrap(), a);
        fs::write(files.path(".half.part"), b"rubbish").unwrap();
        files.sweep(&HashSet::from([a.clone()]));
        assert!(files.has(&a) && !files.has(&b));
        assert_eq!(fs::read_dir(&files.folder).unwrap().count(), 1);
    }
}
