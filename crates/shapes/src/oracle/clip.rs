//! Reading clips: the attributes that most frames agree on, and the motion from the object's track.

use super::fit::{Fit, symmetry};
use super::segment::Canvas;
use super::{OracleError, Reading, SIDE, read_segment, size_of};
use crate::clip::SPIN;
use crate::world::{Motion, Size};

/// Part of the frames in which an object must be found, and that must agree on an attribute.
const MAJORITY: f32 = 0.6;
/// A change counts from this part of what the world's clips show.
const MIN_CHANGE: f32 = 0.4;
/// No second change may be more than this part of the first.
const MAX_SECOND: f32 = 0.6;
/// Logarithm of the factor by which growing objects grow.
const GROWTH: f32 = 0.405;

/// Reads a clip: frames of RGB bytes, rows from the top, all of one size.
///
/// `place` stays `None` (what moves is in no one place); `center` and `radius` are those of the middle of the clip.
pub fn read_clip<F: AsRef<[u8]>>(frames: &[F], width: usize, height: usize) -> Result<Reading, OracleError> {
    let mut readings = Vec::with_capacity(frames.len());
    for frame in frames {
        let segment = Canvas::new(frame.as_ref(), width, height)?.segment();
        readings.push(read_segment(&segment, true));
    }
    let mut reading = Reading {
        shape: agreed(&readings, |r| r.shape),
        colour: agreed(&readings, |r| r.colour),
        background: agreed(&readings, |r| r.background),
        ..Reading::default()
    };
    let track = track(&readings);
    if (track.len() as f32) < MAJORITY * frames.len() as f32 || track.len() < 3 {
        return Ok(reading);
    }
    let middle = median(track.iter().map(|&(_, fit)| fit.radius)) / SIDE as f32;
    let center = [0, 1].map(|axis| median(track.iter().map(|&(_, fit)| fit.center[axis])) / SIDE as f32);
    reading.radius = Some(middle);
    reading.size = size_of(middle);
    reading.center = Some(center);
    reading.confidence = track.iter().map(|(_, fit)| fit.overlap).sum::<f32>() / track.len() as f32;
    reading.motion = motion_of(&track, reading.size);
    Ok(reading)
}

/// The value that most frames show.
fn agreed<T: PartialEq + Copy>(
    readings: &[(Reading, Option<Fit>)],
    value: impl Fn(&Reading) -> Option<T>,
) -> Option<T> {
    let values: Vec<T> = readings.iter().filter_map(|(reading, _)| value(reading)).collect();
    let votes = |candidate: &T| values.iter().filter(|v| *v == candidate).count();
    let best = values.iter().max_by_key(|candidate| votes(candidate))?;
    (votes(best) as f32 >= MAJORITY * readings.len() as f32).then_some(*best)
}

/// Time (0–1) and fit of every frame with an object.
fn track(readings: &[(Reading, Option<Fit>)]) -> Vec<(f32, Fit)> {
    let last = readings.len().max(2) - 1;
    readings.iter().enumerate().filter_map(|(i, (_, fit))| Some((i as f32 / last as f32, (*fit)?))).collect()
}

/// The one change that is clearly there and clearly larger than the others.
fn motion_of(track: &[(f32, Fit)], size: Option<Size>) -> Option<Motion> {
    let along = |value: &dyn Fn(&Fit) -> f32| slope(track.iter().map(|(time, fit)| (*time, value(fit))));
    let far = 2.0 * size?.corner_offset() * SIDE as f32;
    let right = along(&|fit| fit.center[0]) / far;
    let down = along(&|fit| fit.center[1]) / far;
    let grows = along(&|fit| fit.radius.ln()) / GROWTH;
    let spins = slope(turns(track).into_iter()).abs() / SPIN;
    let mut changes = [
        (right.abs(), if right < 0.0 { Motion::Left } else { Motion::Right }),
        (down.abs(), if down < 0.0 { Motion::Up } else { Motion::Down }),
        (grows.abs(), if grows < 0.0 { Motion::Shrinks } else { Motion::Grows }),
        (spins, Motion::Spins),
    ];
    changes.sort_by(|a, b| b.0.total_cmp(&a.0));
    let [(first, motion), (second, _), ..] = changes;
    (first >= MIN_CHANGE && second <= MAX_SECOND * first).then_some(motion)
}

/// Angles over time, continued beyond the shape's symmetry by taking the shorter way from frame to frame.
fn turns(track: &[(f32, Fit)]) -> Vec<(f32, f32)> {
    let mut turned = 0.0;
    let mut previous: Option<Fit> = None;
    track
        .iter()
        .map(|&(time, fit)| {
            if let (Some(before), Some(period)) = (previous, symmetry(fit.shape))
                && before.shape == fit.shape
            {
                let step = (fit.angle - before.angle).rem_euclid(period);
                turned += if step > period / 2.0 { step - period } else { step };
            }
            previous = Some(fit);
            (time, turned)
        })
        .collect()
}

/// Least-squares change per unit of time.
fn slope(points: impl Iterator<Item = (f32, f32)> + Clone) -> f32 {
    let n = points.clone().count() as f32;
    let (sum_t, sum_v) = points.clone().fold((0.0, 0.0), |(t, v), (time, value)| (t + time, v + value));
    let (mean_t, mean_v) = (sum_t / n, sum_v / n);
    let (covariance, variance) = points.fold((0.0, 0.0), |(c, v), (time, value)| {
        (c + (time - mean_t) * (value - mean_v), v + (time - mean_t).powi(2))
    });
    covariance / variance
}

fn median(values: impl Iterator<Item = f32>) -> f32 {
    let mut values: Vec<f32> = values.collect();
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f32::total_cmp).1
}
