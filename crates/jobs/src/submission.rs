//! From what a client sends to a checked request.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::intake::Intake;
use crate::task::understand::MAX_MEDIA;
use crate::task::{MAX_NAME_CHARS, image, invalid, pipeline, understand, video, within};
use crate::upload::Upload;
use crate::{ErrorKind, JobError, JobRequest, MediaInfo, Task};

/// A job as it is handed in: the request, its media as bytes, and the key that makes handing it in twice harmless.
///
/// ```
/// use sango_jobs::{JobKind, Submission};
///
/// let json = serde_json::json!({"kind": "image", "prompt": "a red circle", "options": {"seed": 7}});
/// let submission = Submission::from_json(json)?;
/// assert_eq!(submission.request.kind(), JobKind::Image);
/// assert!(Submission::from_json(serde_json::json!({"kind": "image", "promt": "a typing mistake"})).is_err());
/// # Ok::<(), sango_jobs::JobError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// What is to be made. What it says about its media is filled in by the engine.
    pub request: JobRequest,
    /// The encoded picture that an image starts from.
    pub image: Option<Vec<u8>>,
    /// The encoded mask.
    pub mask: Option<Vec<u8>>,
    /// What a question is about.
    pub media: Vec<Upload>,
    /// Handing in the same key again answers the first job.
    pub idempotency_key: Option<String>,
}

impl Submission {
    /// A submission without media or a key.
    pub fn new(task: Task, model: Option<String>, priority: Option<i32>) -> Self {
        let request = JobRequest { model, priority: priority.unwrap_or(0), task };
        Self { request, image: None, mask: None, media: Vec::new(), idempotency_key: None }
    }

    /// Reads the job JSON of `docs/protocol.md`. Ranges are checked later, by the engine.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] names the field; [`ErrorKind::InvalidMedia`] for a file that is not base64.
    pub fn from_json(json: Value) -> Result<Self, JobError> {
        // serde would take the fields from a list, too, in their order.
        if !json.is_object() {
            return Err(not_a_job(&"it is no JSON object"));
        }
        if json.get("options").is_some_and(Value::is_array) {
            return Err(not_a_job(&"`options` is a list, not an object"));
        }
        // Before the fields are looked at: a job of another kind has other fields.
        match json.get("kind").and_then(Value::as_str) {
            Some("video") => read::<video::Wire>(json)?.submission(),
            Some("pipeline") => read::<pipeline::Wire>(json)?.submission(),
            Some("understand") => read::<understand::Wire>(json)?.submission(),
            _ => read::<image::Wire>(json)?.submission(),
        }
    }

    /// Checks every range, takes the media in, and fills in what the request says about them. Afterwards every upload
    /// of `media` is either received or known.
    pub(crate) fn check(&mut self, intake: &Intake<'_>) -> Result<(), JobError> {
        if let Some(model) = &self.request.model {
            within("model", model.chars().count(), 1, MAX_NAME_CHARS)?;
        }
        within("priority", self.request.priority, -100, 100)?;
        if let Some(key) = &self.idempotency_key {
            within("idempotency_key", key.chars().count(), 1, MAX_NAME_CHARS)?;
        }
        match &mut self.request.task {
            Task::Image(_) if !self.media.is_empty() => {
                Err(not_a_job(&"an `image` job has no `media`: it starts from an `image`"))
            }
            Task::Image(task) => task.check(self.image.as_deref(), self.mask.as_deref(), intake.images),
            Task::Understand(_) if self.image.is_some() || self.mask.is_some() => {
                Err(not_a_job(&"an `understand` job has no `image` or `mask`: what it is about is `media`"))
            }
            Task::Understand(task) => {
                task.check()?;
                task.media = take_in(&mut self.media, intake)?;
                Ok(())
            }
            Task::Video(_) if !self.media.is_empty() => {
                Err(not_a_job(&"a `video` job has no `media`: it begins with an `image`"))
            }
            Task::Video(_) if self.mask.is_some() => Err(not_a_job(&"a `video` job has no `mask`")),
            Task::Video(task) => task.check(self.image.as_deref(), intake.images),
            Task::Pipeline(_) if self.image.is_some() || self.mask.is_some() => {
                Err(not_a_job(&"a `pipeline` job has no `image` or `mask`: what it begins with is `media`"))
            }
            Task::Pipeline(task) => {
                task.check()?;
                task.media = take_in(&mut self.media, intake)?;
                Ok(())
            }
        }
    }
}

/// Takes in what a job is about.
fn take_in(media: &mut Vec<Upload>, intake: &Intake<'_>) -> Result<Vec<MediaInfo>, JobError> {
    match media.len() {
        1..=MAX_MEDIA => {}
        0 => return Err(invalid("`media` is missing: send the video or picture that the question is about")),
        count => return Err(invalid(format!("`media` has {count} files, more than {MAX_MEDIA}"))),
    }
    let (uploads, infos) = intake.take(std::mem::take(media))?;
    *media = uploads;
    Ok(infos)
}

fn read<T: DeserializeOwned>(json: Value) -> Result<T, JobError> {
    serde_json::from_value(json).map_err(|error| not_a_job(&error))
}

pub(crate) fn not_a_job(why: &dyn std::fmt::Display) -> JobError {
    JobError::new(ErrorKind::InvalidRequest, format!("not a job: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;
    use sango_media::{Limits, RgbImage};
    use serde_json::json;

    use crate::canonical::sha256_hex;
    use crate::files::Files;
    use crate::{ImageOptions, ImageTask, MediaType};

    fn check(json: Value) -> Result<Submission, JobError> {
        check_within(json, Limits::default())
    }

    fn check_within(json: Value, images: Limits) -> Result<Submission, JobError> {
        let folder = tempfile::tempdir().unwrap();
        let uploads = Files::open(folder.path().to_owned()).unwrap();
        let mut submission = Submission::from_json(json)?;
        submission.check(&Intake {
            images: &images,
            max_video_bytes: 1 << 20,
            uploads: &uploads,
            known: &|_| Ok(None),
        })?;
        Ok(submission)
    }

    fn task(submission: &Submission) -> &ImageTask {
        match &submission.request.task {
            Task::Image(task) => task,
            other => panic!("{other:?}"),
        }
    }

    fn png(width: u32, height: u32) -> String {
        STANDARD.encode(sango_media::encode_png(&RgbImage::new(width, height), &[]).unwrap())
    }

    #[test]
    fn the_smallest_job_and_the_fullest() {
        let small = check(json!({"kind": "image", "prompt": "a red circle"})).unwrap();
        assert_eq!(task(&small).options, ImageOptions::default());
        let full = check(json!({
            "kind": "image", "model": "amused", "prompt": "珊瑚", "priority": -3, "idempotency_key": "k",
            "options": {"negative_prompt": "blur", "steps": 4, "guidance_scale": 4, "seed": u64::MAX, "width": 64,
                        "height": 32, "temperature": [2, 0], "strength": 0.5},
            "image": format!("data:image/png;base64,{}", png(4, 2)), "mask": png(4, 2),
        }))
        .unwrap();
        let image = task(&full).image.clone().unwrap();
        assert_eq!((image.width, image.height, image.content_type.as_str()), (4, 2, "image/png"));
        assert_eq!(image.sha256, sha256_hex(full.image.as_ref().unwrap()));
        assert_eq!(task(&full).options.seed, Some(u64::MAX));
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
            (json!({"kind": "video", "prompt": "x", "frames": 9}), ErrorKind::InvalidRequest, "frames"),
            (json!({"kind": "video"}), ErrorKind::InvalidRequest, "prompt"),
            (json!({"kind": "video", "prompt": "x", "mask": png(4, 2)}), ErrorKind::InvalidRequest, "mask"),
            (json!({"kind": "video", "prompt": "x", "options": {"frames": 0}}), ErrorKind::InvalidOption, "frames"),
            (json!({"kind": "video", "prompt": "x", "options": {"fps": 0}}), ErrorKind::InvalidOption, "fps"),
            (json!({"kind": "video", "prompt": "x", "options": {"stg_mode": "x"}}), ErrorKind::InvalidRequest, "x"),
            (json!({"kind": "video", "prompt": "x", "options": {"strength": 1}}), ErrorKind::InvalidOption, "image"),
            (
                json!({"kind": "video", "prompt": "x", "negative_prompt": "a", "options": {"negative_prompt": "b"}}),
                ErrorKind::InvalidOption,
                "differ",
            ),
            (json!({"kind": "pipeline"}), ErrorKind::InvalidOption, "media"),
            (json!({"kind": "pipeline", "model": "x"}), ErrorKind::InvalidOption, "models"),
            (json!({"kind": "pipeline", "prompt": "x"}), ErrorKind::InvalidRequest, "prompt"),
            (json!({"kind": "pipeline", "question": ""}), ErrorKind::InvalidOption, "question"),
            (json!({"kind": "pipeline", "models": {"x": "y"}}), ErrorKind::InvalidRequest, "x"),
            (json!({"kind": "pipeline", "options": {"image": [1]}}), ErrorKind::InvalidRequest, "options.image"),
            (json!({"kind": "pipeline", "options": {"image": {"x": 1}}}), ErrorKind::InvalidRequest, "x"),
            (json!({"kind": "pipeline", "options": {"image": {"strength": 1}}}), ErrorKind::InvalidOption, "strength"),
            (json!({"kind": "pipeline", "options": {"video": {"frames": 0}}}), ErrorKind::InvalidOption, "`video`"),
            (json!({"kind": "pipeline", "options": {"understand": {"fps": 0}}}), ErrorKind::InvalidOption, "fps"),
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
            (json!({"kind": "image", "prompt": "x", "question": "x"}), ErrorKind::InvalidRequest, "question"),
        ];
        for (json, kind, words) in cases {
            let error = check(json.clone()).unwrap_err();
            assert_eq!(error.kind, kind, "{json}: {error}");
            assert!(error.message.contains(words), "{json}: {error}");
        }
    }

    #[test]
    fn a_giant_image_is_too_large() {
        let giant = json!({"kind": "image", "prompt": "x", "image": png(30, 30)});
        let error = check_within(giant, Limits { max_pixels: 899, ..Limits::default() }).unwrap_err();
        assert_eq!(error.kind, ErrorKind::TooLarge);
    }

    fn ask(more: Value) -> Value {
        let mut job = json!({"kind": "understand", "question": "What happens?", "media": png(4, 2)});
        job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        job
    }

    #[test]
    fn a_question_about_a_picture_in_a_conversation() {
        let submission = check(ask(json!({
            "model": "smolvlm2", "priority": 1,
            "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Which shape?"},
                         {"role": "assistant", "content": "A circle."}],
            "options": {"max_tokens": 20, "frames": 8, "fps": 2, "temperature": 0.7, "top_k": 40, "top_p": 0.9,
                        "min_p": 0.05, "repetition_penalty": 1.1, "seed": 7},
            "media": [png(4, 2), format!("data:image/png;base64,{}", png(3, 3))],
        })))
        .unwrap();
        let Task::Understand(task) = &submission.request.task else { panic!("{submission:?}") };
        let sizes: Vec<_> = task.media.iter().map(|media| (media.kind, media.width, media.height)).collect();
        assert_eq!(sizes, [(MediaType::Image, 4, 2), (MediaType::Image, 3, 3)]);
        assert_eq!((task.media[0].duration, task.media[0].frames), (None, None));
        assert_eq!(task.messages.len(), 3);
    }

    #[test]
    fn every_refusal_of_a_question_says_which_field() {
        let turn = |role: &str| json!({"role": role, "content": "x"});
        for (more, kind, words) in [
            (json!({"question": ""}), ErrorKind::InvalidOption, "question"),
            (json!({"question": "x".repeat(3_000)}), ErrorKind::TooLarge, "2000"),
            (json!({"media": null}), ErrorKind::InvalidOption, "media"),
            (json!({"media": []}), ErrorKind::InvalidOption, "media"),
            (json!({"media": vec![png(2, 2); 17]}), ErrorKind::InvalidOption, "16"),
            (json!({"media": 7}), ErrorKind::InvalidRequest, "media"),
            (json!({"media": {"sha": "x"}}), ErrorKind::InvalidRequest, "sha256"),
            (json!({"media": {"sha256": "../jobs.sqlite"}}), ErrorKind::InvalidMedia, "sha256"),
            (json!({"media": {"sha256": "0".repeat(64)}}), ErrorKind::InvalidMedia, "again"),
            (json!({"media": "%%%"}), ErrorKind::InvalidMedia, "base64"),
            (json!({"media": "aGVsbG8="}), ErrorKind::InvalidMedia, "media"),
            (json!({"image": png(2, 2)}), ErrorKind::InvalidRequest, "image"),
            (json!({"prompt": "x"}), ErrorKind::InvalidRequest, "prompt"),
            (json!({"options": {"steps": 3}}), ErrorKind::InvalidRequest, "steps"),
            (json!({"options": {"max_tokens": 0}}), ErrorKind::InvalidOption, "max_tokens"),
            (json!({"options": {"frames": 1_000}}), ErrorKind::InvalidOption, "frames"),
            (json!({"options": {"fps": 0}}), ErrorKind::InvalidOption, "fps"),
            (json!({"options": {"top_p": 0}}), ErrorKind::InvalidOption, "top_p"),
            (json!({"options": {"temperature": -1}}), ErrorKind::InvalidOption, "temperature"),
            (json!({"messages": [turn("user")]}), ErrorKind::InvalidOption, "messages"),
            (json!({"messages": [turn("assistant"), turn("user")]}), ErrorKind::InvalidOption, "messages"),
            (json!({"messages": [turn("user"), turn("system")]}), ErrorKind::InvalidOption, "messages"),
            (json!({"messages": [turn("robot")]}), ErrorKind::InvalidRequest, "robot"),
            (
                json!({"messages": [{"role": "user", "content": " "}, turn("assistant")]}),
                ErrorKind::InvalidOption,
                "[0]",
            ),
        ] {
            let error = check(ask(more.clone())).unwrap_err();
            assert_eq!(error.kind, kind, "{more}: {error}");
            assert!(error.message.contains(words), "{more}: {error}");
        }
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
                Just("question".to_owned()),
                Just("messages".to_owned()),
                Just("media".to_owned()),
                Just("sha256".to_owned()),
                Just("role".to_owned()),
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
        fn no_json_makes_it_panic(mut json in any_json(), complete in 0..5) {
            if let (1.., Some(map)) = (complete, json.as_object_mut()) {
                let (kind, words) = match complete {
                    1 => ("image", "prompt"),
                    2 => ("understand", "question"),
                    3 => ("video", "prompt"),
                    _ => ("pipeline", "question"),
                };
                map.insert("kind".into(), kind.into());
                map.entry(words).or_insert("x".into());
            }
            if let Err(error) = check(json) {
                prop_assert!(!error.message.is_empty());
            }
        }
    }
}
