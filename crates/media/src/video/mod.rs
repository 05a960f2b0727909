//! Video in and out: any file that people have, through the programs `ffmpeg` and `ffprobe`.

mod arguments;
mod child;
mod encode;
mod limits;
mod listing;
mod log;
mod plan;
mod probe;
mod program;
mod read;
mod sandbox;
mod timeline;
mod webp;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use image::RgbImage;

pub use encode::{EncodeOptions, FrameRate, Mp4Encoder, OddSize, encode_mp4};
pub use limits::{StopCheck, VideoLimits};
pub use program::ffmpeg_version;
pub(crate) use webp::for_each_frame as for_each_webp_frame;

use crate::{MediaError, MediaKind, sniff_file};
use child::Budget;
use program::Programs;
use read::Reader;
use timeline::Timeline;

/// What is known of a video before a frame of it is decoded.
///
/// `frames`, `fps` and `duration` are what `transformers` computes with, through torchcodec in its exact mode: the frames
/// that are really in the file, the time from the start of the first to the end of the last, and one divided by the
/// other. A header that says something else is not believed.
#[derive(Debug, Clone, PartialEq)]
pub struct VideoInfo {
    /// Width in pixels as the video is shown: after its rotation, before its pixel aspect ratio.
    pub width: u32,
    /// Height in pixels as the video is shown.
    pub height: u32,
    /// How many frames will be decoded.
    pub frames: usize,
    /// Frames per second on average.
    pub fps: f64,
    /// Seconds from the start of the first frame to the end of the last.
    pub duration: f64,
    /// Degrees clockwise, 0, 90, 180 or 270, by which the stored picture was turned to be shown.
    pub rotation: u32,
    /// The codec, as FFmpeg calls it: `h264`, `hevc`, `vp9`, `av1`, `prores`, `gif`.
    pub codec: String,
    /// The container, as FFmpeg calls it: `mov,mp4,m4a,3gp,3g2,mj2` for example.
    pub container: String,
    /// What is wrong with the file, where it can be read in part only: the frames that are counted are there.
    pub damage: Option<String>,
}

/// One frame, as it is shown.
#[derive(Debug, Clone)]
pub struct VideoFrame {
    /// Position in the order of presentation, from 0.
    pub index: usize,
    /// Seconds after the first frame.
    pub time: f64,
    /// The frame of this index is damaged beyond decoding, and this is the next one that is not (or the last, at the
    /// end); `time` is that frame's.
    pub substitute: bool,
    /// Its pixels.
    pub image: RgbImage,
}

#[derive(Debug)]
enum Source {
    Ffmpeg(Programs),
    WebP,
}

/// A video file that has been probed.
#[derive(Debug)]
pub struct Video {
    path: PathBuf,
    limits: VideoLimits,
    info: VideoInfo,
    timeline: Timeline,
    source: Source,
}

impl Video {
    /// Finds out what is in a file. Nothing is decoded unless the container leaves open which frames there are.
    ///
    /// The file is read by child processes that may open no other file, have no network, and end within the limits.
    ///
    /// # Errors
    /// [`MediaError::NotAVideo`] and [`MediaError::DamagedVideo`] for what cannot be read,
    /// [`MediaError::TooManyBytes`], [`MediaError::TooManyPixels`], [`MediaError::TooManyFrames`],
    /// [`MediaError::OutOfMemory`] and [`MediaError::TimedOut`] for a broken limit, [`MediaError::Cancelled`],
    /// [`MediaError::NoProgram`] without ffmpeg, [`MediaError::Io`] with the path.
    pub fn open(path: &Path, limits: &VideoLimits) -> Result<Self, MediaError> {
        let io = |source| MediaError::Io { path: path.to_owned(), source };
        let path = &fs::canonicalize(path).map_err(io)?;
        let file = fs::metadata(path).map_err(io)?;
        if !file.is_file() {
            return Err(not_a_video("it is not a plain file"));
        }
        if file.len() > limits.max_bytes {
            return Err(MediaError::TooManyBytes { bytes: file.len(), limit: limits.max_bytes });
        }
        match sniff_file(path) {
            Ok(MediaKind::Video) => {}
            Ok(MediaKind::Image) => return Err(not_a_video("it is a still picture")),
            Err(MediaError::UnknownFormat) => return Err(not_a_video("its first bytes are those of no video")),
            Err(error) => return Err(error),
        }
        let (info, timeline, source) = if webp::is_webp(path)? {
            let (info, timeline) = webp::probe(path, limits)?;
            (info, timeline, Source::WebP)
        } else {
            let programs = Programs::find()?;
            let (info, timeline) = probe::probe(&programs, path, limits)?;
            (info, timeline, Source::Ffmpeg(programs))
        };
        Ok(Self { path: path.clone(), limits: limits.clone(), info, timeline, source })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is known of it.
    pub fn info(&self) -> &VideoInfo {
        &self.info
    }

    /// Seconds from the first frame to frame `index`; `None` past the end.
    pub fn time_of(&self, index: usize) -> Option<f64> {
        (index < self.info.frames).then(|| self.timeline.seconds(index))
    }

    /// Decodes the frames with these indices (ascending; one that comes twice is given twice) and gives each to `sink`,
    /// until it breaks. Indices count the frames in the order they are shown, none repeated and none left out. One frame
    /// is in memory at a time. For frames far apart the file is sought, not read through.
    ///
    /// Pixels are those of torchcodec: FFmpeg's own conversion to RGB by the matrix and range that the file states
    /// (BT.601, limited range, where it states none), 8 bits, transparency dropped, rotated as the display matrix says.
    ///
    /// # Errors
    /// [`MediaError::NoSuchFrame`] for an index past the end (before anything is decoded), and those of
    /// [`Video::open`] that decoding can meet.
    pub fn read_frames(
        &self,
        indices: &[usize],
        sink: &mut dyn FnMut(VideoFrame) -> ControlFlow<()>,
    ) -> Result<(), MediaError> {
        let frames = self.info.frames;
        if let Some(&index) = indices.iter().find(|&&index| index >= frames) {
            return Err(MediaError::NoSuchFrame { index, frames });
        }
        let mut wanted = indices.to_vec();
        wanted.sort_unstable();
        let sorted = wanted.clone();
        wanted.dedup();
        let mut given = 0;
        let mut repeat = |frame: VideoFrame| {
            let times = sorted[given..].iter().take_while(|&&index| index == frame.index).count();
            given += times;
            for _ in 1..times {
                sink(frame.clone())?;
            }
            sink(frame)
        };
        let budget = Budget::new(&self.limits);
        match &self.source {
            Source::WebP => webp::read(&self.path, &self.timeline, &wanted, &self.limits, &budget, &mut repeat),
            Source::Ffmpeg(programs) => {
                let reader = Reader {
                    programs,
                    path: &self.path,
                    timeline: &self.timeline,
                    width: self.info.width,
                    height: self.info.height,
                    max_pixels: self.limits.max_pixels,
                    threads: self.limits.threads.max(1),
                    budget: &budget,
                };
                reader.read(&wanted, &mut repeat)
            }
        }
    }
}

fn not_a_video(reason: &str) -> MediaError {
    MediaError::NotAVideo { reason: reason.to_owned() }
}
