//! CLIP's byte-level BPE tokenizer, from `vocab.json` + `merges.txt` or from `tokenizer.json`.
//!
//! Follows `transformers.CLIPTokenizer`: NFC, runs of white space to one space, lower case, then BPE with `</w>`.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tokenizers::{Tokenizer, TruncationDirection, TruncationParams, TruncationStrategy};

use crate::config::{read_json, read_text};
use crate::error::{ModelError, Result};

const SPLIT: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Turns prompts into ids of a fixed length.
pub struct CLIPTokenizer {
    tokenizer: Tokenizer,
    dir: PathBuf,
    pad_token_id: i64,
    model_max_length: usize,
}

impl CLIPTokenizer {
    /// Loads the tokenizer folder `dir`. Ids are padded and truncated to `model_max_length` of
    /// `tokenizer_config.json`, at most `max_position_embeddings`.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] when files are missing, damaged, or do not fit each other.
    pub fn load(dir: &Path, max_position_embeddings: usize) -> Result<Self> {
        let settings = Settings::read(dir)?;
        let fail = |detail: String| ModelError::Tokenizer { path: dir.to_owned(), detail };
        let (vocab, merges) = vocab_and_merges(dir)?;
        let id_of = |role: &str, token: &str| {
            vocab
                .get(token)
                .and_then(Value::as_u64)
                .ok_or_else(|| fail(format!("{role} `{token}` is not in the vocabulary")))
        };
        let bos = (settings.token("bos_token", "<|startoftext|>"), "bos_token");
        let eos = (settings.token("eos_token", "<|endoftext|>"), "eos_token");
        let unk = (settings.token("unk_token", &eos.0), "unk_token");
        let pad = (settings.token("pad_token", &eos.0), "pad_token");
        let mut added: Vec<Value> = Vec::new();
        for (token, role) in [&bos, &eos, &unk, &pad] {
            if added.iter().all(|known| known["content"] != token.as_str()) {
                added.push(settings.added_token(token, id_of(role, token)?));
            }
        }
        added.sort_by_key(|token| token["id"].as_u64());
        let (bos_id, eos_id) = (id_of(bos.1, &bos.0)?, id_of(eos.1, &eos.0)?);
        let pad_token_id = id_of(pad.1, &pad.0)? as i64;
        let description = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": { "type": "Sequence", "normalizers": [
                { "type": "NFC" },
                { "type": "Replace", "pattern": { "Regex": r"\s+" }, "content": " " },
                { "type": "Lowercase" },
            ] },
            "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
                { "type": "Split", "pattern": { "Regex": SPLIT }, "behavior": "Removed", "invert": true },
                { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
            ] },
            "post_processor": {
                "type": "RobertaProcessing", "sep": [eos.0, eos_id], "cls": [bos.0, bos_id],
                "trim_offsets": false, "add_prefix_space": false,
            },
            "decoder": null,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": unk.0, "continuing_subword_prefix": "",
                "end_of_word_suffix": "</w>", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": vocab, "merges": merges,
            },
        });
        let mut tokenizer = Tokenizer::from_bytes(description.to_string())
            .map_err(|error| fail(format!("not a CLIP tokenizer: {error}")))?;
        let model_max_length = settings.model_max_length().min(max_position_embeddings);
        if model_max_length < 2 {
            return Err(fail(format!("model_max_length is {model_max_length}; a prompt needs at least 2 tokens")));
        }
        tokenizer
            .with_truncation(Some(TruncationParams {
                direction: TruncationDirection::Right,
                max_length: model_max_length,
                strategy: TruncationStrategy::LongestFirst,
                stride: 0,
            }))
            .map_err(|error| fail(error.to_string()))?;
        Ok(Self { tokenizer, dir: dir.to_owned(), pad_token_id, model_max_length })
    }

    /// Ids per prompt.
    pub fn model_max_length(&self) -> usize {
        self.model_max_length
    }

    /// The ids of one prompt: start, at most `model_max_length − 2` of text, end, padding.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] when the text cannot be split, which no text is known to do.
    pub fn encode(&self, text: &str) -> Result<Vec<i64>> {
        let encoding = self
            .tokenizer
            .encode_fast(text, true)
            .map_err(|error| ModelError::Tokenizer { path: self.dir.clone(), detail: error.to_string() })?;
        let mut ids: Vec<i64> = encoding.get_ids().iter().map(|&id| i64::from(id)).collect();
        ids.resize(self.model_max_length, self.pad_token_id);
        Ok(ids)
    }
}

/// `tokenizer_config.json`, then `special_tokens_map.json`.
struct Settings {
    config: Value,
    special_tokens: Value,
}

impl Settings {
    fn read(dir: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = dir.join(name);
            if path.is_file() { read_json(&path) } else { Ok(Value::Null) }
        };
        Ok(Self { config: read("tokenizer_config.json")?, special_tokens: read("special_tokens_map.json")? })
    }

    /// A special token, which the files give as a string or as an object with `content`.
    fn token(&self, role: &str, default: &str) -> String {
        let given = |value: &Value| value.as_str().or(value["content"].as_str()).map(str::to_owned);
        given(&self.config[role]).or_else(|| given(&self.special_tokens[role])).unwrap_or_else(|| default.to_owned())
    }

    fn model_max_length(&self) -> usize {
        self.config["model_max_length"].as_u64().map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX))
    }

    /// How `tokenizers` describes a special token: with the flags of `added_tokens_decoder` where that lists it.
    fn added_token(&self, content: &str, id: u64) -> Value {
        let listed = self.config["added_tokens_decoder"].as_object();
        let listed = listed.and_then(|tokens| tokens.values().find(|token| token["content"] == content));
        let flag = |name: &str| listed.and_then(|token| token[name].as_bool()).unwrap_or(false);
        json!({
            "id": id, "content": content, "special": true, "single_word": flag("single_word"),
            "lstrip": flag("lstrip"), "rstrip": flag("rstrip"), "normalized": flag("normalized"),
        })
    }
}

/// The vocabulary and the merges, from the two files of CLIP checkpoints or out of a `tokenizer.json`.
fn vocab_and_merges(dir: &Path) -> Result<(Map<String, Value>, Value)> {
    let fail = |path: &Path, detail: &str| ModelError::Tokenizer { path: path.to_owned(), detail: detail.to_owned() };
    let (vocab_path, merges_path) = (dir.join("vocab.json"), dir.join("merges.txt"));
    if vocab_path.is_file() && merges_path.is_file() {
        let vocab = read_json(&vocab_path)?;
        let merges: Vec<Value> = read_text(&merges_path)?
            .lines()
            .filter(|line| !line.starts_with("#version") && !line.is_empty())
            .map(|line| match line.split_once(' ') {
                Some((left, right)) => Ok(json!([left, right])),
                None => Err(fail(&merges_path, &format!("a merge is two symbols and a space, not `{line}`"))),
            })
            .collect::<Result<_>>()?;
        return Ok((vocab, Value::Array(merges)));
    }
    let path = dir.join("tokenizer.json");
    if !path.is_file() {
        return Err(fail(dir, "needs vocab.json and merges.txt, or tokenizer.json"));
    }
    let mut json: Value = read_json(&path)?;
    let Value::Object(vocab) = json["model"]["vocab"].take() else {
        return Err(fail(&path, "`model.vocab` is not an object; only BPE tokenizers can be read"));
    };
    Ok((vocab, json["model"]["merges"].take()))
}
