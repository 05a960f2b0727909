//! The tokenizer of a SmolVLM2 folder, as `AutoTokenizer` makes it of `tokenizer.json` and `tokenizer_config.json`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};
use tokenizers::{AddedToken, Tokenizer};

use super::text_stream::TextStream;
use crate::config::read_json;
use crate::error::{ModelError, Result};

/// The roles that a template can name and that are never split.
const SPECIAL_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Text to ids and back. Cheap to clone.
#[derive(Clone)]
pub struct SmolVLMTokenizer {
    tokenizer: Arc<Tokenizer>,
    dir: PathBuf,
    /// Tokens by role, `bos_token` and the like, and roles of the model's own such as `image_token`.
    named: Map<String, Value>,
    bos: Option<String>,
    eos_token_id: Option<u32>,
    around: Around,
}

/// Ids that `tokenizer_config.json` wants around a text that does not begin with `bos_token`.
#[derive(Debug, Clone, Copy, Default)]
struct Around {
    bos: Option<u32>,
    eos: Option<u32>,
}

impl SmolVLMTokenizer {
    /// Loads `tokenizer.json`, with the tokens and roles of `tokenizer_config.json`, and of `special_tokens_map.json`
    /// and `added_tokens.json` in folders older than transformers 4.34.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] when files are missing, damaged, or do not fit each other.
    pub fn load(dir: &Path) -> Result<Self> {
        let fail = |path: &Path, detail: String| ModelError::Tokenizer { path: path.to_owned(), detail };
        let path = dir.join("tokenizer.json");
        if !path.is_file() {
            let detail = "has no tokenizer.json; take it from the folder that the model was published in";
            return Err(fail(dir, detail.into()));
        }
        let mut tokenizer =
            Tokenizer::from_file(&path).map_err(|error| fail(&path, format!("is not a tokenizer: {error}")))?;
        // Truncation would cut pictures out of a prompt, and the reference turns both off for a prompt too.
        tokenizer.with_truncation(None).map_err(|error| fail(&path, error.to_string()))?;
        tokenizer.with_padding(None);
        let config = Config::read(dir)?;
        tokenizer.add_tokens(config.added.clone()).map_err(|error| fail(&path, error.to_string()))?;
        tokenizer.add_special_tokens(config.special.clone()).map_err(|error| fail(&path, error.to_string()))?;
        let id_of =
            |role: &str| config.named.get(role).and_then(Value::as_str).and_then(|token| tokenizer.token_to_id(token));
        let eos_token_id = id_of("eos_token");
        let mut around = Around::default();
        if config.add_bos.is_some() || config.add_eos.is_some() || tokenizer.get_post_processor().is_none() {
            around.bos = config.add_bos.unwrap_or(false).then(|| id_of("bos_token")).flatten();
            around.eos = config.add_eos.unwrap_or(false).then_some(eos_token_id).flatten();
            tokenizer.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
        }
        let bos = config.named.get("bos_token").and_then(Value::as_str).map(str::to_owned);
        Ok(Self { tokenizer: Arc::new(tokenizer), dir: dir.to_owned(), named: config.named, bos, eos_token_id, around })
    }

    /// The ids of a rendered conversation. Special tokens spelled in it become their ids, also where a user wrote
    /// them, as in the reference.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] when the text cannot be split, which no text is known to do.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let bare = self.bos.as_deref().is_some_and(|bos| text.starts_with(bos));
        let encoding = self.tokenizer.encode_fast(text, !bare).map_err(|error| self.error(error))?;
        let mut ids = encoding.get_ids().to_vec();
        if !bare {
            ids.splice(0..0, self.around.bos);
            ids.extend(self.around.eos);
        }
        Ok(ids)
    }

    /// The text of `ids`, without special tokens where `skip_special_tokens`. Bytes that are not UTF-8 become U+FFFD,
    /// ids that do not exist nothing.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] when the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        self.tokenizer.decode(ids, skip_special_tokens).map_err(|error| self.error(error))
    }

    /// A decoder of one answer, to be given one id at a time. It stops at any of the texts `stop`.
    pub fn stream(&self, stop: &[String]) -> TextStream {
        TextStream::new(self.clone(), stop)
    }

    /// The id of a token, spelled as in the vocabulary.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// The token that ends an answer.
    pub fn eos_token_id(&self) -> Option<u32> {
        self.eos_token_id
    }

    /// Ids in use, those of added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// The token with the role `role` (`image_token`), or `default`.
    pub(super) fn named(&self, role: &str, default: &str) -> String {
        self.named.get(role).and_then(Value::as_str).unwrap_or(default).to_owned()
    }

    /// The tokens that a template can name.
    pub(super) fn special_tokens(&self) -> &Map<String, Value> {
        &self.named
    }

    pub(super) fn error(&self, detail: impl ToString) -> ModelError {
        ModelError::Tokenizer { path: self.dir.clone(), detail: detail.to_string() }
    }
}

/// What the files beside `tokenizer.json` say.
#[derive(Default)]
struct Config {
    /// Tokens in the order of their ids, for a `tokenizer.json` that lacks them.
    added: Vec<AddedToken>,
    /// Tokens that are never split, and left out of answers.
    special: Vec<AddedToken>,
    named: Map<String, Value>,
    add_bos: Option<bool>,
    add_eos: Option<bool>,
}

impl Config {
    fn read(dir: &Path) -> Result<Self> {
        let read = |name: &str| -> Result<Map<String, Value>> {
            let path = dir.join(name);
            if path.is_file() { read_json(&path) } else { Ok(Map::new()) }
        };
        let mut json = read("tokenizer_config.json")?;
        let mut config = Self::default();
        if let Some(Value::Object(listed)) = json.get("added_tokens_decoder") {
            let mut listed: Vec<(u64, &Value)> =
                listed.iter().filter_map(|(id, token)| Some((id.parse().ok()?, token))).collect();
            listed.sort_by_key(|(id, _)| *id);
            config.added = listed.into_iter().filter_map(|(_, token)| added_token(token, false)).collect();
        } else {
            json.extend(read("special_tokens_map.json")?);
            let added = read("added_tokens.json")?;
            let mut added: Vec<(u64, &String)> =
                added.iter().filter_map(|(token, id)| Some((id.as_u64()?, token))).collect();
            added.sort();
            config.added = added.into_iter().map(|(_, token)| AddedToken::from(token.as_str(), false)).collect();
        }
        for (role, value) in &json {
            let given = SPECIAL_TOKENS.contains(&role.as_str()) || role.ends_with("_token");
            config.name(given.then_some((role, value)));
        }
        let roles = ["model_specific_special_tokens", "extra_special_tokens"];
        for (role, value) in roles.iter().filter_map(|key| json.get(*key)?.as_object()).flatten() {
            config.name(Some((role, value)));
        }
        let lists = ["extra_special_tokens", "additional_special_tokens"];
        let more = lists.iter().filter_map(|key| json.get(*key)?.as_array()).find(|list| !list.is_empty());
        config.special.extend(more.into_iter().flatten().filter_map(|token| added_token(token, true)));
        config.add_bos = json.get("add_bos_token").and_then(Value::as_bool);
        config.add_eos = json.get("add_eos_token").and_then(Value::as_bool);
        Ok(config)
    }

    fn name(&mut self, token: Option<(&String, &Value)>) {
        if let Some((role, value)) = token
            && let Some(token) = added_token(value, true)
        {
            self.named.insert(role.clone(), token.content.clone().into());
            self.special.push(token);
        }
    }
}

/// A token written as a string or as an object with flags.
fn added_token(value: &Value, special: bool) -> Option<AddedToken> {
    let content = value.as_str().or_else(|| value["content"].as_str()).filter(|content| !content.is_empty())?;
    let flag = |name: &str, default| value[name].as_bool().unwrap_or(default);
    let special = special || flag("special", false);
    Some(
        AddedToken::from(content, special)
            .single_word(flag("single_word", false))
            .lstrip(flag("lstrip", false))
            .rstrip(flag("rstrip", false))
            .normalized(flag("normalized", !special)),
    )
}
