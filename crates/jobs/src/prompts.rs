//! From what was understood of a clip to the prompts of a picture and of a video.
//!
//! A caption tells what happens, and a model for pictures knows what things look like: of "a red circle moves right over a
//! blue background" it is told "a red circle at the top left on a blue background", for what moves right begins at the left.
//! What is no such sentence stays as it is.

use crate::task::MAX_PROMPT_CHARS;

/// Words that begin to tell what something does. What is before them says what it is.
const DOES: &[&str] = &[
    "moves",
    "moving",
    "goes",
    "going",
    "slides",
    "sliding",
    "drifts",
    "drifting",
    "flies",
    "flying",
    "floats",
    "floating",
    "spins",
    "spinning",
    "turns",
    "turning",
    "rotates",
    "rotating",
    "grows",
    "growing",
    "shrinks",
    "shrinking",
    "appears",
    "appearing",
    "disappears",
    "disappearing",
    "stays",
    "staying",
    "stands",
    "standing",
];

/// The prompt of a picture that shows how a clip begins, of which `text` tells what happens.
///
/// ```
/// use sango_jobs::image_prompt;
///
/// assert_eq!(image_prompt("A large red circle moves right over a blue background."),
///            "a large red circle at the top left on a blue background");
/// assert_eq!(image_prompt("Two dogs play in the snow."), "Two dogs play in the snow.");
/// ```
pub fn image_prompt(text: &str) -> String {
    let text = video_prompt(text);
    still(&text).unwrap_or(text)
}

/// The prompt of a video of what `text` tells: the text itself, on one line and no longer than a prompt may be.
pub fn video_prompt(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_PROMPT_CHARS) {
        Some((end, _)) => line[..end].trim_end().to_owned(),
        None => line,
    }
}

/// What can be seen at the beginning, where the text is a sentence about things that do something before a background.
fn still(text: &str) -> Option<String> {
    let sentence = text.trim_end_matches(['.', '!']);
    let (told, background) = [" over a ", " over the ", " on a ", " on the "]
        .into_iter()
        .find_map(|words| sentence.rsplit_once(words))
        .filter(|(_, place)| place.ends_with(" background"))?;
    // What follows comes later.
    let begins = told.split(", then ").next().unwrap_or(told);
    let things: Vec<&str> =
        begins.split(", ").flat_map(|part| part.split(" and ")).map(thing).filter(|it| !it.is_empty()).collect();
    if things.is_empty() || (things.concat().len() == begins.len() && !sentence.contains(" over ")) {
        return None;
    }
    let place = match things[..] {
        [one] if !says_where(one) => begins_at(begins),
        _ => "",
    };
    let mut still = format!("{}{place} on a {background}", things.join(" and "));
    // A capital begins a sentence, which this no longer is.
    if let Some(first) = still.chars().next().filter(|first| first.is_uppercase()) {
        still.replace_range(..first.len_utf8(), &first.to_lowercase().to_string());
    }
    Some(still)
}

/// Where a thing begins that does this, so that it has room for it.
fn begins_at(told: &str) -> &'static str {
    let words: Vec<String> = told.split(' ').map(str::to_lowercase).collect();
    let does = words.iter().position(|word| DOES.contains(&word.as_str()));
    let Some(does) = does else { return "" };
    let after = |direction: &str| words[does..].iter().any(|word| word.trim_end_matches("wards") == direction);
    match () {
        () if after("right") => " at the top left",
        () if after("left") => " at the top right",
        () if after("up") => " at the bottom left",
        () if after("down") => " at the top left",
        // It stays where it is.
        () => " in the center",
    }
}

/// Whether the words say where a thing is.
fn says_where(thing: &str) -> bool {
    [" at ", " in ", " on "].iter().any(|word| thing.contains(word))
}

/// The words of a part of a sentence that say what something is.
fn thing(part: &str) -> &str {
    let does = |word: &str| DOES.contains(&word.to_lowercase().as_str());
    let words = part.split(' ').scan(0, |at, word| {
        let start = *at;
        *at += word.len() + 1;
        Some((start, word))
    });
    let end = words.into_iter().find(|(_, word)| does(word)).map_or(part.len(), |(start, _)| start);
    part[..end].trim_end().trim_end_matches(" is").trim_end_matches(" that")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_become_what_the_first_moment_shows() {
        for (text, wanted) in [
            (
                "a large red circle moves right over a blue background",
                "a large red circle at the top left on a blue background",
            ),
            (
                "a large red circle moves left over a blue background",
                "a large red circle at the top right on a blue background",
            ),
            (
                "a large red circle moves upwards over a blue background",
                "a large red circle at the bottom left on a blue background",
            ),
            (
                "a small green star spins over a white background.",
                "a small green star in the center on a white background",
            ),
            (
                "A large green star moves up, then shrinks over a blue background",
                "a large green star at the bottom left on a blue background",
            ),
            (
                "a small red star moves left and a small blue ring grows over a gray background",
                "a small red star and a small blue ring on a gray background",
            ),
            (
                "a large red star, then a small blue ring over a gray background",
                "a large red star on a gray background",
            ),
            (
                "a small red star at the top left on a gray background",
                "a small red star at the top left on a gray background",
            ),
            (
                "A circle that is moving down over the black background",
                "a circle at the top left on a black background",
            ),
        ] {
            assert_eq!(image_prompt(text), wanted, "{text}");
            assert_eq!(video_prompt(text), text);
        }
    }

    #[test]
    fn other_texts_stay_as_they_are() {
        for text in [
            "Two dogs play in the snow.",
            "red",
            "A woman moves to the kitchen and cuts an onion.",
            "over a background",
            "moves over a blue background",
            "",
        ] {
            assert_eq!(image_prompt(text), text);
        }
        assert_eq!(video_prompt(" a cat \n on a mat\t"), "a cat on a mat");
        assert_eq!(video_prompt(&"é".repeat(3_000)).chars().count(), MAX_PROMPT_CHARS);
    }
}
