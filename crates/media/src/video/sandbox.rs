//! Which files a decoder may open. FFmpeg's own whitelists come first; on Linux the kernel (Landlock, 5.13 and newer)
//! says it once more, so that a bug in a demuxer cannot read what else is on the disk, nor reach the network.

use std::io;
use std::path::Path;

#[cfg(target_os = "linux")]
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError,
};

/// Prepared before the fork, entered after it.
pub(super) struct Sandbox {
    #[cfg(target_os = "linux")]
    rules: Option<RulesetCreated>,
}

#[cfg(target_os = "linux")]
impl Sandbox {
    /// Allows `media`, the program and the system's libraries.
    pub fn new(program: &Path, media: &Path) -> Self {
        Self { rules: rules(program, media).ok() }
    }

    /// Restricts the calling process for good. A kernel without Landlock lets it go on without.
    pub fn enter(self) -> io::Result<()> {
        match self.rules {
            Some(rules) => rules.restrict_self().map(drop).map_err(|_| io::ErrorKind::PermissionDenied.into()),
            None => Ok(()),
        }
    }
}

#[cfg(target_os = "linux")]
fn rules(program: &Path, media: &Path) -> Result<RulesetCreated, RulesetError> {
    const VERSION: ABI = ABI::V4;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(VERSION))?
        .handle_access(AccessNet::from_all(VERSION))?
        .create()?;
    let read = BitFlags::from(AccessFs::ReadFile);
    let run = AccessFs::from_read(VERSION);
    let mut allow = |path: &Path, access: BitFlags<AccessFs>| -> Result<(), RulesetError> {
        // What this system does not have needs no rule.
        if let Ok(opened) = PathFd::new(path) {
            let access = if path.is_dir() { access } else { access & AccessFs::from_file(VERSION) };
            (&mut rules).add_rule(PathBeneath::new(opened, access))?;
        }
        Ok(())
    };
    allow(media, read)?;
    allow(program, run)?;
    for folder in ["/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/nix/store", "/sys/devices/system/cpu"] {
        allow(Path::new(folder), run)?;
    }
    for device in ["/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"] {
        allow(Path::new(device), read)?;
    }
    // A build of one's own keeps its libraries beside it (PREFIX/bin, PREFIX/lib) or names them.
    if let Some(prefix) = program.canonicalize().ok().as_deref().and_then(Path::parent).and_then(Path::parent) {
        allow(&prefix.join("lib"), run)?;
    }
    for folder in std::env::split_paths(&std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default()) {
        if folder.is_absolute() {
            allow(&folder, run)?;
        }
    }
    Ok(rules)
}

#[cfg(not(target_os = "linux"))]
impl Sandbox {
    pub fn new(_program: &Path, _media: &Path) -> Self {
        Self {}
    }

    pub fn enter(self) -> io::Result<()> {
        Ok(())
    }
}
