//! `video` jobs: their view, the picture that they begin with, and the phases of their progress.

mod support;

use std::fs;

use sango_jobs::{Engine, InlineEngine, Phase, State, Submission};
use serde_json::json;
use support::{FakeRunner, picture};

fn film(more: serde_json::Value) -> Submission {
    let mut job = json!({"kind": "video", "prompt": "a star", "options": {"seed": 5}});
    job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Submission::from_json(job).unwrap()
}

#[test]
fn the_view_is_the_one_of_the_protocol() {
    let engine = InlineEngine::new(FakeRunner::new()).unwrap();
    let mut submission = film(json!({"negative_prompt": "blur"}));
    submission.image = Some(picture());
    let job = engine.submit(submission).unwrap().job;
    let view = serde_json::to_value(&job).unwrap();
    let image = &view["request"]["image"];
    assert_eq!(
        (&image["width"], &image["height"], &image["content_type"]),
        (&4.into(), &2.into(), &"image/png".into())
    );
    assert_eq!(
        view["request"],
        json!({
            "kind": "video", "model": "fake", "prompt": "a star", "priority": 0, "image": image,
            "options": {"negative_prompt": "blur", "width": null, "height": null, "frames": 9, "fps": null,
                        "steps": null, "guidance_scale": null, "guidance_rescale": null, "stg_scale": null,
                        "stg_blocks": null, "stg_mode": null, "seed": 5, "strength": null}
        })
    );
    assert_eq!(view["progress"], json!({"step": 2, "total": 2, "eta_ms": 0, "phase": "decode"}));
    assert_eq!((&view["result"]["content_type"], view.get("stages")), (&json!("video/mp4"), None));
}

#[test]
fn progress_is_of_a_phase_and_the_picture_counts() {
    let engine = InlineEngine::new(FakeRunner::new()).unwrap();
    let plain = engine.submit(film(json!({}))).unwrap().job;
    let phases: Vec<_> = engine
        .events_after(plain.id, 0)
        .unwrap()
        .iter()
        .filter(|event| event.event.as_str() == "progress")
        .map(|event| event.data["phase"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(phases, ["denoise", "denoise", "denoise", "decode", "decode"]);
    assert_eq!(plain.progress.unwrap().phase, Some(Phase::Decode));

    let mut with_picture = film(json!({}));
    with_picture.image = Some(picture());
    let begun = engine.submit(with_picture.clone()).unwrap().job;
    assert_eq!((begun.state, begun.result.as_ref().unwrap().cached), (State::Finished, false));
    assert!(engine.submit(with_picture).unwrap().job.result.unwrap().cached);
    assert!(engine.submit(film(json!({}))).unwrap().job.result.unwrap().cached);
    assert_ne!(begun.result.unwrap().sha256, plain.result.unwrap().sha256);
    let file = engine.result(plain.id).unwrap();
    assert_eq!(fs::read_to_string(file.path).unwrap(), "film of a star 5 after nothing");
}
