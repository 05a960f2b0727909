//! Frames to MP4, through libx264: yuv420p, BT.709, the index in front, a key frame every two seconds. That plays and
//! seeks in every browser.

use std::borrow::Borrow;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use image::RgbImage;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::arguments::{address, arguments};
use super::child::{end, is_reaped};
use super::limits::StopCheck;
use super::log::Log;
use super::program::Programs;
use crate::MediaError;
use crate::atomic::Temporary;

/// An encoder that neither takes a byte nor ends for so long has failed.
const PATIENCE: Duration = Duration::from_secs(120);
/// How the system says it, in English: the encoder runs with `LC_ALL=C`.
const NO_ROOM: [&str; 3] = ["No space left on device", "Disk quota exceeded", "File too large"];
const TICK: Duration = Duration::from_millis(50);

/// Frames per second as a fraction, so that 29.97 is exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameRate {
    numerator: u32,
    denominator: u32,
}

impl FrameRate {
    /// `numerator / denominator` frames per second.
    ///
    /// # Errors
    /// [`MediaError::EncodeVideo`] unless that is between 1/1000 and 1000.
    pub fn new(numerator: u32, denominator: u32) -> Result<Self, MediaError> {
        let (n, d) = (u64::from(numerator), u64::from(denominator));
        if n == 0 || d == 0 || n > 1000 * d || d > 1000 * n {
            return Err(failed(format!("{numerator}/{denominator} frames per second is not between 0.001 and 1000")));
        }
        Ok(Self { numerator, denominator })
    }

    /// The nearest whole number, NTSC rate (24000/1001, 30000/1001, …) or thousandth.
    ///
    /// # Errors
    /// As [`FrameRate::new`].
    pub fn from_f64(fps: f64) -> Result<Self, MediaError> {
        if !(0.001..=1000.0).contains(&fps) {
            return Err(failed(format!("{fps} frames per second is not between 0.001 and 1000")));
        }
        let whole = fps.round();
        let ntsc = whole * 1000.0 / 1001.0;
        if whole >= 1.0 && (fps - whole).abs() < 1e-6 {
            Self::new(whole as u32, 1)
        } else if whole >= 1.0 && (fps - ntsc).abs() < 5e-3 {
            Self::new(whole as u32 * 1000, 1001)
        } else {
            Self::new((fps * 1000.0).round() as u32, 1000)
        }
    }
}

/// What to do with a width or height that yuv420p cannot have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OddSize {
    /// Repeat the last column or row once.
    #[default]
    Pad,
    /// Refuse it.
    Refuse,
}

/// How a video is written.
#[derive(Clone)]
pub struct EncodeOptions {
    /// Frames per second.
    pub fps: FrameRate,
    /// Quality, 0 (lossless) to 51; lower is better and larger. 18 is hard to tell from the original.
    pub crf: u8,
    /// What to do with odd sizes.
    pub odd_size: OddSize,
    /// Ends the encoding early, leaving nothing behind.
    pub stop: Option<StopCheck>,
}

impl EncodeOptions {
    /// Quality 18, odd sizes padded.
    pub fn new(fps: FrameRate) -> Self {
        Self { fps, crf: 18, odd_size: OddSize::Pad, stop: None }
    }
}

/// Takes frames one at a time. The file appears when [`Mp4Encoder::finish`] returns; an encoder that is dropped before
/// leaves nothing.
pub struct Mp4Encoder {
    child: Child,
    stdin: Option<ChildStdin>,
    stderr: Option<ChildStderr>,
    log: Log,
    file: Option<Temporary>,
    size: (u32, u32),
    padded: Vec<u8>,
    frames: usize,
    stop: Option<StopCheck>,
}

impl Mp4Encoder {
    /// Starts an encoder for frames of `width` x `height` pixels that will save to `path`.
    ///
    /// # Errors
    /// [`MediaError::EncodeVideo`] for sizes and options that cannot be, [`MediaError::NoProgram`] without ffmpeg,
    /// [`MediaError::Io`].
    pub fn create(path: &Path, width: u32, height: u32, options: &EncodeOptions) -> Result<Self, MediaError> {
        if width == 0 || height == 0 || width > 16_384 || height > 16_384 {
            return Err(failed(format!("{width}x{height} is not between 1x1 and 16384x16384")));
        }
        if options.odd_size == OddSize::Refuse && (width % 2 == 1 || height % 2 == 1) {
            return Err(failed(format!("{width}x{height} is odd: use even sizes, or let them be padded")));
        }
        if options.crf > 51 {
            return Err(failed(format!("crf {} is not between 0 and 51", options.crf)));
        }
        let file = Temporary::beside(path)?;
        let mut child = command(&Programs::find()?, file.path(), width, height, options)
            .spawn()
            .map_err(|source| MediaError::Io { path: "ffmpeg".into(), source })?;
        let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
        if let Some(stdin) = &stdin {
            rustix::io::ioctl_fionbio(stdin, true).map_err(|error| failed(error.to_string()))?;
        }
        let log = Log::default();
        let stop = options.stop.clone();
        let (size, padded) = ((width, height), Vec::new());
        Ok(Self { child, stdin, stderr, log, file: Some(file), size, padded, frames: 0, stop })
    }

    /// Adds a frame.
    ///
    /// # Errors
    /// [`MediaError::EncodeVideo`] for a frame of another size or when the encoder fails, [`MediaError::DiskFull`],
    /// [`MediaError::Cancelled`].
    pub fn push(&mut self, frame: &RgbImage) -> Result<(), MediaError> {
        let (width, height) = self.size;
        if frame.dimensions() != self.size {
            let (other_width, other_height) = frame.dimensions();
            return Err(failed(format!(
                "frame {} is {other_width}x{other_height}, the video {width}x{height}",
                self.frames
            )));
        }
        self.frames += 1;
        if width % 2 == 0 && height % 2 == 0 {
            return self.write(frame.as_raw());
        }
        let mut padded = std::mem::take(&mut self.padded);
        pad(frame, &mut padded);
        let written = self.write(&padded);
        self.padded = padded;
        written
    }

    /// Waits for the end and puts the file in its place.
    ///
    /// # Errors
    /// As [`Mp4Encoder::push`], also for no frames at all.
    pub fn finish(mut self) -> Result<(), MediaError> {
        if self.frames == 0 {
            return Err(failed("there are no frames".into()));
        }
        drop(self.stdin.take());
        let patience = Instant::now() + PATIENCE.max(Duration::from_millis(self.frames as u64 * 500));
        let succeeded = loop {
            self.listen(false)?;
            match self.child.try_wait() {
                Ok(Some(status)) => break status.success(),
                // Where no status is left, what the encoder said must tell.
                Err(error) if is_reaped(&error) && self.stderr.is_none() => break self.log.first().is_none(),
                _ => {}
            }
            if Instant::now() > patience {
                return Err(failed("the encoder does not end".into()));
            }
        };
        if !succeeded {
            return Err(self.failure());
        }
        let Some(file) = self.file.take() else { return Ok(()) };
        let synced = File::open(file.path()).and_then(|written| written.sync_all());
        synced.map_err(|source| MediaError::Io { path: file.asked().to_owned(), source })?;
        file.keep()
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), MediaError> {
        let mut heard = Instant::now();
        while !bytes.is_empty() {
            let Some(stdin) = &mut self.stdin else { return Err(failed("it was finished before".into())) };
            match stdin.write(bytes) {
                Ok(count) => {
                    bytes = &bytes[count..];
                    heard = Instant::now();
                    self.check()?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.listen(true)?;
                    if heard.elapsed() > PATIENCE {
                        return Err(failed("the encoder takes no more frames".into()));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    // The pipe is broken: what the encoder said last tells why.
                    while self.stderr.is_some() {
                        self.listen(false)?;
                    }
                    return Err(self.failure());
                }
            }
        }
        Ok(())
    }

    /// Waits a tick for room in the pipe or for a word of the encoder.
    fn listen(&mut self, for_room: bool) -> Result<(), MediaError> {
        self.check()?;
        let timeout = Timespec::try_from(TICK).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
        let mut waiting = Vec::with_capacity(2);
        if let Some(stderr) = &self.stderr {
            waiting.push(PollFd::from_borrowed_fd(stderr.as_fd(), PollFlags::IN));
        }
        if let Some(stdin) = self.stdin.as_ref().filter(|_| for_room) {
            waiting.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::OUT));
        }
        if waiting.is_empty() {
            std::thread::sleep(Duration::from_millis(2));
            return Ok(());
        }
        if poll(&mut waiting, Some(&timeout)).is_err() || waiting[0].revents().is_empty() {
            return Ok(());
        }
        let mut bytes = [0; 4096];
        match self.stderr.as_mut().map(|stderr| stderr.read(&mut bytes)) {
            Some(Ok(count)) if count > 0 => self.log.feed(&bytes[..count]),
            Some(_) => self.stderr = None,
            None => {}
        }
        Ok(())
    }

    fn check(&self) -> Result<(), MediaError> {
        if self.stop.as_ref().is_some_and(|stop| stop()) { Err(MediaError::Cancelled) } else { Ok(()) }
    }

    fn failure(&self) -> MediaError {
        if let Some(file) = self.file.as_ref().filter(|_| NO_ROOM.iter().any(|words| self.log.mentions(words))) {
            let bytes = fs::metadata(file.path()).map_or(0, |file| file.len());
            return MediaError::DiskFull { path: file.asked().to_owned(), bytes };
        }
        failed(self.log.first().unwrap_or("the encoder ended without a reason").to_owned())
    }
}

impl Drop for Mp4Encoder {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Encodes frames, all of one size, to an MP4 file that is there whole or not at all.
///
/// # Errors
/// As [`Mp4Encoder::create`], [`Mp4Encoder::push`] and [`Mp4Encoder::finish`].
pub fn encode_mp4<F: Borrow<RgbImage>>(
    path: &Path,
    frames: impl IntoIterator<Item = F>,
    options: &EncodeOptions,
) -> Result<(), MediaError> {
    let mut frames = frames.into_iter();
    let Some(first) = frames.next() else { return Err(failed("there are no frames".into())) };
    let (width, height) = first.borrow().dimensions();
    let mut encoder = Mp4Encoder::create(path, width, height, options)?;
    encoder.push(first.borrow())?;
    frames.try_for_each(|frame| encoder.push(frame.borrow()))?;
    encoder.finish()
}

fn command(programs: &Programs, file: &Path, width: u32, height: u32, options: &EncodeOptions) -> Command {
    let FrameRate { numerator, denominator } = options.fps;
    let rate = format!("{numerator}/{denominator}");
    let (width, height) = (width.next_multiple_of(2), height.next_multiple_of(2));
    let interval = (2 * numerator).div_ceil(denominator).max(1);
    let input = arguments![
        "-nostdin",
        "-hide_banner",
        "-nostats",
        "-loglevel",
        "level+error",
        "-y",
        "-f",
        "rawvideo",
        "-pixel_format",
        "rgb24",
        "-video_size",
        format!("{width}x{height}"),
        "-framerate",
        &rate,
        "-i",
        "pipe:0",
    ];
    let output = arguments![
        "-vf",
        "scale=out_color_matrix=bt709:out_range=tv:flags=bicubic+accurate_rnd+full_chroma_inp,format=yuv420p",
        "-c:v",
        "libx264",
        "-preset",
        "medium",
        "-crf",
        options.crf.to_string(),
        "-g",
        interval.to_string(),
        "-color_range",
        "tv",
        "-colorspace",
        "bt709",
        "-color_primaries",
        "bt709",
        "-color_trc",
        "bt709",
        // Without the versions of the tools: the same frames give the same bytes.
        "-fflags",
        "+bitexact",
        "-flags:v",
        "+bitexact",
        "-movflags",
        "+faststart",
        "-f",
        "mp4",
        address(file),
    ];
    let mut command = Command::new(&programs.ffmpeg);
    command.args(input).args(output).env_clear().env("LC_ALL", "C").env("HOME", "/nonexistent");
    if let Some(libraries) = std::env::var_os("LD_LIBRARY_PATH") {
        command.env("LD_LIBRARY_PATH", libraries);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    command
}

/// Repeats the last column and row where the size is odd.
fn pad(frame: &RgbImage, padded: &mut Vec<u8>) {
    let width = frame.width() as usize * 3;
    padded.clear();
    let mut row = |pixels: &[u8]| {
        padded.extend_from_slice(pixels);
        if frame.width() % 2 == 1 {
            padded.extend_from_slice(&pixels[width - 3..]);
        }
    };
    frame.as_raw().chunks_exact(width).for_each(&mut row);
    if frame.height() % 2 == 1 {
        row(&frame.as_raw()[frame.len() - width..]);
    }
}

fn failed(reason: String) -> MediaError {
    MediaError::EncodeVideo { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_fractions() {
        let rate = |fps| FrameRate::from_f64(fps).map(|rate| (rate.numerator, rate.denominator)).ok();
        assert_eq!(rate(24.0), Some((24, 1)));
        assert_eq!(rate(29.97), Some((30000, 1001)));
        assert_eq!(rate(23.976), Some((24000, 1001)));
        assert_eq!(rate(12.5), Some((12500, 1000)));
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9] {
            assert_eq!(rate(bad), None);
        }
        assert!(FrameRate::new(1, 0).is_err() && FrameRate::new(0, 1).is_err() && FrameRate::new(1, 1000).is_ok());
    }

    #[test]
    fn odd_edges_are_repeated() {
        let frame = RgbImage::from_fn(3, 1, |x, _| image::Rgb([x as u8; 3]));
        let mut padded = vec![9; 50];
        pad(&frame, &mut padded);
        assert_eq!(padded, [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 2].repeat(2));
    }
}
