//! What can go wrong between bytes and pixels.

use std::io;
use std::path::{Path, PathBuf};

/// Why an image or a video could not be read or written. Each message says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// The bytes are more than [`Limits::max_bytes`](crate::Limits).
    #[error("the image is {bytes} bytes, more than the {limit} allowed: send a smaller file")]
    TooManyBytes {
        /// Size of what was offered.
        bytes: u64,
        /// The limit it broke.
        limit: u64,
    },
    /// The header announces more pixels than [`Limits::max_pixels`](crate::Limits).
    #[error("the image is {width}x{height}, more than the {limit} pixels allowed: scale it down first")]
    TooManyPixels {
        /// Width the header announces.
        width: u32,
        /// Height the header announces.
        height: u32,
        /// The limit it broke.
        limit: u64,
    },
    /// Not one of the formats Sango reads.
    #[error("not an image Sango can read: send PNG, JPEG, WebP or GIF")]
    UnknownFormat,
    /// The right format, but damaged or truncated.
    #[error("the {format} image is damaged: {reason}")]
    Damaged {
        /// Name of the format, as people write it.
        format: &'static str,
        /// What the decoder said.
        reason: String,
    },
    /// Pixels that cannot be encoded (a zero size, for example).
    #[error("cannot encode a {width}x{height} image: {reason}")]
    Encode {
        /// Width of the pixels.
        width: u32,
        /// Height of the pixels.
        height: u32,
        /// What the encoder said.
        reason: String,
    },
    /// A program that reads or writes video is not there, or does not start.
    #[error("{program} {reason}: install ffmpeg (Debian, Ubuntu: apt install ffmpeg), or name it in {variable}")]
    NoProgram {
        /// `ffmpeg` or `ffprobe`.
        program: &'static str,
        /// What happened instead.
        reason: String,
        /// The environment variable that says where it is.
        variable: &'static str,
    },
    /// No container Sango reads, or one without a picture in it.
    #[error("not a video Sango can read ({reason}): send MP4, MOV, WebM, MKV, AVI, MPEG-TS, GIF or animated WebP")]
    NotAVideo {
        /// What was found instead.
        reason: String,
    },
    /// A known container whose content cannot be decoded.
    #[error("the video is damaged: {reason}")]
    DamagedVideo {
        /// What the decoder said.
        reason: String,
    },
    /// More frames than [`VideoLimits::max_frames`](crate::VideoLimits).
    #[error("the video has more than the {limit} frames allowed: cut it first")]
    TooManyFrames {
        /// The limit it broke.
        limit: usize,
    },
    /// Reading took longer than [`VideoLimits::time`](crate::VideoLimits).
    #[error("the video could not be read within {seconds} s: send a shorter or smaller one")]
    TimedOut {
        /// The limit it broke.
        seconds: u64,
    },
    /// The decoder wanted more than [`VideoLimits::max_memory`](crate::VideoLimits).
    #[error("the video needs more than the {} MiB of memory allowed: scale it down first", limit >> 20)]
    OutOfMemory {
        /// The limit it broke, in bytes.
        limit: u64,
    },
    /// Somebody asked to stop ([`VideoLimits::stop`](crate::VideoLimits)).
    #[error("reading the video was cancelled")]
    Cancelled,
    /// An index past the end.
    #[error("there is no frame {index}: the video has {frames}, counted from 0")]
    NoSuchFrame {
        /// What was asked for.
        index: usize,
        /// How many there are.
        frames: usize,
    },
    /// Frames that cannot be made a video, or an encoder that failed.
    #[error("cannot encode the video: {reason}")]
    EncodeVideo {
        /// What is wrong with them, or what the encoder said.
        reason: String,
    },
    /// The disk, quota or file size limit is used up.
    #[error("no room to save {} ({bytes} bytes): free some space or choose another folder", path.display())]
    DiskFull {
        /// The file that was to be written.
        path: PathBuf,
        /// How many bytes it needed.
        bytes: u64,
    },
    /// Any other trouble with a file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file concerned.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl MediaError {
    /// Sorts a failed write into "no room" and everything else.
    pub(crate) fn from_write(path: &Path, bytes: u64, source: io::Error) -> Self {
        match source.kind() {
            // A file size limit (`ulimit -f`) asks the user for the same thing as a full disk does.
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::DiskFull { path: path.to_owned(), bytes }
            }
            _ => Self::Io { path: path.to_owned(), source },
        }
    }
}
