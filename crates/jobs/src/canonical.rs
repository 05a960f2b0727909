//! Hashes that say when two requests are the same.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::task::understand::UnderstandOptions;
use crate::{JobRequest, MediaInfo, MediaRef, PipelineOptions, Task};

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
    sha256_hex(json!(["request", 1, request]).to_string().as_bytes())
}

/// What must be equal for two jobs to give the same: the task, the model's content, every option and the media. Not the
/// model's name (a renamed folder does the same) nor the priority.
pub(crate) fn cache_key(request: &JobRequest, model_hash: &str) -> String {
    let canonical = match &request.task {
        Task::Image(task) => {
            let hash = |media: &Option<MediaRef>| media.as_ref().map(|media| media.sha256.clone());
            json!([
                "job",
                1,
                request.kind(),
                model_hash,
                task.prompt,
                task.options,
                hash(&task.image),
                hash(&task.mask)
            ])
        }
        Task::Understand(task) => {
            let (media, options) = (hashes(&task.media), canonical_options(&task.options));
            json!(["job", 1, request.kind(), model_hash, task.question, task.messages, options, media])
        }
        Task::Video(task) => {
            let image = task.image.as_ref().map(|image| &image.sha256);
            json!(["job", 1, request.kind(), model_hash, task.prompt, task.options, image])
        }
        Task::Pipeline(task) => {
            let PipelineOptions { understand, image, video, .. } = &task.options;
            // The seed has become that of each stage.
            let options = json!([canonical_options(understand), image, video]);
            json!(["job", 1, request.kind(), model_hash, task.question, options, hashes(&task.media)])
        }
    };
    sha256_hex(canonical.to_string().as_bytes())
}

fn hashes(media: &[MediaInfo]) -> Value {
    json!(media.iter().map(|media| (media.kind, &media.sha256)).collect::<Vec<_>>())
}

/// Without what makes no difference when nothing is drawn.
fn canonical_options(options: &UnderstandOptions) -> Value {
    let mut options = options.clone();
    if !options.is_sampled() {
        options = UnderstandOptions { temperature: None, top_k: None, top_p: None, min_p: None, seed: None, ..options };
    }
    json!(options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Submission;

    fn image(options: Value) -> JobRequest {
        Submission::from_json(json!({"kind": "image", "prompt": "x", "options": options})).unwrap().request
    }

    fn understand(options: Value) -> JobRequest {
        Submission::from_json(json!({"kind": "understand", "question": "x", "options": options})).unwrap().request
    }

    #[test]
    fn the_cache_key_sees_what_changes_the_result_and_nothing_else() {
        for make in [image as fn(Value) -> JobRequest, understand] {
            let base = make(json!({"seed": 1, "temperature": null}));
            let key = cache_key(&base, "hash");
            let renamed = JobRequest { model: Some("other".into()), priority: 5, ..base.clone() };
            assert_eq!(cache_key(&renamed, "hash"), key);
            assert_ne!(cache_key(&base, "other"), key);
            assert_ne!(request_hash(&renamed), request_hash(&base));
        }
        assert_ne!(cache_key(&image(json!({"seed": 2})), ""), cache_key(&image(json!({"seed": 1})), ""));
        assert_ne!(cache_key(&image(json!({})), ""), cache_key(&understand(json!({})), ""));
    }

    #[test]
    fn a_seed_matters_only_where_something_is_drawn() {
        let key = |options| cache_key(&understand(options), "");
        assert_eq!(key(json!({"temperature": 0, "seed": 1, "top_k": 3})), key(json!({"temperature": 0.0, "seed": 2})));
        assert_ne!(key(json!({"temperature": 1, "seed": 1})), key(json!({"temperature": 1, "seed": 2})));
        assert_ne!(key(json!({"repetition_penalty": 1.2})), key(json!({})));
    }
}
