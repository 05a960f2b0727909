//! A decoder as a child process that cannot do harm: no input, a scrubbed environment, bounded memory, processor and wall
//! time, no other file to read, none to write. It dies with this value.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process_group, setrlimit};

use super::limits::{StopCheck, VideoLimits};
use super::log::Log;
use super::sandbox::Sandbox;
use crate::MediaError;

/// How often a stop is noticed while the decoder is silent.
const TICK: Duration = Duration::from_millis(50);

/// What is left of one call's allowance; every process of the call shares it.
#[derive(Clone)]
pub(super) struct Budget {
    deadline: Instant,
    time: Duration,
    memory: u64,
    threads: u64,
    stop: Option<StopCheck>,
}

impl Budget {
    pub fn new(limits: &VideoLimits) -> Self {
        let now = Instant::now();
        Self {
            // An absurd allowance must not overflow the clock.
            deadline: now.checked_add(limits.time).unwrap_or(now + Duration::from_secs(86_400)),
            time: limits.time,
            memory: limits.max_memory,
            threads: limits.threads.max(1) as u64,
            stop: limits.stop.clone(),
        }
    }

    /// # Errors
    /// [`MediaError::Cancelled`] and [`MediaError::TimedOut`].
    pub fn check(&self) -> Result<(), MediaError> {
        if self.stop.as_ref().is_some_and(|stop| stop()) {
            return Err(MediaError::Cancelled);
        }
        if Instant::now() >= self.deadline { Err(self.timed_out()) } else { Ok(()) }
    }

    fn timed_out(&self) -> MediaError {
        MediaError::TimedOut { seconds: self.time.as_secs() }
    }

    /// Seconds of processor time: the wall time on every thread, so that a decoder whose owner was killed still ends.
    fn cpu_seconds(&self) -> u64 {
        self.time.as_secs().saturating_add(1).saturating_mul(self.threads)
    }
}

/// A running decoder.
pub(super) struct Decoder {
    child: Child,
    stdout: ChildStdout,
    stderr: Option<ChildStderr>,
    budget: Budget,
    pub log: Log,
}

impl Decoder {
    /// Starts `program`, which may read `media` and nothing else of the user's.
    pub fn spawn(program: &Path, arguments: &[OsString], media: &Path, budget: &Budget) -> Result<Self, MediaError> {
        budget.check()?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env_clear().env("LC_ALL", "C").env("HOME", "/nonexistent");
        if let Some(libraries) = std::env::var_os("LD_LIBRARY_PATH") {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command.current_dir("/").process_group(0);
        let limits = [
            (Resource::As, budget.memory),
            (Resource::Cpu, budget.cpu_seconds()),
            (Resource::Fsize, 0),
            (Resource::Core, 0),
            (Resource::Nofile, 64),
        ];
        let mut sandbox = Some(Sandbox::new(program, media));
        // SAFETY: between fork and exec this makes system calls only (setrlimit, prctl, landlock_restrict_self); all
        // that allocates was prepared above.
        unsafe {
            command.pre_exec(move || {
                for (resource, value) in limits {
                    setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })?;
                }
                sandbox.take().map_or(Ok(()), Sandbox::enter)
            });
        }
        let mut child = command.spawn().map_err(|source| MediaError::Io { path: program.to_owned(), source })?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(MediaError::Io { path: program.to_owned(), source: io::ErrorKind::BrokenPipe.into() });
        };
        Ok(Self { child, stdout, stderr: Some(stderr), budget: budget.clone(), log: Log::default() })
    }

    /// Some bytes of standard output; 0 at its end.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, MediaError> {
        loop {
            if self.wait_for_output(true)? {
                match self.stdout.read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(damaged(error.to_string())),
                    Ok(count) => return Ok(count),
                }
            }
        }
    }

    /// Fills `buffer`; `false` when the output ends first.
    pub fn read_exact(&mut self, buffer: &mut [u8]) -> Result<bool, MediaError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..])? {
                0 => return Ok(false),
                count => filled += count,
            }
        }
        Ok(true)
    }

    /// The time of the frame just read, in units of the stream's time base.
    pub fn frame_time(&mut self) -> Result<Option<i64>, MediaError> {
        loop {
            if let Some(time) = self.log.next_time() {
                return Ok(time);
            }
            if self.stderr.is_none() {
                return Err(damaged("the decoder did not say when a frame is shown".into()));
            }
            self.wait_for_output(false)?;
        }
    }

    /// Waits for the end, whatever the exit status. There may be [none to be had](is_reaped).
    pub fn finish(mut self) -> Result<(Option<ExitStatus>, Log), MediaError> {
        let mut rest = [0; 4096];
        while self.read(&mut rest)? > 0 {}
        while self.stderr.is_some() {
            self.wait_for_output(false)?;
        }
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break Some(status),
                Err(error) if is_reaped(&error) => break None,
                Ok(None) => std::thread::sleep(Duration::from_millis(1)),
                Err(error) => return Err(damaged(error.to_string())),
            }
            self.budget.check()?;
        };
        if status.and_then(|status| status.signal()) == Some(Signal::XCPU.as_raw()) {
            return Err(self.budget.timed_out());
        }
        let out_of_memory = ["Cannot allocate memory", "failed to map segment", "cannot allocate"]
            .iter()
            .any(|words| self.log.mentions(words));
        if status.is_none_or(|status| !status.success()) && out_of_memory {
            return Err(MediaError::OutOfMemory { limit: self.budget.memory });
        }
        Ok((status, std::mem::take(&mut self.log)))
    }

    /// Waits a tick for either pipe, takes in what standard error holds, and says whether standard output has something.
    fn wait_for_output(&mut self, with_stdout: bool) -> Result<bool, MediaError> {
        self.budget.check()?;
        let left = self.budget.deadline.saturating_duration_since(Instant::now()).min(TICK);
        let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
        let mut waiting = Vec::with_capacity(2);
        if let Some(stderr) = &self.stderr {
            waiting.push(PollFd::from_borrowed_fd(stderr.as_fd(), PollFlags::IN));
        }
        if with_stdout {
            waiting.push(PollFd::from_borrowed_fd(self.stdout.as_fd(), PollFlags::IN));
        }
        match poll(&mut waiting, Some(&timeout)) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(false),
            Err(error) => return Err(damaged(error.to_string())),
        }
        let ready: Vec<bool> = waiting.iter().map(|fd| !fd.revents().is_empty()).collect();
        let stdout_ready = with_stdout && ready.last() == Some(&true);
        if self.stderr.is_some() && ready[0] {
            self.take_log();
        }
        Ok(stdout_ready)
    }

    fn take_log(&mut self) {
        let mut bytes = [0; 8192];
        match self.stderr.as_mut().map(|stderr| stderr.read(&mut bytes)) {
            Some(Ok(0)) => self.stderr = None,
            Some(Ok(count)) => self.log.feed(&bytes[..count]),
            Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Some(Err(_)) => self.stderr = None,
            None => {}
        }
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Whether waiting for a child failed because it has ended and left no status: in a process that ignores SIGCHLD, as
/// Erlang's does, the system reaps its children.
pub(super) fn is_reaped(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::CHILD.raw_os_error())
}

/// Kills a child that leads a process group, with all that it started, and takes its exit status.
pub(super) fn end(child: &mut Child) {
    if matches!(child.try_wait(), Ok(None)) {
        if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = child.wait();
    }
}

fn damaged(reason: String) -> MediaError {
    MediaError::DamagedVideo { reason }
}
