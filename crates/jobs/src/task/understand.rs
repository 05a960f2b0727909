//! `understand` jobs: what they ask, and what of it can be checked without a model.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{check_prompt, invalid, option_within};
use crate::upload::Upload;
use crate::{ErrorKind, JobError, Submission};

/// Files that one job may ask about.
pub const MAX_MEDIA: usize = 16;
/// Earlier turns of a conversation.
const MAX_TURNS: usize = 64;
/// No model shows more of a video at once.
pub(crate) const MAX_FRAMES: u32 = 512;
pub(crate) const MAX_TOKENS: u32 = 4_096;

/// An answer to a question about videos and pictures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct UnderstandTask {
    /// What is asked.
    pub question: String,
    /// What was said before, the oldest first: questions and answers about the same media.
    pub messages: Vec<Turn>,
    /// How the answer is made.
    pub options: UnderstandOptions,
    /// The videos and pictures that the conversation is about.
    pub media: Vec<MediaInfo>,
}

/// One thing said in a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    /// Who said it.
    pub role: Role,
    /// What.
    pub content: String,
}

/// Who says something in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Whoever set the conversation up; only before everything else.
    System,
    /// Whoever asks.
    User,
    /// The model.
    Assistant,
}

/// How an answer is made. What is `None` takes the model's default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UnderstandOptions {
    /// The answer has at most so many tokens.
    pub max_tokens: Option<u32>,
    /// At most so many frames of a video are shown to the model.
    pub frames: Option<u32>,
    /// Frames that are taken of each second, up to `frames`.
    pub fps: Option<f64>,
    /// 0 takes the likeliest token each time; above it tokens are drawn.
    pub temperature: Option<f64>,
    /// Draws from so many of the likeliest tokens; 0 from all.
    pub top_k: Option<u32>,
    /// Draws from the likeliest tokens that together have this probability.
    pub top_p: Option<f64>,
    /// Leaves out tokens whose probability is below this share of the likeliest one's.
    pub min_p: Option<f64>,
    /// Above 1, tokens that were there already become less likely.
    pub repetition_penalty: Option<f64>,
    /// Where the randomness of drawing comes from.
    pub seed: Option<u64>,
}

/// Whether a file shows one picture or many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MediaType {
    /// One picture.
    Image,
    /// Frames over time.
    Video,
}

/// An uploaded video or picture, kept as a file under its own hash.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MediaInfo {
    /// What it is.
    pub kind: MediaType,
    /// SHA-256 of the bytes, lower-case hex.
    pub sha256: String,
    /// How many bytes.
    pub bytes: u64,
    /// `video/mp4` and the like.
    pub content_type: String,
    /// Pixels, as shown.
    pub width: u32,
    /// Pixels, as shown.
    pub height: u32,
    /// Seconds; of a video only, as what follows.
    pub duration: Option<f64>,
    /// How many frames it has.
    pub frames: Option<u64>,
    /// Frames per second, on average.
    pub fps: Option<f64>,
}

impl UnderstandTask {
    /// Checks every range. The media are checked where they are taken in.
    pub(crate) fn check(&self) -> Result<(), JobError> {
        check_prompt("question", &self.question, "say what you want to know")?;
        if self.messages.len() > MAX_TURNS {
            return Err(invalid(format!("`messages` has {} turns, more than {MAX_TURNS}", self.messages.len())));
        }
        for (index, turn) in self.messages.iter().enumerate() {
            check_prompt(&format!("messages[{index}].content"), &turn.content, "leave the turn out")?;
        }
        let spoken = match self.messages.split_first() {
            Some((first, rest)) if first.role == Role::System => rest,
            _ => &self.messages[..],
        };
        let in_turn = spoken.iter().zip([Role::User, Role::Assistant].into_iter().cycle());
        if !spoken.len().is_multiple_of(2) || in_turn.into_iter().any(|(turn, role)| turn.role != role) {
            return Err(invalid(
                "`messages` are the turns before the question: after at most one of `system` they alternate, `user` \
                 first and `assistant` last",
            ));
        }
        self.options.check()
    }
}

impl UnderstandOptions {
    fn check(&self) -> Result<(), JobError> {
        option_within("max_tokens", self.max_tokens, 1, MAX_TOKENS)?;
        option_within("frames", self.frames, 1, MAX_FRAMES)?;
        option_within("fps", self.fps, 0.01, 60.0)?;
        option_within("temperature", self.temperature, 0.0, 5.0)?;
        option_within("top_k", self.top_k, 0, 1_000_000)?;
        option_within("top_p", self.top_p, 0.0, 1.0)?;
        option_within("min_p", self.min_p, 0.0, 1.0)?;
        option_within("repetition_penalty", self.repetition_penalty, 0.1, 10.0)?;
        if self.top_p == Some(0.0) {
            return Err(invalid("`options.top_p` is 0, which leaves no token to draw: it is above 0"));
        }
        Ok(())
    }

    /// Whether tokens are drawn. Otherwise the seed and what bounds the draw change nothing.
    pub fn is_sampled(&self) -> bool {
        self.temperature.is_some_and(|temperature| temperature > 0.0)
    }
}

/// The fields of an `understand` job's JSON that are its own.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wire {
    #[serde(rename = "kind")]
    _kind: crate::JobKind,
    #[serde(default)]
    model: Option<String>,
    question: String,
    #[serde(default)]
    messages: Option<Vec<Turn>>,
    #[serde(default)]
    options: Option<UnderstandOptions>,
    #[serde(default)]
    media: Option<Value>,
    #[serde(default)]
    idempotency_key: Option<String>,
    #[serde(default)]
    priority: Option<i32>,
}

impl Wire {
    pub(crate) fn submission(self) -> Result<Submission, JobError> {
        let task = UnderstandTask {
            question: self.question,
            messages: self.messages.unwrap_or_default(),
            options: self.options.unwrap_or_default(),
            media: Vec::new(),
        };
        Ok(Submission {
            media: uploads(self.media)?,
            idempotency_key: self.idempotency_key,
            ..Submission::new(crate::Task::Understand(task), self.model, self.priority)
        })
    }
}

/// `media`: one file or a list of them, each in base64 or as `{"sha256"}` of one that the server has.
pub(crate) fn uploads(media: Option<Value>) -> Result<Vec<Upload>, JobError> {
    match media {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => list.into_iter().map(upload).collect(),
        Some(one) => Ok(vec![upload(one)?]),
    }
}

fn upload(value: Value) -> Result<Upload, JobError> {
    // Whatever else a job's request tells about the file may stay: it can be sent again as it is.
    #[derive(Deserialize)]
    struct Known {
        sha256: String,
    }
    match value {
        Value::String(text) => Ok(Upload::Bytes(super::decode_base64("media", &text)?)),
        Value::Object(_) => match serde_json::from_value::<Known>(value) {
            Ok(known) => Ok(Upload::Known(known.sha256)),
            Err(error) => Err(unclear(&error)),
        },
        _ => Err(unclear(&"it is neither a text nor an object")),
    }
}

fn unclear(why: &dyn std::fmt::Display) -> JobError {
    let message = format!(
        "not a job: `media` is a file in base64, {{\"sha256\"}} of a file that another job has brought, or a list of \
         such: {why}"
    );
    JobError::new(ErrorKind::InvalidRequest, message)
}
