//! Stories as a video file shows them: drawn, encoded by H.264 and decoded again, in chunks that are made ahead of the
//! training. Everything in a chunk follows from the seed and its number.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};

use anyhow::{Context, Result, anyhow, ensure};
use rand::{Rng, RngExt};
use sango_shapes::story::{Story, StoryKind};
use sango_shapes::{Object, rng};
use tch::{Kind, Tensor};

use super::prompt::Layout;
use crate::data::mix;

/// Side of the pictures that the model is shown.
pub const SIZE: usize = 64;

/// Stories with the frames that a model is shown of them.
#[derive(Debug)]
pub struct Chunk {
    /// How the frames are shown.
    pub layout: Layout,
    /// The stories.
    pub stories: Vec<Story>,
    /// RGB bytes: stories, then sampled frames, then rows.
    pub rgb: Vec<u8>,
}

/// Layouts that people's clips have, the one that the project draws most often first in weight.
const LAYOUTS: &[(u32, Layout)] = &[
    (24, Layout::Clip { frames: 17, fps: 8.0 }),
    (3, Layout::Clip { frames: 25, fps: 8.0 }),
    (2, Layout::Clip { frames: 9, fps: 8.0 }),
    (2, Layout::Clip { frames: 33, fps: 16.0 }),
    (2, Layout::Clip { frames: 25, fps: 12.0 }),
    (2, Layout::Clip { frames: 25, fps: 25.0 }),
    (1, Layout::Clip { frames: 49, fps: 24.0 }),
    (1, Layout::Clip { frames: 33, fps: 8.0 }),
    (1, Layout::Clip { frames: 16, fps: 8.0 }),
    (1, Layout::Clip { frames: 17, fps: 12.0 }),
    (2, Layout::Picture),
];

impl Chunk {
    /// Training stories number `index`: one layout, any quality of encoding, mostly at the size of the model.
    ///
    /// # Errors
    /// When the `ffmpeg` program is missing or fails.
    pub fn training(seed: u64, index: u64, stories: usize) -> Result<Self> {
        let mut rng = rng(mix(mix(seed, 71), index));
        let all: u32 = LAYOUTS.iter().map(|(weight, _)| weight).sum();
        let mut left = rng.random_range(0..all);
        let layout = LAYOUTS.iter().find(|(weight, _)| {
            let here = left < *weight;
            left = left.saturating_sub(*weight);
            here
        });
        let layout = layout.map_or(LAYOUTS[0].1, |(_, layout)| *layout);
        let stories = (0..stories).map(|_| Story::sample_training(kind_for(layout, &mut rng), &mut rng)).collect();
        let size = [SIZE, SIZE, SIZE, SIZE, 96, 128][rng.random_range(0..6)];
        let crf = rng.random_range(10..=28);
        Self::film(layout, stories, size, crf)
    }

    /// The same stories for every run: combinations that training never shows, in the layout that the project draws.
    ///
    /// # Errors
    /// As [`Chunk::training`].
    pub fn held_out(layout: Layout, stories: usize) -> Result<Self> {
        let mut rng = rng(90_017);
        let stories = (0..stories).map(|_| Story::sample_held_out(kind_for(layout, &mut rng), &mut rng)).collect();
        Self::film(layout, stories, SIZE, 23)
    }

    /// Draws, encodes, decodes, and keeps what the model is shown.
    fn film(layout: Layout, stories: Vec<Story>, size: usize, crf: u32) -> Result<Self> {
        let frames = layout.frames();
        let drawn: Vec<u8> =
            stories.iter().flat_map(|story| story.render(frames, size).into_iter().flatten()).collect();
        let filmed = through_h264(drawn, size, frames, crf)?;
        let sampled = layout.sampled();
        let frame = SIZE * SIZE * 3;
        ensure!(
            filmed.len() == stories.len() * frames * frame,
            "ffmpeg gave {} bytes for {} clips of {frames} frames",
            filmed.len(),
            stories.len()
        );
        let mut rgb = Vec::with_capacity(stories.len() * sampled.len() * frame);
        for clip in filmed.chunks_exact(frames * frame) {
            for &index in &sampled {
                rgb.extend_from_slice(&clip[index * frame..(index + 1) * frame]);
            }
        }
        Ok(Self { layout, stories, rgb })
    }

    /// Sampled frames of stories `from..from + count` as the processor normalises them: `[count·frames, 3, S, S]`.
    pub fn pixels(&self, from: usize, count: usize) -> Tensor {
        let per_story = self.rgb.len() / self.stories.len();
        let side = SIZE as i64;
        let bytes = Tensor::from_slice(&self.rgb[from * per_story..(from + count) * per_story]);
        let pixels = bytes.view([-1, side, side, 3]).permute([0, 3, 1, 2]).to_kind(Kind::Float);
        (pixels / 127.5 - 1.0).contiguous()
    }

    /// The objects in each sampled frame of a story.
    pub fn objects(&self, story: usize) -> Vec<Vec<Object>> {
        let last = (self.layout.frames().max(2) - 1) as f32;
        let sampled = self.layout.sampled();
        sampled.iter().map(|&index| self.stories[story].objects_at(index as f32 / last)).collect()
    }
}

/// A kind of story that the layout can show.
fn kind_for(layout: Layout, rng: &mut impl Rng) -> StoryKind {
    match layout {
        Layout::Clip { .. } => StoryKind::sample(rng),
        Layout::Picture if rng.random_bool(0.5) => StoryKind::Still,
        Layout::Picture => StoryKind::Group,
    }
}

/// The `ffmpeg` program.
pub fn ffmpeg() -> OsString {
    std::env::var_os("SANGO_FFMPEG").unwrap_or_else(|| "ffmpeg".into())
}

/// Encodes clips of `frames` frames, one group of pictures each, and decodes them at [`SIZE`].
fn through_h264(rgb: Vec<u8>, size: usize, frames: usize, crf: u32) -> Result<Vec<u8>> {
    let program = ffmpeg();
    let start = |args: Vec<String>, stdin: Stdio| -> Result<Child> {
        Command::new(&program)
            .args(["-v", "error", "-threads", "1"])
            .args(args)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {program:?}: training on clips needs the ffmpeg program"))
    };
    let words = |text: String| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let mut encoder = start(
        words(format!(
            "-f rawvideo -pix_fmt rgb24 -s {size}x{size} -r 8 -i pipe:0 -vf scale=out_color_matrix=bt709:out_range=tv \
             -c:v libx264 -threads 1 -preset superfast -crf {crf} -g {frames} -keyint_min {frames} -sc_threshold 0 -flags +cgop \
             -pix_fmt yuv420p -colorspace bt709 -color_primaries bt709 -color_trc bt709 -color_range tv -f h264 pipe:1"
        )),
        Stdio::piped(),
    )?;
    let mut pipe = encoder.stdin.take().context("a pipe")?;
    let middle = encoder.stdout.take().context("a pipe")?;
    let writer = std::thread::spawn(move || pipe.write_all(&rgb));
    let mut decoder = start(
        words(format!(
            "-f h264 -i pipe:0 -vf scale={SIZE}:{SIZE}:flags=bicubic:in_color_matrix=bt709:in_range=tv -fps_mode passthrough \
             -f rawvideo -pix_fmt rgb24 pipe:1"
        )),
        Stdio::from(middle),
    )?;
    let mut out = Vec::new();
    decoder.stdout.take().context("a pipe")?.read_to_end(&mut out)?;
    let written = writer.join().map_err(|_| anyhow!("the thread that feeds ffmpeg panicked"))?;
    let (encoded, decoded) = (encoder.wait()?, decoder.wait()?);
    ensure!(encoded.success() && decoded.success(), "ffmpeg failed on clips of {frames} frames of {size} pixels");
    written.context("feeding ffmpeg")?;
    Ok(out)
}

/// Chunks in order, made by a thread of its own a little ahead of their use.
#[derive(Debug)]
pub struct Chunks {
    coming: Receiver<Result<Chunk>>,
}

impl Chunks {
    /// Starts with chunk number `first`.
    pub fn start(seed: u64, first: u64, stories: usize) -> Self {
        let (send, coming) = sync_channel(2);
        std::thread::spawn(move || {
            for index in first.. {
                let chunk = Chunk::training(seed, index, stories);
                let failed = chunk.is_err();
                if send.send(chunk).is_err() || failed {
                    return;
                }
            }
        });
        Self { coming }
    }

    /// The next chunk.
    ///
    /// # Errors
    /// When it could not be made.
    pub fn next_chunk(&mut self) -> Result<Chunk> {
        self.coming.recv().context("no more clips")?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filmed_clips_look_like_the_drawn_ones() {
        let layout = Layout::Clip { frames: 17, fps: 8.0 };
        let chunk = Chunk::held_out(layout, 6).expect("ffmpeg");
        assert_eq!(chunk.pixels(0, 6).size(), [48, 3, 64, 64]);
        let frame = SIZE * SIZE * 3;
        for (i, filmed) in chunk.rgb.chunks_exact(frame).enumerate() {
            let (story, index) = (&chunk.stories[i / 8], layout.sampled()[i % 8]);
            let drawn = story.render_frame(index, 17, SIZE);
            let error: u64 = drawn.iter().zip(filmed).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
            let mean = error as f64 / frame as f64;
            assert!(mean < 12.0, "story {}, frame {index}: {mean}", i / 8);
        }
    }

    #[test]
    fn a_chunk_follows_from_its_number() {
        let (one, two) = (Chunk::training(5, 3, 4).expect("ffmpeg"), Chunk::training(5, 3, 4).expect("ffmpeg"));
        assert!(one.rgb == two.rgb && one.stories == two.stories);
        let mut chunks = Chunks::start(5, 3, 4);
        assert!(chunks.next_chunk().expect("made").rgb == one.rgb);
        assert!(chunks.next_chunk().expect("made").rgb != one.rgb);
    }
}
