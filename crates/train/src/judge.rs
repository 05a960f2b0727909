//! Judging pictures against prompts with the oracle.

use std::fmt;

use sango_shapes::{Prompt, oracle};

/// How many of the judged pictures were right, in all and per attribute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Pictures judged.
    pub pictures: usize,
    /// Pictures in which every named attribute was right.
    pub all: usize,
    /// Attribute, pictures in which it was right, prompts that named it.
    pub attributes: Vec<(&'static str, usize, usize)>,
}

impl Tally {
    /// Adds one picture: each named attribute with whether it was right.
    fn add(&mut self, named: impl Iterator<Item = (&'static str, bool)>) {
        let mut all = true;
        for (name, right) in named {
            all &= right;
            match self.attributes.iter_mut().find(|a| a.0 == name) {
                Some(found) => {
                    found.1 += usize::from(right);
                    found.2 += 1;
                }
                None => self.attributes.push((name, usize::from(right), 1)),
            }
        }
        self.pictures += 1;
        self.all += usize::from(all);
    }

    /// Share right, in all and per attribute, by name.
    pub fn shares(&self) -> Vec<(&'static str, f64)> {
        let share = |right: usize, of: usize| right as f64 / of.max(1) as f64;
        let mut shares = vec![("all", share(self.all, self.pictures))];
        shares.extend(self.attributes.iter().map(|&(name, right, of)| (name, share(right, of))));
        shares
    }

    /// Share of pictures in which every named attribute was right.
    pub fn share(&self) -> f64 {
        self.all as f64 / self.pictures.max(1) as f64
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "all attributes right in {} of {} ({:.1} %)", self.all, self.pictures, 100.0 * self.share())?;
        for (name, right, of) in &self.attributes {
            write!(f, ", {name} {:.1} %", 100.0 * *right as f64 / (*of).max(1) as f64)?;
        }
        Ok(())
    }
}

/// Reads every picture (`size × size` RGB) and compares it with what its prompt names. A picture that the oracle
/// cannot read counts as wrong in everything.
pub fn tally(prompts: &[Prompt], pictures: &[Vec<u8>], size: usize) -> Tally {
    let mut tally = Tally::default();
    for (prompt, rgb) in prompts.iter().zip(pictures) {
        let reading = oracle::read(rgb, size, size).unwrap_or_default();
        tally.add(oracle::judge(*prompt, &reading).named());
    }
    tally
}

/// As [`tally`], for clips: each a list of `size × size` RGB frames. Shape and colour are counted together, too.
pub fn tally_clips(prompts: &[Prompt], clips: &[Vec<Vec<u8>>], size: usize) -> Tally {
    let mut tally = Tally::default();
    for (prompt, frames) in prompts.iter().zip(clips) {
        let reading = oracle::read_clip(frames, size, size).unwrap_or_default();
        let verdict = oracle::judge(*prompt, &reading);
        let both = verdict.shape.zip(verdict.colour).map(|(shape, colour)| ("shape and colour", shape && colour));
        tally.add(verdict.named().chain(both));
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;
    use sango_shapes::{Scene, render, rng};

    #[test]
    fn drawn_scenes_are_right_and_swapped_prompts_are_not() {
        let mut rng = rng(4);
        let scenes: Vec<Scene> = (0..50).map(|_| Scene::sample_training(&mut rng)).collect();
        let pictures: Vec<Vec<u8>> = scenes.iter().map(|s| render(s, 64)).collect();
        let mut prompts: Vec<Prompt> = scenes.iter().map(Scene::prompt).collect();
        assert!(tally(&prompts, &pictures, 64).all >= 49);
        prompts.rotate_left(1);
        assert!(tally(&prompts, &pictures, 64).all < 10);
    }
}
