//! T5's tokenizer, from `spiece.model` or from `tokenizer.json`.
//!
//! Follows `transformers.T5Tokenizer`: sentencepiece's normalisation, words by white space, the likeliest pieces of each
//! word, and an end token. The extra ids `<extra_id_0>` … come after the pieces, the last first.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::Precompiled;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use tokenizers::{AddedToken, Tokenizer};

use super::charsmap;
use super::sentencepiece::{PieceKind, SentencePieceModel};
use crate::config::read_json;
use crate::error::{ModelError, Result};

/// Turns prompts into ids of a fixed length, with a mask.
pub struct T5Tokenizer {
    tokenizer: Tokenizer,
    dir: PathBuf,
    eos_token_id: i64,
    pad_token_id: i64,
    pad_left: bool,
}

/// A prompt in ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct T5Encoding {
    /// The ids, padded.
    pub ids: Vec<i64>,
    /// 1 where there is text or its end, 0 where there is padding.
    pub mask: Vec<i64>,
    /// How many ids of text did not fit.
    pub dropped: usize,
}

/// What the two kinds of files say.
struct Source {
    vocab: Vec<(String, f64)>,
    charsmap: Vec<u8>,
    added: Vec<AddedToken>,
}

/// T5's vocabularies have the unknown token here, and `T5Tokenizer` takes it for granted.
const UNK_ID: usize = 2;
/// What is more than this was no prompt.
const MAX_EXTRA_IDS: u64 = 10_000;
/// `spiece.model` files have some 800 kB.
const MAX_MODEL_BYTES: u64 = 64 << 20;

impl T5Tokenizer {
    /// Loads the tokenizer folder `dir`.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] when files are missing, damaged, or do not fit each other.
    pub fn load(dir: &Path) -> Result<Self> {
        let optional = |name: &str| {
            let path = dir.join(name);
            if path.is_file() { read_json(&path) } else { Ok(Value::Null) }
        };
        let settings =
            Settings { config: optional("tokenizer_config.json")?, map: optional("special_tokens_map.json")? };
        let (json, spiece) = (dir.join("tokenizer.json"), dir.join("spiece.model"));
        // transformers takes the JSON file where there are both.
        let (path, source) = if json.is_file() {
            (json.clone(), Source::of_json(&json, &settings)?)
        } else if spiece.is_file() {
            (spiece.clone(), Source::of_spiece(&spiece, &settings)?)
        } else {
            let detail = "needs spiece.model or tokenizer.json".into();
            return Err(ModelError::Tokenizer { path: dir.to_owned(), detail });
        };
        let fail = |detail: String| ModelError::Tokenizer { path: path.clone(), detail };
        if source.vocab.len() <= UNK_ID {
            return Err(fail(format!("has {} pieces; a vocabulary has more", source.vocab.len())));
        }
        let id_of = |role: &'static str, default: &str| {
            let token = settings.token(role, default);
            let id = source.vocab.iter().position(|(piece, _)| *piece == token);
            id.map(|id| id as i64).ok_or_else(|| fail(format!("the {role} `{token}` is not in the vocabulary")))
        };
        let (eos_token_id, pad_token_id) = (id_of("eos_token", "</s>")?, id_of("pad_token", "<pad>")?);
        let model = Unigram::from(source.vocab, Some(UNK_ID), false).map_err(|error| fail(error.to_string()))?;
        let mut tokenizer = Tokenizer::new(model);
        if !source.charsmap.is_empty() {
            charsmap::check(&source.charsmap).map_err(|detail| fail(format!("precompiled_charsmap {detail}")))?;
            let normalizer = Precompiled::from(&source.charsmap).map_err(|error| fail(error.to_string()))?;
            tokenizer.with_normalizer(Some(normalizer)).map_err(|error| fail(error.to_string()))?;
        }
        let metaspace = Metaspace::new('▁', PrependScheme::Always, true);
        let split = vec![PreTokenizerWrapper::from(WhitespaceSplit), metaspace.into()];
        tokenizer.with_pre_tokenizer(Some(Sequence::new(split)));
        tokenizer.add_tokens(source.added).map_err(|error| fail(error.to_string()))?;
        let pad_left = settings.config["padding_side"] == "left";
        Ok(Self { tokenizer, dir: dir.to_owned(), eos_token_id, pad_token_id, pad_left })
    }

    /// The ids of one prompt: at most `length − 1` of text, the end, and padding.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] when the text cannot be split, which no text is known to do; [`ModelError::Request`] when
    /// `length` is 0.
    pub fn encode(&self, text: &str, length: usize) -> Result<T5Encoding> {
        if length == 0 {
            return Err(ModelError::request("max_sequence_length", "is 0; a prompt needs at least 1 token"));
        }
        let encoding = self
            .tokenizer
            .encode_fast(text, false)
            .map_err(|error| ModelError::Tokenizer { path: self.dir.clone(), detail: error.to_string() })?;
        let mut ids: Vec<i64> = encoding.get_ids().iter().map(|&id| i64::from(id)).collect();
        let dropped = ids.len().saturating_sub(length - 1);
        ids.truncate(length - 1);
        ids.push(self.eos_token_id);
        let padding = length - ids.len();
        let mut mask = vec![1; ids.len()];
        let at = if self.pad_left { 0 } else { ids.len() };
        ids.splice(at..at, std::iter::repeat_n(self.pad_token_id, padding));
        mask.splice(at..at, std::iter::repeat_n(0, padding));
        Ok(T5Encoding { ids, mask, dropped })
    }
}

impl Source {
    fn of_spiece(path: &Path, settings: &Settings) -> Result<Self> {
        let io = |source| ModelError::Io { path: path.to_owned(), source };
        let fail = |detail: String| ModelError::Tokenizer { path: path.to_owned(), detail };
        let bytes = std::fs::metadata(path).map_err(io)?.len();
        if bytes > MAX_MODEL_BYTES {
            return Err(fail(format!("has {bytes} bytes; at most {MAX_MODEL_BYTES} are read")));
        }
        let model = SentencePieceModel::parse(&std::fs::read(path).map_err(io)?).map_err(fail)?;
        let extra_ids = match &settings.config["extra_ids"] {
            Value::Null => 100,
            given => given.as_u64().filter(|&n| n <= MAX_EXTRA_IDS).ok_or_else(|| {
                fail(format!(
                    "extra_ids of tokenizer_config.json is {given}; it must be a number up to {MAX_EXTRA_IDS}"
                ))
            })?,
        };
        let own = |kind: PieceKind| kind != PieceKind::Normal;
        let mut tokens: Vec<(String, bool)> = model
            .pieces
            .iter()
            .filter(|piece| own(piece.kind))
            .map(|piece| (piece.text.clone(), piece.kind == PieceKind::Control))
            .collect();
        tokens.extend((0..extra_ids).map(|n| (format!("<extra_id_{n}>"), true)));
        let mut vocab: Vec<(String, f64)> =
            model.pieces.into_iter().map(|piece| (piece.text, f64::from(piece.score))).collect();
        vocab.extend((0..extra_ids).rev().map(|n| (format!("<extra_id_{n}>"), 0.0)));
        let mut added = settings.listed();
        for (content, special) in tokens.into_iter().chain(settings.named()) {
            if added.iter().all(|known| known.content != content) {
                added.push(AddedToken::from(content, special).normalized(false));
            }
        }
        Ok(Self { vocab, charsmap: model.precompiled_charsmap, added })
    }

    fn of_json(path: &Path, settings: &Settings) -> Result<Self> {
        let fail = |detail: String| ModelError::Tokenizer { path: path.to_owned(), detail };
        let mut json: Value = read_json(path)?;
        let kind = json["model"]["type"].as_str().unwrap_or("Unigram").to_owned();
        if kind != "Unigram" {
            return Err(fail(format!("`model.type` is {kind}; T5's is Unigram")));
        }
        let vocab: Vec<(String, f64)> = serde_json::from_value(json["model"]["vocab"].take())
            .map_err(|error| fail(format!("`model.vocab` is no list of pieces with scores: {error}")))?;
        let mut added = settings.listed();
        for token in json["added_tokens"].as_array().into_iter().flatten() {
            let token = described(token);
            if added.iter().all(|known| known.content != token.content) {
                added.push(token);
            }
        }
        for (content, special) in settings.named() {
            if added.iter().all(|known| known.content != content) {
                added.push(AddedToken::from(content, special));
            }
        }
        let normalizers = match json["normalizer"].take() {
            Value::Object(mut one) if one.contains_key("normalizers") => one["normalizers"].take(),
            one => Value::Array(vec![one]),
        };
        let precompiled = normalizers.as_array().into_iter().flatten().find(|one| one["type"] == "Precompiled");
        let charsmap = match precompiled.and_then(|one| one["precompiled_charsmap"].as_str()) {
            Some(text) => BASE64.decode(text).map_err(|error| fail(format!("`precompiled_charsmap`: {error}")))?,
            None => Vec::new(),
        };
        Ok(Self { vocab, charsmap, added })
    }
}

/// `tokenizer_config.json`, then `special_tokens_map.json`.
struct Settings {
    config: Value,
    map: Value,
}

impl Settings {
    /// A special token, which the files give as a string or as an object with `content`.
    fn token(&self, role: &str, default: &str) -> String {
        let given = |value: &Value| value.as_str().or(value["content"].as_str()).map(str::to_owned);
        given(&self.config[role]).or_else(|| given(&self.map[role])).unwrap_or_else(|| default.to_owned())
    }

    /// The end, unknown and padding tokens, which are found in a text as they are.
    fn named(&self) -> [(String, bool); 3] {
        [("eos_token", "</s>"), ("unk_token", "<unk>"), ("pad_token", "<pad>")]
            .map(|(role, default)| (self.token(role, default), true))
    }

    /// The tokens of `added_tokens_decoder`, by id.
    fn listed(&self) -> Vec<AddedToken> {
        let listed = self.config["added_tokens_decoder"].as_object();
        let mut tokens: Vec<(u64, AddedToken)> =
            listed.into_iter().flatten().filter_map(|(id, token)| Some((id.parse().ok()?, described(token)))).collect();
        tokens.sort_by_key(|(id, _)| *id);
        tokens.into_iter().map(|(_, token)| token).collect()
    }
}

/// A token with its flags, as the files describe it.
fn described(token: &Value) -> AddedToken {
    let flag = |name: &str| token[name].as_bool();
    let special = flag("special").unwrap_or(false);
    AddedToken::from(token["content"].as_str().unwrap_or_default(), special)
        .single_word(flag("single_word").unwrap_or(false))
        .lstrip(flag("lstrip").unwrap_or(false))
        .rstrip(flag("rstrip").unwrap_or(false))
        .normalized(flag("normalized").unwrap_or(!special))
}
