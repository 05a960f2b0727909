//! Where `ffmpeg` and `ffprobe` are, and which version.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::MediaError;

/// The two programs that read and write video.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub ffmpeg: PathBuf,
    pub ffprobe: PathBuf,
}

impl Programs {
    /// Looks at `SANGO_FFMPEG` and `SANGO_FFPROBE`, then along `PATH`.
    pub fn find() -> Result<Self, MediaError> {
        Ok(Self { ffmpeg: locate("ffmpeg", "SANGO_FFMPEG")?, ffprobe: locate("ffprobe", "SANGO_FFPROBE")? })
    }

    /// The arguments that neither repeat nor drop a frame: FFmpeg renamed the option, and removes the old name.
    pub fn passthrough(&self) -> [&'static str; 2] {
        static NEW_NAME: OnceLock<bool> = OnceLock::new();
        let new_name = *NEW_NAME.get_or_init(|| major_version(&self.ffmpeg).is_none_or(|major| major >= 6));
        [if new_name { "-fps_mode" } else { "-vsync" }, "passthrough"]
    }
}

/// The first line of `ffmpeg -version`.
///
/// # Errors
/// [`MediaError::NoProgram`] when it, or `ffprobe`, is missing or does not start.
pub fn ffmpeg_version() -> Result<String, MediaError> {
    let programs = Programs::find()?;
    let first = |program: &Path, name, variable| {
        version(program).ok_or_else(|| MediaError::NoProgram {
            program: name,
            reason: format!("at {} does not run", program.display()),
            variable,
        })
    };
    first(&programs.ffprobe, "ffprobe", "SANGO_FFPROBE")?;
    first(&programs.ffmpeg, "ffmpeg", "SANGO_FFMPEG")
}

fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("-version").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    output.status.success().then(|| text.lines().next().unwrap_or_default().to_owned())
}

/// "ffmpeg version 5.1.9-0+deb12u1 …" or "ffmpeg version n7.1 …"; a build from git has no number and counts as new.
fn major_version(program: &Path) -> Option<u32> {
    parse_major(&version(program)?)
}

fn parse_major(line: &str) -> Option<u32> {
    let number = line.split_whitespace().nth(2)?.trim_start_matches('n');
    let (major, rest) = number.split_once('.')?;
    rest.starts_with(|c: char| c.is_ascii_digit()).then(|| major.parse().ok()).flatten()
}

fn locate(program: &'static str, variable: &'static str) -> Result<PathBuf, MediaError> {
    let missing = |reason: String| MediaError::NoProgram { program, reason, variable };
    if let Some(named) = env::var_os(variable).filter(|value| !value.is_empty()) {
        let named = PathBuf::from(named);
        return named
            .canonicalize()
            .ok()
            .filter(|path| path.is_file())
            .ok_or_else(|| missing(format!("is not at {}", named.display())));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| missing("is not installed".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(parse_major("ffmpeg version 5.1.9-0+deb12u1 Copyright (c) 2000-2026"), Some(5));
        assert_eq!(parse_major("ffmpeg version n7.1 Copyright"), Some(7));
        assert_eq!(parse_major("ffmpeg version N-112000-gabcdef Copyright"), None);
        assert_eq!(parse_major(""), None);
    }
}
