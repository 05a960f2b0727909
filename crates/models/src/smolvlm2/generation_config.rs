//! `generation_config.json`, and what of it a request may change.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::configuration::raw;
use crate::config::{Config, from_value, read_json};
use crate::error::{ModelError, Result};

/// Tokens that the reference keeps at most when it samples, unless told otherwise.
const DEFAULT_TOP_K: usize = 50;

/// How text is generated; names and defaults are those of `transformers.GenerationConfig`.
#[derive(Debug, Clone)]
pub struct GenerationConfig {
    /// Ids that end an answer.
    pub eos_token_id: Vec<u32>,
    /// What follows the end of an answer in a batch with longer ones.
    pub pad_token_id: Option<u32>,
    /// Whether the folder's author wants tokens drawn unless a request says otherwise.
    pub do_sample: bool,
    /// Longest answer that the folder asks for.
    pub max_new_tokens: Option<usize>,
    /// An answer in a prompt and answer of fewer tokens does not end.
    pub min_length: usize,
    /// An answer of fewer tokens does not end.
    pub min_new_tokens: usize,
    /// No run of this many tokens appears twice; 0 for any.
    pub no_repeat_ngram_size: usize,
    /// Ids that never appear.
    pub suppress_tokens: Vec<u32>,
    /// Ids that are not the first.
    pub begin_suppress_tokens: Vec<u32>,
    /// How tokens are drawn.
    pub sampling: SamplingParams,
}

/// How a token is drawn. What is not given is as the folder wants it, or else as in the reference.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 always takes the most likely token.
    pub temperature: Option<f32>,
    /// Only this many of the most likely tokens may be drawn; 0 for all.
    pub top_k: Option<usize>,
    /// Only the most likely tokens that together have at least this probability may be drawn.
    pub top_p: Option<f32>,
    /// Only tokens with at least this part of the probability of the most likely one may be drawn.
    pub min_p: Option<f32>,
    /// Logits of tokens that were already there are divided by this (multiplied where negative).
    pub repetition_penalty: Option<f32>,
    /// Seeds the draws.
    pub seed: Option<u64>,
}

impl SamplingParams {
    /// These, and what they leave open from `defaults`.
    pub fn or(&self, defaults: &Self) -> Self {
        Self {
            temperature: self.temperature.or(defaults.temperature),
            top_k: self.top_k.or(defaults.top_k),
            top_p: self.top_p.or(defaults.top_p),
            min_p: self.min_p.or(defaults.min_p),
            repetition_penalty: self.repetition_penalty.or(defaults.repetition_penalty),
            seed: self.seed.or(defaults.seed),
        }
    }

    /// Whether these ask for draws: a temperature does unless it is 0, and so does any limit on what may be drawn.
    pub fn asks_to_sample(&self) -> Option<bool> {
        match self.temperature {
            Some(temperature) => Some(temperature > 0.0),
            None => (self.top_k.is_some() || self.top_p.is_some() || self.min_p.is_some()).then_some(true),
        }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`ModelError::Request`] that names the option.
    pub fn check(&self) -> Result<()> {
        let within = |field: &'static str, value: Option<f32>, range: std::ops::RangeInclusive<f32>| match value {
            Some(x) if !range.contains(&x) => {
                let detail = format!("is {x}; it must be between {} and {}", range.start(), range.end());
                Err(ModelError::request(field, detail))
            }
            _ => Ok(()),
        };
        within("temperature", self.temperature, 0.0..=100.0)?;
        within("top_p", self.top_p, 0.0..=1.0)?;
        within("min_p", self.min_p, 0.0..=1.0)?;
        within("repetition_penalty", self.repetition_penalty, 0.01..=100.0)
    }
}

/// One id, several, or none.
#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    One(i64),
    Many(Vec<i64>),
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Json {
    eos_token_id: Option<Ids>,
    pad_token_id: Option<i64>,
    do_sample: Option<bool>,
    max_new_tokens: Option<usize>,
    min_length: Option<usize>,
    min_new_tokens: Option<usize>,
    no_repeat_ngram_size: Option<usize>,
    suppress_tokens: Option<Vec<i64>>,
    begin_suppress_tokens: Option<Vec<i64>>,
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
}

/// Keys that would change what is generated and are not done here, with values that change nothing.
const UNSUPPORTED: [(&str, &[f64]); 17] = [
    ("num_beams", &[1.0]),
    ("penalty_alpha", &[]),
    ("dola_layers", &[]),
    ("guidance_scale", &[1.0]),
    ("sequence_bias", &[]),
    ("encoder_repetition_penalty", &[1.0]),
    ("bad_words_ids", &[]),
    ("force_words_ids", &[]),
    ("constraints", &[]),
    ("forced_bos_token_id", &[]),
    ("forced_eos_token_id", &[]),
    ("exponential_decay_length_penalty", &[]),
    ("watermarking_config", &[]),
    ("typical_p", &[1.0]),
    ("epsilon_cutoff", &[0.0]),
    ("eta_cutoff", &[0.0]),
    ("top_h", &[]),
];

impl GenerationConfig {
    /// Reads `generation_config.json` in `dir`, or where there is none the same keys of `config.json`, as
    /// `GenerationConfig.from_model_config` does.
    ///
    /// # Errors
    /// [`ModelError::Config`] for what cannot be honoured.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("generation_config.json");
        let (path, json) = match path.is_file() {
            true => (path.clone(), read_json::<Value>(&path)?),
            false => (dir.join("config.json"), from_model_config(&raw(dir)?)),
        };
        let config = Config { value: from_value::<Json>(&path, json.clone())?, path };
        for (key, harmless) in UNSUPPORTED {
            let value = &json[key];
            if !value.is_null() && !value.as_f64().is_some_and(|number| harmless.contains(&number)) {
                return Err(config.error(key, format!("is {value}; only greedy and sampled decoding are supported")));
            }
        }
        let id = |field: &'static str, id: i64| {
            u32::try_from(id).map_err(|_| config.error(field, format!("is {id}; ids are not negative")))
        };
        let ids = |field, list: &[i64]| list.iter().map(|&n| id(field, n)).collect::<Result<Vec<u32>>>();
        let json = &config.value;
        let eos_token_id = match &json.eos_token_id {
            None => Vec::new(),
            // The reference takes a negative id as "never".
            Some(Ids::One(n)) => u32::try_from(*n).into_iter().collect(),
            Some(Ids::Many(list)) => ids("eos_token_id", list)?,
        };
        let pad_token_id = json.pad_token_id.map(|n| id("pad_token_id", n)).transpose()?;
        let sampling = SamplingParams {
            temperature: json.temperature,
            top_k: json.top_k,
            top_p: json.top_p,
            min_p: json.min_p,
            repetition_penalty: json.repetition_penalty,
            seed: None,
        };
        sampling.check().map_err(|error| match error {
            ModelError::Request { field, detail } => config.error(field, detail),
            other => other,
        })?;
        Ok(Self {
            pad_token_id: pad_token_id.or(eos_token_id.first().copied()),
            do_sample: json.do_sample.unwrap_or(false),
            max_new_tokens: json.max_new_tokens,
            min_length: json.min_length.unwrap_or(0),
            min_new_tokens: json.min_new_tokens.unwrap_or(0),
            no_repeat_ngram_size: json.no_repeat_ngram_size.unwrap_or(0),
            suppress_tokens: ids("suppress_tokens", json.suppress_tokens.as_deref().unwrap_or(&[]))?,
            begin_suppress_tokens: ids("begin_suppress_tokens", json.begin_suppress_tokens.as_deref().unwrap_or(&[]))?,
            eos_token_id,
            sampling,
        })
    }

    /// What a request for `params` draws with: `None` for the most likely token.
    pub fn sampling_for(&self, params: &SamplingParams) -> Option<SamplingParams> {
        let sample = params.asks_to_sample().unwrap_or(self.do_sample);
        let mut chosen = params.or(&self.sampling);
        chosen.top_k = chosen.top_k.or(Some(DEFAULT_TOP_K));
        (sample && chosen.temperature != Some(0.0)).then_some(chosen)
    }
}

/// The keys of `config.json` that say how to generate: those at the top, then those of the decoder.
fn from_model_config(config: &Value) -> Value {
    // What `LlamaConfig` has where its part of the file says nothing.
    let mut merged: Map<String, Value> =
        Map::from_iter([("bos_token_id".into(), 1.into()), ("eos_token_id".into(), 2.into())]);
    let empty = Map::new();
    merged.extend(config["text_config"].as_object().unwrap_or(&empty).clone());
    for (key, value) in config.as_object().unwrap_or(&empty) {
        // The padding at the top is an old mistake that the reference ignores as well.
        if !value.is_null() && key != "pad_token_id" {
            merged.insert(key.clone(), value.clone());
        }
    }
    Value::Object(merged)
}
