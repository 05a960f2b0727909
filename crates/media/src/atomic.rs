//! Files that are there whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::MediaError;

/// Writes `bytes` to a temporary file beside `path`, syncs it and renames it over `path`, so that a reader, a crash or a
/// full disk never leaves half a file there. A symbolic link stays, and its target is replaced; a device or a pipe is
/// written to.
///
/// # Errors
/// [`MediaError::DiskFull`] when there is no room, [`MediaError::Io`] otherwise (a missing folder, no permission).
/// The temporary file is removed in both cases.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), MediaError> {
    let failed = |source| MediaError::from_write(path, bytes.len() as u64, source);
    // A device or a pipe has no old content to keep, and a rename would put a file in its place.
    if fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir()) {
        return File::options().write(true).open(path).and_then(|mut file| file.write_all(bytes)).map_err(failed);
    }
    let temporary = Temporary::beside(path)?;
    File::create(temporary.path()).and_then(|mut file| write_and_sync(&mut file, bytes)).map_err(failed)?;
    temporary.keep()
}

/// A file in the making, beside the one it will replace. Dropped, it is removed.
#[derive(Debug)]
pub(crate) struct Temporary {
    asked: PathBuf,
    target: PathBuf,
    path: PathBuf,
    kept: bool,
}

impl Temporary {
    /// A name that no other writer has; the file itself is not made yet.
    pub fn beside(path: &Path) -> Result<Self, MediaError> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let Some(name) = path.file_name() else {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "this is not a file name");
            return Err(MediaError::from_write(path, 0, source));
        };
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        // Process id and counter: two writers of one path must not share a temporary file.
        let mut temporary_name = std::ffi::OsString::from(".");
        temporary_name.push(name);
        temporary_name.push(format!(".{}.{}.part", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
        let path = path.to_owned();
        Ok(Self { path: target.with_file_name(temporary_name), asked: path, target, kept: false })
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that was asked for.
    pub fn asked(&self) -> &Path {
        &self.asked
    }

    /// Puts it, complete, in its place.
    pub fn keep(mut self) -> Result<(), MediaError> {
        fs::rename(&self.path, &self.target).map_err(|source| MediaError::from_write(&self.asked, 0, source))?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept {
            // It may never have been created; the first error is the one that matters.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn write_and_sync(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_a_file_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("picture.png");
        write_atomic(&path, b"first").unwrap();
        write_atomic(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nowhere/picture.png");
        let error = write_atomic(&path, b"bytes").unwrap_err();
        assert!(matches!(&error, MediaError::Io { path: p, .. } if *p == path), "{error}");
        assert!(matches!(write_atomic(Path::new("/"), b"bytes"), Err(MediaError::Io { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_plain_file_stays_what_it_is() {
        use std::io::Read;
        use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, symlink};

        let folder = tempfile::tempdir().unwrap();
        let (pipe, link, target) =
            (folder.path().join("pipe"), folder.path().join("link"), folder.path().join("target"));
        let name = std::ffi::CString::new(pipe.to_str().unwrap()).unwrap();
        // SAFETY: the name is a C string that lives through the call.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let mut reader = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&pipe).unwrap();
        write_atomic(&pipe, b"bytes").unwrap();
        let mut read = [0; 5];
        reader.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"bytes");
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());

        fs::write(&target, b"old").unwrap();
        symlink(&target, &link).unwrap();
        write_atomic(&link, b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert!(write_atomic(folder.path(), b"bytes").is_err(), "a folder is neither");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_device_is_no_room() {
        let mut full = File::options().write(true).open("/dev/full").unwrap();
        let source = write_and_sync(&mut full, &[0; 8192]).unwrap_err();
        let error = MediaError::from_write(Path::new("out.png"), 8192, source);
        assert!(matches!(error, MediaError::DiskFull { bytes: 8192, .. }), "{error}");
        assert!(error.to_string().contains("free some space"));
    }
}
