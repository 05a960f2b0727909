//! Signed distances to the shapes, in units of the shape's radius, centroid at the origin, y down.

use crate::world::Shape;
use std::f32::consts::PI;

/// Half the side of a square of radius 1.
const SQUARE_HALF: f32 = 0.88;
/// Half the width of a cross's arm.
const ARM_HALF: f32 = 0.34;
const TRIANGLE_CIRCUMRADIUS: f32 = 1.15;
const STAR_OUTER: f32 = 1.12;
const STAR_INNER: f32 = 0.5;
/// Radius of a ring's hole.
const RING_HOLE: f32 = 0.5;

/// A shape prepared for many distance queries.
pub(crate) enum Outline {
    Disc,
    Ring,
    /// A simple polygon, at most 12 corners, without rotation.
    Polygon(Vec<[f32; 2]>),
}

impl Outline {
    pub(crate) fn new(shape: Shape) -> Self {
        match shape {
            Shape::Circle => Self::Disc,
            Shape::Ring => Self::Ring,
            Shape::Square => {
                let h = SQUARE_HALF;
                Self::Polygon(vec![[-h, -h], [h, -h], [h, h], [-h, h]])
            }
            Shape::Triangle => Self::Polygon(spokes(3, |_| TRIANGLE_CIRCUMRADIUS)),
            Shape::Star => Self::Polygon(spokes(10, |i| if i % 2 == 0 { STAR_OUTER } else { STAR_INNER })),
            Shape::Cross => {
                let a = ARM_HALF;
                Self::Polygon(vec![
                    [-a, -1.0],
                    [a, -1.0],
                    [a, -a],
                    [1.0, -a],
                    [1.0, a],
                    [a, a],
                    [a, 1.0],
                    [-a, 1.0],
                    [-a, a],
                    [-1.0, a],
                    [-1.0, -a],
                    [-a, -a],
                ])
            }
        }
    }

    /// Distance from the outline: negative inside, positive outside.
    pub(crate) fn distance(&self, [x, y]: [f32; 2]) -> f32 {
        let from_centre = || (x * x + y * y).sqrt();
        match self {
            Self::Disc => from_centre() - 1.0,
            Self::Ring => {
                let r = from_centre();
                (r - 1.0).max(RING_HOLE - r)
            }
            Self::Polygon(corners) => polygon_distance(corners, [x, y]),
        }
    }
}

/// The farthest that any outline reaches from its centroid (a square's corner).
pub(crate) const REACH: f32 = SQUARE_HALF * std::f32::consts::SQRT_2;

/// `n` corners around the origin, the first one up.
fn spokes(n: usize, radius: impl Fn(usize) -> f32) -> Vec<[f32; 2]> {
    (0..n)
        .map(|i| {
            let angle = 2.0 * PI * i as f32 / n as f32;
            [radius(i) * angle.sin(), -radius(i) * angle.cos()]
        })
        .collect()
}

/// Exact signed distance: nearest edge, and the even-odd rule for the sign.
fn polygon_distance(corners: &[[f32; 2]], p: [f32; 2]) -> f32 {
    let mut nearest = f32::INFINITY;
    let mut inside = false;
    let mut previous = corners[corners.len() - 1];
    for &corner in corners {
        let edge = [previous[0] - corner[0], previous[1] - corner[1]];
        let to = [p[0] - corner[0], p[1] - corner[1]];
        let along = (to[0] * edge[0] + to[1] * edge[1]) / (edge[0] * edge[0] + edge[1] * edge[1]);
        let along = along.clamp(0.0, 1.0);
        let off = [to[0] - along * edge[0], to[1] - along * edge[1]];
        nearest = nearest.min(off[0] * off[0] + off[1] * off[1]);
        if (corner[1] > p[1]) != (previous[1] > p[1]) && to[0] < edge[0] * to[1] / edge[1] {
            inside = !inside;
        }
        previous = corner;
    }
    if inside { -nearest.sqrt() } else { nearest.sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn centroids_are_at_the_origin() {
        for &shape in Shape::ALL {
            let outline = Outline::new(shape);
            let (mut area, mut sum) = (0u32, [0.0f32; 2]);
            for i in 0..300 {
                for j in 0..300 {
                    let p = [(j as f32 - 149.5) / 100.0, (i as f32 - 149.5) / 100.0];
                    if outline.distance(p) < 0.0 {
                        area += 1;
                        sum = [sum[0] + p[0], sum[1] + p[1]];
                    }
                }
            }
            let area = area as f32;
            assert!(area > 10_000.0, "{shape}: area {area}");
            assert!((sum[0] / area).abs() < 0.01 && (sum[1] / area).abs() < 0.01, "{shape}: {sum:?} / {area}");
        }
    }

    #[test]
    fn distances_are_exact_where_they_are_easy() {
        let square = Outline::new(Shape::Square);
        assert!((square.distance([0.0, 0.0]) + SQUARE_HALF).abs() < 1e-6);
        assert!((square.distance([2.0, 0.3]) - (2.0 - SQUARE_HALF)).abs() < 1e-6);
        let ring = Outline::new(Shape::Ring);
        assert!((ring.distance([0.0, 0.0]) - RING_HOLE).abs() < 1e-6);
        assert!((ring.distance([0.75, 0.0]) + 0.25).abs() < 1e-6);
    }
}
