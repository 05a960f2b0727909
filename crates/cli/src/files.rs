//! Files that options name: read with the option in the message, and checked before any work where they are written.

use std::path::Path;

use sango_media::{Limits, MediaError, RgbImage};

/// The picture that an option names.
pub fn picture(option: &str, path: &Path) -> anyhow::Result<RgbImage> {
    sango_media::load_image(path, &Limits::default()).map_err(|error| about(option, path, error))
}

/// Says which option and which file an error is about, as several may be given.
pub fn about(option: &str, path: &Path, error: MediaError) -> anyhow::Error {
    let context = match error {
        MediaError::Io { .. } => option.to_owned(), // It names the file itself.
        _ => format!("{option} {}", path.display()),
    };
    anyhow::Error::new(error).context(context)
}

/// Fails before any work where the output could not be saved in the end. `example` is a name that would do.
pub fn check_writable(output: &Path, example: &str) -> anyhow::Result<()> {
    let folder = match output.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    anyhow::ensure!(folder.is_dir(), "the folder {} does not exist; create it first", folder.display());
    anyhow::ensure!(!output.is_dir(), "{} is a folder; name a file, as in -o {example}", output.display());
    Ok(())
}

/// Any number will do where no seed is asked for; it is reported, so that what was made can be made again.
pub fn seed(asked: Option<u64>) -> u64 {
    use std::hash::{BuildHasher, Hasher};
    asked.unwrap_or_else(|| std::hash::RandomState::new().build_hasher().finish() >> 32)
}
