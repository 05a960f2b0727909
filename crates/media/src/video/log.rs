//! What a decoder says on its standard error: bounded, since a hostile file can make it say anything.

use std::collections::VecDeque;

const LINE: usize = 512;
const MESSAGES: usize = 8;

/// Splits the text into lines, keeps the first complaints, and takes out the times that `showinfo` reports.
#[derive(Debug, Default)]
pub(super) struct Log {
    line: Vec<u8>,
    complaints: Vec<String>,
    last: Option<String>,
    unlabelled: Option<String>,
    times: VecDeque<Option<i64>>,
}

impl Log {
    pub fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.end_line();
            } else if self.line.len() < LINE {
                self.line.push(byte);
            }
        }
    }

    /// The presentation time of the next frame that went through the filters (`None`: it has none).
    pub fn next_time(&mut self) -> Option<Option<i64>> {
        self.times.pop_front()
    }

    /// Whether some complaint holds these words.
    pub fn mentions(&self, words: &str) -> bool {
        self.complaints.iter().chain(&self.last).chain(&self.unlabelled).any(|line| line.contains(words))
    }

    /// The first complaint, without addresses and paths.
    pub fn first(&self) -> Option<&str> {
        self.complaints.first().map(String::as_str)
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.line).into_owned();
        self.line.clear();
        if line.starts_with("[Parsed_showinfo_") {
            if let Some((_, rest)) = line.split_once(" pts:") {
                self.times.push_back(rest.split_whitespace().next().and_then(|number| number.parse().ok()));
            }
            return;
        }
        let Some(text) = ["[error] ", "[fatal] ", "[panic] "].iter().find_map(|level| line.split_once(level)) else {
            // The system's loader, say, before the program has started.
            self.unlabelled = Some(line);
            return;
        };
        let text: String = text.1.chars().filter(|c| !c.is_control()).take(200).collect();
        // "file:/where/it/is/clip.mp4: Invalid data …": where is the operator's business.
        let text = match text.strip_prefix("file:/") {
            Some(rest) => rest.rsplit_once(": ").map_or(String::new(), |(_, said)| said.to_owned()),
            None => text,
        };
        if text.trim().is_empty() {
            return;
        }
        if self.complaints.len() < MESSAGES {
            self.complaints.push(text);
        } else {
            self.last = Some(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_complaints_are_told_apart() {
        let mut log = Log::default();
        log.feed(b"[Parsed_showinfo_1 @ 0x55] [info] n:   0 pts:  26624 pts_time:2.1 pos: 99\n");
        log.feed(b"[Parsed_showinfo_1 @ 0x55] [info] n:   1 pts:  NOPTS pts_time:NOPTS\n");
        log.feed(b"[Parsed_showinfo_1 @ 0x55] [info] color_range:unknown\n[info]   title : x pts: 7\n");
        log.feed(b"[mov @ 0x5] [error] moov atom not found\n[error] file:/a/b: c.mp4: Invalid data found\n");
        assert_eq!(log.next_time(), Some(Some(26624)));
        assert_eq!(log.next_time(), Some(None));
        assert_eq!(log.next_time(), None);
        assert_eq!(log.complaints, ["moov atom not found", "Invalid data found"]);
        assert_eq!(log.first(), Some("moov atom not found"));
    }

    #[test]
    fn a_flood_stays_small() {
        let mut log = Log::default();
        log.feed(&vec![b'x'; 1 << 20]);
        assert!(log.line.len() <= LINE);
        log.feed(b"\n");
        for _ in 0..10_000 {
            log.feed(b"[error] Invalid NAL unit size\n");
        }
        log.feed(b"[fatal] Cannot allocate memory\n");
        assert!(log.complaints.len() <= MESSAGES && log.mentions("allocate"));
    }
}
