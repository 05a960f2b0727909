//! Fitting the world's outlines to an object's soft mask.

use super::SIDE;
use crate::geometry::Outline;
use crate::world::Shape;
use std::f32::consts::PI;
use std::sync::LazyLock;

/// Outlines are looked up in tables over ±`EXTENT` radii.
const EXTENT: f32 = 1.5;
const CELLS: usize = 192;

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

/// Signed distances of one shape on a grid, in radii.
struct Table {
    shape: Shape,
    distance: Vec<f32>,
    /// Area at radius 1.
    area: f32,
}

static TABLES: LazyLock<Vec<Table>> =
    LazyLock::new(|| Shape::ALL.iter().map(|&shape| Table::new(shape)).collect());

impl Table {
    fn new(shape: Shape) -> Self {
        let outline = Outline::new(shape);
        let at = |i: usize| (i as f32 + 0.5) * 2.0 * EXTENT / CELLS as f32 - EXTENT;
        let distance: Vec<f32> = (0..CELLS * CELLS)
            .map(|i| outline.distance([at(i % CELLS), at(i / CELLS)]))
            .collect();
        let inside = distance.iter().filter(|&&d| d < 0.0).count();
        let area = inside as f32 * (2.0 * EXTENT / CELLS as f32).powi(2);
        Self {
            shape,
            distance,
            area,
        }
    }

    /// Overlap of the outline in this pose with a mask that sums to `total`.
    fn overlap(&self, alpha: &[f32], total: f32, pose: &Fit) -> f32 {
        let (sin, cos) = pose.angle.sin_cos();
        let scale = CELLS as f32 / (2.0 * EXTENT) / pose.radius;
        let half = CELLS as f32 / 2.0;
        let reach = EXTENT * pose.radius;
        // Casts saturate, so what lies outside of the canvas is cut off.
        let range =
            |c: f32| ((c - reach).floor() as usize)..((c + reach).ceil() as usize).min(SIDE);
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
                intersection += coverage.min(alpha[y * SIDE + x]);
            }
        }
        intersection / (total + outline - intersection).max(1.0)
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
    let alpha: Vec<f32> = alpha
        .iter()
        .map(|a| ((a - 0.5) * 2.0 + 0.5).clamp(0.0, 1.0))
        .collect();
    let total: f32 = alpha.iter().sum();
    if total < 1.0 {
        return Vec::new();
    }
    let mean = |coordinate: fn(usize) -> usize| {
        alpha
            .iter()
            .enumerate()
            .map(|(i, a)| a * (coordinate(i) as f32 + 0.5))
            .sum::<f32>()
            / total
    };
    let center = [mean(|i| i % SIDE), mean(|i| i / SIDE)];
    TABLES
        .iter()
        .map(|table| fit(table, &alpha, total, center, any_angle))
        .collect()
}

fn fit(table: &Table, alpha: &[f32], total: f32, center: [f32; 2], any_angle: bool) -> Fit {
    let radius = (total / table.area).sqrt();
    let mut best = Fit {
        shape: table.shape,
        center,
        radius,
        angle: 0.0,
        overlap: 0.0,
    };
    best.overlap = table.overlap(alpha, total, &best);
    let consider = |best: &mut Fit, mut pose: Fit| {
        pose.overlap = table.overlap(alpha, total, &pose);
        if pose.overlap > best.overlap {
            *best = pose;
        }
    };
    let period = symmetry(table.shape).filter(|_| any_angle);
    if let Some(period) = period {
        let from = best;
        for step in 1..10 {
            consider(
                &mut best,
                Fit {
                    angle: period * step as f32 / 10.0,
                    ..from
                },
            );
        }
    }
    for (shift, growth) in [(1.0, 0.07), (0.5, 0.03)] {
        let from = best;
        for [dx, dy, dr] in offsets() {
            let center = [from.center[0] + dx * shift, from.center[1] + dy * shift];
            consider(
                &mut best,
                Fit {
                    center,
                    radius: from.radius * (1.0 + dr * growth),
                    ..from
                },
            );
        }
        if let Some(period) = period {
            let from = best;
            for turn in [-0.05, -0.025, 0.025, 0.05] {
                consider(
                    &mut best,
                    Fit {
                        angle: from.angle + turn * period,
                        ..from
                    },
                );
            }
        }
    }
    best
}

/// The 27 corners, edges and faces of a cube of half side 1.
fn offsets() -> impl Iterator<Item = [f32; 3]> {
    (0..27).map(|i| [i % 3, i / 3 % 3, i / 9].map(|step| step as f32 - 1.0))
}

/// The best fit and how far it is ahead of the second.
pub(super) fn best_and_lead(fits: &[Fit]) -> Option<(Fit, f32)> {
    let best = *fits.iter().max_by(|a, b| a.overlap.total_cmp(&b.overlap))?;
    let second = fits
        .iter()
        .filter(|f| f.shape != best.shape)
        .map(|f| f.overlap)
        .fold(0.0, f32::max);
    Some((best, best.overlap - second))
}
