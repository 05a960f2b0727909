//! `image` jobs: what they ask, and what of it can be checked without a model.

use sango_media::{GrayImage, Limits, RgbImage};
use serde::{Deserialize, Serialize};

use super::{check_prompt, check_text, invalid, option_within, within};
use crate::canonical::sha256_hex;
use crate::{JobError, Submission};

pub(crate) const MAX_STEPS: u32 = 100;
pub(crate) const MAX_SIDE: u32 = 4_096;

/// A picture from words, from a picture, or inside a mask.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageTask {
    /// What the picture shows.
    pub prompt: String,
    /// How it is made.
    pub options: ImageOptions,
    /// The picture to start from.
    pub image: Option<MediaRef>,
    /// Where that picture is drawn anew.
    pub mask: Option<MediaRef>,
}

/// How an image is made. What is `None` takes the model's default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImageOptions {
    /// What the picture should not show.
    pub negative_prompt: Option<String>,
    /// Denoising steps.
    pub steps: Option<u32>,
    /// Weight of the prompt; 1 or less turns guidance off.
    pub guidance_scale: Option<f64>,
    /// Where all randomness comes from.
    pub seed: Option<u64>,
    /// Pixels.
    pub width: Option<u32>,
    /// Pixels.
    pub height: Option<u32>,
    /// Of the token masking, at the first and the last step.
    pub temperature: Option<[f64; 2]>,
    /// How much of the input image is drawn anew, 0 to 1.
    pub strength: Option<f64>,
}

/// An uploaded image, kept as a file under its own hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaRef {
    /// SHA-256 of the bytes, lower-case hex.
    pub sha256: String,
    /// How many bytes.
    pub bytes: u64,
    /// `image/png` and the like.
    pub content_type: String,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

impl ImageTask {
    /// Checks every range, decodes the pictures once to be sure that it can be done, and fills in `image` and `mask`.
    pub(crate) fn check(&mut self, image: Option<&[u8]>, mask: Option<&[u8]>, limits: &Limits) -> Result<(), JobError> {
        check_prompt("prompt", &self.prompt, "say what the picture shows")?;
        self.options.check()?;
        match (image, mask) {
            (None, Some(_)) => return Err(invalid("`mask` says where `image` is drawn anew: send both")),
            (None, None) if self.options.strength.is_some() => {
                return Err(invalid("`strength` says how much of `image` is drawn anew: send an image"));
            }
            _ => {}
        }
        let picture = |bytes: &[u8]| sango_media::load_image_bytes(bytes, limits).map(|it| RgbImage::dimensions(&it));
        let levels = |bytes: &[u8]| sango_media::load_mask_bytes(bytes, limits).map(|it| GrayImage::dimensions(&it));
        self.image = image.map(|bytes| media_ref("image", bytes, picture)).transpose()?;
        self.mask = mask.map(|bytes| media_ref("mask", bytes, levels)).transpose()?;
        Ok(())
    }
}

impl ImageOptions {
    pub(crate) fn check(&self) -> Result<(), JobError> {
        check_text("options.negative_prompt", self.negative_prompt.as_deref().unwrap_or(""))?;
        option_within("steps", self.steps, 1, MAX_STEPS)?;
        option_within("width", self.width, 1, MAX_SIDE)?;
        option_within("height", self.height, 1, MAX_SIDE)?;
        option_within("guidance_scale", self.guidance_scale, 0.0, 50.0)?;
        option_within("strength", self.strength, 0.0, 1.0)?;
        for temperature in self.temperature.into_iter().flatten() {
            within("options.temperature", temperature, 0.0, 20.0)?;
        }
        Ok(())
    }
}

pub(crate) fn media_ref(
    field: &str,
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<(u32, u32), sango_media::MediaError>,
) -> Result<MediaRef, JobError> {
    let decoded = decode(bytes).map_err(JobError::from);
    let (width, height) = decoded.map_err(|error| JobError::new(error.kind, format!("`{field}`: {error}")))?;
    let content_type = sango_media::MediaFormat::guess(bytes).map_or("", sango_media::MediaFormat::content_type);
    Ok(MediaRef {
        sha256: sha256_hex(bytes),
        bytes: bytes.len() as u64,
        content_type: content_type.to_owned(),
        width,
        height,
    })
}

/// The fields of an `image` job's JSON that are its own.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wire {
    kind: crate::JobKind,
    #[serde(default)]
    model: Option<String>,
    prompt: String,
    #[serde(default)]
    options: Option<ImageOptions>,
    #[serde(default)]
    image: Option<String>,
    #[serde(default)]
    mask: Option<String>,
    #[serde(default)]
    idempotency_key: Option<String>,
    #[serde(default)]
    priority: Option<i32>,
}

impl Wire {
    pub(crate) fn submission(self) -> Result<Submission, JobError> {
        debug_assert_eq!(self.kind, crate::JobKind::Image);
        let picture = |field, text: Option<String>| text.map(|text| super::decode_base64(field, &text)).transpose();
        let task = ImageTask { prompt: self.prompt, options: self.options.unwrap_or_default(), ..ImageTask::default() };
        Ok(Submission {
            image: picture("image", self.image)?,
            mask: picture("mask", self.mask)?,
            idempotency_key: self.idempotency_key,
            ..Submission::new(crate::Task::Image(task), self.model, self.priority)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_refuse_unknown_names() {
        let error = serde_json::from_str::<ImageOptions>(r#"{"stepz": 3}"#).unwrap_err();
        assert!(error.to_string().contains("stepz") && error.to_string().contains("steps"), "{error}");
    }
}
