//! `SmolVLMProcessor`: from a conversation to the ids and tiles that the model takes.

use std::ops::ControlFlow;
use std::path::Path;

use serde_json::Value;

use super::chat_template::ChatTemplate;
use super::image_processing::{ProcessedImage, SmolVLMImageProcessor};
use super::message::{Content, Message};
use super::number_words::cardinal;
use super::processor_config::Settings;
use super::tile::Tile;
use super::tokenization::SmolVLMTokenizer;
use super::video::{ProcessedVideo, duration};
use super::video_processing::SmolVLMVideoProcessor;
use crate::error::{ModelError, Result};

/// How to make a prompt of a conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessorOptions {
    /// The most frames of each video to look at; the folder's where `None`.
    pub num_frames: Option<usize>,
    /// Frames a second to look at; the folder's where `None`.
    pub fps: Option<f64>,
    /// Whether the prompt ends where the model's answer begins.
    pub add_generation_prompt: bool,
}

impl Default for ProcessorOptions {
    fn default() -> Self {
        Self { num_frames: None, fps: None, add_generation_prompt: true }
    }
}

/// A frame of a video in a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct FrameUsed {
    /// Which video, in the order of the conversation, from 0.
    pub video: usize,
    /// Which frame of it, from 0.
    pub index: usize,
    /// Seconds from the video's first frame to it.
    pub time: f64,
    /// The time that the model is told, `MM:SS`.
    pub timestamp: String,
    /// Which of the prompt's tiles it is, from 0.
    pub tile: usize,
}

/// What the model takes.
#[derive(Debug, Clone)]
pub struct ProcessedInputs {
    /// The prompt: `image_seq_len` times the id of `<image>` for each tile.
    pub input_ids: Vec<u32>,
    /// The tiles in the order of the prompt.
    pub tiles: Vec<Tile>,
    /// The frames of all videos in the order of the prompt.
    pub frames: Vec<FrameUsed>,
}

/// Turns conversations into prompts, as `AutoProcessor` does for a folder.
///
/// Ids and pixels are equal to those of `SmolVLMProcessor` with `apply_chat_template(tokenize=True)`. It does more in
/// one case: a conversation with pictures and videos keeps the pixels of both, in order, where the reference keeps
/// those of the videos only.
pub struct SmolVLMProcessor {
    tokenizer: SmolVLMTokenizer,
    image_processor: SmolVLMImageProcessor,
    video_processor: SmolVLMVideoProcessor,
    chat_template: ChatTemplate,
    image_seq_len: usize,
    image_token: String,
    image_token_id: u32,
    video_token: String,
    fake_image_token: String,
    global_image_token: String,
}

impl SmolVLMProcessor {
    /// Reads the tokenizer, the chat template and the processors' settings of the folder `dir`.
    ///
    /// # Errors
    /// [`ModelError`] that names the missing or damaged file and the setting in it.
    pub fn load(dir: &Path) -> Result<Self> {
        let settings = Settings::of_processor(dir)?;
        let tokenizer = SmolVLMTokenizer::load(dir)?;
        let image_token = tokenizer.named("image_token", "<image>");
        let image_token_id = tokenizer
            .token_to_id(&image_token)
            .ok_or_else(|| tokenizer.error(format!("has no token `{image_token}`, which stands for pictures")))?;
        Ok(Self {
            image_processor: SmolVLMImageProcessor::load(dir)?,
            video_processor: SmolVLMVideoProcessor::load(dir)?,
            chat_template: ChatTemplate::load(dir)?,
            image_seq_len: settings.image_seq_len()?,
            image_token,
            image_token_id,
            video_token: tokenizer.named("video_token", "<video>"),
            fake_image_token: tokenizer.named("fake_image_token", "<fake_token_around_image>"),
            global_image_token: tokenizer.named("global_image_token", "<global-img>"),
            tokenizer,
        })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &SmolVLMTokenizer {
        &self.tokenizer
    }

    /// Makes tiles of pictures.
    pub fn image_processor(&self) -> &SmolVLMImageProcessor {
        &self.image_processor
    }

    /// Chooses and resizes frames.
    pub fn video_processor(&self) -> &SmolVLMVideoProcessor {
        &self.video_processor
    }

    /// Ids that each tile takes in a prompt; what the model's config makes of a tile must be as many.
    pub fn image_seq_len(&self) -> usize {
        self.image_seq_len
    }

    /// The id of `<image>`; the model's config must name the same.
    pub fn image_token_id(&self) -> u32 {
        self.image_token_id
    }

    /// The prompt of a conversation. Pictures and videos that are not processed yet are.
    ///
    /// # Errors
    /// [`ModelError::Request`] when the conversation is empty, does not fit the template, or spells `<image>` or
    /// `<video>` in its text; [`ModelError::Media`] when a video cannot be decoded.
    pub fn process(&self, messages: &[Message], options: &ProcessorOptions) -> Result<ProcessedInputs> {
        let messages = self.prepare(messages, options, &mut |_, _| ControlFlow::Continue(()))?;
        self.process_prepared(&messages, options)
    }

    /// The same conversation with every picture and video in tiles, so that the next turn need not read them again.
    /// `progress` gets the number of frames done and their total for each video, and can stop it.
    ///
    /// # Errors
    /// [`ModelError::Media`] when a video cannot be decoded, [`ModelError::Request`] for an option out of range,
    /// [`ModelError::Cancelled`] when `progress` breaks.
    pub fn prepare(
        &self,
        messages: &[Message],
        options: &ProcessorOptions,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Vec<Message>> {
        let mut prepare = |content: &Content| {
            Ok(match content {
                Content::Image(image) => Content::ProcessedImage(self.image_processor.preprocess(image)?),
                Content::Video(video) => Content::ProcessedVideo(ProcessedVideo::read(
                    &self.video_processor,
                    video,
                    options.num_frames,
                    options.fps,
                    progress,
                )?),
                done => done.clone(),
            })
        };
        let mut prepared = Vec::with_capacity(messages.len());
        for message in messages {
            let content = message.content.iter().map(&mut prepare).collect::<Result<_>>()?;
            prepared.push(Message::new(message.role, content));
        }
        Ok(prepared)
    }

    fn process_prepared(&self, messages: &[Message], options: &ProcessorOptions) -> Result<ProcessedInputs> {
        if messages.is_empty() {
            return Err(ModelError::request("messages", "is empty; there must be something to answer"));
        }
        if let Some(at) = messages.iter().position(|message| message.content.is_empty()) {
            return Err(ModelError::request("messages", format!("has nothing in message {}", at + 1)));
        }
        let media = Media::of(messages);
        let json: Value = messages.iter().map(Message::to_json).collect();
        let special_tokens = self.tokenizer.special_tokens();
        let prompt = self.chat_template.render(
            &json,
            special_tokens,
            options.add_generation_prompt,
            !media.videos.is_empty(),
        )?;
        self.check_count(&prompt, &self.image_token, media.images.len(), "pictures")?;
        self.check_count(&prompt, &self.video_token, media.videos.len(), "videos")?;

        let mut inputs = ProcessedInputs { input_ids: Vec::new(), tiles: Vec::new(), frames: Vec::new() };
        let text = self.expand(&prompt, &media, &mut inputs);
        inputs.input_ids = self.tokenizer.encode(&text)?;
        let (found, expected) = (
            inputs.input_ids.iter().filter(|&&id| id == self.image_token_id).count(),
            inputs.tiles.len() * self.image_seq_len,
        );
        if found != expected {
            let detail = format!("makes {found} tokens `{}` of {expected} in the prompt", self.image_token);
            return Err(self.tokenizer.error(detail));
        }
        Ok(inputs)
    }

    fn check_count(&self, prompt: &str, token: &str, media: usize, what: &str) -> Result<()> {
        match prompt.matches(token).count() {
            found if found == media => Ok(()),
            found => {
                let detail = format!(
                    "spells `{token}` {found} times with {media} {what}: a text cannot contain `{token}`, which stands \
                     for one of them, and the chat template must place each"
                );
                Err(ModelError::request("messages", detail))
            }
        }
    }

    /// `prompt` with each picture's and video's place filled, their tiles and frames added to `inputs` in order.
    fn expand(&self, prompt: &str, media: &Media<'_>, inputs: &mut ProcessedInputs) -> String {
        // Videos go through the reference in one batch: all are told the number of frames of the longest, and padded
        // to the largest size, which differ only where frames are not resized.
        let most = media.videos.iter().map(|video| video.frames.len()).max().unwrap_or(0);
        let tiles = || media.videos.iter().flat_map(|video| video.tiles.iter());
        let height = tiles().map(Tile::height).max().unwrap_or(0);
        let width = tiles().map(Tile::width).max().unwrap_or(0);

        let (mut images, mut videos) = (media.images.iter(), media.videos.iter().enumerate());
        let mut text = String::with_capacity(prompt.len());
        let mut rest = prompt;
        let place = |rest: &str| {
            let of = |token: &str| rest.find(token).map(|at| (at, token.len()));
            let (image, video) = (of(&self.image_token), of(&self.video_token));
            match (image, video) {
                (Some(image), Some(video)) if video.0 < image.0 => Some((video, true)),
                (Some(image), _) => Some((image, false)),
                (None, Some(video)) => Some((video, true)),
                (None, None) => None,
            }
        };
        while let Some(((at, length), is_video)) = place(rest) {
            text.push_str(&rest[..at]);
            rest = &rest[at + length..];
            if is_video {
                let (number, video) = videos.next().expect("as many places as videos");
                self.expand_video(&mut text, video, most);
                let first = inputs.tiles.len();
                inputs.tiles.extend(video.tiles.iter().map(|tile| tile.pad((height, width))));
                inputs.frames.extend(video.frames.iter().cloned().enumerate().map(|(n, frame)| FrameUsed {
                    video: number,
                    index: frame.index,
                    time: frame.time,
                    timestamp: frame.timestamp,
                    tile: first + n,
                }));
            } else {
                let image = images.next().expect("as many places as pictures");
                self.expand_image(&mut text, image);
                inputs.tiles.extend(image.tiles.iter().cloned());
            }
        }
        text + rest
    }

    fn expand_image(&self, text: &mut String, image: &ProcessedImage) {
        if (image.rows, image.cols) == (0, 0) {
            return self.expand_tile(text);
        }
        for row in 1..=image.rows {
            for col in 1..=image.cols {
                text.push_str(&self.fake_image_token);
                text.push_str(&format!("<row_{row}_col_{col}>"));
                text.push_str(&self.image_token.repeat(self.image_seq_len));
            }
            text.push('\n');
        }
        text.push('\n');
        self.expand_tile(text);
    }

    fn expand_video(&self, text: &mut String, video: &ProcessedVideo, frame_count: usize) {
        let (count, duration) = (cardinal(frame_count as u64), duration(video.seconds));
        text.push_str(&format!(
            "You are provided the following series of {count} frames from a {duration} [H:MM:SS] video.\n"
        ));
        for frame in video.frames.iter() {
            text.push_str(&format!("\nFrame from {}:", frame.timestamp));
            self.expand_tile(text);
        }
        text.push_str("\n\n");
    }

    /// A picture in one tile, or the whole one after its parts.
    fn expand_tile(&self, text: &mut String) {
        text.push_str(&self.fake_image_token);
        text.push_str(&self.global_image_token);
        text.push_str(&self.image_token.repeat(self.image_seq_len));
        text.push_str(&self.fake_image_token);
    }
}

/// The pictures and the videos of a conversation, each in order.
struct Media<'a> {
    images: Vec<&'a ProcessedImage>,
    videos: Vec<&'a ProcessedVideo>,
}

impl<'a> Media<'a> {
    fn of(messages: &'a [Message]) -> Self {
        let mut media = Self { images: Vec::new(), videos: Vec::new() };
        for content in messages.iter().flat_map(|message| &message.content) {
            match content {
                Content::ProcessedImage(image) => media.images.push(image),
                Content::ProcessedVideo(video) => media.videos.push(video),
                Content::Text(_) | Content::Image(_) | Content::Video(_) => {}
            }
        }
        media
    }
}
