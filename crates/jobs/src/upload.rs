//! Files on their way in: written to disk as they come, never held in memory.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tempfile::{NamedTempFile, TempPath};

use crate::canonical::hex;
use crate::{ErrorKind, JobError};

/// A video or picture of a job that is handed in.
#[derive(Debug, Clone, PartialEq)]
pub enum Upload {
    /// The encoded file.
    Bytes(Vec<u8>),
    /// A file of this machine, of which the engine takes a copy.
    Path(PathBuf),
    /// A file that was written with [`Engine::receive`](crate::Engine::receive).
    Received(Received),
    /// The SHA-256 of a file that another job has brought.
    Known(String),
}

/// A file that is being written. What has been written goes when it is dropped before [`finish`](Self::finish).
#[derive(Debug)]
pub struct Incoming {
    file: NamedTempFile,
    hash: Sha256,
    bytes: u64,
    limit: u64,
}

/// A whole file that no job has yet. It goes when the last clone is dropped, unless a job has taken it.
#[derive(Debug, Clone)]
pub struct Received(Arc<ReceivedFile>);

#[derive(Debug)]
struct ReceivedFile {
    path: TempPath,
    sha256: String,
    bytes: u64,
}

impl PartialEq for Received {
    fn eq(&self, other: &Self) -> bool {
        self.0.sha256 == other.0.sha256
    }
}

impl Incoming {
    pub(crate) fn new(folder: &Path, limit: u64) -> Result<Self, JobError> {
        let file = tempfile::Builder::new().prefix(".incoming-").suffix(".part").tempfile_in(folder);
        Ok(Self { file: file.map_err(|error| not_written(&error))?, hash: Sha256::new(), bytes: 0, limit })
    }

    /// Appends to the file.
    ///
    /// # Errors
    /// `too_large` beyond the engine's limit, `storage_full`, `storage`.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), JobError> {
        self.bytes += bytes.len() as u64;
        if self.bytes > self.limit {
            let message = format!("a file may have {} MiB: send a shorter or a smaller one", self.limit >> 20);
            return Err(JobError::new(ErrorKind::TooLarge, message));
        }
        self.hash.update(bytes);
        self.file.write_all(bytes).map_err(|error| not_written(&error))
    }

    /// The file is whole: makes sure that it is on the disk.
    ///
    /// # Errors
    /// `storage_full`, `storage`; `invalid_media` for a file without a byte.
    pub fn finish(self) -> Result<Received, JobError> {
        if self.bytes == 0 {
            return Err(JobError::new(ErrorKind::InvalidMedia, "`media` is an empty file"));
        }
        self.file.as_file().sync_all().map_err(|error| not_written(&error))?;
        let (path, sha256) = (self.file.into_temp_path(), hex(&self.hash.finalize()));
        Ok(Received(Arc::new(ReceivedFile { path, sha256, bytes: self.bytes })))
    }

    /// Takes a copy of a file.
    pub(crate) fn copy(mut self, from: &Path) -> Result<Received, JobError> {
        let unreadable = |error: io::Error| {
            JobError::new(ErrorKind::InvalidMedia, format!("`media`: cannot read {}: {error}", from.display()))
        };
        let file = File::open(from).map_err(unreadable)?;
        // A pipe or a device could go on for ever.
        if !file.metadata().map_err(unreadable)?.is_file() {
            return Err(unreadable(io::Error::new(io::ErrorKind::InvalidInput, "it is no file")));
        }
        let mut reader = BufReader::new(file);
        let mut buffer = vec![0; 1 << 18];
        loop {
            match reader.read(&mut buffer).map_err(unreadable)? {
                0 => return self.finish(),
                read => self.write(&buffer[..read])?,
            }
        }
    }
}

impl Received {
    /// SHA-256 of the file, lower-case hex.
    pub fn sha256(&self) -> &str {
        &self.0.sha256
    }

    /// How many bytes the file has.
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0.path
    }

    /// Moves the file to its place among those that jobs have.
    pub(crate) fn keep_as(&self, path: &Path) -> Result<(), JobError> {
        fs::rename(&self.0.path, path).map_err(|error| not_written(&error))
    }
}

fn not_written(error: &io::Error) -> JobError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            JobError::new(ErrorKind::StorageFull, "no room left for the uploaded file: free some disk space")
        }
        _ => JobError::new(ErrorKind::Storage, format!("cannot keep the uploaded file: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical::sha256_hex;

    fn files(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn a_file_is_hashed_as_it_comes_and_goes_unless_it_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let receive = || {
            let mut incoming = Incoming::new(folder.path(), 10).unwrap();
            incoming.write(b"coral ").unwrap();
            incoming.write(b"reef").unwrap();
            incoming.finish().unwrap()
        };
        let received = receive();
        assert_eq!((received.sha256(), received.bytes()), (sha256_hex(b"coral reef").as_str(), 10));
        assert_eq!(fs::read(received.path()).unwrap(), b"coral reef");
        drop(received);
        assert_eq!(files(folder.path()), 0);

        let kept = folder.path().join("kept");
        receive().keep_as(&kept).unwrap();
        assert_eq!((fs::read(&kept).unwrap(), files(folder.path())), (b"coral reef".to_vec(), 1));
    }

    #[test]
    fn what_is_too_large_empty_or_no_file_is_refused_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let incoming = || Incoming::new(folder.path(), 10).unwrap();
        let mut large = incoming();
        large.write(b"coral reef").unwrap();
        assert_eq!(large.write(b"s").unwrap_err().kind, ErrorKind::TooLarge);
        drop(large);
        assert_eq!(incoming().finish().unwrap_err().kind, ErrorKind::InvalidMedia);
        for path in ["/nowhere/clip.mp4", "/dev/zero", "/"] {
            let error = incoming().copy(Path::new(path)).unwrap_err();
            assert!(error.kind == ErrorKind::InvalidMedia && error.message.contains(path), "{error}");
        }
        assert_eq!(files(folder.path()), 0);
    }
}
