//! From a conversation to its answer: the processor, the model, and what was computed before.

use std::fs::File;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use sango_media::Video;
use sango_tensor::Tensor;
use sha2::{Digest, Sha256};

use super::generation::FinishReason;
use super::logits_process::LogitsProcessor;
use super::memory::{Context, Memory, Place};
use super::message::{Content, Message};
use super::modeling::SmolVLMForConditionalGeneration;
use super::processing::{ProcessedInputs, ProcessorOptions, SmolVLMProcessor};
use super::request::{Answer, Timings, UnderstandEvent, UnderstandRequest};
use super::tile::Tile;
use crate::LoadOptions;
use crate::error::{ModelError, Result};
use crate::llama::LlamaCache;

/// Tokens of an answer, unless the request or the folder says otherwise.
pub(super) const MAX_NEW_TOKENS: usize = 256;

/// Told how far an answer is; may end it.
type OnEvent<'a> = dyn FnMut(UnderstandEvent<'_>) -> ControlFlow<()> + 'a;

/// Answers questions about pictures and videos.
///
/// What it computes is kept (within [`LoadOptions::cache_bytes`]): a second question about a video decodes no frame and
/// looks at none, and of a prompt only what follows the part that it shares with an earlier one is read. One pipeline
/// serves any number of threads.
pub struct SmolVLMPipeline {
    processor: SmolVLMProcessor,
    model: SmolVLMForConditionalGeneration,
    memory: Memory,
}

impl SmolVLMPipeline {
    /// Loads the model and the processor of the folder `dir`.
    ///
    /// # Errors
    /// When a file is missing, damaged or not supported, or processor and model do not fit each other.
    pub fn load(dir: impl AsRef<Path>, options: &LoadOptions) -> Result<Self> {
        let dir = dir.as_ref();
        let processor = SmolVLMProcessor::load(dir)?;
        let model = SmolVLMForConditionalGeneration::load(dir, options)?;
        let (theirs, ours) = (processor.image_token_id(), model.config().image_token_id);
        if theirs != ours {
            let detail = format!("is {ours}, but the tokenizer's image token is {theirs}");
            return Err(ModelError::Config { path: dir.join("config.json"), field: "image_token_id", detail });
        }
        Ok(Self { processor, model, memory: Memory::new(options.cache_bytes) })
    }

    /// The processor.
    pub fn processor(&self) -> &SmolVLMProcessor {
        &self.processor
    }

    /// The model.
    pub fn model(&self) -> &SmolVLMForConditionalGeneration {
        &self.model
    }

    /// Bytes of what is kept of earlier requests.
    pub fn cached_bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// Forgets earlier requests.
    pub fn clear_cache(&self) {
        self.memory.clear();
    }

    /// Answers. `on_event` is told how far it is and may end it, within a frame, a batch of pictures, a part of the prompt
    /// or a token; what there is by then is the answer.
    ///
    /// # Errors
    /// [`ModelError::Request`] for options out of range and prompts longer than the model's context,
    /// [`ModelError::Media`] for files that cannot be decoded, [`ModelError::NotFinite`] for damaged weights.
    pub fn answer(&self, request: &UnderstandRequest, on_event: &mut OnEvent<'_>) -> Result<Answer> {
        check(request)?;
        let mut run = Run { pipeline: self, request, started: Instant::now(), answer: empty() };
        match run.answer(on_event) {
            Ok(()) | Err(ModelError::Cancelled) => Ok(run.answer),
            Err(error) => Err(error),
        }
    }

    /// The messages with every picture and video in tiles, videos from memory where they were seen before.
    fn prepare(
        &self,
        messages: &[Message],
        options: &ProcessorOptions,
        on_event: &mut OnEvent<'_>,
    ) -> Result<Vec<Message>> {
        let mut known = messages.to_vec();
        let mut new = Vec::new();
        for (m, message) in known.iter_mut().enumerate() {
            for (c, content) in message.content.iter_mut().enumerate() {
                let Content::Video(video) = content else { continue };
                let Some(key) = video_key(video, options) else { continue };
                match self.memory.video(key) {
                    Some(video) => *content = Content::ProcessedVideo(video),
                    None => new.push((m, c, key)),
                }
            }
        }
        let progress = &mut |done, total| on_event(UnderstandEvent::Frames { done, total });
        let prepared = self.processor.prepare(&known, options, progress)?;
        for (m, c, key) in new {
            if let Content::ProcessedVideo(video) = &prepared[m].content[c] {
                self.memory.keep_video(key, video);
            }
        }
        Ok(prepared)
    }

    /// The features of `tiles`, one after the other: `[rows, hidden_size]`. Each picture is looked at once.
    fn features(&self, tiles: &[Tile], on_event: &mut OnEvent<'_>) -> Result<Vec<Tensor>> {
        let mut features: Vec<Option<Tensor>> = tiles.iter().map(|tile| self.memory.features(tile.key())).collect();
        let mut new: Vec<usize> = Vec::new();
        for at in (0..tiles.len()).filter(|&at| features[at].is_none()) {
            if !new.iter().any(|&other| tiles[other].key() == tiles[at].key()) {
                new.push(at);
            }
        }
        let size = |&at: &usize| (tiles[at].height(), tiles[at].width());
        let mut done = 0;
        for alike in new.chunk_by(|a, b| size(a) == size(b)) {
            for batch in alike.chunks(self.model.pictures_at_once(size(&alike[0]))) {
                let computed = self.look_at(&batch.iter().map(|&at| &tiles[at]).collect::<Vec<_>>())?;
                for (n, &at) in batch.iter().enumerate() {
                    let own = Tensor::cat(&[&computed.narrow(0, n, 1)?.squeeze(0)?], 0)?;
                    self.memory.keep_features(tiles[at].key(), own.clone());
                    features[at] = Some(own);
                }
                done += batch.len();
                if on_event(UnderstandEvent::Vision { done, total: new.len() }).is_break() {
                    return Err(ModelError::Cancelled);
                }
            }
        }
        for at in 0..tiles.len() {
            if features[at].is_none() {
                let same = new.iter().find(|&&other| tiles[other].key() == tiles[at].key());
                features[at] = same.and_then(|&other| features[other].clone());
            }
        }
        Ok(features.into_iter().map(|features| features.expect("each is known or like one that is")).collect())
    }

    fn look_at(&self, tiles: &[&Tile]) -> Result<Tensor> {
        let pixels = tiles.iter().map(|tile| tile.pixel_values()).collect::<Result<Vec<_>>>()?;
        let pixels = Tensor::stack(&pixels.iter().collect::<Vec<_>>(), 0)?;
        let masks = tiles.iter().map(|tile| tile.pixel_attention_mask()).collect::<Result<Vec<_>>>()?;
        let mask = match masks.iter().any(Option::is_some) {
            true => {
                let shape = [tiles[0].height(), tiles[0].width()];
                let full = Tensor::full(&shape, 1.0)?;
                let masks: Vec<&Tensor> = masks.iter().map(|mask| mask.as_ref().unwrap_or(&full)).collect();
                Some(Tensor::stack(&masks, 0)?)
            }
            false => None,
        };
        self.model.get_image_features(&pixels, mask.as_ref(), &mut |_, _| ControlFlow::Continue(()))
    }

    /// What stands at each position: tokens, and the tiles in the place of image tokens.
    fn places(&self, inputs: &ProcessedInputs, rows_of: &[usize]) -> Vec<Place> {
        let image_token = self.model.config().image_token_id;
        let mut pictures = inputs.tiles.iter().zip(rows_of).flat_map(|(tile, &rows)| {
            let key: [u8; 16] = tile.key()[..16].try_into().expect("half of a key");
            // No token has this bit.
            std::iter::repeat_n(Place::from_le_bytes(key) | 1 << 127, rows)
        });
        let place = |&id: &u32| match id == image_token {
            true => pictures.next().unwrap_or(Place::from(id)),
            false => Place::from(id),
        };
        inputs.input_ids.iter().map(place).collect()
    }
}

/// One request under way; `answer` is what there is so far.
struct Run<'a> {
    pipeline: &'a SmolVLMPipeline,
    request: &'a UnderstandRequest,
    started: Instant,
    answer: Answer,
}

impl Run<'_> {
    fn answer(&mut self, on_event: &mut OnEvent<'_>) -> Result<()> {
        let (pipeline, model) = (self.pipeline, &self.pipeline.model);
        let options =
            ProcessorOptions { num_frames: self.request.num_frames, fps: self.request.fps, ..Default::default() };
        let messages = pipeline.prepare(&self.request.messages, &options, on_event)?;
        let inputs = pipeline.processor.process(&messages, &options)?;
        let ids = &inputs.input_ids;
        self.answer.prompt_tokens = ids.len();
        self.answer.frames.clone_from(&inputs.frames);
        self.answer.timings.preprocess = self.started.elapsed();
        let max_new_tokens = self.max_new_tokens(ids.len())?;
        let (frames, tiles) = (&inputs.frames, &inputs.tiles);
        stop_if(on_event(UnderstandEvent::Prepared { prompt_tokens: ids.len(), frames, tiles }))?;

        let tokens = |tile: &Tile| model.config().image_tokens(tile.height(), tile.width());
        let rows_of = inputs.tiles.iter().map(tokens).collect::<Result<Vec<_>>>()?;
        let places = pipeline.places(&inputs, &rows_of);
        let whole = ids.len() + max_new_tokens;
        let (mut cache, cached) = self.start(&places, whole)?;
        self.answer.cached_tokens = cached;

        // Only pictures of which something is not read yet are needed.
        let before = Instant::now();
        let image_token = model.config().image_token_id;
        let mut skipped = ids[..cached].iter().filter(|&&id| id == image_token).count();
        let mut first = 0;
        while first < rows_of.len() && skipped >= rows_of[first] {
            skipped -= rows_of[first];
            first += 1;
        }
        let features = pipeline.features(&inputs.tiles[first..], on_event)?;
        let features = match features.is_empty() {
            true => None,
            false => {
                let all = Tensor::cat(&features.iter().collect::<Vec<_>>(), 0)?;
                Some(all.narrow(0, skipped, all.dim(0)? - skipped)?)
            }
        };
        let inputs_embeds = model.embed(&ids[cached..], features.as_ref())?;
        self.answer.timings.vision = before.elapsed();

        let before = Instant::now();
        let prefill = &mut |done, total| on_event(UnderstandEvent::Prefill { done, total });
        let read = model.prefill(&inputs_embeds, &mut cache, prefill);
        self.answer.timings.prefill = before.elapsed();
        let logits = match read {
            Ok(logits) => logits,
            Err(error) => {
                self.keep(cache, &places);
                return Err(error);
            }
        };
        let generated = self.generate(ids, logits, &mut cache, max_new_tokens, on_event);
        let said = self.answer.tokens.iter().map(|&id| Place::from(id));
        let places: Vec<Place> = places.iter().copied().chain(said).collect();
        self.keep(cache, &places);
        generated
    }

    fn generate(
        &mut self,
        ids: &[u32],
        logits: Tensor,
        cache: &mut LlamaCache,
        max_new_tokens: usize,
        on_event: &mut OnEvent<'_>,
    ) -> Result<()> {
        let (model, started) = (&self.pipeline.model, self.started);
        let mut processor = LogitsProcessor::new(model.generation_config(), &self.request.sampling, ids.len(), 0);
        let mut stream = self.pipeline.processor.tokenizer().stream(&self.request.stop);
        let mut failed = None;
        let Answer { text, tokens, timings, .. } = &mut self.answer;
        let on_token = &mut |token: u32, index: usize| {
            if index == 0 {
                timings.first_token = started.elapsed();
            }
            tokens.push(token);
            let piece = match stream.push(token) {
                Ok(piece) => piece,
                Err(error) => {
                    failed = Some(error);
                    return ControlFlow::Break(FinishReason::Stop);
                }
            };
            text.push_str(&piece);
            let wanted = on_event(UnderstandEvent::Token { text: &piece, index });
            timings.decode = started.elapsed().saturating_sub(timings.first_token);
            match (wanted, stream.is_stopped()) {
                (ControlFlow::Break(()), _) => ControlFlow::Break(FinishReason::Cancelled),
                (_, true) => ControlFlow::Break(FinishReason::Stop),
                _ => ControlFlow::Continue(()),
            }
        };
        let generated = model.generate(ids, logits, cache, &mut processor, max_new_tokens, on_token)?;
        if let Some(error) = failed {
            return Err(error);
        }
        let rest = stream.finish()?;
        if self.answer.tokens.is_empty() {
            self.answer.timings.first_token = self.started.elapsed();
        }
        if !rest.is_empty() {
            self.answer.text.push_str(&rest);
            let index = self.answer.tokens.len().saturating_sub(1);
            // The answer is complete: whether anybody still wants it makes no difference.
            let _ = on_event(UnderstandEvent::Token { text: &rest, index });
        }
        self.answer.finish_reason = generated.finish_reason;
        self.answer.tokens = generated.tokens;
        Ok(())
    }

    /// Tokens that the answer may have.
    fn max_new_tokens(&self, prompt: usize) -> Result<usize> {
        let longest = self.pipeline.model.config().text_config.max_position_embeddings;
        if prompt >= longest {
            let detail = format!(
                "make a prompt of {prompt} tokens, but the model takes at most {} before its answer; use fewer frames, \
                 smaller pictures or a shorter conversation",
                longest - 1
            );
            return Err(ModelError::request("messages", detail));
        }
        let folder = self.pipeline.model.generation_config().max_new_tokens;
        Ok(self.request.max_new_tokens.or(folder).unwrap_or(MAX_NEW_TOKENS).min(longest - prompt))
    }

    /// A cache with room for `whole` positions, which holds what an earlier request has read of `places`, and how much
    /// that is. The last position is always left, as its logits are needed.
    fn start(&self, places: &[Place], whole: usize) -> Result<(LlamaCache, usize)> {
        let text_model = self.pipeline.model.text_model();
        let earlier = text_model.prefix_holds(whole).then(|| self.pipeline.memory.context(places)).flatten();
        match earlier {
            Some((context, shared)) => {
                let shared = shared.min(places.len() - 1).min(context.cache.len());
                Ok((context.cache.prefix(shared, whole)?, shared))
            }
            None => Ok((text_model.cache(whole)?, 0)),
        }
    }

    /// Keeps what was read for later requests.
    fn keep(&self, cache: LlamaCache, places: &[Place]) {
        let length = cache.len();
        if length == 0 || !self.pipeline.model.text_model().prefix_holds(length) {
            return;
        }
        // Room that was left for the answer is given back.
        let cache =
            if cache.capacity() > length + length / 8 { cache.prefix(length, length).unwrap_or(cache) } else { cache };
        self.pipeline.memory.keep_context(Context { places: places[..length].to_vec(), cache });
    }
}

fn empty() -> Answer {
    Answer {
        text: String::new(),
        tokens: Vec::new(),
        finish_reason: FinishReason::Cancelled,
        prompt_tokens: 0,
        cached_tokens: 0,
        frames: Vec::new(),
        timings: Timings::default(),
    }
}

fn stop_if(flow: ControlFlow<()>) -> Result<()> {
    if flow.is_break() { Err(ModelError::Cancelled) } else { Ok(()) }
}

fn check(request: &UnderstandRequest) -> Result<()> {
    request.sampling.check()?;
    if request.max_new_tokens == Some(0) {
        return Err(ModelError::request("max_new_tokens", "is 0; it must be at least 1"));
    }
    Ok(())
}

/// The content of a video's file and what is taken of it. `None` where the file cannot be read, of which decoding will say
/// more.
fn video_key(video: &Video, options: &ProcessorOptions) -> Option<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut file = File::open(video.path()).ok()?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).ok()? {
            0 => break,
            read => hash.update(&buffer[..read]),
        }
    }
    hash.update(format!("{:?} {:?}", options.num_frames, options.fps));
    Some(hash.finalize().into())
}
