//! From a file to its timeline, by way of `ffprobe`.

use std::ffi::OsString;
use std::path::Path;

use super::child::{Budget, Decoder};
use super::listing::Listing;
use super::program::Programs;
use super::read::Reader;
use super::timeline::Timeline;
use super::{VideoInfo, VideoLimits, arguments, not_a_video};
use crate::MediaError;

/// What there is in a file.
pub(super) fn probe(
    programs: &Programs,
    path: &Path,
    limits: &VideoLimits,
) -> Result<(VideoInfo, Timeline), MediaError> {
    let (budget, threads, max_pixels) = (&Budget::new(limits), limits.threads.max(1), limits.max_pixels);
    let list = |arguments| list(programs, arguments, path, limits, budget);
    let (listing, complaint) = list(arguments::packets(path))?;
    let shape = Shape::of(&listing, complaint.as_deref(), limits)?;
    let from_packets = Timeline::from_packets(&listing.entries, shape.time_base);
    let mut timeline = match from_packets.filter(|_| !packets_differ_from_frames(&listing)) {
        Some(timeline) => timeline,
        None => Timeline::from_frames(&list(arguments::frames(path, max_pixels, threads))?.0.entries, shape.time_base),
    };
    let promised = listing.integer("nb_frames").and_then(|frames| usize::try_from(frames).ok());
    let cut = promised.filter(|&promised| promised > listing.entries.len());
    if let Some(&end) = timeline.times.last()
        && timeline.by_time
        && (complaint.is_some() || cut.is_some())
    {
        // Of what the demuxer lists at a torn end, the decoder has the last word.
        let (width, height) = (shape.width, shape.height);
        let reader = Reader { programs, path, timeline: &timeline, width, height, max_pixels, threads, budget };
        match reader.last(end)? {
            Some((time, _)) => timeline.end_at(time),
            None => timeline.times.clear(),
        }
    }
    if timeline.times.is_empty() {
        let reason = complaint.unwrap_or_else(|| "no frame of it can be decoded".into());
        return Err(MediaError::DamagedVideo { reason });
    }
    let damage = match cut {
        Some(promised) => {
            Some(format!("the file ends early: {} of its {promised} frames are there", timeline.times.len()))
        }
        None => complaint,
    };
    Ok((shape.info(&listing, &timeline, damage), timeline))
}

/// Runs `ffprobe`; the second value is its first complaint.
fn list(
    programs: &Programs,
    arguments: Vec<OsString>,
    path: &Path,
    limits: &VideoLimits,
    budget: &Budget,
) -> Result<(Listing, Option<String>), MediaError> {
    let mut decoder = Decoder::spawn(&programs.ffprobe, &arguments, path, budget)?;
    let listing = Listing::read(&mut decoder, limits.max_frames)?;
    let (status, log) = decoder.finish()?;
    let complaint = log.first().map(str::to_owned);
    Ok((
        listing,
        complaint.or_else(|| {
            let failed = status.filter(|status| !status.success());
            failed.map(|status| format!("ffprobe ended with {status}"))
        }),
    ))
}

/// What the header says about each frame.
struct Shape {
    width: u32,
    height: u32,
    rotation: u32,
    time_base: (i64, i64),
}

impl Shape {
    fn of(listing: &Listing, complaint: Option<&str>, limits: &VideoLimits) -> Result<Self, MediaError> {
        if !listing.stream.contains_key("codec_name") {
            return Err(match complaint {
                Some(complaint) => MediaError::DamagedVideo { reason: complaint.to_owned() },
                None => not_a_video("it holds no video"),
            });
        }
        let side = |key| listing.integer(key).and_then(|side| u32::try_from(side).ok()).unwrap_or(0);
        let (width, height) = (side("width"), side("height"));
        if width == 0 || height == 0 {
            let reason = complaint.unwrap_or("it does not say how large its pictures are").to_owned();
            return Err(MediaError::DamagedVideo { reason });
        }
        if u64::from(width) * u64::from(height) > limits.max_pixels {
            return Err(MediaError::TooManyPixels { width, height, limit: limits.max_pixels });
        }
        let rotation = rotation(listing);
        let (width, height) = if rotation % 180 == 90 { (height, width) } else { (width, height) };
        let Some(time_base) = listing.fraction("time_base") else {
            return Err(MediaError::DamagedVideo { reason: "it has no time base".into() });
        };
        Ok(Self { width, height, rotation, time_base })
    }

    fn info(&self, listing: &Listing, timeline: &Timeline, damage: Option<String>) -> VideoInfo {
        let text = |key| listing.stream.get(key).cloned().unwrap_or_default();
        let frames = timeline.times.len();
        let (fps, duration) = rate(frames, timeline, listing.fraction("avg_frame_rate"));
        VideoInfo {
            width: self.width,
            height: self.height,
            frames,
            fps,
            duration,
            rotation: self.rotation,
            codec: text("codec_name"),
            container: text("format_name"),
            damage,
        }
    }
}

/// Frames per second and seconds. A single frame that does not say for how long it is shown has the header's rate, or
/// failing that one second.
fn rate(frames: usize, timeline: &Timeline, header: Option<(i64, i64)>) -> (f64, f64) {
    let duration = timeline.to_seconds(timeline.length);
    if duration > 0.0 && duration.is_finite() {
        return (frames as f64 / duration, duration);
    }
    let fps = header.map_or(frames as f64, |(numerator, denominator)| numerator as f64 / denominator as f64);
    (fps, frames as f64 / fps)
}

/// Degrees clockwise to the upright picture. The display matrix counts the other way; the older tag does not.
fn rotation(listing: &Listing) -> u32 {
    let number = |key: &str| listing.stream.get(key)?.parse::<f64>().ok().filter(|degrees| degrees.is_finite());
    let clockwise = match (number("rotation"), number("tag:rotate")) {
        (Some(matrix), _) => -matrix,
        (None, Some(tag)) => tag,
        (None, None) => 0.0,
    };
    let degrees = clockwise.rem_euclid(360.0);
    // FFmpeg turns by whole quarters within a degree, and by anything else inside a frame of the same size.
    [90, 180, 270].into_iter().find(|&quarter| (degrees - f64::from(quarter)).abs() < 1.0).unwrap_or(0)
}

/// Whether this kind of stream has packets that are no frame, or frames of several packets, which nothing in the list
/// of packets shows: VP8's hidden reference frames, and the two fields of an interlaced picture where the container
/// cuts between them.
fn packets_differ_from_frames(listing: &Listing) -> bool {
    let text = |key: &str| listing.stream.get(key).map_or("", String::as_str);
    let interlaced = matches!(text("field_order"), "tt" | "bb" | "tb" | "bt");
    let whole_pictures = ["mov", "matroska"].iter().any(|name| text("format_name").split(',').any(|own| own == *name));
    text("codec_name") == "vp8" || (interlaced && !whole_pictures)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(pairs: &[(&str, &str)]) -> Listing {
        let stream = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Listing { stream, ..Listing::default() }
    }

    #[test]
    fn rotations_are_quarters() {
        let turned = |pairs: &[(&str, &str)]| rotation(&listing(pairs));
        assert_eq!(turned(&[("rotation", "-90")]), 90);
        assert_eq!(turned(&[("rotation", "90"), ("tag:rotate", "270")]), 270);
        assert_eq!(turned(&[("rotation", "-180.4")]), 180);
        assert_eq!(turned(&[("tag:rotate", "90")]), 90);
        assert_eq!(turned(&[("rotation", "45")]), 0);
        assert_eq!(turned(&[("rotation", "nan")]), 0);
        assert_eq!(turned(&[]), 0);
    }

    #[test]
    fn a_rate_is_always_a_number() {
        let still = Timeline { times: vec![0], keys: vec![0], by_time: true, time_base: (1, 1000), length: 0 };
        assert_eq!(rate(1, &still, Some((25, 1))), (25.0, 0.04));
        assert_eq!(rate(1, &still, None), (1.0, 1.0));
        assert_eq!(rate(50, &Timeline { length: 2000, ..still }, Some((1, 1))), (25.0, 2.0));
    }
}
