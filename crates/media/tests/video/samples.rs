//! Samples made on the spot: every frame carries its number as bars that survive any codec.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sango_media::{MediaError, Rgb, RgbImage, Video, VideoFrame, VideoLimits};

pub const WIDTH: u32 = 176;
pub const HEIGHT: u32 = 96;
const BARS: u32 = 10;

/// Frame `number`: its bits as black and white bars, and below them something that moves.
pub fn frame(number: usize, width: u32, height: u32) -> RgbImage {
    let bar = (width / (BARS + 1)).max(1);
    RgbImage::from_fn(width, height, |x, y| {
        if y < height / 2 && x >= bar / 2 && (x - bar / 2) / bar < BARS {
            return if number >> ((x - bar / 2) / bar) & 1 == 1 { Rgb([235; 3]) } else { Rgb([16; 3]) };
        }
        let shift = x as usize + number * 3;
        Rgb([(shift % 256) as u8, (y * 2 % 256) as u8, 128])
    })
}

/// The number that a decoded frame carries.
pub fn number(picture: &RgbImage) -> usize {
    let bar = picture.width() / (BARS + 1);
    let level = |bit: u32| {
        let (x, y) = (bar / 2 + bit * bar + bar / 2, picture.height() / 4);
        picture.get_pixel(x, y).0.iter().map(|&value| u32::from(value)).sum::<u32>() / 3
    };
    (0..BARS).map(|bit| usize::from(level(bit) > 120) << bit).sum()
}

/// Runs `ffmpeg` with `frames` frames on its standard input (after which `arguments` come), or without any.
pub fn ffmpeg(frames: usize, (width, height): (u32, u32), rate: &str, arguments: &[&str]) {
    let size = format!("{width}x{height}");
    let input = ["-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", &size, "-framerate", rate, "-i", "pipe:0"];
    let mut command = Command::new("ffmpeg");
    command.args(["-hide_banner", "-loglevel", "error", "-y"]);
    if frames > 0 {
        command.args(input);
    }
    let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("ffmpeg runs");
    let mut stdin = child.stdin.take().unwrap();
    for number in 0..frames {
        stdin.write_all(frame(number, width, height).as_raw()).expect("ffmpeg takes the frame");
    }
    drop(stdin);
    assert!(child.wait().unwrap().success(), "ffmpeg {arguments:?}");
}

/// A folder that goes away with its samples.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `frames` numbered frames at 25 per second, encoded with `arguments`, as the file `name`.
    pub fn sample(&self, name: &str, frames: usize, arguments: &[&str]) -> PathBuf {
        let path = self.path(name);
        let mut arguments = arguments.to_vec();
        arguments.push(path.to_str().unwrap());
        ffmpeg(frames, (WIDTH, HEIGHT), "25", &arguments);
        path
    }

    /// A small H.264 MP4 with a key frame every 12.
    pub fn mp4(&self, name: &str, frames: usize) -> PathBuf {
        self.sample(name, frames, &["-c:v", "libx264", "-pix_fmt", "yuv420p", "-g", "12", "-bf", "3"])
    }
}

pub fn open(path: &Path) -> Result<Video, MediaError> {
    Video::open(path, &VideoLimits { threads: 2, ..VideoLimits::default() })
}

pub fn read(video: &Video, indices: &[usize]) -> Result<Vec<VideoFrame>, MediaError> {
    let mut frames = Vec::new();
    video.read_frames(indices, &mut |frame| {
        frames.push(frame);
        ControlFlow::Continue(())
    })?;
    Ok(frames)
}

pub fn read_all(video: &Video) -> Result<Vec<VideoFrame>, MediaError> {
    read(video, &(0..video.info().frames).collect::<Vec<_>>())
}
