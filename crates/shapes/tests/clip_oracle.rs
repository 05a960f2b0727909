//! The clip oracle against ground truth, and against clips in which nothing (or something else) happens.

use rand::RngExt;
use sango_shapes::oracle::{judge, read_clip};
use sango_shapes::{Attributes, Clip, Motion, Prompt, rng};

const SIDE: usize = 64;

fn share_right(clips: usize, frames: usize, spoil: impl Fn(&mut [u8], u64)) -> f64 {
    let combinations: Vec<_> = Attributes::all().collect();
    let mut rng = rng(31);
    let (mut right, mut mistakes) = (0, Vec::new());
    for i in 0..clips {
        let attributes = combinations[i * 37 % combinations.len()];
        let suitable: Vec<_> = Motion::ALL.iter().copied().filter(|motion| motion.suits(attributes.shape)).collect();
        let clip = Clip::sample(attributes, suitable[i % suitable.len()], &mut rng);
        let mut pictures = clip.render(frames, SIDE);
        pictures.iter_mut().enumerate().for_each(|(n, picture)| spoil(picture, (i * frames + n) as u64));
        let reading = read_clip(&pictures, SIDE, SIDE).expect("square frames");
        if judge(clip.prompt(), &reading).all_right() {
            right += 1;
        } else {
            mistakes.push(format!("{} -> {reading:?}", clip.caption()));
        }
    }
    let share = f64::from(right) / clips as f64;
    println!("{frames} frames: {:.2} % right in everything", share * 100.0);
    mistakes.iter().take(6).for_each(|mistake| println!("  {mistake}"));
    share
}

#[test]
fn clean_clips_are_read_right() {
    assert!(share_right(414, 9, |_, _| ()) >= 0.99);
    assert!(share_right(69, 17, |_, _| ()) >= 0.99);
}

#[test]
fn noisy_clips_are_read_right() {
    let noise = |rgb: &mut [u8], seed| {
        let mut rng = rng(seed);
        for value in rgb {
            let normal = (0..6).map(|_| rng.random_range(-1.0..1.0f32)).sum::<f32>();
            *value = (f32::from(*value) + normal * 12.0).clamp(0.0, 255.0) as u8;
        }
    };
    assert!(share_right(138, 9, noise) >= 0.98);
}

#[test]
fn blurred_clips_are_read_right() {
    // Every pixel becomes the mean of the 3×3 around it, as after a weak decoder.
    let blur = |rgb: &mut [u8], _| {
        let sharp = rgb.to_vec();
        for (i, value) in rgb.iter_mut().enumerate() {
            let (row, column, channel) = (i / 3 / SIDE, i / 3 % SIDE, i % 3);
            let near = |at: usize| at.saturating_sub(1)..=(at + 1).min(SIDE - 1);
            let around: Vec<u32> = near(row)
                .flat_map(|y| near(column).map(move |x| (y * SIDE + x) * 3 + channel))
                .map(|at| u32::from(sharp[at]))
                .collect();
            *value = (around.iter().sum::<u32>() / around.len() as u32) as u8;
        }
    };
    assert!(share_right(138, 9, blur) >= 0.98);
}

#[test]
fn a_still_or_shuffled_clip_has_no_motion() {
    let mut rng = rng(2);
    for i in 0..60 {
        let clip = Clip::sample_training(&mut rng);
        let frames = clip.render(9, SIDE);
        let still = vec![frames[i % 9].clone(); 9];
        let reading = read_clip(&still, SIDE, SIDE).expect("square frames");
        assert_eq!(reading.motion, None, "{} stood still", clip.caption());
        assert_eq!(reading.colour, Some(clip.scene.attributes.colour));
        // There and back again: the ends are the same.
        let swing: Vec<_> = [0, 2, 4, 6, 8, 6, 4, 2, 0].iter().map(|&n| frames[n].clone()).collect();
        let reading = read_clip(&swing, SIDE, SIDE).expect("square frames");
        assert_eq!(reading.motion, None, "{} went back", clip.caption());
    }
}

#[test]
fn a_reversed_clip_moves_the_other_way() {
    for (motion, reversed) in [
        (Motion::Left, Motion::Right),
        (Motion::Up, Motion::Down),
        (Motion::Grows, Motion::Shrinks),
        (Motion::Spins, Motion::Spins),
    ] {
        let mut prompt = Prompt::parse("a small yellow cross on a black background").expect("in the grammar");
        prompt.motion = Some(motion);
        let mut frames = Clip::for_prompt(&prompt, &mut rng(6)).render(9, SIDE);
        frames.reverse();
        assert_eq!(read_clip(&frames, SIDE, SIDE).expect("square frames").motion, Some(reversed));
    }
}

#[test]
fn clips_of_nothing_have_no_motion() {
    let blank = vec![vec![250u8; SIDE * SIDE * 3]; 9];
    let reading = read_clip(&blank, SIDE, SIDE).expect("square frames");
    assert_eq!((reading.shape, reading.motion, reading.size), (None, None, None));
    let none: [Vec<u8>; 0] = [];
    assert_eq!(read_clip(&none, SIDE, SIDE).expect("no frames, nothing wrong with them").motion, None);
}
