//! Whether an answer is right: it is read like a prompt, every word must be understood, and everything it says must be
//! so. There is no partial credit.

use super::question::{NUMBERS, direction_name};
use super::{Actor, Ask, Story, StoryKind};
use crate::grammar::Prompt;
use crate::world::Background;

/// Whether `answer` is a right answer to `ask` about `story`.
///
/// Wording is free ("It is red." is "red"), but an unknown word, a missing value, or anything said besides that is not
/// so makes the answer wrong. A question that does not fit the story has no right answer.
pub fn judge(story: &Story, ask: Ask, answer: &str) -> bool {
    let Some(exact) = story.answer(ask) else { return false };
    let words: Vec<String> =
        answer.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase).collect();
    let joined = words.join(" ");
    if words.is_empty() || answer.contains(['?', '<', '>', '\n']) {
        return false;
    }
    let says = |actor: Option<&Actor>, needed: &dyn Fn(&Prompt) -> bool| {
        let truth = actor.map(Actor::prompt);
        Prompt::parse(&joined).is_ok_and(|said| needed(&said) && truth.is_some_and(|truth| agrees(&said, &truth)))
    };
    match ask {
        Ask::Caption => caption(story, answer),
        Ask::Colour(which) => says(story.actor(which), &|p| p.colour.is_some()),
        Ask::Shape(which) => says(story.actor(which), &|p| p.shape.is_some()),
        Ask::Size(which) => says(story.actor(which), &|p| p.size.is_some()),
        Ask::Place(which) => says(story.actor(which), &|p| p.place.is_some()),
        Ask::Object(which) => {
            says(story.actor(which), &|p| p.colour.is_some() && p.shape.is_some() && p.size.is_some())
        }
        Ask::Motion(which) => {
            let Some(motion) = story.motion(which) else { return false };
            let truth = story.actor(which).map(|a| Prompt { motion: Some(motion), ..a.prompt() });
            Prompt::parse(&joined)
                .is_ok_and(|said| said.motion.is_some() && truth.is_some_and(|truth| agrees(&said, &truth)))
        }
        Ask::Direction(which) => {
            let fillers = ["it", "moves", "goes", "to", "the", "direction", "is"];
            let said: Vec<&String> = words.iter().filter(|word| !fillers.contains(&word.as_str())).collect();
            let right = story.motion(which).and_then(direction_name);
            matches!(said[..], [word] if right.is_some_and(|r| word == r || *word == format!("{r}wards")))
        }
        Ask::Background => {
            let fillers = ["it", "is", "the", "a", "background", "colour", "color"];
            let said: Vec<&String> = words.iter().filter(|word| !fillers.contains(&word.as_str())).collect();
            matches!(said[..], [word] if Background::from_name(&word.replace("grey", "gray")) == Some(story.background))
        }
        Ask::Count => {
            let fillers = ["there", "are", "is", "shape", "shapes", "object", "objects", "only"];
            let said: Vec<&String> = words.iter().filter(|word| !fillers.contains(&word.as_str())).collect();
            let digit = NUMBERS.iter().position(|n| *n == exact).map(|n| n.to_string());
            matches!(said[..], [word] if *word == exact || Some(word) == digit.as_ref())
        }
    }
}

/// Whether every value that `said` names is that of `truth`.
fn agrees(said: &Prompt, truth: &Prompt) -> bool {
    fn same<T: PartialEq>(said: Option<T>, truth: Option<T>) -> bool {
        said.is_none() || said == truth
    }
    same(said.shape, truth.shape)
        && same(said.colour, truth.colour)
        && same(said.size, truth.size)
        && same(said.place, truth.place)
        && same(said.background, truth.background)
        && same(said.motion, truth.motion)
}

/// Whether a sentence tells the whole story: every object with size, colour, shape and what it does, in the right order
/// where there is one, and the background.
fn caption(story: &Story, answer: &str) -> bool {
    let text = answer.trim().trim_end_matches('.').to_lowercase();
    let Some((told, background)) = text.rsplit_once(" over a ").or_else(|| text.rsplit_once(" on a ")) else {
        return false;
    };
    if background.strip_suffix(" background").and_then(Background::from_name) != Some(story.background) {
        return false;
    }
    match story.kind {
        StoryKind::Single | StoryKind::Sequence | StoryKind::Still => {
            let mut parts = told.split(", then ");
            let mut motions: Vec<_> = story.actors[0].motions.iter().map(|&motion| Some(motion)).collect();
            if motions.is_empty() {
                motions.push(None);
            }
            let Some(Ok(first)) = parts.next().map(Prompt::parse) else { return false };
            let mut said = vec![first.motion];
            for part in parts {
                match Prompt::parse(part) {
                    // Only the motion is new; anything else said again would be about another object.
                    Ok(next) if next == (Prompt { motion: next.motion, ..Prompt::default() }) => said.push(next.motion),
                    _ => return false,
                }
            }
            said == motions && whole(&Prompt { motion: None, ..first }, &story.actors[0])
        }
        StoryKind::Swap => {
            let parts: Vec<&str> = told.split(", then ").collect();
            parts.len() == story.actors.len() && parts.iter().zip(&story.actors).all(|(part, a)| tells(part, a))
        }
        StoryKind::Pair | StoryKind::Group => {
            let listed = told.replace(" and ", ", ");
            let parts: Vec<&str> = listed.split(", ").collect();
            // In any order, but each object exactly once: no two are alike, so finding each is enough.
            parts.len() == story.actors.len()
                && story.actors.iter().all(|actor| parts.iter().any(|part| tells(part, actor)))
        }
    }
}

/// Whether a part of a sentence names this object whole, with its only motion.
fn tells(part: &str, actor: &Actor) -> bool {
    Prompt::parse(part).is_ok_and(|said| {
        said.motion == actor.motions.first().copied() && whole(&Prompt { motion: None, ..said }, actor)
    })
}

/// Whether a prompt names size, colour and shape of the object, and nothing that is not so.
fn whole(said: &Prompt, actor: &Actor) -> bool {
    said.size.is_some() && said.colour.is_some() && said.shape.is_some() && agrees(said, &actor.prompt())
}

#[cfg(test)]
mod tests {
    use super::super::Which;
    use super::*;
    use crate::rng;
    use std::collections::{BTreeMap, BTreeSet};

    fn many(per_kind: usize) -> Vec<Story> {
        let mut rng = rng(11);
        let kinds = StoryKind::ALL.iter().flat_map(|&kind| std::iter::repeat_n(kind, per_kind));
        kinds.map(|kind| Story::sample_training(kind, &mut rng)).collect()
    }

    #[test]
    fn its_own_answers_are_right() {
        for story in many(200) {
            assert!(story.asks().len() >= 6, "{story:?}");
            for ask in story.asks() {
                let answer = story.answer(ask).expect("asked for");
                assert!(judge(&story, ask, &answer), "{ask:?}: {answer}, {story:?}");
                let spoken = format!("{}{}.", answer[..1].to_uppercase(), &answer[1..]);
                assert!(judge(&story, ask, &spoken), "{spoken}");
            }
        }
    }

    #[test]
    fn every_other_answer_is_wrong() {
        let stories = many(40);
        let mut answers: BTreeMap<Ask, BTreeSet<String>> = BTreeMap::new();
        for story in &stories {
            for ask in story.asks() {
                answers.entry(ask).or_default().insert(story.answer(ask).expect("asked for"));
            }
        }
        let mut wrong = 0;
        for story in &stories {
            for ask in story.asks() {
                let exact = story.answer(ask).expect("asked for");
                for other in answers[&ask].iter().filter(|other| **other != exact) {
                    assert!(!judge(story, ask, other), "{ask:?} is {exact:?}, not {other:?}");
                    wrong += 1;
                }
                for spoilt in ["", " ", "yes", "<image>", &format!("{exact} {exact} not"), &format!("{exact} maybe")] {
                    assert!(!judge(story, ask, spoilt), "{ask:?}: {spoilt:?}");
                }
            }
        }
        assert!(wrong > 10_000, "{wrong}");
    }

    #[test]
    fn whole_sentences_are_read() {
        let mut rng = rng(4);
        let story = Story::sample_training(StoryKind::Single, &mut rng);
        let [actor] = &story.actors[..] else { panic!("one object") };
        let a = actor.attributes;
        assert!(judge(&story, Ask::Colour(Which::It), &format!("The shape is {}.", a.colour)));
        assert!(judge(&story, Ask::Colour(Which::It), &format!("It is a {} {}", a.colour, a.shape)));
        assert!(!judge(&story, Ask::Colour(Which::It), &format!("it is a {}", a.shape)));
        assert!(judge(&story, Ask::Background, &format!("The background is {}.", a.background)));
        assert!(judge(&story, Ask::Count, "There is one shape."));
        assert!(judge(&story, Ask::Count, "1") && !judge(&story, Ask::Count, "2"));
        assert!(!judge(&story, Ask::Colour(Which::First), &a.colour.to_string()), "nothing comes first here");
    }

    #[test]
    fn the_order_counts_where_there_is_one() {
        let mut rng = rng(9);
        let swap = Story::sample_training(StoryKind::Swap, &mut rng);
        let turned = Story { actors: swap.actors.iter().rev().cloned().collect(), ..swap.clone() };
        assert!(!judge(&swap, Ask::Caption, &turned.caption()));
        let pair = Story::sample_training(StoryKind::Pair, &mut rng);
        let turned = Story { actors: pair.actors.iter().rev().cloned().collect(), ..pair.clone() };
        assert!(judge(&pair, Ask::Caption, &turned.caption()));
        let doubled = Story { actors: vec![pair.actors[0].clone(), pair.actors[0].clone()], ..pair.clone() };
        assert!(!judge(&pair, Ask::Caption, &doubled.caption()));
    }
}
