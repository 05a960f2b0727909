//! What an adapter is trained on: files with questions and answers, prepared by the very processor that will serve them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};
use sango_media::{Limits, MediaKind, Video, VideoLimits};
use sango_models::smolvlm2::{Content, Message, ProcessorOptions, SmolVLMProcessor, Tile};
use serde::Deserialize;
use tch::{Kind, Tensor};

/// A line of the list: a picture or a video, a question about it and the answer to learn.
#[derive(Clone, Debug, Deserialize)]
struct Line {
    media: PathBuf,
    question: String,
    answer: String,
}

/// A question about some media, in ids.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Which media, an index into [`Samples::media`].
    pub media: usize,
    /// The prompt.
    pub prompt: Vec<i64>,
    /// The answer, with the token that ends it.
    pub answer: Vec<i64>,
}

/// The pictures that the model is shown of one file.
#[derive(Debug)]
pub struct Media {
    tiles: Vec<Tile>,
}

/// All of a list.
#[derive(Debug)]
pub struct Samples {
    /// The different files.
    pub media: Vec<Media>,
    /// The questions, in the order of the list.
    pub samples: Vec<Sample>,
}

impl Media {
    /// Pixels `[N, 3, H, W]` and, where a tile is padded, the mask `[N, H, W]` of what is not.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn pixels(&self) -> Result<(Tensor, Option<Tensor>)> {
        let (mut pixels, mut masks, mut padded) = (Vec::new(), Vec::new(), false);
        for tile in &self.tiles {
            let (h, w) = (tile.height() as i64, tile.width() as i64);
            let values = tile.pixel_values()?;
            pixels.push(Tensor::from_slice(values.as_f32()?).view([3, h, w]));
            masks.push(match tile.pixel_attention_mask()? {
                Some(mask) => {
                    padded = true;
                    Tensor::from_slice(mask.as_f32()?).view([h, w])
                }
                None => Tensor::ones([h, w], (Kind::Float, tch::Device::Cpu)),
            });
        }
        let masks = if padded { Some(Tensor::f_stack(&masks, 0)?) } else { None };
        Ok((Tensor::f_stack(&pixels, 0).context("the pictures of one file differ in size")?, masks))
    }
}

impl Samples {
    /// Reads a JSONL list of `{"media": PATH, "question": TEXT, "answer": TEXT}` (paths from the list's folder) with the
    /// processor of the model folder `model`.
    ///
    /// # Errors
    /// When a line is not of that form or a file cannot be decoded; the message names the line.
    pub fn read(list: &Path, model: &Path) -> Result<Self> {
        let processor = SmolVLMProcessor::load(model)?;
        let end = processor
            .tokenizer()
            .eos_token_id()
            .with_context(|| format!("the tokenizer of {} has no eos_token to end answers with", model.display()))?;
        let text = std::fs::read_to_string(list).with_context(|| format!("reading {}", list.display()))?;
        let folder = list.parent().unwrap_or(Path::new("."));
        let mut known: BTreeMap<PathBuf, (usize, Content)> = BTreeMap::new();
        let mut all = Self { media: Vec::new(), samples: Vec::new() };
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let place = || format!("{}, line {}", list.display(), number + 1);
            let line: Line = serde_json::from_str(line).with_context(place)?;
            let content = match known.get(&line.media) {
                Some((_, content)) => content.clone(),
                None => prepare(&processor, &folder.join(&line.media)).with_context(place)?,
            };
            let message = Message::user(vec![content.clone(), Content::Text(line.question)]);
            let inputs = processor.process(&[message], &ProcessorOptions::default()).with_context(place)?;
            let media = match known.get(&line.media) {
                Some((media, _)) => *media,
                None => {
                    all.media.push(Media { tiles: inputs.tiles });
                    known.insert(line.media, (all.media.len() - 1, content));
                    all.media.len() - 1
                }
            };
            let answer = processor.tokenizer().encode(&format!(" {}", line.answer.trim()))?;
            all.samples.push(Sample {
                media,
                prompt: inputs.input_ids.iter().map(|&id| i64::from(id)).collect(),
                answer: answer.into_iter().chain([end]).map(i64::from).collect(),
            });
        }
        ensure!(!all.samples.is_empty(), "{} is empty", list.display());
        Ok(all)
    }
}

/// Decodes a file and chooses what the model is shown of it, once for all questions.
fn prepare(processor: &SmolVLMProcessor, path: &Path) -> Result<Content> {
    let content = match sango_media::sniff_file(path)? {
        MediaKind::Image => Content::Image(Arc::new(sango_media::load_image(path, &Limits::default())?)),
        MediaKind::Video => Content::Video(Arc::new(Video::open(path, &VideoLimits::default())?)),
    };
    let mut go_on = |_, _| ControlFlow::Continue(());
    let mut ready = processor.prepare(&[Message::user(vec![content])], &ProcessorOptions::default(), &mut go_on)?;
    ready.pop().and_then(|mut message| message.content.pop()).ok_or_else(|| anyhow!("{} is empty", path.display()))
}
