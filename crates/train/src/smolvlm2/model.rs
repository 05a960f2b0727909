//! `SmolVLMForConditionalGeneration`: the parts together, loading and saving.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use tch::nn::{Path as VarPath, VarStore};
use tch::{Device, Kind, Tensor};

use super::config::SmolVlmConfig;
use super::connector::Connector;
use super::layers::Linear;
use super::llama::{Caches, LlamaModel, head_init};
use super::vision::VisionTransformer;
use crate::checkpoint;

/// The whole model; its variables have the names of `transformers`.
#[derive(Debug)]
pub struct SmolVlm {
    /// What it was built from.
    pub config: SmolVlmConfig,
    /// `model.vision_model`.
    pub vision_model: VisionTransformer,
    /// `model.connector`.
    pub connector: Connector,
    /// `model.text_model`.
    pub text_model: LlamaModel,
    /// `lm_head.weight`; the embedding itself where the two are tied.
    lm_head: Tensor,
}

impl SmolVlm {
    /// Adds all variables below `path` (the root, for the names of `transformers`).
    pub fn new(path: &VarPath, config: &SmolVlmConfig) -> Self {
        let model = path / "model";
        let (vision, text) = (&config.vision, &config.text);
        let text_model = LlamaModel::new(&(&model / "text_model"), text);
        let lm_head = if config.tie_word_embeddings {
            text_model.embed_tokens.weight.shallow_clone()
        } else {
            (path / "lm_head").var("weight", &[text.vocab_size, text.hidden_size], head_init(text.hidden_size))
        };
        Self {
            config: config.clone(),
            vision_model: VisionTransformer::new(&(&model / "vision_model"), vision),
            connector: Connector::new(
                &(&model / "connector"),
                vision.hidden_size,
                text.hidden_size,
                config.scale_factor,
            ),
            text_model,
            lm_head,
        }
    }

    /// Opens a folder as `transformers` writes it: `config.json` with `model.safetensors` or its shards.
    ///
    /// The weights come as `kind` and ask for no gradient.
    ///
    /// # Errors
    /// When the folder is of another model, or a tensor is missing or of another shape.
    pub fn load(dir: &Path, kind: Kind) -> Result<(VarStore, Self)> {
        let config = SmolVlmConfig::load(dir)?;
        let mut vs = VarStore::new(Device::Cpu);
        let model = tch::no_grad(|| Self::new(&vs.root(), &config));
        vs.freeze();
        checkpoint::fill(&vs, &read_folder(dir)?, kind).with_context(|| format!("loading {}", dir.display()))?;
        Ok((vs, model))
    }

    /// Pictures `[N, C, H, W]` in −1..1 → features `[N, tokens, text]`; for the mask see [`VisionTransformer::forward`].
    pub fn image_features(&self, pixels: &Tensor, mask: Option<&Tensor>, train: bool) -> Tensor {
        self.connector.forward(&self.vision_model.forward(pixels, mask, train), train)
    }

    /// Embeddings of `ids` `[B, L]` in which every `<image>` is one row of `features` `[…, text]`, in order.
    ///
    /// # Errors
    /// When there are not as many features as `<image>` tokens.
    pub fn embed(&self, ids: &Tensor, features: Option<&Tensor>) -> Result<Tensor> {
        let embeds = self.text_model.embed_tokens.forward(ids);
        let at = ids.eq(self.config.image_token_id);
        let count = at.sum(Kind::Int64).int64_value(&[]);
        let given = features.map_or(0, |f| f.size()[..f.dim() - 1].iter().product());
        ensure!(count == given, "{count} <image> tokens for {given} image features");
        Ok(match features {
            Some(features) if count > 0 => embeds.masked_scatter(&at.unsqueeze(-1), &features.to_kind(embeds.kind())),
            _ => embeds,
        })
    }

    /// Logits `[…, vocab]` of hidden states.
    pub fn head(&self, hidden: &Tensor) -> Tensor {
        let none: Option<&Tensor> = None;
        hidden.linear(&self.lm_head, none)
    }

    /// Logits `[B, L, vocab]` of whole sequences without padding.
    ///
    /// # Errors
    /// See [`SmolVlm::embed`].
    pub fn forward(&self, ids: &Tensor, pixels: Option<&Tensor>, mask: Option<&Tensor>) -> Result<Tensor> {
        let (b, l) = ids.size2().context("ids must be [batch, length]")?;
        let features = pixels.map(|pixels| self.image_features(pixels, mask, false));
        let embeds = self.embed(ids, features.as_ref())?;
        let positions = Tensor::arange(l, (Kind::Int64, ids.device())).unsqueeze(0).expand([b, l], true);
        let causal = causal(l, l);
        let hidden = self.text_model.forward(&embeds, &positions, &causal, &mut Caches::new(), false);
        Ok(self.head(&hidden))
    }

    /// Every linear layer that can be tuned, by its module name.
    pub fn linears(&mut self) -> Vec<(String, &mut Linear)> {
        let below = |part: &'static str| move |(name, l)| (format!("model.{part}.{name}"), l);
        let mut all: Vec<(String, &mut Linear)> =
            self.vision_model.linears().into_iter().map(below("vision_model")).collect();
        all.push(("model.connector.modality_projection.proj".into(), &mut self.connector.proj));
        all.extend(self.text_model.linears().into_iter().map(below("text_model")));
        all
    }
}

/// Zero where row i of the last `rows` of `columns` positions may look, −∞ where it may not: `[1, 1, rows, columns]`.
pub fn causal(rows: i64, columns: i64) -> Tensor {
    Tensor::full([1, 1, rows, columns], f64::NEG_INFINITY, (Kind::Float, Device::Cpu)).triu(columns - rows + 1)
}

/// All tensors of a folder: one file, or the shards that its index lists.
fn read_folder(dir: &Path) -> Result<BTreeMap<String, Tensor>> {
    let single = dir.join("model.safetensors");
    if single.exists() {
        return checkpoint::load(&single);
    }
    let path = dir.join("model.safetensors.index.json");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("{} has neither model.safetensors nor its index", dir.display()))?;
    let index: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
    let map = index["weight_map"].as_object().with_context(|| format!("{} has no weight_map", path.display()))?;
    let files: std::collections::BTreeSet<&str> = map.values().filter_map(|file| file.as_str()).collect();
    let mut all = BTreeMap::new();
    for file in files {
        if Path::new(file).components().count() != 1 {
            bail!("{} names a shard outside of its folder: {file:?}", path.display());
        }
        all.extend(checkpoint::load(&dir.join(file))?);
    }
    Ok(all)
}
