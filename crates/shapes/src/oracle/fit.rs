//! Fitting the world's outlines to an object's soft mask.

use super::SIDE;
use crate::geometry::{Outline, REACH};
use crate::world::Shape;
use std::f32::consts::PI;
use std::sync::LazyLock;

/// Outlines are looked up in tables over ±`EXTENT` radii.
const EXTENT: f32 = 1.5;
const CELLS: usize = 192;

/// Angles tried within a shape's symmetry.
const ANGLES: usize = 10;
/// An outline this much worse than the best one, before either is adjusted, is not looked at again.
const HOPELESS: f32 = 0.25;

/// One outline laid over the object as well as it can be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fit {
    pub(super) shape: Shape,
    /// In pixels of the oracle's canvas.
    pub(super) center: [f32; 2],
    /// In pixels of the oracle's canvas.
    pub(super) radius: f32,
    /// Clockwise, radians, within the shape's own symmetry.
    pub(super) angle: f32,
    /// Intersection over union, 0–1.
    pub(super) overlap: f32,
}

/// An object's coverage of each pixel, and its sum.
struct Mask {
    alpha: Vec<f32>,
    total: f32,
}

/// Signed distances of one shape on a grid, in radii.
struct Table {
    shape: Shape,
    distance: Vec<f32>,
    /// Area at radius 1.
    area: f32,
}

static TABLES: LazyLock<Vec<Table>> = LazyLock::new(|| Shape::ALL.iter().map(|&shape| Table::new(shape)).collect());

impl Table {
    fn new(shape: Shape) -> Self {
        let outline = Outline::new(shape);
        let at = |i: usize| (i as f32 + 0.5) * 2.0 * EXTENT / CELLS as f32 - EXTENT;
        let distance: Vec<f32> = (0..CELLS * CELLS).map(|i| outline.distance([at(i % CELLS), at(i / CELLS)])).collect();
        let inside = distance.iter().filter(|&&d| d < 0.0).count();
        let area = inside as f32 * (2.0 * EXTENT / CELLS as f32).powi(2);
        Self { shape, distance, area }
    }

    /// The pose with its overlap filled in.
    fn measured(&self, mask: &Mask, pose: Fit) -> Fit {
        let (sin, cos) = pose.angle.sin_cos();
        let scale = CELLS as f32 / (2.0 * EXTENT) / pose.radius;
        let half = CELLS as f32 / 2.0;
        let reach = REACH * pose.radius + 1.0;
        // Casts saturate, so what lies outside of the canvas is cut off.
        let range = |c: f32| ((c - reach).floor() as usize)..((c + reach).ceil() as usize).min(SIDE);
        let (mut intersection, mut outline) = (0.0, 0.0);
        for y in range(pose.center[1]) {
            let dy = y as f32 + 0.5 - pose.center[1];
            for x in range(pose.center[0]) {
                let dx = x as f32 + 0.5 - pose.center[0];
                let column = (dx * cos + dy * sin) * scale + half;
                let row = (dy * cos - dx * sin) * scale + half;
                if column < 0.0 || row < 0.0 || column >= CELLS as f32 || row >= CELLS as f32 {
                    continue;
                }
                let distance = self.distance[row as usize * CELLS + column as usize];
                let coverage = (0.5 - distance * pose.radius).clamp(0.0, 1.0);
                outline += coverage;
                intersection += coverage.min(mask.alpha[y * SIDE + x]);
            }
        }
        let union = (mask.total + outline - intersection).max(1.0);
        Fit { overlap: intersection / union, ..pose }
    }
}

/// The angle after which a shape looks the same again; `None` for round ones.
pub(super) fn symmetry(shape: Shape) -> Option<f32> {
    match shape {
        Shape::Circle | Shape::Ring => None,
        Shape::Square | Shape::Cross => Some(PI / 2.0),
        Shape::Triangle => Some(2.0 * PI / 3.0),
        Shape::Star => Some(2.0 * PI / 5.0),
    }
}

/// Fits every shape to a coverage mask, upright or (`any_angle`) turned.
pub(super) fn fit_shapes(alpha: &[f32], any_angle: bool) -> Vec<Fit> {
    // Steeper edges make the overlap depend less on blur.
    let alpha: Vec<f32> = alpha.iter().map(|a| ((a - 0.5) * 2.0 + 0.5).clamp(0.0, 1.0)).collect();
    let total: f32 = alpha.iter().sum();
    if total < 1.0 {
        return Vec::new();
    }
    let mean = |coordinate: fn(usize) -> usize| {
        alpha.iter().enumerate().map(|(i, a)| a * (coordinate(i) as f32 + 0.5)).sum::<f32>() / total
    };
    let center = [mean(|i| i % SIDE), mean(|i| i / SIDE)];
    let mask = Mask { alpha, total };
    let starts: Vec<Fit> = TABLES.iter().map(|table| start(table, &mask, center, any_angle)).collect();
    let best = starts.iter().map(|fit| fit.overlap).fold(0.0, f32::max);
    TABLES
        .iter()
        .zip(starts)
        .filter(|(_, start)| start.overlap > best - HOPELESS)
        .map(|(table, start)| refine(table, &mask, start, any_angle))
        .collect()
}

/// The pose with the mask's centroid and area, at the best of some angles.
fn start(table: &Table, mask: &Mask, center: [f32; 2], any_angle: bool) -> Fit {
    let radius = (mask.total / table.area).sqrt();
    let period = symmetry(table.shape).filter(|_| any_angle);
    let angles = period.map_or(1, |_| ANGLES);
    (0..angles)
        .map(|step| Fit {
            shape: table.shape,
            center,
            radius,
            angle: period.unwrap_or(0.0) * step as f32 / ANGLES as f32,
            overlap: 0.0,
        })
        .map(|pose| table.measured(mask, pose))
        .max_by(|a, b| a.overlap.total_cmp(&b.overlap))
        .expect("there is at least one angle")
}

/// Improves a pose by steps along one axis after another.
fn refine(table: &Table, mask: &Mask, start: Fit, any_angle: bool) -> Fit {
    let turn = symmetry(table.shape).filter(|_| any_angle).map_or(0.0, |period| period / (2 * ANGLES) as f32);
    let mut best = start;
    for scale in [1.0, 0.5, 0.5, 0.25] {
        for axis in 0..4 {
            if axis == 3 && turn == 0.0 {
                continue;
            }
            let from = best;
            for step in [-scale, scale] {
                let mut pose = from;
                match axis {
                    0 | 1 => pose.center[axis] += step,
                    2 => pose.radius *= 1.0 + 0.06 * step,
                    _ => pose.angle += turn * step,
                }
                let pose = table.measured(mask, pose);
                if pose.overlap > best.overlap {
                    best = pose;
                }
            }
        }
    }
    best
}

/// The best fit and how far it is ahead of the second.
pub(super) fn best_and_lead(fits: &[Fit]) -> Option<(Fit, f32)> {
    let best = *fits.iter().max_by(|a, b| a.overlap.total_cmp(&b.overlap))?;
    let second = fits.iter().filter(|f| f.shape != best.shape).map(|f| f.overlap).fold(0.0, f32::max);
    Some((best, best.overlap - second))
}
