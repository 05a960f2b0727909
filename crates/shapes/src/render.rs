//! Drawing a scene: analytic anti-aliasing from signed distances, no supersampling.

use crate::geometry::{Outline, REACH};
use crate::scene::{Object, Scene};
use crate::world::Background;

/// Draws a scene as `size × size` RGB bytes, rows from the top.
///
/// Coverage of a pixel is `clamp(0.5 − distance, 0, 1)` at its centre, with the distance in pixels.
pub fn render(scene: &Scene, size: usize) -> Vec<u8> {
    render_objects(scene.attributes.background, &[scene.object], size)
}

/// Draws any number of objects over a background as [`render`] draws one; later objects lie above earlier ones.
pub fn render_objects(background: Background, objects: &[Object], size: usize) -> Vec<u8> {
    let mut rgb: Vec<u8> = background.rgb().iter().copied().cycle().take(size * size * 3).collect();
    for object in objects {
        let colour = object.colour.rgb();
        for_each_covered(object, size, |index, coverage| {
            for (channel, &to) in colour.iter().enumerate() {
                let value = &mut rgb[index * 3 + channel];
                let from = f32::from(*value);
                *value = (from + (f32::from(to) - from) * coverage).round() as u8;
            }
        });
    }
    rgb
}

/// How much of each pixel the object covers, 0–1, `size × size`, rows from the top.
///
/// Training weights object pixels with it.
pub fn object_coverage(object: &Object, size: usize) -> Vec<f32> {
    let mut mask = vec![0.0; size * size];
    for_each_covered(object, size, |index, coverage| mask[index] = coverage);
    mask
}

/// Calls `visit(pixel index, coverage)` for every pixel that the object touches.
fn for_each_covered(object: &Object, size: usize, mut visit: impl FnMut(usize, f32)) {
    let side = size as f32;
    let radius = object.radius * side;
    let centre = [object.center[0] * side, object.center[1] * side];
    let outline = Outline::new(object.shape);
    let (sin, cos) = object.angle.sin_cos();
    let reach = radius * REACH + 1.0;
    // A float-to-integer cast saturates, so parts outside of the picture are cut off here.
    let range = |c: f32| ((c - reach).floor() as usize)..((c + reach).ceil() as usize).min(size);
    for y in range(centre[1]) {
        for x in range(centre[0]) {
            let (dx, dy) = (x as f32 + 0.5 - centre[0], y as f32 + 0.5 - centre[1]);
            let turned_back = [(dx * cos + dy * sin) / radius, (dy * cos - dx * sin) / radius];
            let coverage = (0.5 - outline.distance(turned_back) * radius).clamp(0.0, 1.0);
            if coverage > 0.0 {
                visit(y * size + x, coverage);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Attributes, rng};

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let attributes = Attributes::all().nth(17).expect("276 of them");
        let draw = |seed| render(&Scene::sample(attributes, None, &mut rng(seed)), 64);
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }

    #[test]
    fn every_scene_lies_inside_the_picture() {
        let mut rng = rng(5);
        for attributes in Attributes::all() {
            for place in std::iter::once(None).chain(crate::Place::ALL.iter().copied().map(Some)) {
                for size in [32, 64, 96] {
                    let scene = Scene::sample(attributes, place, &mut rng);
                    let mask = object_coverage(&scene.object, size);
                    let border = (0..size).map(|i| mask[i] + mask[(size - 1) * size + i]).sum::<f32>()
                        + (0..size).map(|i| mask[i * size] + mask[i * size + size - 1]).sum::<f32>();
                    assert!(border < 2.0, "{attributes:?} {place:?} touches the border by {border}");
                    let middle = mask.iter().filter(|&&c| c == 1.0).count();
                    assert!(middle * 64 * 64 > 80 * size * size, "{attributes:?} has only {middle} full pixels");
                }
            }
        }
    }
}
