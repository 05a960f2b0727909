//! The CLIP tokenizer of a small world: byte-pair merges learned from its words, every other word spelled in bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

/// Positions of the text encoder: prompts are padded or cut to this.
pub const POSITIONS: usize = 77;
const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
const WORD_END: &str = "</w>";

/// Vocabulary and merges in the form of `vocab.json` and `merges.txt`.
#[derive(Clone, Debug, PartialEq)]
pub struct Tokenizer {
    tokens: Vec<String>,
    ids: BTreeMap<String, i64>,
    ranks: BTreeMap<(String, String), usize>,
    merges: Vec<(String, String)>,
}

impl Tokenizer {
    /// Learns merges until each of `words` is one token.
    pub fn learn<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let distinct: BTreeSet<&str> = words.into_iter().collect();
        let mut spelled: Vec<Vec<String>> = distinct.iter().map(|w| spell(w)).collect();
        let mut merges: Vec<(String, String)> = Vec::new();
        loop {
            let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
            for word in &spelled {
                for pair in word.windows(2) {
                    *counts.entry((pair[0].clone(), pair[1].clone())).or_default() += 1;
                }
            }
            // The most frequent pair; of equals the first in order, so that the result depends on the words alone.
            let best = counts.into_iter().max_by(|a, b| a.1.cmp(&b.1).then(b.0.cmp(&a.0)));
            let Some((pair, _)) = best else { break };
            for word in &mut spelled {
                merge(word, &pair);
            }
            merges.push(pair);
        }
        let letters: Vec<String> = byte_letters().into_iter().map(String::from).collect();
        let mut tokens = letters.clone();
        tokens.extend(letters.iter().map(|l| format!("{l}{WORD_END}")));
        for (a, b) in &merges {
            let joined = format!("{a}{b}");
            if !tokens.contains(&joined) {
                tokens.push(joined);
            }
        }
        tokens.push(START.into());
        tokens.push(END.into());
        let ids = tokens.iter().zip(0i64..).map(|(t, i)| (t.clone(), i)).collect();
        let ranks = merges.iter().cloned().zip(0..).collect();
        Self { tokens, ids, ranks, merges }
    }

    /// Number of tokens.
    pub fn vocab_size(&self) -> i64 {
        self.tokens.len() as i64
    }

    /// Id of the first token of every prompt.
    pub fn start(&self) -> i64 {
        self.vocab_size() - 2
    }

    /// Id of the last token of every prompt, which also pads it.
    pub fn end(&self) -> i64 {
        self.vocab_size() - 1
    }

    /// Ids of a prompt between start and end, cut and padded to [`POSITIONS`].
    pub fn encode(&self, text: &str) -> Vec<i64> {
        let mut ids = vec![self.start()];
        for word in split_words(&text.to_lowercase()) {
            let mut symbols = spell(word);
            while let Some(pair) = symbols
                .windows(2)
                .filter_map(|p| {
                    let pair = (p[0].clone(), p[1].clone());
                    self.ranks.get(&pair).map(|rank| (*rank, pair))
                })
                .min()
            {
                merge(&mut symbols, &pair.1);
            }
            ids.extend(symbols.iter().map(|s| self.ids.get(s).copied().unwrap_or(self.end())));
        }
        ids.truncate(POSITIONS - 1);
        ids.resize(POSITIONS, self.end());
        ids
    }

    /// Number of tokens of a prompt with start and end, before padding.
    pub fn length(&self, text: &str) -> usize {
        let ids = self.encode(text);
        ids.iter().position(|&id| id == self.end()).map_or(ids.len(), |end| end + 1)
    }

    /// Writes the four files that `transformers` reads; prompts are padded or cut to `length` tokens there.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, dir: &Path, length: i64) -> Result<()> {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let mut merges = String::from("#version: 0.2\n");
        for (a, b) in &self.merges {
            merges.push_str(&format!("{a} {b}\n"));
        }
        let mut vocab = serde_json::Map::new();
        for (token, id) in self.tokens.iter().zip(0..) {
            vocab.insert(token.clone(), json!(id));
        }
        let config = json!({
            "add_prefix_space": false,
            "bos_token": START,
            "clean_up_tokenization_spaces": true,
            "do_lower_case": true,
            "eos_token": END,
            "errors": "replace",
            "model_max_length": length,
            "pad_token": END,
            "tokenizer_class": "CLIPTokenizer",
            "unk_token": END,
        });
        let special = json!({"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END});
        let write = |name: &str, text: String| {
            let path = dir.join(name);
            std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
        };
        write("merges.txt", merges)?;
        write("vocab.json", serde_json::to_string(&vocab)?)?;
        write("tokenizer_config.json", serde_json::to_string_pretty(&config)?)?;
        write("special_tokens_map.json", serde_json::to_string_pretty(&special)?)
    }
}

/// The letter that stands for each byte in GPT-2's byte-level scheme, in the order of CLIP's vocabulary.
fn byte_letters() -> Vec<char> {
    let mut letters = Vec::new();
    let mut others = Vec::new();
    for byte in 0u32..256 {
        match byte {
            0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => letters.extend(char::from_u32(byte)),
            _ => others.extend(char::from_u32(256 + others.len() as u32)),
        }
    }
    letters.extend(others);
    letters
}

/// The letters of a word, the last with the end mark.
fn spell(word: &str) -> Vec<String> {
    let letters = byte_letters();
    // Bytes that stand for themselves come first; the others follow in order.
    let plain: Vec<u8> = (0..=255u8)
        .filter(|b| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff))
        .chain((0..=255u8).filter(|b| !matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)))
        .collect();
    let mut symbols: Vec<String> =
        word.bytes().filter_map(|b| plain.iter().position(|&p| p == b).map(|i| letters[i].to_string())).collect();
    if let Some(last) = symbols.last_mut() {
        last.push_str(WORD_END);
    }
    symbols
}

fn merge(word: &mut Vec<String>, pair: &(String, String)) {
    let mut i = 0;
    while i + 1 < word.len() {
        if word[i] == pair.0 && word[i + 1] == pair.1 {
            let right = word.remove(i + 1);
            word[i].push_str(&right);
        }
        i += 1;
    }
}

/// English contractions, runs of letters, single digits, and runs of anything else that is not space: CLIP's pattern.
fn split_words(text: &str) -> Vec<&str> {
    const CONTRACTIONS: [&str; 7] = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"];
    let other = |c: char| !c.is_whitespace() && !c.is_alphabetic() && !c.is_numeric();
    let run = |text: &str, of: &dyn Fn(char) -> bool| text.find(|c| !of(c)).unwrap_or(text.len());
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let contraction = CONTRACTIONS.iter().find(|c| rest.starts_with(**c));
        let length = match contraction {
            Some(contraction) => contraction.len(),
            None if first.is_alphabetic() => run(rest, &char::is_alphabetic),
            None if first.is_numeric() => first.len_utf8(),
            None => run(rest, &other),
        };
        let (word, after) = rest.split_at(length);
        words.push(word);
        rest = after.trim_start();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer() -> Tokenizer {
        Tokenizer::learn(sango_shapes::VOCABULARY.iter().copied())
    }

    #[test]
    fn every_word_of_the_world_is_one_token() {
        let _generator = crate::generator();
        let tokenizer = tokenizer();
        for word in sango_shapes::VOCABULARY {
            assert_eq!(tokenizer.length(word), 3, "{word:?}");
        }
        let text = "a large red circle at the top left on a blue background";
        assert_eq!(tokenizer.length(text), text.split(' ').count() + 2);
    }

    #[test]
    fn ids_are_stable_and_padded_with_the_end() {
        let _generator = crate::generator();
        let tokenizer = tokenizer();
        let ids = tokenizer.encode("A red  circle, left");
        assert_eq!(ids.len(), POSITIONS);
        assert_eq!(ids[0], tokenizer.start());
        assert!(ids[6..].iter().all(|&id| id == tokenizer.end()));
        assert!(ids[1..6].iter().all(|&id| id < tokenizer.start()));
        assert_eq!(ids, tokenizer.encode("a red circle , left"));
        // In CLIP's order: 256 letters, then the same with the end of a word.
        assert_eq!(tokenizer.encode("!")[1], 256);
        assert_eq!(tokenizer.encode("!a")[1..3], [256, 256 + 64]);
    }

    #[test]
    fn unknown_words_are_spelled() {
        let _generator = crate::generator();
        let tokenizer = tokenizer();
        assert!(tokenizer.length("zebra") > 5);
        assert!(tokenizer.length("赤") >= 5);
        assert_eq!(tokenizer.encode(&"zebra ".repeat(100)).len(), POSITIONS);
        assert_eq!(tokenizer.encode(&"zebra ".repeat(100))[POSITIONS - 1], tokenizer.end());
    }
}
