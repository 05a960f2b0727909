//! From what a client sends to a checked request.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use sango_media::{GrayImage, Limits, RgbImage};

use crate::{ErrorKind, ImageOptions, JobError, JobKind, JobRequest, MediaRef};

/// Characters a prompt may have. CLIP reads 77 tokens, so this is far more than it uses.
pub const MAX_PROMPT_CHARS: usize = 2_000;
pub(crate) const MAX_STEPS: u32 = 100;
const MAX_SIDE: u32 = 4_096;
const MAX_NAME_CHARS: usize = 200;

/// A job as it is handed in: the request, its media as bytes, and the key that makes handing it in twice harmless.
///
/// ```
/// use sango_jobs::{JobKind, Submission};
///
/// let json = serde_json::json!({"kind": "image", "prompt": "a red circle", "options": {"seed": 7}});
/// let submission = Submission::from_json(json)?;
/// assert_eq!(submission.request.kind, JobKind::Image);
/// assert!(Submission::from_json(serde_json::json!({"kind": "image", "promt": "a typing mistake"})).is_err());
/// # Ok::<(), sango_jobs::JobError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// What is to be made. Its `image` and `mask` are filled in by the engine.
    pub request: JobRequest,
    /// The encoded picture to start from.
    pub image: Option<Vec<u8>>,
    /// The encoded mask.
    pub mask: Option<Vec<u8>>,
    /// Handing in the same key again answers the first job.
    pub idempotency_key: Option<String>,
}

/// The job JSON of `docs/protocol.md`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    kind: JobKind,
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

impl Submission {
    /// Reads the job JSON. Ranges are checked later, by the engine.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] names the field; [`ErrorKind::UnsupportedKind`] for a kind that is planned but not
    /// there yet; [`ErrorKind::InvalidMedia`] for an image that is not base64.
    pub fn from_json(json: Value) -> Result<Self, JobError> {
        // Before the fields are looked at: a job of another kind has other fields.
        if let Some(kind @ ("understand" | "video" | "pipeline")) = json.get("kind").and_then(Value::as_str) {
            let message = format!("this server cannot do `{kind}` jobs; it does `image`");
            return Err(JobError::new(ErrorKind::UnsupportedKind, message));
        }
        let refuse =
            |why: &dyn std::fmt::Display| JobError::new(ErrorKind::InvalidRequest, format!("not a job: {why}"));
        // serde would take the fields from a list, too, in their order.
        if !json.is_object() {
            return Err(refuse(&"it is no JSON object"));
        }
        if json.get("options").is_some_and(Value::is_array) {
            return Err(refuse(&"`options` is a list, not an object"));
        }
        let wire: Wire = serde_json::from_value(json).map_err(|error| refuse(&error))?;
        Ok(Self {
            request: JobRequest {
                kind: wire.kind,
                model: wire.model,
                prompt: wire.prompt,
                options: wire.options.unwrap_or_default(),
                image: None,
                mask: None,
                priority: wire.priority.unwrap_or(0),
            },
            image: wire.image.map(|text| decode_base64("image", &text)).transpose()?,
            mask: wire.mask.map(|text| decode_base64("mask", &text)).transpose()?,
            idempotency_key: wire.idempotency_key,
        })
    }

    /// Checks every range, decodes the media once to be sure that it can be decoded, and fills in
    /// `request.image` and `request.mask`.
    pub(crate) fn check(&mut self, limits: &Limits) -> Result<(), JobError> {
        check_request(&self.request)?;
        if let Some(key) = &self.idempotency_key {
            within("idempotency_key", key.chars().count(), 1, MAX_NAME_CHARS)?;
        }
        match (&self.image, &self.mask) {
            (None, Some(_)) => {
                return Err(invalid("`mask` says where `image` is drawn anew: send both"));
            }
            (None, None) if self.request.options.strength.is_some() => {
                return Err(invalid("`strength` says how much of `image` is drawn anew: send an image"));
            }
            _ => {}
        }
        let image =
            |bytes: &[u8]| sango_media::load_image_bytes(bytes, limits).map(|picture| RgbImage::dimensions(&picture));
        let mask = |bytes: &[u8]| sango_media::load_mask_bytes(bytes, limits).map(|mask| GrayImage::dimensions(&mask));
        self.request.image = self.image.as_deref().map(|bytes| media_ref("image", bytes, image)).transpose()?;
        self.request.mask = self.mask.as_deref().map(|bytes| media_ref("mask", bytes, mask)).transpose()?;
        Ok(())
    }
}

fn check_request(request: &JobRequest) -> Result<(), JobError> {
    let options = &request.options;
    if request.prompt.trim().is_empty() {
        return Err(invalid("`prompt` is empty: say what the picture shows"));
    }
    check_text("prompt", &request.prompt)?;
    check_text("options.negative_prompt", options.negative_prompt.as_deref().unwrap_or(""))?;
    if let Some(model) = &request.model {
        within("model", model.chars().count(), 1, MAX_NAME_CHARS)?;
    }
    within("priority", request.priority, -100, 100)?;
    options.steps.map_or(Ok(()), |steps| within("options.steps", steps, 1, MAX_STEPS))?;
    options.width.map_or(Ok(()), |width| within("options.width", width, 1, MAX_SIDE))?;
    options.height.map_or(Ok(()), |height| within("options.height", height, 1, MAX_SIDE))?;
    options.guidance_scale.map_or(Ok(()), |scale| within("options.guidance_scale", scale, 0.0, 50.0))?;
    options.strength.map_or(Ok(()), |strength| within("options.strength", strength, 0.0, 1.0))?;
    for temperature in options.temperature.into_iter().flatten() {
        within("options.temperature", temperature, 0.0, 20.0)?;
    }
    Ok(())
}

fn check_text(field: &str, text: &str) -> Result<(), JobError> {
    let chars = text.chars().count();
    if chars > MAX_PROMPT_CHARS {
        let message = format!("`{field}` has {chars} characters, more than the {MAX_PROMPT_CHARS} allowed: shorten it");
        return Err(JobError::new(ErrorKind::TooLarge, message));
    }
    Ok(())
}

fn within<T: PartialOrd + std::fmt::Display>(field: &str, value: T, low: T, high: T) -> Result<(), JobError> {
    // Written so that NaN is outside.
    if value >= low && value <= high {
        return Ok(());
    }
    Err(invalid(format!("`{field}` is {value}, outside {low} to {high}")))
}

fn invalid(message: impl Into<String>) -> JobError {
    JobError::new(ErrorKind::InvalidOption, message)
}

fn decode_base64(field: &str, text: &str) -> Result<Vec<u8>, JobError> {
    // A page's FileReader gives `data:image/png;base64,…`.
    let data = match text.strip_prefix("data:") {
        Some(url) => url.split_once(";base64,").map_or("", |(_, data)| data),
        None => text,
    };
    match STANDARD.decode(data.trim()) {
        Ok(bytes) if !bytes.is_empty() => Ok(bytes),
        _ => Err(JobError::new(ErrorKind::InvalidMedia, format!("`{field}` is not an image in base64"))),
    }
}

fn media_ref(
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

/// SHA-256 as lower-case hex.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The request as the client wrote it: what must be equal for an idempotency key to be a repetition.
pub(crate) fn request_hash(request: &JobRequest) -> String {
    sha256_hex(serde_json::json!(["request", 1, request]).to_string().as_bytes())
}

/// What must be equal for two jobs to give the same bytes: the task, the model's content, every option and the media.
/// Not the model's name (a renamed folder draws the same) nor the priority.
pub(crate) fn cache_key(request: &JobRequest, model_hash: &str) -> String {
    let media = |media: &Option<MediaRef>| media.as_ref().map(|media| media.sha256.clone());
    let canonical = serde_json::json!([
        "job",
        1,
        request.kind,
        model_hash,
        request.prompt,
        request.options,
        media(&request.image),
        media(&request.mask)
    ]);
    sha256_hex(canonical.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn check(json: Value) -> Result<Submission, JobError> {
        let mut submission = Submission::from_json(json)?;
        submission.check(&Limits::default())?;
        Ok(submission)
    }

    fn png(width: u32, height: u32) -> String {
        STANDARD.encode(sango_media::encode_png(&RgbImage::new(width, height), &[]).unwrap())
    }

    #[test]
    fn the_smallest_job_and_the_fullest() {
        let small = check(json!({"kind": "image", "prompt": "a red circle"})).unwrap();
        assert_eq!(small.request.options, ImageOptions::default());
        let full = check(json!({
            "kind": "image", "model": "amused", "prompt": "珊瑚", "priority": -3, "idempotency_key": "k",
            "options": {"negative_prompt": "blur", "steps": 4, "guidance_scale": 4, "seed": u64::MAX, "width": 64,
                        "height": 32, "temperature": [2, 0], "strength": 0.5},
            "image": format!("data:image/png;base64,{}", png(4, 2)), "mask": png(4, 2),
        }))
        .unwrap();
        let image = full.request.image.unwrap();
        assert_eq!((image.width, image.height, image.content_type.as_str()), (4, 2, "image/png"));
        assert_eq!(image.sha256, sha256_hex(&full.image.unwrap()));
        assert_eq!(full.request.options.seed, Some(u64::MAX));
    }

    #[test]
    fn every_refusal_says_which_field() {
        let cases = [
            (json!(null), ErrorKind::InvalidRequest, "not a job"),
            (json!([1]), ErrorKind::InvalidRequest, "not a job"),
            (json!(["image", null, "x"]), ErrorKind::InvalidRequest, "not a job"),
            (json!({"kind": "image", "prompt": "x", "options": [null, 4]}), ErrorKind::InvalidRequest, "options"),
            (json!({"prompt": "x"}), ErrorKind::InvalidRequest, "kind"),
            (json!({"kind": "image"}), ErrorKind::InvalidRequest, "prompt"),
            (json!({"kind": "poem", "prompt": "x"}), ErrorKind::InvalidRequest, "poem"),
            (json!({"kind": "video", "frames": 9}), ErrorKind::UnsupportedKind, "video"),
            (json!({"kind": "image", "prompt": "x", "promt": 1}), ErrorKind::InvalidRequest, "promt"),
            (json!({"kind": "image", "prompt": 7}), ErrorKind::InvalidRequest, "integer"),
            (json!({"kind": "image", "prompt": " \n"}), ErrorKind::InvalidOption, "prompt"),
            (json!({"kind": "image", "prompt": "x".repeat(10_000)}), ErrorKind::TooLarge, "2000"),
            (json!({"kind": "image", "prompt": "x", "options": {"steps": 0}}), ErrorKind::InvalidOption, "steps"),
            (json!({"kind": "image", "prompt": "x", "options": {"steps": -1}}), ErrorKind::InvalidRequest, "-1"),
            (json!({"kind": "image", "prompt": "x", "options": {"width": 5000}}), ErrorKind::InvalidOption, "width"),
            (
                json!({"kind": "image", "prompt": "x", "options": {"temperature": [1]}}),
                ErrorKind::InvalidRequest,
                "length",
            ),
            (
                json!({"kind": "image", "prompt": "x", "options": {"guidance_scale": -1}}),
                ErrorKind::InvalidOption,
                "guidance_scale",
            ),
            (json!({"kind": "image", "prompt": "x", "options": {"strength": 0.5}}), ErrorKind::InvalidOption, "image"),
            (json!({"kind": "image", "prompt": "x", "priority": 101}), ErrorKind::InvalidOption, "priority"),
            (
                json!({"kind": "image", "prompt": "x", "idempotency_key": ""}),
                ErrorKind::InvalidOption,
                "idempotency_key",
            ),
            (json!({"kind": "image", "prompt": "x", "image": "%%%"}), ErrorKind::InvalidMedia, "image"),
            (json!({"kind": "image", "prompt": "x", "image": "aGVsbG8="}), ErrorKind::InvalidMedia, "image"),
            (json!({"kind": "image", "prompt": "x", "mask": png(2, 2)}), ErrorKind::InvalidOption, "mask"),
        ];
        for (json, kind, words) in cases {
            let error = check(json.clone()).unwrap_err();
            assert_eq!(error.kind, kind, "{json}: {error}");
            assert!(error.message.contains(words), "{json}: {error}");
        }
    }

    #[test]
    fn a_giant_image_is_too_large() {
        let mut submission =
            Submission::from_json(json!({"kind": "image", "prompt": "x", "image": png(30, 30)})).unwrap();
        let error = submission.check(&Limits { max_pixels: 899, ..Limits::default() }).unwrap_err();
        assert_eq!(error.kind, ErrorKind::TooLarge);
    }

    #[test]
    fn the_cache_key_sees_what_changes_the_picture_and_nothing_else() {
        let job = |json: Value| check(json).unwrap().request;
        let base = job(json!({"kind": "image", "prompt": "x", "options": {"seed": 1}}));
        let key = cache_key(&base, "hash");
        let renamed = JobRequest { model: Some("other".into()), priority: 5, ..base.clone() };
        assert_eq!(cache_key(&renamed, "hash"), key);
        let other_seed = job(json!({"kind": "image", "prompt": "x", "options": {"seed": 2}}));
        let with_image = job(json!({"kind": "image", "prompt": "x", "options": {"seed": 1}, "image": png(2, 2)}));
        for (request, hash) in [(&base, "other"), (&other_seed, "hash"), (&with_image, "hash")] {
            assert_ne!(cache_key(request, hash), key);
        }
        assert_ne!(request_hash(&renamed), request_hash(&base));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,20}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 6, |inner| {
            let key = prop_oneof![
                Just("kind".to_owned()),
                Just("prompt".to_owned()),
                Just("options".to_owned()),
                Just("image".to_owned()),
                Just("steps".to_owned()),
                Just("temperature".to_owned()),
                ".{0,6}"
            ];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(key, inner, 0..6).prop_map(Value::from_iter),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]
        #[test]
        fn no_json_makes_it_panic(mut json in any_json(), complete in any::<bool>()) {
            if let (true, Some(map)) = (complete, json.as_object_mut()) {
                map.insert("kind".into(), "image".into());
                map.entry("prompt").or_insert("x".into());
            }
            if let Err(error) = check(json) {
                prop_assert!(!error.message.is_empty());
            }
        }
    }
}
