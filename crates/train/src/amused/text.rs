//! Text embeddings of captions, each computed once.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Result;
use tch::{Kind, Tensor};

use super::uvit_2d::Condition;
use crate::clip::model::TextTower;
use crate::clip::tokenizer::Tokenizer;
use crate::clip::train::{CONTEXT, ids, load_text_tower};

/// aMUSEd's micro-conditions as its pipeline feeds them: width, height, crop (0, 0), aesthetic score 6.
pub fn micro_conds(n: i64, size: i64) -> Tensor {
    let row = [size as f32, size as f32, 0.0, 0.0, 6.0];
    Tensor::from_slice(&row).view([1, 5]).repeat([n, 1])
}

/// The text tower with what it has said so far.
#[derive(Debug)]
pub struct TextCache {
    tower: TextTower,
    tokenizer: Tokenizer,
    rows: HashMap<String, i64>,
    states: Tensor,
    pooled: Tensor,
    size: i64,
}

impl TextCache {
    /// With the tower that `clip` left in `dir`, for pictures of `size` pixels.
    ///
    /// # Errors
    /// When there is no text tower in `dir`.
    pub fn open(dir: &Path, size: i64) -> Result<Self> {
        let (tower, tokenizer) = load_text_tower(dir)?;
        let mut cache = Self {
            tower,
            tokenizer,
            rows: HashMap::new(),
            states: Tensor::zeros([0], (Kind::Float, tch::Device::Cpu)),
            pooled: Tensor::zeros([0], (Kind::Float, tch::Device::Cpu)),
            size,
        };
        // Row 0 is the empty prompt.
        cache.add(&[String::new()]);
        Ok(cache)
    }

    /// Row of each caption, computing those not seen yet.
    pub fn add(&mut self, captions: &[String]) -> Vec<i64> {
        let mut fresh: Vec<String> = Vec::new();
        for caption in captions {
            if !self.rows.contains_key(caption) {
                self.rows.insert(caption.clone(), self.rows.len() as i64);
                fresh.push(caption.clone());
            }
        }
        let (mut states, mut pooled) = (Vec::new(), Vec::new());
        if self.states.numel() > 0 {
            states.push(self.states.shallow_clone());
            pooled.push(self.pooled.shallow_clone());
        }
        for part in fresh.chunks(256) {
            let ids = ids(&self.tokenizer, part, CONTEXT);
            let out = tch::no_grad(|| self.tower.forward(&ids));
            states.push(out.penultimate);
            pooled.push(out.text_embeds);
        }
        if !fresh.is_empty() {
            self.states = Tensor::cat(&states, 0);
            self.pooled = Tensor::cat(&pooled, 0);
        }
        captions.iter().map(|c| self.rows[c]).collect()
    }

    /// Conditions of rows; row 0 is the empty prompt.
    pub fn condition(&self, rows: &Tensor) -> Condition {
        Condition {
            encoder_hidden_states: self.states.index_select(0, rows),
            pooled_text_emb: self.pooled.index_select(0, rows),
            micro_conds: micro_conds(rows.size()[0], self.size),
        }
    }

    /// Conditions of captions.
    pub fn conditions(&mut self, captions: &[String]) -> Condition {
        let rows = self.add(captions);
        self.condition(&Tensor::from_slice(&rows))
    }

    /// Conditions of `n` empty prompts.
    pub fn empty(&self, n: i64) -> Condition {
        self.condition(&Tensor::zeros([n], (Kind::Int64, tch::Device::Cpu)))
    }
}
