//! From a video file to the tiles of its chosen frames, with one frame in memory for each thread.

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use sango_media::{Video, VideoFrame};

use super::tile::Tile;
use super::video_processing::{SmolVLMVideoProcessor, VideoMetadata};
use crate::error::{ModelError, Result};

/// Resizing a frame is quicker than decoding it, so a few threads keep up with any decoder.
const MAX_THREADS: usize = 4;

/// A frame that the model is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct SampledFrame {
    /// Its place in the video, from 0.
    pub index: usize,
    /// Seconds from the first frame to it.
    pub time: f64,
    /// The time that the model is told, minutes and seconds: its index divided by the average frame rate.
    pub timestamp: String,
}

/// The chosen frames of a video in tiles. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ProcessedVideo {
    /// One tile a frame.
    pub tiles: Arc<[Tile]>,
    /// The frames, in the order of the tiles.
    pub frames: Arc<[SampledFrame]>,
    /// The duration that the model is told, in whole seconds.
    pub seconds: u64,
}

impl ProcessedVideo {
    /// Reads and resizes the frames that `processor` chooses of `video`, `num_frames` and `fps` instead of the folder's
    /// where given. `progress` gets the number of frames done and their total after each, and can stop it.
    ///
    /// # Errors
    /// [`ModelError::Media`] when a frame cannot be decoded, [`ModelError::Cancelled`] when `progress` breaks, and what
    /// [`SmolVLMVideoProcessor::sample_frames`] finds wrong.
    pub fn read(
        processor: &SmolVLMVideoProcessor,
        video: &Video,
        num_frames: Option<usize>,
        fps: Option<f64>,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Self> {
        let info = video.info();
        let metadata =
            VideoMetadata { total_num_frames: info.frames, fps: Some(info.fps), duration: Some(info.duration) };
        let indices = processor.sample_frames(&metadata, num_frames, fps)?;
        let mut times = Vec::with_capacity(indices.len());
        let tiles = frames_to_tiles(processor, video, &indices, &mut times, progress)?;
        Ok(Self::new(tiles, &indices, &times, &metadata))
    }

    /// A video of tiles that are made already, such as frames that were never in a file. Frame `i` is number
    /// `indices[i]` of the video and is shown at `times[i]` seconds.
    ///
    /// # Panics
    /// When there is no tile, or not one index and one time for each.
    pub fn new(tiles: Vec<Tile>, indices: &[usize], times: &[f64], metadata: &VideoMetadata) -> Self {
        assert!(!tiles.is_empty() && tiles.len() == indices.len() && tiles.len() == times.len());
        // Where nobody knows the frame rate the reference assumes 24.
        let fps = metadata.fps.filter(|fps| fps.is_finite() && *fps > 0.0).unwrap_or(24.0);
        let told = |index: usize| index as f64 / fps;
        let frames = indices.iter().zip(times).map(|(&index, &time)| SampledFrame {
            index,
            time,
            timestamp: timestamp(told(index)),
        });
        let last = indices.last().map_or(0.0, |&index| told(index));
        let seconds = metadata.duration.filter(|seconds| seconds.is_finite()).unwrap_or(last) as u64;
        Self { tiles: tiles.into(), frames: frames.collect(), seconds }
    }
}

/// Decodes on this thread and resizes on others, so that no more than a frame for each of them is in memory.
fn frames_to_tiles(
    processor: &SmolVLMVideoProcessor,
    video: &Video,
    indices: &[usize],
    times: &mut Vec<f64>,
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Vec<Tile>> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS).min(indices.len());
    let tiles: Mutex<Vec<Option<Tile>>> = Mutex::new(vec![None; indices.len()]);
    // A channel without room: the decoder waits until a thread is free.
    let (sender, receiver) = sync_channel::<(usize, VideoFrame)>(0);
    let receiver = Mutex::new(receiver);
    let decoded = thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| resize_frames(processor, &receiver, &tiles));
        }
        let sender = sender;
        let mut cancelled = false;
        let mut at = 0;
        let read = video.read_frames(indices, &mut |frame| {
            times.push(frame.time);
            if sender.send((at, frame)).is_err() {
                return ControlFlow::Break(());
            }
            at += 1;
            let next = progress(at, indices.len());
            cancelled |= next.is_break();
            next
        });
        match read {
            _ if cancelled => Err(ModelError::Cancelled),
            Ok(()) => Ok(at),
            Err(error) => Err(error.into()),
        }
    })?;
    let tiles = tiles.into_inner().unwrap_or_else(PoisonError::into_inner);
    let tiles: Vec<Tile> = tiles.into_iter().flatten().collect();
    if decoded < indices.len() || tiles.len() < indices.len() {
        let detail = format!("has a video of which only {} of {} frames could be read", tiles.len(), indices.len());
        return Err(ModelError::request("messages", detail));
    }
    Ok(tiles)
}

fn resize_frames(
    processor: &SmolVLMVideoProcessor,
    receiver: &Mutex<Receiver<(usize, VideoFrame)>>,
    tiles: &Mutex<Vec<Option<Tile>>>,
) {
    loop {
        let next = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((at, frame)) = next else { return };
        // A frame without pixels stays `None`, which is counted in the end.
        if let Ok(tile) = processor.preprocess_frame(&frame.image) {
            tiles.lock().unwrap_or_else(PoisonError::into_inner)[at] = Some(tile);
        }
    }
}

/// `125.7` as "02:05".
fn timestamp(seconds: f64) -> String {
    let rest = seconds.rem_euclid(60.0);
    format!("{:02}:{:02}", ((seconds - rest) / 60.0).round() as u64, rest as u64)
}

/// `3725` as "1:02:05", as Python writes a `timedelta`.
pub(super) fn duration(seconds: u64) -> String {
    let (days, seconds) = (seconds / 86_400, seconds % 86_400);
    let time = format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    match days {
        0 => time,
        1 => format!("1 day, {time}"),
        _ => format!("{days} days, {time}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_python_writes_them() {
        assert_eq!(timestamp(0.0), "00:00");
        assert_eq!(timestamp(59.999), "00:59");
        assert_eq!(timestamp(125.7), "02:05");
        assert_eq!(timestamp(6000.0), "100:00");
        assert_eq!(duration(9), "0:00:09");
        assert_eq!(duration(3725), "1:02:05");
        assert_eq!(duration(86_400), "1 day, 0:00:00");
        assert_eq!(duration(200_000), "2 days, 7:33:20");
    }
}
