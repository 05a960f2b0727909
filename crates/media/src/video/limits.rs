//! What a video may cost.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Asked several times a second while a video is read; `true` ends the reading with
/// [`MediaError::Cancelled`](crate::MediaError::Cancelled).
pub type StopCheck = Arc<dyn Fn() -> bool + Send + Sync>;

/// What reading a video may cost at most.
#[derive(Clone)]
pub struct VideoLimits {
    /// Size of the file in bytes.
    pub max_bytes: u64,
    /// Width times height of a frame.
    pub max_pixels: u64,
    /// Frames in the whole video, whether they are read or not.
    pub max_frames: usize,
    /// Address space of each decoder process in bytes, its libraries included (Debian's ffmpeg maps 0.4 GB of them).
    pub max_memory: u64,
    /// How long one call, [`Video::open`](crate::Video::open) or [`Video::read_frames`](crate::Video::read_frames),
    /// may take. Time that the caller spends with a frame counts.
    pub time: Duration,
    /// Threads that decode.
    pub threads: usize,
    /// Ends the reading early.
    pub stop: Option<StopCheck>,
}

impl Default for VideoLimits {
    /// 4 GiB, frames up to 8192x4320, a million of them (9 hours at 30 per second), 3 GiB of memory, 5 minutes (sparse
    /// frames of a long video cost a minute of computing, and the machine may be busy), and as many threads as there are
    /// cores, up to 4.
    fn default() -> Self {
        Self {
            max_bytes: 4 << 30,
            max_pixels: 8192 * 4320,
            max_frames: 1_000_000,
            max_memory: 3 << 30,
            time: Duration::from_secs(300),
            threads: std::thread::available_parallelism().map_or(1, |cores| cores.get().min(4)),
            stop: None,
        }
    }
}

impl fmt::Debug for VideoLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VideoLimits")
            .field("max_bytes", &self.max_bytes)
            .field("max_pixels", &self.max_pixels)
            .field("max_frames", &self.max_frames)
            .field("max_memory", &self.max_memory)
            .field("time", &self.time)
            .field("threads", &self.threads)
            .field("stop", &self.stop.is_some())
            .finish()
    }
}
