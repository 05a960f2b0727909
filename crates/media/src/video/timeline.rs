//! When each frame of a video is shown, and from where decoding can begin.

/// One line of a demuxer's or a decoder's listing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// Presentation time in units of the time base.
    pub time: Option<i64>,
    pub duration: i64,
    pub key: bool,
    /// Outside the edit list: decoded, never shown.
    pub discarded: bool,
}

/// The frames of a video in the order they are shown.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Timeline {
    /// Presentation times by frame index.
    pub times: Vec<i64>,
    /// Times of the key frames, ascending, those outside the edit list included.
    pub keys: Vec<i64>,
    /// Whether each time belongs to one frame, so that frames can be asked for by time, after a seek.
    pub by_time: bool,
    /// Seconds per unit, as a fraction.
    pub time_base: (i64, i64),
    /// Units from the start of the first frame to the end of the last.
    pub length: i64,
}

impl Timeline {
    /// From packets in file order. `None` when they do not say which frames will be decoded: times missing or doubled,
    /// or pictures before the first key frame, which decoders skip.
    pub fn from_packets(packets: &[Entry], time_base: (i64, i64)) -> Option<Self> {
        let first = packets.first()?;
        let shown = || packets.iter().filter(|packet| !packet.discarded);
        let leading = |packet: &Entry| packet.time < first.time;
        if !first.key || shown().any(|packet| packet.time.is_none() || leading(packet)) {
            return None;
        }
        let timeline = Self::build(packets, time_base);
        (timeline.by_time && !timeline.times.is_empty()).then_some(timeline)
    }

    /// From frames in the order the decoder gave them out. A frame without a time follows the one before it, and
    /// one without a duration is shown for as long as that one.
    pub fn from_frames(frames: &[Entry], time_base: (i64, i64)) -> Self {
        let mut frames = frames.to_vec();
        let (mut timed, mut previous, mut duration) = (true, None, 0);
        for frame in &mut frames {
            timed &= frame.time.is_some_and(|time| previous.is_none_or(|before: i64| before < time));
            let follows = previous.map_or(0, |before: i64| before.saturating_add(duration));
            previous = Some(*frame.time.get_or_insert(follows));
            frame.duration = if frame.duration > 0 { frame.duration } else { duration };
            duration = frame.duration;
        }
        let mut timeline = if timed { Self::build(&frames, time_base) } else { Self::in_order(&frames, time_base) };
        timeline.by_time &= timed;
        timeline
    }

    fn build(entries: &[Entry], time_base: (i64, i64)) -> Self {
        let mut shown: Vec<Entry> = entries.iter().copied().filter(|entry| !entry.discarded).collect();
        shown.sort_by_key(|entry| entry.time);
        let mut timeline = Self::in_order(&shown, time_base);
        timeline.keys = entries.iter().filter(|entry| entry.key).filter_map(|entry| entry.time).collect();
        timeline.keys.sort_unstable();
        timeline.by_time = timeline.times.windows(2).all(|pair| pair[0] < pair[1]);
        timeline
    }

    fn in_order(entries: &[Entry], time_base: (i64, i64)) -> Self {
        let times: Vec<i64> = entries.iter().filter_map(|entry| entry.time).collect();
        let start = times.iter().min().copied().unwrap_or(0);
        let ends = entries.iter().filter_map(|entry| Some(entry.time?.saturating_add(entry.duration)));
        let length = ends.max().unwrap_or(0).saturating_sub(start);
        Self { times, keys: Vec::new(), by_time: false, time_base, length }
    }

    /// Drops the frames after `time`.
    pub fn end_at(&mut self, time: i64) {
        let cut = self.times.get(self.times.partition_point(|&shown| shown <= time)).copied();
        if let (Some(cut), Some(&start)) = (cut, self.times.first()) {
            self.times.retain(|&shown| shown <= time);
            self.length = cut.saturating_sub(start);
        }
    }

    /// When the first frame is shown.
    pub fn start(&self) -> i64 {
        // Frames whose times are not sound need not begin with the earliest; what is counted from is.
        if self.by_time { self.times[0] } else { self.times.iter().min().copied().unwrap_or(0) }
    }

    /// Seconds from the first frame to frame `index`.
    pub fn seconds(&self, index: usize) -> f64 {
        self.to_seconds(self.times[index].saturating_sub(self.start()))
    }

    /// Units of the time base as seconds.
    pub fn to_seconds(&self, units: i64) -> f64 {
        units as f64 * self.time_base.0 as f64 / self.time_base.1 as f64
    }

    /// A time on the file's own clock in whole microseconds, rounded up: a seek goes back from there, and must not fall
    /// short of the key frame it means.
    pub fn to_microseconds(&self, time: i64) -> Option<i64> {
        let (numerator, denominator) = (i128::from(self.time_base.0), i128::from(self.time_base.1));
        let scaled = i128::from(time) * numerator * 1_000_000;
        i64::try_from(scaled.div_euclid(denominator) + i128::from(scaled.rem_euclid(denominator) != 0)).ok()
    }

    /// The last key frame at or before `time`, as a position in `keys`.
    pub fn key_before(&self, time: i64) -> Option<usize> {
        self.keys.partition_point(|&key| key <= time).checked_sub(1)
    }

    /// How many frames are shown before `time`.
    pub fn frames_before(&self, time: i64) -> usize {
        self.times.partition_point(|&shown| shown < time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(time: i64, key: bool) -> Entry {
        Entry { time: Some(time), duration: 10, key, discarded: false }
    }

    #[test]
    fn packets_are_put_in_the_order_of_presentation() {
        let packets = [entry(0, true), entry(30, false), entry(10, false), entry(20, false), entry(40, true)];
        let timeline = Timeline::from_packets(&packets, (1, 100)).unwrap();
        assert_eq!(timeline.times, [0, 10, 20, 30, 40]);
        assert_eq!((timeline.keys.as_slice(), timeline.length), (&[0, 40][..], 50));
        assert_eq!(
            (timeline.key_before(39), timeline.key_before(40), timeline.key_before(-1)),
            (Some(0), Some(1), None)
        );
        assert!((timeline.seconds(3) - 0.3).abs() < 1e-12);
    }

    #[test]
    fn what_an_edit_list_hides_is_not_counted_but_can_be_sought() {
        let mut packets = [entry(-20, true), entry(-10, false), entry(0, false), entry(10, false)];
        packets[0].discarded = true;
        packets[1].discarded = true;
        let timeline = Timeline::from_packets(&packets, (1, 100)).unwrap();
        assert_eq!((timeline.times.as_slice(), timeline.keys.as_slice()), (&[0, 10][..], &[-20][..]));
    }

    #[test]
    fn packets_that_say_too_little_are_not_believed() {
        let missing = [entry(0, true), Entry::default()];
        let doubled = [entry(0, true), entry(10, false), entry(10, false)];
        let leading = [entry(20, true), entry(10, false)];
        let headless = [entry(0, false), entry(10, true)];
        for packets in [&missing[..], &doubled, &leading, &headless, &[]] {
            assert_eq!(Timeline::from_packets(packets, (1, 100)), None, "{packets:?}");
        }
    }

    #[test]
    fn frames_without_sound_times_are_counted_as_they_come() {
        let frames = [entry(0, true), Entry::default(), entry(20, false)];
        let timeline = Timeline::from_frames(&frames, (1, 100));
        assert_eq!((timeline.times.as_slice(), timeline.by_time), (&[0, 10, 20][..], false));
        let last = Entry { duration: 0, ..entry(10, false) };
        let timeline = Timeline::from_frames(&[entry(0, true), last], (1, 100));
        assert_eq!((timeline.by_time, timeline.length), (true, 20));
    }

    #[test]
    fn a_seek_is_rounded_up() {
        let timeline = Timeline::from_packets(&[entry(0, true)], (1, 3)).unwrap();
        assert_eq!(timeline.to_microseconds(1), Some(333_334));
        assert_eq!(timeline.to_microseconds(-1), Some(-333_333));
        assert_eq!(timeline.to_microseconds(3), Some(1_000_000));
        assert_eq!(Timeline { time_base: (i64::MAX, 1), ..timeline }.to_microseconds(i64::MAX), None);
    }

    #[test]
    fn a_lost_end_is_cut_off() {
        let packets = [entry(0, true), entry(10, false), entry(20, false)];
        let mut timeline = Timeline::from_packets(&packets, (1, 100)).unwrap();
        timeline.end_at(10);
        assert_eq!((timeline.times.as_slice(), timeline.length), (&[0, 10][..], 20));
        timeline.end_at(500);
        assert_eq!(timeline.times.len(), 2);
    }
}
