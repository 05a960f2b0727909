//! What `ffprobe -of compact` prints, line by line: `section|key=value|key=value`.

use std::collections::HashMap;

use super::child::Decoder;
use super::timeline::Entry;
use crate::MediaError;

/// A longer line is none that was asked for.
const LINE: usize = 4096;

/// Everything that was asked for.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Packets or frames, in the order they came.
    pub entries: Vec<Entry>,
    /// Properties of the stream and its container.
    pub stream: HashMap<String, String>,
}

impl Listing {
    /// Reads the whole output; no more than `max_frames` entries.
    pub fn read(decoder: &mut Decoder, max_frames: usize) -> Result<Self, MediaError> {
        let mut listing = Self::default();
        let (mut line, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
        loop {
            let count = decoder.read(&mut buffer)?;
            if count == 0 {
                listing.line(&line);
                return Ok(listing);
            }
            for &byte in &buffer[..count] {
                if byte == b'\n' {
                    listing.line(&line);
                    line.clear();
                } else if line.len() < LINE {
                    line.push(byte);
                }
            }
            if listing.entries.len() > max_frames {
                return Err(MediaError::TooManyFrames { limit: max_frames });
            }
        }
    }

    fn line(&mut self, line: &[u8]) {
        let Ok(line) = std::str::from_utf8(line) else { return };
        let (section, rest) = line.split_once('|').unwrap_or((line, ""));
        let pairs = rest.split('|').filter_map(|pair| pair.split_once('='));
        match section {
            "packet" | "frame" => self.entries.push(entry(pairs)),
            // A second stream or program does not speak for the first.
            "stream" => {
                for (key, value) in pairs {
                    self.stream.entry(key.to_owned()).or_insert_with(|| value.to_owned());
                }
            }
            "format" => {
                let named = pairs.filter(|(key, _)| *key == "format_name");
                self.stream.extend(named.map(|(key, value)| (key.to_owned(), value.to_owned())));
            }
            _ => {}
        }
    }

    /// A whole number, where one is given.
    pub fn integer(&self, key: &str) -> Option<i64> {
        self.stream.get(key)?.parse().ok()
    }

    /// `24000/1001` as its two parts, both positive.
    pub fn fraction(&self, key: &str) -> Option<(i64, i64)> {
        let (numerator, denominator) = self.stream.get(key)?.split_once('/')?;
        let (numerator, denominator) = (numerator.parse().ok()?, denominator.parse().ok()?);
        (numerator > 0 && denominator > 0).then_some((numerator, denominator))
    }
}

fn entry<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Entry {
    let mut entry = Entry::default();
    for (key, value) in pairs {
        match key {
            "pts" | "best_effort_timestamp" => entry.time = value.parse().ok(),
            "duration" | "pkt_duration" => {
                entry.duration = value.parse().unwrap_or(entry.duration).max(0);
            }
            "key_frame" => entry.key = value == "1",
            "flags" => {
                entry.key = value.contains('K');
                entry.discarded = value.contains('D');
            }
            _ => {}
        }
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood() {
        let mut listing = Listing::default();
        for line in [
            "packet|pts=1024|duration=512|flags=K_",
            "packet|pts=N/A|duration=N/A|flags=_D",
            "frame|key_frame=1|best_effort_timestamp=7|pkt_duration=3",
            "stream|codec_name=h264|time_base=1/12288|avg_frame_rate=0/0|nb_frames=N/A|side_data|rotation=-90",
            "format|format_name=mov,mp4",
            "",
            "rubbish",
        ] {
            listing.line(line.as_bytes());
        }
        let [first, second, third] = listing.entries[..] else { panic!("{:?}", listing.entries) };
        assert_eq!(first, Entry { time: Some(1024), duration: 512, key: true, discarded: false });
        assert_eq!(second, Entry { time: None, duration: 0, key: false, discarded: true });
        assert_eq!(third, Entry { time: Some(7), duration: 3, key: true, discarded: false });
        assert_eq!((listing.integer("rotation"), listing.integer("nb_frames")), (Some(-90), None));
        assert_eq!((listing.fraction("time_base"), listing.fraction("avg_frame_rate")), (Some((1, 12288)), None));
        assert_eq!(listing.stream["format_name"], "mov,mp4");
    }
}
