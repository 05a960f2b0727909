//! The oracle against ground truth: clean, noisy, blurred, blotched and quantised pictures, and pictures of nothing.

use rand::RngExt;
use sango_shapes::oracle::{Verdict, judge, read};
use sango_shapes::{Attributes, Prompt, Scene, render, rng};
use std::collections::BTreeMap;

const SIDE: usize = 64;

/// Right answers and questions, per attribute and for all at once.
#[derive(Default)]
struct Score {
    named: BTreeMap<&'static str, (usize, usize)>,
    mistakes: Vec<String>,
}

impl Score {
    fn add(&mut self, verdict: &Verdict, note: impl Fn() -> String) {
        for (name, right) in verdict.named().chain([("all", verdict.all_right())]) {
            let (hits, total) = self.named.entry(name).or_default();
            *hits += usize::from(right);
            *total += 1;
        }
        if !verdict.all_right() {
            self.mistakes.push(note());
        }
    }

    fn share(&self, name: &str) -> f64 {
        let (hits, total) = self.named[name];
        hits as f64 / total as f64
    }

    /// Prints one row of the table and demands `bar` of pictures right in everything.
    fn demand(&self, what: &str, bar: f64) {
        let row: Vec<String> = self
            .named
            .iter()
            .map(|(name, (hits, of))| format!("{name} {:.2} %", 100.0 * *hits as f64 / *of as f64))
            .collect();
        println!("{what}: {}", row.join(", "));
        let some: Vec<_> = self.mistakes.iter().take(8).collect();
        assert!(self.share("all") >= bar, "{what}: {:.4} < {bar}: {some:#?}", self.share("all"));
    }
}

/// Reads `count` scenes, every combination about equally often, after `spoil` has changed the pixels.
fn accuracy(count: usize, side: usize, spoil: impl Fn(&mut [u8], u64)) -> Score {
    let combinations: Vec<_> = Attributes::all().collect();
    let mut rng = rng(11);
    let mut score = Score::default();
    for i in 0..count {
        let place = sango_shapes::Place::ALL.get(i / combinations.len() % 7).copied();
        let scene = Scene::sample(combinations[i % combinations.len()], place, &mut rng);
        let mut rgb = render(&scene, side);
        spoil(&mut rgb, i as u64);
        let reading = read(&rgb, side, side).expect("a square picture");
        score.add(&judge(scene.prompt(), &reading), || format!("{} -> {reading:?}", scene.caption()));
    }
    score
}

/// Adds Gaussian noise with this standard deviation (0–255 scale).
fn noise(rgb: &mut [u8], deviation: f32, seed: u64) {
    let mut rng = rng(seed);
    for value in rgb {
        // The sum of twelve uniform numbers is near enough to a normal one.
        let normal = (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0;
        *value = (f32::from(*value) + normal * deviation).round().clamp(0.0, 255.0) as u8;
    }
}

/// A box blur of 3 pixels, `times` over.
fn blur(rgb: &mut [u8], times: usize) {
    for _ in 0..times {
        let old = rgb.to_vec();
        for (i, value) in rgb.iter_mut().enumerate() {
            let (y, x, c) = (i / 3 / SIDE, i / 3 % SIDE, i % 3);
            let mut sum = 0u32;
            for dy in [y.saturating_sub(1), y, (y + 1).min(SIDE - 1)] {
                for dx in [x.saturating_sub(1), x, (x + 1).min(SIDE - 1)] {
                    sum += u32::from(old[(dy * SIDE + dx) * 3 + c]);
                }
            }
            *value = (sum / 9) as u8;
        }
    }
}

/// Shifts the colour of whole 8×8 patches and puts small blotches anywhere, as a decoder of few tokens does.
fn decoder_faults(rgb: &mut [u8], seed: u64) {
    let mut rng = rng(seed);
    for patch in 0..64 {
        let shift: [f32; 3] = std::array::from_fn(|_| rng.random_range(-14.0..14.0));
        for i in 0..64 {
            let (y, x) = (patch / 8 * 8 + i / 8, patch % 8 * 8 + i % 8);
            for c in 0..3 {
                let value = &mut rgb[(y * SIDE + x) * 3 + c];
                *value = (f32::from(*value) + shift[c]).clamp(0.0, 255.0) as u8;
            }
        }
    }
    for _ in 0..3 {
        let (y, x) = (rng.random_range(0..SIDE - 3), rng.random_range(0..SIDE - 3));
        let colour: [u8; 3] = rng.random();
        for i in 0..9 {
            rgb[((y + i / 3) * SIDE + x + i % 3) * 3..][..3].copy_from_slice(&colour);
        }
    }
}

#[test]
fn clean_pictures_are_read_right() {
    accuracy(2208, SIDE, |_, _| ()).demand("clean, 64 px", 0.99);
    for side in [32, 48, 96, 256] {
        accuracy(552, side, |_, _| ()).demand(&format!("clean, {side} px"), 0.99);
    }
}

#[test]
fn spoilt_pictures_are_read_right() {
    accuracy(1104, SIDE, |rgb, seed| noise(rgb, 10.0, seed)).demand("noise 10", 0.99);
    accuracy(1104, SIDE, |rgb, seed| noise(rgb, 25.0, seed)).demand("noise 25", 0.99);
    accuracy(1104, SIDE, |rgb, _| blur(rgb, 1)).demand("blur 3 px", 0.99);
    accuracy(1104, SIDE, |rgb, _| blur(rgb, 3)).demand("blur 3 px three times", 0.97);
    accuracy(1104, SIDE, decoder_faults).demand("patches and blotches", 0.97);
    let all_at_once = |rgb: &mut [u8], seed| {
        blur(rgb, 2);
        decoder_faults(rgb, seed);
        noise(rgb, 12.0, seed);
    };
    accuracy(1104, SIDE, all_at_once).demand("blur, patches, blotches and noise", 0.95);
}

#[test]
fn wrong_pictures_are_never_right() {
    // Each picture judged against a prompt that differs in exactly one value: no reading may satisfy it.
    let mut rng = rng(3);
    let combinations: Vec<_> = Attributes::all().collect();
    for i in 0..2000 {
        let scene = Scene::sample(combinations[i % combinations.len()], None, &mut rng);
        let reading = read(&render(&scene, SIDE), SIDE, SIDE).expect("a square picture");
        let other = combinations[rng.random_range(0..combinations.len())];
        if other != scene.attributes {
            let verdict = judge(other, &reading);
            assert!(!verdict.all_right(), "{} passes as {}", scene.caption(), Prompt::from(other).caption());
        }
    }
}

/// A picture from a function of x and y.
fn picture(colour: impl Fn(usize, usize) -> [u8; 3]) -> Vec<u8> {
    (0..SIDE * SIDE).flat_map(|i| colour(i % SIDE, i / SIDE)).collect()
}

#[test]
fn pictures_of_nothing_have_no_attributes() {
    let red = [230, 20, 20];
    let white = [250, 250, 250];
    let mut grain = rng(9);
    let static_noise: Vec<u8> = (0..SIDE * SIDE * 3).map(|_| grain.random()).collect();
    let mut faint = picture(|_, _| white);
    noise(&mut faint, 25.0, 1);
    let nothing = [
        ("white", picture(|_, _| white)),
        ("black", picture(|_, _| [0, 0, 0])),
        ("red", picture(|_, _| red)),
        ("static", static_noise),
        ("grainy white", faint),
        ("two halves", picture(|x, _| if x < 32 { red } else { white })),
        ("vertical stripes", picture(|x, _| if x / 8 % 2 == 0 { red } else { white })),
        ("fine stripes", picture(|_, y| if y % 2 == 0 { red } else { white })),
        ("one stripe", picture(|x, _| if (28..36).contains(&x) { red } else { white })),
        ("checkerboard", picture(|x, y| if (x / 8 + y / 8) % 2 == 0 { red } else { white })),
        ("gradient", picture(|x, y| [(x * 4) as u8, (y * 4) as u8, 128])),
        ("long bar", picture(|x, y| if (8..56).contains(&x) && (26..38).contains(&y) { red } else { white })),
        ("frame", picture(|x, y| if x.min(y) < 6 || x.max(y) > 57 { red } else { white })),
        ("dot", picture(|x, y| if (30..34).contains(&x) && (30..34).contains(&y) { red } else { white })),
    ];
    for (what, rgb) in nothing {
        let reading = read(&rgb, SIDE, SIDE).expect("a square picture");
        let object = (reading.shape, reading.size, reading.place);
        assert_eq!(object, (None, None, None), "{what}: {reading:?}");
    }
}

#[test]
fn two_objects_are_not_one() {
    let mut rng = rng(21);
    let base = Prompt::parse("a small red circle at the top left on a white background").expect("in the grammar");
    let other = Prompt::parse("a small red square at the bottom right on a white background").expect("in the grammar");
    let first = render(&Scene::for_prompt(&base, &mut rng), SIDE);
    let second = render(&Scene::for_prompt(&other, &mut rng), SIDE);
    let both: Vec<u8> = first.iter().zip(&second).map(|(a, b)| *a.min(b)).collect();
    let reading = read(&both, SIDE, SIDE).expect("a square picture");
    assert_eq!((reading.shape, reading.colour), (None, None));
}

#[test]
fn shapes_of_other_worlds_have_no_name() {
    let (red, green, white) = ([230, 20, 20], [0, 190, 40], [250, 250, 250]);
    // Coordinates around the middle of the picture, in pixels.
    let drawn = |inside: fn(f32, f32) -> bool| {
        let middle = |i: usize| i as f32 + 0.5 - SIDE as f32 / 2.0;
        picture(|x, y| if inside(middle(x), middle(y)) { red } else { white })
    };
    let strange = [
        ("half a disc", drawn(|x, y| x.hypot(y) < 17.0 && y < 0.0)),
        ("a long ellipse", drawn(|x, y| (x / 20.0).hypot(y / 10.0) < 1.0)),
        ("an L", drawn(|x, y| x.abs() < 15.0 && y.abs() < 15.0 && (x < -5.0 || y > 5.0))),
        ("a C", drawn(|x, y| (8.0..17.0).contains(&x.hypot(y)) && !(x > 0.0 && y.abs() < 7.0))),
        ("a bow tie", drawn(|x, y| y.abs() < x.abs() && x.abs() < 17.0)),
    ];
    for (what, rgb) in strange {
        let reading = read(&rgb, SIDE, SIDE).expect("a square picture");
        assert_eq!(reading.shape, None, "{what}: {reading:?}");
    }
    // A disc of two colours has a shape but no colour.
    let parted = picture(|x, y| {
        let (dx, dy) = (x as f32 - 31.5, y as f32 - 31.5);
        match dx.hypot(dy) < 17.0 {
            true if dx < 1.0 => red,
            true => green,
            false => white,
        }
    });
    let reading = read(&parted, SIDE, SIDE).expect("a square picture");
    assert_eq!(reading.colour, None, "{reading:?}");
}

#[test]
fn buffers_that_are_no_picture_are_refused() {
    assert!(read(&[0; 10], 64, 64).unwrap_err().to_string().contains("10 bytes"));
    assert!(read(&[0; 64 * 32 * 3], 64, 32).unwrap_err().to_string().contains("square"));
    assert!(read(&[], usize::MAX, 2).is_err());
    assert!(read(&[0; 8 * 8 * 3], 8, 8).is_err());
}
