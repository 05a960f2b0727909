//! Which combinations training may show, and which are kept to judge generalisation.
//!
//! Every value and every pair of values is still seen in training; only the whole combination is new.

use crate::grammar::Prompt;
use crate::world::{Attributes, Place};
use std::sync::LazyLock;

/// Of the first thousand, the one that leaves most of every pair of values to training.
const SALT: u64 = 116;
/// One combination in this many is held out, on average.
const ONE_IN: u64 = 5;

static SPLIT: LazyLock<(Vec<Attributes>, Vec<Attributes>)> =
    LazyLock::new(|| Attributes::all().partition(|attributes| !is_held_out(attributes)));

/// Whether training never shows this combination.
pub fn is_held_out(attributes: &Attributes) -> bool {
    hash(attributes).is_multiple_of(ONE_IN)
}

/// The combinations that training shows.
pub fn train_combinations() -> &'static [Attributes] {
    &SPLIT.0
}

/// The combinations that training never shows.
pub fn held_out_combinations() -> &'static [Attributes] {
    &SPLIT.1
}

/// Every held-out combination at every place and without one: more than 300 distinct prompts.
pub fn held_out_prompts() -> Vec<Prompt> {
    let places = || std::iter::once(None).chain(Place::ALL.iter().copied().map(Some));
    held_out_combinations()
        .iter()
        .flat_map(|&attributes| places().map(move |place| Prompt { place, ..Prompt::from(attributes) }))
        .collect()
}

/// SplitMix64 over the four indices: stable across versions and machines.
fn hash(attributes: &Attributes) -> u64 {
    let Attributes { shape, colour, size, background } = attributes;
    let indices = [shape.index(), colour.index(), size.index(), background.index()];
    indices.iter().fold(SALT, |state, &index| {
        let mut z = (state ^ index as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{Background, Colour, Shape, Size};
    use std::collections::{HashMap, HashSet};

    /// The four values as (which attribute, index).
    fn values(a: &Attributes) -> [(usize, usize); 4] {
        [(0, a.shape.index()), (1, a.colour.index()), (2, a.size.index()), (3, a.background.index())]
    }

    fn pairs(combinations: &[Attributes]) -> HashMap<[(usize, usize); 2], usize> {
        let mut seen = HashMap::new();
        for attributes in combinations {
            let values = values(attributes);
            for i in 0..4 {
                for j in i + 1..4 {
                    *seen.entry([values[i], values[j]]).or_insert(0) += 1;
                }
            }
        }
        seen
    }

    #[test]
    fn every_pair_of_values_is_trained_on() {
        let all: Vec<_> = Attributes::all().collect();
        assert_eq!(all.len(), Shape::COUNT * Size::COUNT * (Colour::COUNT * Background::COUNT - 1));
        let trained = pairs(train_combinations());
        for (pair, total) in pairs(&all) {
            let seen = trained.get(&pair).copied().unwrap_or(0);
            assert!(seen * 2 >= total, "{pair:?}: only {seen} of {total} combinations are trained on");
        }
    }

    #[test]
    fn every_value_is_held_out_about_as_often() {
        let held_out: HashSet<_> = held_out_combinations().iter().collect();
        assert!((50..=62).contains(&held_out.len()), "{}", held_out.len());
        let mut counts = HashMap::new();
        for attributes in Attributes::all() {
            for value in values(&attributes) {
                let (held, total) = counts.entry(value).or_insert((0usize, 0usize));
                *held += usize::from(held_out.contains(&attributes));
                *total += 1;
            }
        }
        for (value, (held, total)) in counts {
            let share = held as f32 / total as f32;
            assert!((0.13..0.27).contains(&share), "{value:?}: {held} of {total} held out");
        }
    }

    #[test]
    fn there_are_enough_prompts_to_judge_with() {
        let captions: HashSet<_> = held_out_prompts().iter().map(Prompt::caption).collect();
        assert_eq!(captions.len(), held_out_prompts().len());
        assert!(captions.len() >= 300, "{}", captions.len());
        assert!(train_combinations().iter().all(|attributes| !is_held_out(attributes)));
    }
}
