//! `SmolVLMVideoProcessor`: which frames of a video are looked at, and each frame as a tile.

use std::path::Path;
use std::sync::Arc;

use sango_media::RgbImage;
use serde_json::Value;

use super::processor_config::{Settings, Size, whole};
use super::resize::{MAX_IMAGE_SIZE, Resample, longest_edge_size, resize};
use super::tile::{Normalize, Tile};
use crate::error::{ModelError, Result};

/// Seconds that are left out at both ends of a long video.
const SKIP_SECS: f64 = 1.0;
/// Where the folder names no number of frames, every frame is looked at; more than this fit no context.
const MAX_FRAMES: usize = 4096;

/// Chooses and resizes frames, as `video_preprocessor_config.json` or `preprocessor_config.json` says.
///
/// Follows `SmolVLMVideoProcessor`, whose pixels on torchvision 0.27 and newer (where Lanczos exists for tensors) are
/// equal to these bit for bit.
#[derive(Debug, Clone)]
pub struct SmolVLMVideoProcessor {
    size: Option<Size>,
    resample: Resample,
    max_image_size: usize,
    normalize: Arc<Normalize>,
    num_frames: Option<usize>,
    fps: Option<f64>,
    do_sample_frames: bool,
}

/// What is known of a video before its frames are read: `VideoMetadata` of the reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VideoMetadata {
    /// Frames in the file.
    pub total_num_frames: usize,
    /// Frames a second, on average; `None` where nobody knows, as for frames that come without a video.
    pub fps: Option<f64>,
    /// Seconds from the first frame's start to the last one's end.
    pub duration: Option<f64>,
}

impl SmolVLMVideoProcessor {
    /// Reads `video_processor` of `processor_config.json`, else `video_preprocessor_config.json`, else
    /// `preprocessor_config.json`.
    ///
    /// # Errors
    /// [`ModelError::UnknownModel`] when the folder has none of them, [`ModelError::Config`] for a setting that cannot
    /// be followed.
    pub fn load(dir: &Path) -> Result<Self> {
        let settings = Settings::of_videos(dir)?;
        let do_resize = settings.switch("do_resize", true)?;
        let mut processor = Self {
            size: if do_resize { Some(settings.size()?) } else { None },
            resample: settings.resample()?,
            max_image_size: settings.max_image_size()?,
            normalize: settings.normalize()?,
            num_frames: settings.get("num_frames").map(|value| num_frames(&settings, value)).transpose()?,
            fps: settings.get("fps").map(|value| fps(&settings, value)).transpose()?,
            do_sample_frames: settings.switch("do_sample_frames", false)?,
        };
        // The published folders keep these here. Their `video_size` counts only where no `size` stands beside it.
        if let Some(sampling) = settings.get("video_sampling") {
            processor.num_frames = Some(num_frames(&settings, &sampling["max_frames"])?);
            processor.fps = Some(fps(&settings, &sampling["fps"])?);
            if do_resize && settings.get("size").is_none() {
                processor.size = Some(settings.read_size("video_sampling", &sampling["video_size"])?);
            }
        }
        Ok(processor)
    }

    /// The most frames of a video that are looked at, where a request does not say.
    pub fn num_frames(&self) -> Option<usize> {
        self.num_frames
    }

    /// Frames a second that are looked at, where a request does not say.
    pub fn fps(&self) -> Option<f64> {
        self.fps
    }

    /// The frames to look at, in order, each at most once.
    ///
    /// As many as `fps` asks for over the duration, at most `num_frames`, at least one, evenly spread. When the video
    /// is so long that they could not keep up with `fps`, a second is left out at both ends.
    ///
    /// # Errors
    /// [`ModelError::Request`] when the video has no frames or no times, or when an option is out of range.
    pub fn sample_frames(
        &self,
        metadata: &VideoMetadata,
        num_frames: Option<usize>,
        fps: Option<f64>,
    ) -> Result<Vec<usize>> {
        let total = metadata.total_num_frames;
        if total == 0 {
            return Err(ModelError::request("messages", "has a video without frames"));
        }
        if num_frames == Some(0) {
            return Err(ModelError::request("num_frames", "is 0; at least one frame must be looked at"));
        }
        if let Some(fps) = fps.filter(|fps| !(fps.is_finite() && *fps > 0.0)) {
            return Err(ModelError::request("fps", format!("is {fps}; it must be above 0")));
        }
        let (num_frames, fps) = match (num_frames.or(self.num_frames), fps.or(self.fps)) {
            (Some(num_frames), Some(fps)) => (num_frames, fps),
            (None, None) if !self.do_sample_frames => return all_frames(total),
            (None, _) => {
                return Err(ModelError::request("num_frames", "must be given: this model's folder names none"));
            }
            (_, None) => return Err(ModelError::request("fps", "must be given: this model's folder names none")),
        };
        let (Some(video_fps), Some(duration)) = (metadata.fps, metadata.duration) else {
            return Err(ModelError::request("messages", "has a video whose frames have no times"));
        };
        if !(video_fps.is_finite() && duration.is_finite()) {
            return Err(ModelError::request("messages", "has a video whose duration is not a number"));
        }
        let estimated = (fps * duration).round_ties_even();
        let desired = estimated.min(num_frames as f64).max(1.0) as usize;
        let (mut start, mut end) = (0, total - 1);
        if duration - 2.0 * SKIP_SECS > num_frames as f64 * fps {
            start = (SKIP_SECS * video_fps) as usize;
            end = ((total as f64 - SKIP_SECS * video_fps) as usize).min(total - 1);
        }
        if start >= end {
            (start, end) = (0, total - 1);
        }
        let mut indices = linspace(start, end, desired);
        indices.dedup();
        Ok(indices)
    }

    /// One frame as a tile: the longer side resized first, then the whole to a square, whatever its proportion.
    ///
    /// # Errors
    /// [`ModelError::Request`] for a frame without pixels.
    pub fn preprocess_frame(&self, frame: &RgbImage) -> Result<Tile> {
        if frame.width() == 0 || frame.height() == 0 {
            return Err(ModelError::request("messages", "has a frame without pixels"));
        }
        let first = match self.size {
            None => return Ok(Tile::new(frame.clone(), &self.normalize)),
            Some(Size::Exact(height, width)) => (height, width),
            Some(Size::LongestEdge(edge)) => {
                longest_edge_size((frame.height() as usize, frame.width() as usize), edge.min(MAX_IMAGE_SIZE))
            }
        };
        let square = (self.max_image_size, self.max_image_size);
        let resized = resize(&resize(frame, first, self.resample), square, self.resample);
        Ok(Tile::new(resized, &self.normalize))
    }
}

fn num_frames(settings: &Settings, value: &Value) -> Result<usize> {
    whole(value)
        .filter(|&frames| frames > 0)
        .ok_or_else(|| settings.error("max_frames", format!("is {value}; it must be a whole number above 0")))
}

fn fps(settings: &Settings, value: &Value) -> Result<f64> {
    value
        .as_f64()
        .filter(|fps| *fps > 0.0)
        .ok_or_else(|| settings.error("fps", format!("is {value}; it must be a number above 0")))
}

fn all_frames(total: usize) -> Result<Vec<usize>> {
    if total > MAX_FRAMES {
        let detail = format!("must be given: this model's folder names none, and the video has {total} frames");
        return Err(ModelError::request("num_frames", detail));
    }
    Ok((0..total).collect())
}

/// `np.linspace(start, end, number, dtype=int)`.
fn linspace(start: usize, end: usize, number: usize) -> Vec<usize> {
    let (divisions, delta) = (number.saturating_sub(1) as f64, (end - start) as f64);
    let step = delta / divisions;
    (0..number)
        .map(|at| match at {
            0 => start,
            _ if at + 1 == number => end,
            _ => (at as f64 * step + start as f64) as usize,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processor(num_frames: usize, fps: f64) -> SmolVLMVideoProcessor {
        SmolVLMVideoProcessor {
            size: Some(Size::LongestEdge(16)),
            resample: Resample::Lanczos,
            max_image_size: 8,
            normalize: Arc::new(Normalize::new(None, None)),
            num_frames: Some(num_frames),
            fps: Some(fps),
            do_sample_frames: false,
        }
    }

    fn video(frames: usize, fps: f64) -> VideoMetadata {
        VideoMetadata { total_num_frames: frames, fps: Some(fps), duration: Some(frames as f64 / fps) }
    }

    #[test]
    fn frames_are_spread_evenly() {
        let sampled = |frames, fps| processor(64, 1.0).sample_frames(&video(frames, fps), None, None).expect("indices");
        assert_eq!(sampled(100, 25.0), [0, 33, 66, 99]);
        assert_eq!(sampled(1, 25.0), [0]);
        assert_eq!(sampled(62, 25.0), [0, 61], "2.48 s is nearest to 2");
        assert_eq!(sampled(10, 4.0), [0, 9], "2.5 is rounded to the even 2");
        let long = sampled(30 * 100, 30.0);
        assert_eq!((long.len(), long[0], long[63]), (64, 30, 2970), "the ends are left out");
    }

    #[test]
    fn requests_come_before_the_folder() {
        let processor = processor(64, 1.0);
        let sampled = |num_frames, fps| processor.sample_frames(&video(250, 25.0), num_frames, fps);
        assert_eq!(sampled(Some(3), None).expect("indices"), [25, 125, 225]);
        assert_eq!(sampled(None, Some(0.2)).expect("indices"), [0, 249]);
        for (num_frames, fps, field) in [(Some(0), None, "num_frames"), (None, Some(f64::NAN), "fps")] {
            assert!(sampled(num_frames, fps).expect_err("out of range").to_string().contains(field));
        }
        let none = VideoMetadata { total_num_frames: 0, fps: None, duration: None };
        assert!(processor.sample_frames(&none, None, None).is_err());
        assert!(processor.sample_frames(&VideoMetadata { total_num_frames: 5, ..none }, None, None).is_err());
    }

    #[test]
    fn a_frame_becomes_a_square() {
        let tile = processor(1, 1.0).preprocess_frame(&RgbImage::new(100, 40)).expect("a tile");
        assert_eq!((tile.height(), tile.width()), (8, 8));
    }
}
