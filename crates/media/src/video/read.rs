//! Frames out of decoder processes.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::Path;

use image::RgbImage;

use super::VideoFrame;
use super::arguments::{self, Decode};
use super::child::{Budget, Decoder};
use super::plan::{Segment, plan, select};
use super::program::Programs;
use super::timeline::Timeline;
use crate::MediaError;

/// What takes the frames.
pub(super) type Sink<'a> = dyn FnMut(VideoFrame) -> ControlFlow<()> + 'a;

/// A file, and what is known of it.
pub(super) struct Reader<'a> {
    pub programs: &'a Programs,
    pub path: &'a Path,
    pub timeline: &'a Timeline,
    pub width: u32,
    pub height: u32,
    pub max_pixels: u64,
    pub threads: usize,
    pub budget: &'a Budget,
}

/// How a segment went.
enum Outcome {
    Done,
    Stopped,
    /// These frames did not come out.
    Missing(Vec<usize>),
}

impl Reader<'_> {
    /// Gives `wanted` (ascending, distinct) to the sink in order.
    ///
    /// Two processes decode at a time where there is more than one segment: while the front one's frames are used, the
    /// next one decodes up to its first frame and waits at the full pipe.
    pub fn read(&self, wanted: &[usize], sink: &mut Sink) -> Result<(), MediaError> {
        let pixels = self.width as usize * self.height as usize;
        let mut waiting: VecDeque<Segment> = plan(self.timeline, wanted, pixels, true).into();
        let mut running: VecDeque<(Segment, Decoder)> = VecDeque::new();
        let at_once = if waiting.len() > 1 && self.threads > 1 { 2 } else { 1 };
        let threads = (self.threads / at_once).max(1);
        let mut seeks_are_sound = false;
        loop {
            while running.len() < at_once
                && let Some(segment) = waiting.pop_front()
            {
                let decoder = self.start(&select(self.timeline, &segment.frames), segment.key, threads)?;
                running.push_back((segment, decoder));
            }
            let Some((segment, decoder)) = running.pop_front() else { return Ok(()) };
            let accept = seeks_are_sound || segment.key.is_none();
            let missing = match self.drain(&segment.frames, decoder, accept, sink)? {
                Outcome::Done => continue,
                Outcome::Stopped => return Ok(()),
                Outcome::Missing(missing) => missing,
            };
            if accept {
                if self.stand_in(&missing, sink)?.is_break() {
                    return Ok(());
                }
                continue;
            }
            // Either the frame is damaged, or the container seeks past its key frames. Reading from the start tells.
            running.drain(..).rev().for_each(|(segment, _)| waiting.push_front(segment));
            if self.decodes_from_start(missing[0])? {
                let rest: Vec<usize> = missing.into_iter().chain(waiting.drain(..).flat_map(|s| s.frames)).collect();
                waiting = plan(self.timeline, &rest, pixels, false).into();
            } else {
                seeks_are_sound = true;
                waiting.push_front(Segment { frames: missing, key: segment.key });
            }
        }
    }

    /// The presentation time of the last frame that can be decoded, and the frame.
    pub fn last(&self, before: i64) -> Result<Option<(i64, RgbImage)>, MediaError> {
        let key = self.timeline.key_before(before);
        // A key frame near the end may be damaged itself; past a few of them, the start of the file decides.
        let mut starts: Vec<Option<usize>> = (0..3).filter_map(|back| key?.checked_sub(back)).map(Some).collect();
        starts.push(None);
        for start in starts {
            let from = start.map_or(i64::MIN / 2, |key| self.timeline.keys[key]);
            let mut decoder = self.start(&format!("gte(pts,{from})"), start, self.threads)?;
            let mut last = None;
            let mut buffer = self.buffer();
            while decoder.read_exact(&mut buffer)? {
                match decoder.frame_time()? {
                    Some(time) => {
                        let spare = last.replace((time, buffer)).map(|(_, pixels)| pixels);
                        buffer = spare.unwrap_or_else(|| self.buffer());
                    }
                    None => break,
                }
            }
            if let Some((time, pixels)) = last {
                return Ok(self.image(pixels).map(|image| (time, image)));
            }
        }
        Ok(None)
    }

    fn start(&self, select: &str, key: Option<usize>, threads: usize) -> Result<Decoder, MediaError> {
        let request = Decode {
            path: self.path,
            seek: key.and_then(|key| self.timeline.to_microseconds(self.timeline.keys[key])),
            threads,
            select,
            max_pixels: self.max_pixels,
            width: self.width,
            height: self.height,
            passthrough: self.programs.passthrough(),
        };
        Decoder::spawn(&self.programs.ffmpeg, &arguments::decode(&request), self.path, self.budget)
    }

    /// Passes on what a decoder gives out. Unless `accept`, a frame that comes in place of a damaged one counts as
    /// missing.
    fn drain(
        &self,
        wanted: &[usize],
        mut decoder: Decoder,
        accept: bool,
        sink: &mut Sink,
    ) -> Result<Outcome, MediaError> {
        let mut pending = wanted;
        while let Some(&next) = pending.first() {
            let mut pixels = self.buffer();
            if !decoder.read_exact(&mut pixels)? {
                // Out of memory or time is no damage.
                decoder.finish()?;
                return Ok(Outcome::Missing(pending.to_vec()));
            }
            let Some(image) = self.image(pixels) else { return Ok(Outcome::Missing(pending.to_vec())) };
            if !self.timeline.by_time {
                pending = &pending[1..];
                if self.give(next, self.timeline.times[next], image, sink).is_break() {
                    return Ok(Outcome::Stopped);
                }
                continue;
            }
            let Some(time) = decoder.frame_time()? else { return Ok(Outcome::Missing(pending.to_vec())) };
            let late = time > self.timeline.times[next];
            if late && !accept {
                return Ok(Outcome::Missing(pending.to_vec()));
            }
            let due = pending.iter().take_while(|&&frame| self.timeline.times[frame] <= time).count();
            let (due, rest) = pending.split_at(due);
            pending = rest;
            if let Some((last, others)) = due.split_last() {
                for &frame in others {
                    if self.give(frame, time, image.clone(), sink).is_break() {
                        return Ok(Outcome::Stopped);
                    }
                }
                if self.give(*last, time, image, sink).is_break() {
                    return Ok(Outcome::Stopped);
                }
            }
        }
        Ok(Outcome::Done)
    }

    fn give(&self, index: usize, time: i64, image: RgbImage, sink: &mut Sink) -> ControlFlow<()> {
        let start = self.timeline.start();
        sink(VideoFrame {
            index,
            time: self.timeline.to_seconds(time.saturating_sub(start)),
            substitute: time != self.timeline.times[index],
            image,
        })
    }

    /// The last frame that can be decoded, for frames at the end that cannot.
    fn stand_in(&self, missing: &[usize], sink: &mut Sink) -> Result<ControlFlow<()>, MediaError> {
        let last = if self.timeline.by_time { self.last(self.timeline.times[missing[0]])? } else { None };
        let Some((time, image)) = last else {
            return Err(MediaError::DamagedVideo { reason: format!("frame {} cannot be decoded", missing[0]) });
        };
        for &frame in missing {
            if self.give(frame, time, image.clone(), sink).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn decodes_from_start(&self, frame: usize) -> Result<bool, MediaError> {
        let mut decoder = self.start(&select(self.timeline, &[frame]), None, self.threads)?;
        let mut pixels = self.buffer();
        Ok(decoder.read_exact(&mut pixels)? && decoder.frame_time()? == Some(self.timeline.times[frame]))
    }

    fn buffer(&self) -> Vec<u8> {
        vec![0; self.width as usize * self.height as usize * 3]
    }

    fn image(&self, pixels: Vec<u8>) -> Option<RgbImage> {
        RgbImage::from_raw(self.width, self.height, pixels)
    }
}
