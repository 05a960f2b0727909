//! The T5 tokenizer of a small world: a SentencePiece unigram model in which every word of the world is one piece and
//! everything else is spelled.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use sango_shapes::VOCABULARY;
use serde_json::{Value, json};
use tokenizers::Tokenizer;

/// Tokens of a prompt, padding included: what the pipeline asks for.
pub const LENGTH: usize = 128;
const PAD: &str = "<pad>";
const END: &str = "</s>";
const UNKNOWN: &str = "<unk>";
/// Tokens that T5 keeps for masked spans; `transformers` appends them.
const EXTRA: usize = 100;
/// SentencePiece's mark of a space.
const SPACE: char = '▁';

/// The pieces with their scores, and the tokenizer made from them.
#[derive(Debug)]
pub struct T5Tokenizer {
    pieces: Vec<(String, f32)>,
    tokenizer: Tokenizer,
}

impl T5Tokenizer {
    /// The tokenizer of the shapes world.
    ///
    /// # Errors
    /// When the library rejects it (never).
    pub fn shapes() -> Result<Self> {
        let mut pieces: Vec<(String, f32)> = [PAD, END, UNKNOWN].map(|token| (token.to_owned(), 0.0)).into();
        // Likely enough that a word is never spelled, nor cut into shorter words.
        for word in VOCABULARY.iter().filter(|word| word.len() > 1 || **word == "a") {
            pieces.push((format!("{SPACE}{word}"), -4.0));
        }
        for word in ["a", "the", "small", "large"] {
            let (first, rest) = word.split_at(1);
            pieces.push((format!("{SPACE}{}{rest}", first.to_uppercase()), -4.0));
        }
        pieces.extend([",", "."].map(|mark| (mark.to_owned(), -4.0)));
        let characters = (' '..='~').filter(|c| !matches!(c, ' ' | ',' | '.'));
        pieces.extend(characters.map(|c| (c.to_string(), -12.0)));
        pieces.push((SPACE.to_string(), -12.0));
        let tokenizer = Tokenizer::from_bytes(serde_json::to_vec(&definition(&pieces))?).map_err(|e| anyhow!(e))?;
        Ok(Self { pieces, tokenizer })
    }

    /// Number of tokens.
    pub fn vocab_size(&self) -> i64 {
        (self.pieces.len() + EXTRA) as i64
    }

    /// Ids of a prompt with its end, cut to [`LENGTH`] and padded, and how many of them are no padding.
    ///
    /// # Errors
    /// When the library fails (never, on text).
    pub fn encode(&self, text: &str) -> Result<(Vec<i64>, usize)> {
        let encoding = self.tokenizer.encode(text, true).map_err(|e| anyhow!(e))?;
        let mut ids: Vec<i64> = encoding.get_ids().iter().map(|&id| i64::from(id)).collect();
        if ids.len() > LENGTH {
            ids.truncate(LENGTH - 1);
            ids.push(1);
        }
        let length = ids.len();
        ids.resize(LENGTH, 0);
        Ok((ids, length))
    }

    /// Writes `spiece.model`, `tokenizer.json` and what `transformers` reads beside them.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let extra: Vec<String> = (0..EXTRA).map(|i| format!("<extra_id_{i}>")).collect();
        let config = json!({
            "tokenizer_class": "T5Tokenizer",
            "model_max_length": LENGTH,
            "pad_token": PAD,
            "eos_token": END,
            "unk_token": UNKNOWN,
            "extra_ids": EXTRA,
            "additional_special_tokens": extra,
        });
        let special = json!({
            "pad_token": PAD, "eos_token": END, "unk_token": UNKNOWN, "additional_special_tokens": extra,
        });
        let write = |name: &str, bytes: Vec<u8>| {
            let path = dir.join(name);
            std::fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))
        };
        write("spiece.model", self.sentencepiece())?;
        write("tokenizer.json", serde_json::to_vec(&definition(&self.pieces))?)?;
        write("tokenizer_config.json", serde_json::to_vec_pretty(&config)?)?;
        write("special_tokens_map.json", serde_json::to_vec_pretty(&special)?)
    }

    /// The `ModelProto` of SentencePiece.
    fn sentencepiece(&self) -> Vec<u8> {
        const UNIGRAM: u64 = 1;
        const NONE: u64 = u64::MAX; // −1 as SentencePiece writes it
        let mut model = Vec::new();
        for (piece, score) in &self.pieces {
            let kind = match piece.as_str() {
                UNKNOWN => 2,
                PAD | END => 3,
                _ => 1,
            };
            let mut message = Vec::new();
            bytes(&mut message, 1, piece.as_bytes());
            varint(&mut message, 2 << 3 | 5);
            message.extend(score.to_le_bytes());
            number(&mut message, 3, kind);
            bytes(&mut model, 1, &message);
        }
        let mut trainer = Vec::new();
        number(&mut trainer, 3, UNIGRAM);
        number(&mut trainer, 4, self.pieces.len() as u64);
        for (field, id) in [(40, 2), (41, NONE), (42, 1), (43, 0)] {
            number(&mut trainer, field, id);
        }
        for (field, token) in [(45, UNKNOWN), (47, END), (48, PAD)] {
            bytes(&mut trainer, field, token.as_bytes());
        }
        bytes(&mut model, 2, &trainer);
        let mut normalizer = Vec::new();
        bytes(&mut normalizer, 1, b"identity");
        for field in [3, 4, 5] {
            number(&mut normalizer, field, 1); // a space in front, none twice, all of them marked
        }
        bytes(&mut model, 3, &normalizer);
        model
    }
}

/// Appends a field of bytes to a protocol-buffers message.
fn bytes(message: &mut Vec<u8>, field: u64, value: &[u8]) {
    varint(message, field << 3 | 2);
    varint(message, value.len() as u64);
    message.extend(value);
}

/// Appends a field that is a number.
fn number(message: &mut Vec<u8>, field: u64, value: u64) {
    varint(message, field << 3);
    varint(message, value);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

/// The `tokenizer.json` of these pieces, as `transformers` would save it.
fn definition(pieces: &[(String, f32)]) -> Value {
    let mut vocab: Vec<Value> = pieces.iter().map(|(piece, score)| json!([piece, score])).collect();
    vocab.extend((0..EXTRA).rev().map(|i| json!([format!("<extra_id_{i}>"), 0.0])));
    let special = |id: usize, content: &str| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    };
    let mut added: Vec<Value> = [PAD, END, UNKNOWN].iter().enumerate().map(|(id, token)| special(id, token)).collect();
    added.extend((0..EXTRA).rev().map(|i| special(pieces.len() + EXTRA - 1 - i, &format!("<extra_id_{i}>"))));
    let space = json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": true});
    let token = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
    let sequence = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, space]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [sequence("A"), token(END)],
            "pair": [sequence("A"), token(END), sequence("B"), token(END)],
            "special_tokens": {END: {"id": END, "ids": [1], "tokens": [END]}},
        },
        "decoder": space,
        "model": {"type": "Unigram", "unk_id": 2, "vocab": vocab, "byte_fallback": false},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_one_token() {
        let tokenizer = T5Tokenizer::shapes().expect("a tokenizer");
        for (text, tokens) in [
            ("a small green star moves left over a white background", 11),
            ("large red circle, top left, blue background", 10),
            ("A small ring spins.", 6),
            ("", 1),
        ] {
            let (ids, length) = tokenizer.encode(text).expect("ids");
            assert_eq!((ids.len(), length), (LENGTH, tokens), "{text:?}");
            assert!(ids[..length - 1].iter().all(|&id| id > 2), "{text:?}: {ids:?}");
            assert_eq!((ids[length - 1], ids[length]), (1, 0));
        }
        let (ids, length) = tokenizer.encode("zebra §").expect("ids");
        assert!(length > 6 && ids.contains(&2), "spelled, and unknown where no letter is");
        assert_eq!(tokenizer.encode(&"star ".repeat(300)).expect("ids").1, LENGTH);
    }
}
