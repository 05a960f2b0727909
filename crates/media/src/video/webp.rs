//! Animated WebP, which the ffmpeg of most systems cannot decode: the `image` crate can.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::Path;

use image::codecs::webp::WebPDecoder;
use image::{AnimationDecoder, DynamicImage, ImageDecoder};

use super::child::Budget;
use super::read::Sink;
use super::timeline::{Entry, Timeline};
use super::{VideoFrame, VideoInfo, VideoLimits};
use crate::MediaError;

/// Whether the file is WebP, animated or not.
pub(super) fn is_webp(path: &Path) -> Result<bool, MediaError> {
    let mut header = [0; 12];
    Ok(open(path)?.read_exact(&mut header).is_ok() && is_header(&header))
}

fn is_header(header: &[u8; 12]) -> bool {
    &header[..4] == b"RIFF" && &header[8..] == b"WEBP"
}

/// Size and times of the frames, from the chunks' headers.
pub(super) fn probe(path: &Path, limits: &VideoLimits) -> Result<(VideoInfo, Timeline), MediaError> {
    let (width, height) = decoder(path, limits)?.dimensions();
    let (mut entries, mut shown) = (Vec::new(), 0);
    for_each_frame(&mut open(path)?, |duration| {
        // A frame shown for no time at all is shown for as short as the format can say.
        let duration = duration.max(1);
        entries.push(Entry { time: Some(shown), duration, key: entries.is_empty(), discarded: false });
        shown += duration;
        if entries.len() > limits.max_frames { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if entries.len() > limits.max_frames {
        return Err(MediaError::TooManyFrames { limit: limits.max_frames });
    }
    if entries.is_empty() {
        return Err(damaged("it holds no frames"));
    }
    let timeline = Timeline::from_frames(&entries, (1, 1000));
    let (frames, duration) = (entries.len(), timeline.to_seconds(timeline.length));
    let info = VideoInfo {
        width,
        height,
        frames,
        fps: frames as f64 / duration,
        duration,
        rotation: 0,
        codec: "webp".into(),
        container: "webp".into(),
        damage: None,
    };
    Ok((info, timeline))
}

/// Gives `wanted` (ascending, distinct) to the sink. Transparency is dropped, as in still pictures.
pub(super) fn read(
    path: &Path,
    timeline: &Timeline,
    wanted: &[usize],
    limits: &VideoLimits,
    budget: &Budget,
    sink: &mut Sink,
) -> Result<(), MediaError> {
    let mut pending = wanted;
    for (index, frame) in decoder(path, limits)?.into_frames().enumerate() {
        budget.check()?;
        let Some(&next) = pending.first() else { return Ok(()) };
        let frame = frame.map_err(|error| damaged(&error.to_string()))?;
        if index == next {
            pending = &pending[1..];
            let image = DynamicImage::ImageRgba8(frame.into_buffer()).into_rgb8();
            if sink(VideoFrame { index, time: timeline.seconds(index), substitute: false, image }).is_break() {
                return Ok(());
            }
        }
    }
    match pending.first() {
        None => Ok(()),
        Some(next) => Err(damaged(&format!("frame {next} cannot be decoded"))),
    }
}

/// Calls `each` with the milliseconds of every frame of a WebP file; nothing for one that is not animated.
pub(crate) fn for_each_frame(file: &mut (impl Read + Seek), mut each: impl FnMut(i64) -> ControlFlow<()>) {
    let mut header = [0; 12];
    if file.read_exact(&mut header).is_err() || !is_header(&header) {
        return;
    }
    let mut chunk = [0; 8];
    while file.read_exact(&mut chunk).is_ok() {
        let length = u64::from(u32::from_le_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]));
        let mut skip = length + length % 2;
        if &chunk[..4] == b"ANMF" && length >= 16 {
            let mut frame = [0; 16];
            if file.read_exact(&mut frame).is_err() {
                return;
            }
            skip -= 16;
            if each(i64::from(u32::from_le_bytes([frame[12], frame[13], frame[14], 0]))).is_break() {
                return;
            }
        }
        if i64::try_from(skip).map_or(true, |skip| file.seek(SeekFrom::Current(skip)).is_err()) {
            return;
        }
    }
}

fn open(path: &Path) -> Result<BufReader<File>, MediaError> {
    let file = File::open(path).map_err(|source| MediaError::Io { path: path.to_owned(), source })?;
    Ok(BufReader::new(file))
}

fn decoder(path: &Path, limits: &VideoLimits) -> Result<WebPDecoder<BufReader<File>>, MediaError> {
    let decoder = WebPDecoder::new(open(path)?).map_err(|error| damaged(&error.to_string()))?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > limits.max_pixels {
        return Err(MediaError::TooManyPixels { width, height, limit: limits.max_pixels });
    }
    Ok(decoder)
}

fn damaged(reason: &str) -> MediaError {
    MediaError::DamagedVideo { reason: reason.to_owned() }
}
