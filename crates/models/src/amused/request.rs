//! What a caller asks for, and the checks that it makes sense.

use sango_tensor::Tensor;

use super::settings::{MAX_GUIDANCE, MAX_STEPS};
use crate::error::{ModelError, Result};

/// Prompts as text, or as token ids where a caller tokenizes (or measures without a tokenizer).
#[derive(Debug, Clone)]
pub enum Prompts {
    /// One text per picture.
    Text(Vec<String>),
    /// Ids `[B, S]`, padded.
    Ids(Tensor),
}

impl Prompts {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Text(texts) => texts.len(),
            Self::Ids(ids) => ids.shape().first().copied().unwrap_or(0),
        }
    }
}

impl From<&str> for Prompts {
    fn from(text: &str) -> Self {
        Self::Text(vec![text.to_owned()])
    }
}

impl From<String> for Prompts {
    fn from(text: String) -> Self {
        Self::Text(vec![text])
    }
}

impl From<Vec<String>> for Prompts {
    fn from(texts: Vec<String>) -> Self {
        Self::Text(texts)
    }
}

/// Facts about the picture that the model was told in training beside the caption.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MicroConditioning {
    /// Left and top of the crop that was trained on, in pixels.
    pub crop: (f32, f32),
    /// Aesthetic score, 0 to 10.
    pub aesthetic_score: f32,
}

impl Default for MicroConditioning {
    fn default() -> Self {
        Self { crop: (0.0, 0.0), aesthetic_score: 6.0 }
    }
}

/// A request for pictures. Fields that are `None` take the model's default.
///
/// With `image` this is image-to-image, with `image` and `mask` inpainting.
#[derive(Debug, Clone)]
pub struct AmusedRequest {
    /// What the pictures show.
    pub prompt: Prompts,
    /// What they do not show: one text for all, or one per prompt.
    pub negative_prompt: Prompts,
    /// Pictures per prompt. Pictures come as the reference orders them: all prompts, then all prompts again.
    pub images_per_prompt: usize,
    /// Width in pixels, a multiple of the model's scale factor; the image's, where one is given.
    pub width: Option<usize>,
    /// Height in pixels.
    pub height: Option<usize>,
    /// Number of steps.
    pub steps: Option<usize>,
    /// How strongly the prompt is followed; up to 1 is without guidance, which halves the work.
    pub guidance_scale: Option<f32>,
    /// Randomness in the choice of tokens to keep: at the first and at the last step.
    pub temperature: Option<(f32, f32)>,
    /// Seed of all randomness. Picture `i` of a request depends on the seed and `i` only.
    pub seed: u64,
    /// The picture to start from, `[1, 3, H, W]` in 0..1.
    pub image: Option<Tensor>,
    /// How far to go from the image, 0 to 1; default 0.5, and 1 for inpainting.
    pub strength: Option<f32>,
    /// Where to paint, `[1, 1, H, W]`: 0.5 and above is painted anew.
    pub mask: Option<Tensor>,
    /// Facts besides the prompt.
    pub micro_conditioning: MicroConditioning,
}

impl AmusedRequest {
    /// A request for one picture of `prompt` with the model's defaults.
    pub fn new(prompt: impl Into<Prompts>) -> Self {
        Self {
            prompt: prompt.into(),
            negative_prompt: "".into(),
            images_per_prompt: 1,
            width: None,
            height: None,
            steps: None,
            guidance_scale: None,
            temperature: None,
            seed: 0,
            image: None,
            strength: None,
            mask: None,
            micro_conditioning: MicroConditioning::default(),
        }
    }

    /// Checks everything that can be checked without the model.
    pub(super) fn validate(&self) -> Result<()> {
        check_prompts(&self.prompt)?;
        if let Prompts::Text(texts) = &self.negative_prompt {
            texts.iter().try_for_each(|text| check_length("negative_prompt", text))?;
        }
        let (prompts, negatives) = (self.prompt.len(), self.negative_prompt.len());
        if negatives != 1 && negatives != prompts {
            let detail = format!("has {negatives} entries; give one for all or one for each of the {prompts} prompts");
            return Err(ModelError::request("negative_prompt", detail));
        }
        let pictures = prompts.saturating_mul(self.images_per_prompt);
        if !(1..=MAX_PICTURES).contains(&pictures) {
            let detail = format!("asks for {pictures} pictures in all; 1 to {MAX_PICTURES} can be made at once");
            return Err(ModelError::request("images_per_prompt", detail));
        }
        if let Some(steps) = self.steps
            && !(1..=MAX_STEPS).contains(&steps)
        {
            return Err(ModelError::request("steps", format!("is {steps}; it must be between 1 and {MAX_STEPS}")));
        }
        in_range("guidance_scale", self.guidance_scale, MAX_GUIDANCE)?;
        in_range("temperature", self.temperature.map(|t| t.0), MAX_TEMPERATURE)?;
        in_range("temperature", self.temperature.map(|t| t.1), MAX_TEMPERATURE)?;
        in_range("strength", self.strength, 1.0)?;
        let MicroConditioning { crop, aesthetic_score } = self.micro_conditioning;
        in_range("crop", Some(crop.0), MAX_CROP)?;
        in_range("crop", Some(crop.1), MAX_CROP)?;
        in_range("aesthetic_score", Some(aesthetic_score), 10.0)?;
        match (&self.image, &self.mask) {
            (None, Some(_)) => Err(ModelError::request("mask", "needs an image to paint into")),
            (None, None) if self.strength.is_some() => {
                Err(ModelError::request("strength", "needs an image to start from"))
            }
            _ => Ok(()),
        }
    }
}

const MAX_PICTURES: usize = 16;
const MAX_TEMPERATURE: f32 = 100.0;
const MAX_CROP: f32 = 65_536.0;
/// Prompts are cut off at 77 tokens or so; far longer ones are a mistake that should not pass silently.
const MAX_PROMPT_CHARS: usize = 4096;

fn in_range(field: &'static str, value: Option<f32>, max: f32) -> Result<()> {
    match value {
        // Written so that NaN fails.
        Some(value) if !(0.0..=max).contains(&value) => {
            Err(ModelError::request(field, format!("is {value}; it must be between 0 and {max}")))
        }
        _ => Ok(()),
    }
}

fn check_prompts(prompts: &Prompts) -> Result<()> {
    if prompts.len() == 0 {
        return Err(ModelError::request("prompt", "is missing"));
    }
    let Prompts::Text(texts) = prompts else { return Ok(()) };
    for text in texts {
        if text.trim().is_empty() {
            return Err(ModelError::request("prompt", "is empty; say what the picture should show"));
        }
        check_length("prompt", text)?;
    }
    Ok(())
}

fn check_length(field: &'static str, text: &str) -> Result<()> {
    let chars = text.chars().count();
    if chars > MAX_PROMPT_CHARS {
        let detail =
            format!("has {chars} characters; at most {MAX_PROMPT_CHARS} are taken, and the model reads far fewer");
        return Err(ModelError::request(field, detail));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut AmusedRequest)) -> String {
        let mut request = AmusedRequest::new("a red circle");
        change(&mut request);
        request.validate().expect_err("the request makes no sense").to_string()
    }

    #[test]
    fn a_plain_request_passes() {
        AmusedRequest::new("a red circle").validate().expect("nothing is wrong with it");
    }

    #[test]
    fn nonsense_is_named() {
        assert!(refused(|r| r.prompt = " \n".into()).contains("`prompt` is empty"));
        assert!(refused(|r| r.prompt = "x".repeat(10_000).into()).contains("10000 characters"));
        assert!(refused(|r| r.prompt = Vec::<String>::new().into()).contains("`prompt` is missing"));
        assert!(refused(|r| r.negative_prompt = "y".repeat(10_000).into()).contains("`negative_prompt`"));
        assert!(refused(|r| r.negative_prompt = vec!["a".to_owned(); 3].into()).contains("one for all"));
        assert!(refused(|r| r.steps = Some(0)).contains("`steps` is 0"));
        assert!(refused(|r| r.steps = Some(usize::MAX)).contains("`steps`"));
        assert!(refused(|r| r.guidance_scale = Some(f32::NAN)).contains("`guidance_scale` is NaN"));
        assert!(refused(|r| r.guidance_scale = Some(-1.0)).contains("`guidance_scale`"));
        assert!(refused(|r| r.temperature = Some((f32::INFINITY, 0.0))).contains("`temperature`"));
        assert!(refused(|r| r.images_per_prompt = 0).contains("`images_per_prompt`"));
        assert!(refused(|r| r.images_per_prompt = usize::MAX).contains("`images_per_prompt`"));
        assert!(refused(|r| r.strength = Some(0.5)).contains("needs an image"));
        assert!(refused(|r| r.micro_conditioning.aesthetic_score = f32::NAN).contains("`aesthetic_score`"));
    }
}
