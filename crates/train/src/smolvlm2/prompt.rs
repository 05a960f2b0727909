//! The text that `SmolVLMProcessor` makes of a clip: which frames it takes and how it announces them.

use super::tokenizer::{END_OF_UTTERANCE, FAKE_IMAGE, GLOBAL_IMAGE, IM_START, IMAGE};

/// Frames per second that the shapes model is shown.
pub const FPS: f64 = 4.0;
/// Frames that it is shown at most.
pub const MAX_FRAMES: usize = 8;
/// Seconds left out at both ends of a video that is long enough.
const SKIP: f64 = 1.0;

/// What a model is shown at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Layout {
    /// A clip of so many frames at so many frames per second.
    Clip {
        /// Frames of the file.
        frames: usize,
        /// Frames per second of the file.
        fps: f64,
    },
    /// A single picture.
    Picture,
}

impl Layout {
    /// Frames that are drawn.
    pub const fn frames(self) -> usize {
        match self {
            Self::Clip { frames, .. } => frames,
            Self::Picture => 1,
        }
    }

    /// The frames that the model is shown (`SmolVLMVideoProcessor.sample_frames`).
    pub fn sampled(self) -> Vec<usize> {
        match self {
            Self::Clip { frames, fps } => sample_frames(frames, fps, MAX_FRAMES, FPS),
            Self::Picture => vec![0],
        }
    }

    /// The prompt as far as the question, every picture as `image_seq_len` image tokens.
    pub fn prefix(self, image_seq_len: i64) -> String {
        let image = IMAGE.repeat(image_seq_len as usize);
        let picture = format!("{FAKE_IMAGE}{GLOBAL_IMAGE}{image}{FAKE_IMAGE}");
        let mut text = format!("{IM_START}User:");
        match self {
            Self::Picture => text.push_str(&picture),
            Self::Clip { frames, fps } => {
                let sampled = self.sampled();
                text.push_str(&format!(
                    " You are provided the following series of {} frames from a {} [H:MM:SS] video.\n",
                    number(sampled.len()),
                    duration(frames as f64 / fps)
                ));
                for index in sampled {
                    text.push_str(&format!("\nFrame from {}:{picture}", clock(index as f64 / fps)));
                }
                text.push_str("\n\n");
            }
        }
        text
    }
}

/// The question with what follows it; the model goes on from there.
pub fn question(text: &str) -> String {
    format!("{text}{END_OF_UTTERANCE}\nAssistant:")
}

/// An answer as the model should write it.
pub fn answer(text: &str) -> String {
    format!(" {text}{END_OF_UTTERANCE}")
}

/// Which frames of a video are looked at: at most `max_frames`, evenly spread, about `rate` per second.
pub fn sample_frames(total: usize, fps: f64, max_frames: usize, rate: f64) -> Vec<usize> {
    let last = total.saturating_sub(1) as i64;
    let seconds = total as f64 / fps;
    let wanted = ((rate * seconds).round_ties_even() as usize).min(max_frames).max(1);
    let (mut start, mut end) = (0, last);
    if seconds - 2.0 * SKIP > max_frames as f64 * rate {
        start = (SKIP * fps) as i64;
        end = ((total as f64 - SKIP * fps) as i64).min(last);
        if start >= end {
            (start, end) = (0, last);
        }
    }
    // numpy.linspace: whole steps from the start, the end exact, fractions cut off.
    let step = if wanted > 1 { (end - start) as f64 / (wanted - 1) as f64 } else { 0.0 };
    let mut indices: Vec<usize> = (0..wanted)
        .map(|i| if wanted > 1 && i == wanted - 1 { end as usize } else { (i as f64 * step + start as f64) as usize })
        .collect();
    indices.dedup();
    indices
}

/// "H:MM:SS", as Python writes a time span.
pub fn duration(seconds: f64) -> String {
    let s = seconds as u64;
    format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}

/// "MM:SS".
pub fn clock(seconds: f64) -> String {
    let s = seconds as u64;
    format!("{:02}:{:02}", s / 60, s % 60)
}

/// A number below one hundred in words.
pub fn number(n: usize) -> String {
    const SMALL: [&str; 20] = [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
    ];
    const TENS: [&str; 10] = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
    match n {
        0..20 => SMALL[n].to_owned(),
        20..100 if n.is_multiple_of(10) => TENS[n / 10].to_owned(),
        20..100 => format!("{}-{}", TENS[n / 10], SMALL[n % 10]),
        _ => n.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_those_of_linspace() {
        assert_eq!(sample_frames(17, 8.0, 8, 4.0), [0, 2, 4, 6, 9, 11, 13, 16]);
        assert_eq!(sample_frames(25, 25.0, 8, 4.0), [0, 8, 16, 24]);
        assert_eq!(sample_frames(1, 8.0, 8, 4.0), [0]);
        assert_eq!(sample_frames(3, 1.0, 8, 4.0), [0, 1, 2]);
        // 40 s at 10 fps is longer than 8·4 + 2 s: a second is left out at both ends.
        assert_eq!(sample_frames(400, 10.0, 8, 4.0), [10, 64, 118, 172, 227, 281, 335, 390]);
    }

    #[test]
    fn the_prompt_reads_as_the_processor_writes_it() {
        let prefix = Layout::Clip { frames: 3, fps: 4.0 }.prefix(1);
        assert_eq!(
            prefix,
            "<|im_start|>User: You are provided the following series of three frames from a 0:00:00 [H:MM:SS] video.\n\
             \nFrame from 00:00:<fake_token_around_image><global-img><image><fake_token_around_image>\
             \nFrame from 00:00:<fake_token_around_image><global-img><image><fake_token_around_image>\
             \nFrame from 00:00:<fake_token_around_image><global-img><image><fake_token_around_image>\n\n"
        );
        assert_eq!(number(42), "forty-two");
        assert_eq!((duration(3725.9), clock(125.0)), ("1:02:05".into(), "02:05".into()));
    }
}
