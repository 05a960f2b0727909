//! What callers of a pipeline rely on besides the reference's numbers: seeds, batches, cancelling, previews, defaults.

use std::ops::ControlFlow;
use std::path::Path;

use sango_models::amused::{AmusedOutput, AmusedPipeline, AmusedRequest};
use sango_models::{DType, LoadOptions, ModelError};
use sango_tensor::Tensor;

fn pipeline(case: &str) -> AmusedPipeline {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("parity/cases").join(case).join("model");
    AmusedPipeline::load(dir, &LoadOptions::new(DType::F32)).expect("a sound folder")
}

fn generate(pipeline: &AmusedPipeline, request: &AmusedRequest) -> AmusedOutput {
    pipeline.generate(request, &mut |_| ControlFlow::Continue(())).expect("a sound request")
}

fn pixels(output: &AmusedOutput, picture: usize) -> Vec<f32> {
    output.images.narrow(0, picture, 1).expect("that many pictures").as_f32().expect("f32").to_vec()
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
    let pipeline = pipeline("amused-plain");
    let request = AmusedRequest { seed: 3, ..AmusedRequest::new("a red circle") };
    let first = generate(&pipeline, &request);
    assert_eq!(pixels(&first, 0), pixels(&generate(&pipeline, &request), 0));
    let other = AmusedRequest { seed: 4, ..request };
    assert_ne!(pixels(&first, 0), pixels(&generate(&pipeline, &other), 0));
    assert!(pixels(&first, 0).iter().all(|x| (0.0..=1.0).contains(x)));
}

#[test]
fn a_picture_does_not_depend_on_what_is_made_beside_it() {
    let pipeline = pipeline("amused-plain");
    let prompts = vec!["a red circle".to_owned(), "a small cat".to_owned()];
    let batch = AmusedRequest { images_per_prompt: 2, steps: Some(4), ..AmusedRequest::new(prompts) };
    let batch = generate(&pipeline, &batch);
    assert_eq!(batch.images.shape(), [4, 3, 16, 16]);
    let alone = AmusedRequest { steps: Some(4), ..AmusedRequest::new("a red circle") };
    assert_eq!(pixels(&batch, 0), pixels(&generate(&pipeline, &alone), 0));
    let all: Vec<Vec<f32>> = (0..4).map(|n| pixels(&batch, n)).collect();
    for n in 1..4 {
        assert_ne!(all[0], all[n], "pictures 0 and {n} are the same");
    }
}

#[test]
fn prompts_negative_prompts_and_guidance_matter() {
    let pipeline = pipeline("amused-plain");
    let request = AmusedRequest { steps: Some(3), ..AmusedRequest::new("a red circle") };
    let plain = pixels(&generate(&pipeline, &request), 0);
    let changes: [fn(&mut AmusedRequest); 4] = [
        |r| r.prompt = "a small cat".into(),
        |r| r.negative_prompt = "a small cat".into(),
        |r| r.guidance_scale = Some(1.0),
        |r| r.micro_conditioning.aesthetic_score = 1.0,
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let mut other = request.clone();
        change(&mut other);
        assert_ne!(plain, pixels(&generate(&pipeline, &other), 0), "change {n} made no difference");
    }
}

#[test]
fn the_callback_sees_every_step_previews_and_can_cancel() {
    let pipeline = pipeline("amused-resampled");
    let request = AmusedRequest { width: Some(32), height: Some(48), ..AmusedRequest::new("a red circle") };
    let mut masked = Vec::new();
    let output = pipeline.generate(&request, &mut |event| {
        assert_eq!(event.total, 12);
        assert_eq!(event.preview().expect("a preview").shape(), [1, 3, 48, 32]);
        masked.push(event.tokens.as_i64().expect("ids").iter().filter(|&&token| token == 55).count());
        ControlFlow::Continue(())
    });
    assert_eq!(output.expect("a sound request").images.shape(), [1, 3, 48, 32]);
    assert_eq!(masked.len(), 12);
    assert!(masked.is_sorted_by(|a, b| a > b), "each step leaves fewer masked: {masked:?}");
    assert_eq!(masked[11], 0);

    let mut seen = 0;
    let cancelled = pipeline.generate(&request, &mut |event| {
        seen = event.step;
        if event.step == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(cancelled, Err(ModelError::Cancelled)));
    assert_eq!(seen, 2);
}

#[test]
fn images_are_changed_more_with_more_strength_and_masks_keep_the_rest() {
    let pipeline = pipeline("amused-plain");
    let gradient = (0..3 * 16 * 16).map(|n| n as f32 / 768.0).collect();
    let image = Tensor::from_vec(gradient, &[1, 3, 16, 16]).expect("a picture");
    let start = |strength: f32| {
        let request = AmusedRequest {
            image: Some(image.clone()),
            strength: Some(strength),
            ..AmusedRequest::new("a red circle")
        };
        let mut steps = 0;
        let output = pipeline.generate(&request, &mut |event| {
            steps = event.total;
            ControlFlow::Continue(())
        });
        (output.expect("a sound request").tokens, steps)
    };
    let ((little, few), (all, every)) = (start(0.1), start(1.0));
    assert_eq!((few, every), (1, 12));
    let same = |a: &Tensor, b: &Tensor| {
        a.as_i64().expect("ids").iter().zip(b.as_i64().expect("ids")).filter(|(a, b)| a == b).count()
    };
    // At 1 nothing of the image is left, and a pure text-to-image run follows.
    assert!(same(&little, &all) < 40, "{} of 64 tokens", same(&little, &all));

    let mask: Vec<f32> = (0..256).map(|n| if n % 16 < 8 { 1.0 } else { 0.0 }).collect();
    let mask = Tensor::from_vec(mask, &[1, 1, 16, 16]).expect("a mask");
    let inpaint = |seed: u64| {
        let request = AmusedRequest {
            image: Some(image.clone()),
            mask: Some(mask.clone()),
            seed,
            ..AmusedRequest::new("a small cat")
        };
        generate(&pipeline, &request).tokens.as_i64().expect("ids").to_vec()
    };
    let (a, b) = (inpaint(1), inpaint(2));
    for (n, (a, b)) in a.iter().zip(&b).enumerate().filter(|(n, _)| n % 8 >= 4) {
        assert_eq!(a, b, "token {n} is outside the mask");
    }
    assert_ne!(a, b);
}

#[test]
fn sango_json_gives_a_folder_its_own_defaults() {
    let plain = pipeline("amused-plain").summary();
    assert_eq!((plain.steps, plain.guidance_scale), (12, 4.0));
    let dir = tempfile::tempdir().expect("a temporary folder");
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("parity/cases/amused-plain/model");
    for part in ["scheduler", "text_encoder", "tokenizer", "transformer", "vqvae"] {
        let to = dir.path().join(part);
        std::fs::create_dir(&to).expect("created");
        for entry in std::fs::read_dir(from.join(part)).expect("a part").map(|entry| entry.expect("a file")) {
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
        }
    }
    std::fs::write(dir.path().join("sango.json"), r#"{"guidance_scale": 2.5, "steps": 8}"#).expect("written");
    let own = AmusedPipeline::load(dir.path(), &LoadOptions::default()).expect("a sound folder").summary();
    assert_eq!((own.steps, own.guidance_scale, own.dtype), (8, 2.5, "bf16"));
}
