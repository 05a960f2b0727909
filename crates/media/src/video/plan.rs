//! Which stretches of a video to decode for a set of frames.

use super::timeline::Timeline;

/// Frames that one decoder process gives out, after one seek.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// Wanted frames, ascending, each once.
    pub frames: Vec<usize>,
    /// The key frame to begin at, as a position in [`Timeline::keys`]; `None` is the start of the file.
    pub key: Option<usize>,
}

/// So many stretches of consecutive frames are as many terms in the filter's expression, evaluated for every frame.
const MAX_STRETCHES: usize = 128;

/// The same where a new segment would begin at the start again: as many as fit one argument of a process.
const MAX_STRETCHES_COUNTED: usize = 3000;

/// Pixels that are decoded in the time that a new process takes to start (80 ms at 300 million per second).
const START: usize = 24_000_000;

/// Splits `wanted` (ascending, distinct) where seeking to the next key frame is cheaper than decoding up to it; without
/// `seek` only as the length of an expression asks for.
pub(super) fn plan(timeline: &Timeline, wanted: &[usize], pixels: usize, seek: bool) -> Vec<Segment> {
    let patience = (START / pixels.max(1)).max(1);
    let most = if timeline.by_time { MAX_STRETCHES } else { MAX_STRETCHES_COUNTED };
    let mut segments: Vec<Segment> = Vec::new();
    let mut stretches = 0;
    for &frame in wanted {
        let key = timeline.key_before(timeline.times[frame]).filter(|_| timeline.by_time && seek);
        if let Some(segment) = segments.last_mut() {
            let before = segment.frames[segment.frames.len() - 1];
            let key_frame = key.map_or(0, |key| timeline.frames_before(timeline.keys[key]));
            let stretch = usize::from(frame != before + 1);
            if key_frame <= before + patience && stretches + stretch <= most {
                segment.frames.push(frame);
                stretches += stretch;
                continue;
            }
        }
        stretches = 1;
        // Before the first key frame there is nothing to seek to, and at the first one nothing to skip.
        segments.push(Segment { frames: vec![frame], key: key.filter(|&key| key > 0) });
    }
    segments
}

/// The filter expression that passes the wanted frames.
///
/// By time, a stretch passes everything from its first frame up to the first frame at or after its last: where a wanted
/// frame is damaged, the one after it comes instead, as torchcodec has it. Otherwise frames are counted from the start.
pub(super) fn select(timeline: &Timeline, frames: &[usize]) -> String {
    let mut terms = Vec::new();
    let mut rest = frames;
    while let Some(&first) = rest.first() {
        let length = rest.iter().enumerate().take_while(|&(offset, &frame)| frame == first + offset).count();
        let last = rest[length - 1];
        terms.push(if timeline.by_time {
            format!("gte(pts,{})*not(gte(prev_pts,{}))", timeline.times[first], timeline.times[last])
        } else {
            format!("between(n,{first},{last})")
        });
        rest = &rest[length..];
    }
    terms.join("+")
}

#[cfg(test)]
mod tests {
    use super::super::timeline::Entry;
    use super::*;

    fn timeline(frames: i64, every: i64) -> Timeline {
        let entry = |n: i64| Entry { time: Some(n * 10), duration: 10, key: n % every == 0, discarded: false };
        Timeline::from_packets(&(0..frames).map(entry).collect::<Vec<_>>(), (1, 100)).unwrap()
    }

    #[test]
    fn far_frames_are_sought_and_near_ones_decoded_through() {
        let timeline = timeline(1000, 50);
        let segments = plan(&timeline, &[0, 20, 60, 500, 549, 999], 2_000_000, true); // 12 frames of patience
        let found: Vec<(&[usize], Option<usize>)> = segments.iter().map(|s| (s.frames.as_slice(), s.key)).collect();
        assert_eq!(
            found,
            [(&[0, 20][..], None), (&[60][..], Some(1)), (&[500, 549][..], Some(10)), (&[999][..], Some(19))]
        );
        assert_eq!(plan(&timeline, &[0, 500, 999], 100, true).len(), 1, "small frames are decoded through");
    }

    #[test]
    fn without_sound_times_everything_is_counted_from_the_start() {
        let mut timeline = timeline(1000, 10);
        timeline.by_time = false;
        let segments = plan(&timeline, &[3, 700], 2_000_000, true);
        assert_eq!(segments, [Segment { frames: vec![3, 700], key: None }]);
        assert_eq!(select(&timeline, &[3, 4, 5, 700]), "between(n,3,5)+between(n,700,700)");
    }

    #[test]
    fn an_expression_stays_short() {
        let timeline = timeline(2000, 2000);
        let wanted: Vec<usize> = (0..2000).step_by(2).collect();
        let segments = plan(&timeline, &wanted, 1, true);
        assert!(segments.iter().all(|segment| segment.frames.len() <= MAX_STRETCHES));
        let all: Vec<usize> = (0..2000).collect();
        assert_eq!(plan(&timeline, &all, 1, true).len(), 1);
        assert_eq!(select(&timeline, &all), "gte(pts,0)*not(gte(prev_pts,19990))");
    }
}
