//! LTX-Video as its users meet it: what a generation reports, that it can be stopped and repeated, and that a mistake in a
//! request or a folder is answered before any work with an error that says what to change.

use std::ops::ControlFlow;
use std::path::PathBuf;

use sango_models::ltx_video::{
    LTXVideoCondition, LTXVideoEvent, LTXVideoOutput, LTXVideoPipeline, LTXVideoPrompt, LTXVideoRequest,
    LTXVideoSettings, Stg, StgMode,
};
use sango_models::t5::{T5EncoderModel, T5Tokenizer};
use sango_models::{DType, LoadOptions, ModelError, ModelKind, detect};
use sango_tensor::Tensor;
use sango_tests::{ModelCopy, assert_says, cases};
use serde_json::{Value, json};

fn case(name: &str) -> PathBuf {
    cases().join(name).join("model")
}

fn pipeline(name: &str) -> LTXVideoPipeline {
    LTXVideoPipeline::load(case(name), &LoadOptions::new(DType::F32).eager()).expect("the case loads")
}

/// A video of 9 frames, 32×32, in three steps.
fn request() -> LTXVideoRequest {
    let mut request = LTXVideoRequest::new("a small green star moves left over a white background");
    (request.num_frames, request.width, request.height) = (Some(9), Some(32), Some(32));
    request.num_inference_steps = Some(3);
    request
}

fn generate(pipeline: &LTXVideoPipeline, request: &LTXVideoRequest) -> LTXVideoOutput {
    pipeline.generate(request, &mut |_| ControlFlow::Continue(())).expect("a video")
}

fn refused(pipeline: &LTXVideoPipeline, change: impl FnOnce(&mut LTXVideoRequest)) -> String {
    let mut request = request();
    change(&mut request);
    let mut events = 0;
    let error = pipeline.generate(&request, &mut |_| {
        events += 1;
        ControlFlow::Continue(())
    });
    let error = error.expect_err("the request makes no sense");
    assert_eq!(events, 0, "refused before any work: {error}");
    assert!(matches!(error, ModelError::Request { .. } | ModelError::Memory { .. }), "{error:?}");
    error.to_string()
}

fn picture(height: usize, width: usize) -> Tensor {
    let values = (0..3 * height * width).map(|i| (i % 17) as f32 / 16.0).collect();
    Tensor::from_vec(values, &[1, 3, height, width]).expect("a picture")
}

#[test]
fn a_generation_tells_what_it_does_and_can_be_repeated() {
    let pipeline = pipeline("ltx-video-conditions");
    let mut told = Vec::new();
    let made = pipeline.generate(&request(), &mut |event| {
        told.push(match event {
            LTXVideoEvent::TextEncoder => "text".to_owned(),
            LTXVideoEvent::Encode { .. } => "encode".into(),
            LTXVideoEvent::Step { step, total, preview } => {
                let drawn = preview().expect("a preview");
                assert_eq!((drawn.width, drawn.height), (32, 32));
                format!("{step} of {total}")
            }
            LTXVideoEvent::Decode { .. } => "decode".into(),
        });
        ControlFlow::Continue(())
    });
    let made = made.expect("a video");
    assert_eq!(told[..4], ["text", "1 of 3", "2 of 3", "3 of 3"]);
    assert!(told.len() > 4 && told[4..].iter().all(|event| event == "decode"), "{told:?}");
    assert_eq!((made.video.shape(), made.latents.shape()), (&[1, 3, 9, 32, 32][..], &[1, 8, 2, 1, 1][..]));
    assert!(made.video.as_f32().expect("f32").iter().all(|x| (0.0..=1.0).contains(x)));
    assert_eq!((made.frame_rate, made.timings.steps.len()), (25.0, 3));

    let again = generate(&pipeline, &request());
    assert_eq!(again.video.as_f32().expect("f32"), made.video.as_f32().expect("f32"), "the same to the bit");
    let other = generate(&pipeline, &LTXVideoRequest { seed: 1, ..request() });
    assert_ne!(other.video.as_f32().expect("f32"), made.video.as_f32().expect("f32"));
}

#[test]
fn any_event_can_end_a_generation() {
    let pipeline = pipeline("ltx-video-conditions");
    let mut with_image = request();
    with_image.image = Some(picture(32, 32));
    let mut total = 0;
    pipeline
        .generate(&with_image, &mut |_| {
            total += 1;
            ControlFlow::Continue(())
        })
        .expect("a video");
    for last in 1..=total {
        let mut events = 0;
        let ended = pipeline.generate(&with_image, &mut |_| {
            events += 1;
            if events == last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(ended, Err(ModelError::Cancelled)), "event {last}: {ended:?}");
        assert_eq!(events, last, "nothing comes after the end");
    }
}

#[test]
fn a_picture_is_the_first_frame_and_stays_it() {
    for name in ["ltx-video-plain", "ltx-video-affine", "ltx-video-conditions"] {
        let pipeline = pipeline(name);
        let mut with_image = request();
        with_image.image = Some(picture(32, 32));
        let first =
            |made: &LTXVideoOutput| made.latents.narrow(2, 0, 1).expect("a frame").as_f32().expect("f32").to_vec();
        let one = first(&generate(&pipeline, &with_image));
        with_image.num_inference_steps = Some(1);
        assert_eq!(first(&generate(&pipeline, &with_image)), one, "{name}: whatever the steps");
        assert_ne!(first(&generate(&pipeline, &request())), one, "{name}");
    }
}

#[test]
fn conditions_of_all_kinds_make_videos() {
    let pipeline = pipeline("ltx-video-conditions");
    let video = |frames| Tensor::full(&[1, 3, frames, 32, 32], 0.5).expect("a video");
    for conditions in [
        vec![LTXVideoCondition::new(picture(32, 32), 0), LTXVideoCondition::new(picture(32, 32), 16)],
        vec![LTXVideoCondition { strength: 0.3, ..LTXVideoCondition::new(video(9), 0) }],
        // 12 frames are cut to 9; from frame 8 on there is room for 17 of 25.
        vec![LTXVideoCondition::new(video(12), 0), LTXVideoCondition::new(video(25), 8)],
        vec![LTXVideoCondition::new(picture(32, 32), 5)],
    ] {
        let mut request = request();
        (request.conditions, request.num_frames) = (conditions, Some(25));
        assert_eq!(generate(&pipeline, &request).video.shape(), [1, 3, 25, 32, 32]);
    }
    // A scheduler that shifts by the number of tokens has conditions too.
    let plain = self::pipeline("ltx-video-plain");
    let mut request = request();
    request.conditions = vec![LTXVideoCondition::new(picture(32, 32), 8)];
    generate(&plain, &request);
}

#[test]
fn mistakes_in_a_request_are_named_before_any_work() {
    let pipeline = pipeline("ltx-video-conditions");
    let refused = |change: &dyn Fn(&mut LTXVideoRequest)| refused(&pipeline, change);
    let says = |change: &dyn Fn(&mut LTXVideoRequest), words: &[&str]| assert_says(&refused(change), words);
    says(&|r| r.num_frames = Some(10), &["`num_frames` is 10", "9 or 17"]);
    says(&|r| r.num_frames = Some(0), &["`num_frames` is 0"]);
    says(&|r| r.num_frames = Some(usize::MAX), &["`num_frames`"]);
    says(&|r| r.width = Some(40), &["`width` is 40", "multiple of 32", "for example 32"]);
    says(&|r| r.height = Some(0), &["`height` is 0"]);
    says(&|r| r.height = Some(usize::MAX - 31), &["`height`"]);
    says(&|r| r.image = Some(picture(32, 64)), &["`image` is 64×32", "32×32"]);
    says(&|r| r.image = Some(Tensor::zeros(&[3, 32, 32]).expect("zeros")), &["`image` has shape [3, 32, 32]"]);
    says(&|r| r.image = Some(Tensor::full(&[1, 3, 32, 32], f32::NAN).expect("NaN")), &["`image` has a value of NaN"]);
    says(&|r| r.image = Some(Tensor::full(&[1, 3, 32, 32], 255.0).expect("bytes")), &["pixels are in 0..1"]);
    says(&|r| r.frame_rate = Some(f32::NAN), &["`frame_rate` is NaN"]);
    says(&|r| r.frame_rate = Some(0.0), &["`frame_rate` is 0"]);
    says(&|r| r.guidance_scale = Some(f32::NAN), &["`guidance_scale` is NaN"]);
    says(&|r| r.guidance_scale = Some(-1.0), &["`guidance_scale`"]);
    says(&|r| r.guidance_rescale = Some(1.5), &["`guidance_rescale` is 1.5"]);
    says(&|r| r.num_inference_steps = Some(0), &["`num_inference_steps` is 0"]);
    says(&|r| r.num_inference_steps = Some(usize::MAX), &["`num_inference_steps`"]);
    says(&|r| r.decode_timestep = Some(f32::INFINITY), &["`decode_timestep`"]);
    says(&|r| r.decode_noise_scale = Some(-0.1), &["`decode_noise_scale`"]);
    says(&|r| r.max_sequence_length = Some(0), &["`max_sequence_length` is 0"]);
    says(&|r| r.prompt = " \n".into(), &["`prompt` is empty"]);
    says(&|r| r.prompt = "x".repeat(100_000).into(), &["100000 characters"]);
    says(&|r| r.timesteps = Some(vec![1000.0, 500.0]), &["`timesteps` is given beside"]);
    says(&|r| (r.num_inference_steps, r.timesteps) = (None, Some(vec![500.0, 1000.0])), &["`timesteps`", "must fall"]);
    says(&|r| (r.num_inference_steps, r.timesteps) = (None, Some(vec![f32::NAN])), &["`timesteps`"]);
    says(&|r| (r.num_inference_steps, r.sigmas) = (None, Some(vec![])), &["`sigmas`"]);
    says(&|r| (r.num_inference_steps, r.sigmas) = (None, Some(vec![1.5, 0.5])), &["`sigmas`", "up to 1"]);

    let stg = |scale, blocks: &[usize]| Some(Stg { scale, blocks: blocks.to_vec(), mode: StgMode::default() });
    says(&|r| r.stg = stg(1.0, &[3]), &["layer 3", "0 to 2"]);
    says(&|r| r.stg = stg(1.0, &[]), &["`stg_blocks` is empty"]);
    says(&|r| r.stg = stg(f32::NAN, &[0]), &["`stg_scale` is NaN"]);

    let condition = |frames: Tensor, at| vec![LTXVideoCondition::new(frames, at)];
    let video = |frames| Tensor::full(&[1, 3, frames, 32, 32], 0.5).expect("a video");
    says(&|r| r.conditions = condition(picture(32, 32), 9), &["begins at frame 9", "has 9"]);
    says(&|r| r.conditions = condition(video(9), 4), &["frame 4", "multiple of 8"]);
    says(&|r| r.conditions = condition(video(9), 8), &["one is left"]);
    says(&|r| r.conditions = condition(picture(64, 32), 0), &["32×64"]);
    says(&|r| r.conditions = condition(Tensor::zeros(&[1, 3, 0, 32, 32]).expect("nothing"), 0), &["`conditions`"]);
    says(
        &|r| {
            r.conditions = vec![LTXVideoCondition { strength: f32::NAN, ..LTXVideoCondition::new(picture(32, 32), 0) }];
        },
        &["strength NaN"],
    );
    says(
        &|r| {
            r.image = Some(picture(32, 32));
            r.conditions = condition(picture(32, 32), 0);
        },
        &["`image` is given beside conditions"],
    );

    let ids = |id: i64| LTXVideoPrompt::Ids {
        ids: Tensor::from_i64(vec![id; 4], &[1, 4]).expect("ids"),
        mask: Tensor::from_i64(vec![1; 4], &[1, 4]).expect("a mask"),
    };
    says(&|r| r.prompt = ids(5), &["`negative_prompt` has 256 tokens, the prompt 4".replace("256", "128").as_str()]);
    let mut unknown = request();
    (unknown.prompt, unknown.guidance_scale) = (ids(1 << 40), Some(1.0));
    let error = pipeline.generate(&unknown, &mut |_| ControlFlow::Continue(())).expect_err("no such id");
    assert_says(&error.to_string(), &["1099511627776"]);
    says(
        &|r| {
            let mask = Tensor::from_i64(vec![1; 4], &[1, 4]).expect("a mask");
            r.prompt = LTXVideoPrompt::Embeds { embeds: Tensor::zeros(&[1, 4, 7]).expect("zeros"), mask };
        },
        &["embeddings", "[1, 4, 7]", "[1, S, 32]"],
    );
}

#[test]
fn what_does_not_fit_in_memory_is_refused_with_the_estimate() {
    let pipeline = pipeline("ltx-video-plain");
    let message = refused(&pipeline, |r| {
        (r.num_frames, r.width, r.height) = (Some(257), Some(512), Some(512));
        r.memory_budget = Some(1 << 26);
    });
    assert_says(&message, &["GB of memory", "transformer", "decoder", "smaller or shorter"]);
    let message = refused(&pipeline, |r| r.memory_budget = Some(1000));
    assert_says(&message, &["0.1 GB may be used"]);

    let small = pipeline.estimate(&request()).expect("an estimate");
    let mut long = request();
    long.num_frames = Some(257);
    let large = pipeline.estimate(&long).expect("an estimate");
    assert!(large.bytes > small.bytes, "{small:?} {large:?}");
    assert!(small.parts.iter().any(|(name, bytes)| *name == "text encoder" && *bytes > 0));
    let mut tight = request();
    tight.memory_budget = Some(small.bytes);
    generate(&pipeline, &tight);
}

#[test]
fn prompts_as_ids_and_states_are_the_text() {
    let pipeline = pipeline("ltx-video-plain");
    let by_text = generate(&pipeline, &request());
    let encoding = |text: &str| {
        let tokenizer = T5Tokenizer::load(&case("ltx-video-plain").join("tokenizer")).expect("a tokenizer");
        let encoding = tokenizer.encode(text, 128).expect("ids");
        let tensor = |values| Tensor::from_i64(values, &[1, 128]).expect("ids");
        (tensor(encoding.ids), tensor(encoding.mask))
    };
    let options = LoadOptions::new(DType::F32);
    let encoder = T5EncoderModel::load(&case("ltx-video-plain").join("text_encoder"), &options).expect("an encoder");
    let text = "a small green star moves left over a white background";
    let (mut by_ids, mut by_embeds) = (request(), request());
    for (field, text) in [(0, text), (1, "")] {
        let (ids, mask) = encoding(text);
        let embeds = encoder.forward(&ids, None).expect("states");
        let (ids, embeds) = (LTXVideoPrompt::Ids { ids, mask: mask.clone() }, LTXVideoPrompt::Embeds { embeds, mask });
        match field {
            0 => (by_ids.prompt, by_embeds.prompt) = (ids, embeds),
            _ => (by_ids.negative_prompt, by_embeds.negative_prompt) = (ids, embeds),
        }
    }
    for other in [by_ids, by_embeds] {
        let made = generate(&pipeline, &other);
        assert_eq!(made.video.as_f32().expect("f32"), by_text.video.as_f32().expect("f32"));
    }
}

/// A model to be damaged.
fn sound() -> ModelCopy {
    ModelCopy::of_case("ltx-video-karras")
}

trait Load {
    fn load(&self) -> Result<LTXVideoPipeline, ModelError>;

    fn refused(&self) -> String {
        self.load().err().expect("the folder must be refused").to_string()
    }
}

impl Load for ModelCopy {
    fn load(&self) -> Result<LTXVideoPipeline, ModelError> {
        LTXVideoPipeline::load(self.dir(), &LoadOptions::new(DType::F32).eager())
    }
}

#[test]
fn a_sound_folder_is_known_and_says_its_defaults() {
    let model = sound();
    assert_eq!(detect(model.dir()).expect("known"), ModelKind::LtxVideo);
    let settings = LTXVideoSettings::read(model.dir()).expect("settings");
    assert_eq!((settings.width, settings.height, settings.num_frames, settings.steps), (704, 512, 161, 50));
    assert_eq!((settings.size_multiple, settings.frame_multiple), (32, 8));
    model.set("sango.json", "frames", json!(17)).set("sango.json", "fps", json!(8)).set(
        "sango.json",
        "steps",
        json!(2),
    );
    model.set("sango.json", "width", json!(32)).set("sango.json", "height", json!(64));
    let pipeline = model.load().expect("nothing is wrong with it");
    let summary = pipeline.summary();
    assert_eq!((summary.width, summary.height, summary.num_frames, summary.steps), (32, 64, 17, 2));
    assert!(summary.parameters > 10_000, "{summary}");
    let made = generate(&pipeline, &LTXVideoRequest::new("a red ring grows"));
    assert_eq!((made.video.shape(), made.frame_rate), (&[1, 3, 17, 64, 32][..], 8.0));
}

#[test]
fn folders_that_cannot_be_run_say_why() {
    let refused = |file: &str, key: &str, value: Value| sound().set(file, key, value).refused();
    for (file, key, value, words) in [
        ("transformer/config.json", "patch_size", json!(2), &["transformer/config.json", "`patch_size` is 2"][..]),
        ("transformer/config.json", "num_layers", json!(7), &["transformer_blocks.1"]),
        (
            "transformer/config.json",
            "activation_fn",
            json!("snake"),
            &["`activation_fn` is \"snake\"", "gelu-approximate"],
        ),
        ("transformer/config.json", "in_channels", json!(7), &["in_channels"]),
        ("transformer/config.json", "caption_channels", json!(17), &["`d_model` is 16", "caption_channels is 17"]),
        ("vae/config.json", "latent_channels", json!(5), &["`in_channels` is 4", "latent_channels is 5"]),
        ("scheduler/scheduler_config.json", "time_shift_type", json!("cubic"), &["`time_shift_type` is \"cubic\""]),
        ("scheduler/scheduler_config.json", "shift", json!("x"), &["scheduler_config.json"]),
        ("text_encoder/config.json", "feed_forward_proj", json!("gated-snake"), &["`feed_forward_proj`", "relu"]),
        ("text_encoder/config.json", "d_ff", json!(21), &["wi_0", "[20, 16]", "[21, 16]"]),
        ("text_encoder/config.json", "num_layers", json!(u32::MAX), &["`num_layers`"]),
        ("tokenizer/tokenizer_config.json", "extra_ids", json!(-1), &["extra_ids"]),
        ("tokenizer/tokenizer_config.json", "eos_token", json!("<end>"), &["`<end>` is not in the vocabulary"]),
        ("sango.json", "width", json!(40), &["sango.json", "`width` is 40"]),
        ("sango.json", "num_frames", json!(16), &["`num_frames` is 16"]),
        ("sango.json", "colour", json!("red"), &["sango.json", "colour"]),
    ] {
        assert_says(&refused(file, key, value), words);
    }
    for (file, words) in [
        ("transformer/diffusion_pytorch_model.safetensors", &["transformer", "safetensors"][..]),
        ("text_encoder/model.safetensors", &["text_encoder"]),
        ("tokenizer/spiece.model", &["tokenizer", "spiece.model"]),
        ("scheduler/scheduler_config.json", &["scheduler_config.json"]),
    ] {
        let model = sound();
        std::fs::remove_file(model.path(file)).expect("removed");
        assert_says(&model.refused(), words);
        // Cut short.
        let model = sound();
        let whole = std::fs::read(model.path(file)).expect("a file");
        std::fs::write(model.path(file), &whole[..whole.len() * 2 / 3]).expect("written");
        assert_says(&model.refused(), words);
    }
}

#[test]
fn parts_of_the_text_side_may_be_missing() {
    let model = sound();
    std::fs::remove_dir_all(model.path("tokenizer")).expect("removed");
    std::fs::remove_dir_all(model.path("text_encoder")).expect("removed");
    let pipeline = model.load().expect("enough for embeddings");
    let message = refused(&pipeline, |_| {});
    assert_says(&message, &["has no `tokenizer`"]);
    let mut request = request();
    let given = |value: f32| LTXVideoPrompt::Embeds {
        embeds: Tensor::full(&[1, 6, 16], value).expect("states"),
        mask: Tensor::from_i64(vec![1; 6], &[1, 6]).expect("a mask"),
    };
    (request.prompt, request.negative_prompt) = (given(0.5), given(-0.5));
    generate(&pipeline, &request);
}

#[test]
fn hostile_tokenizers_are_errors() {
    let folder = cases().join("t5-tokenizer/nfkc");
    let sound = std::fs::read(folder.join("spiece.model")).expect("a tokenizer");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let try_with = |bytes: &[u8]| {
        std::fs::write(dir.path().join("spiece.model"), bytes).expect("written");
        if let Ok(tokenizer) = T5Tokenizer::load(dir.path()) {
            // What loads must also run.
            let _ = tokenizer.encode("a ﬁne ½ \u{1F600} </s> text", 16).expect("any text has ids");
        }
    };
    for cut in (0..sound.len()).step_by(sound.len() / 150) {
        try_with(&sound[..cut]);
    }
    for at in (0..sound.len()).step_by(sound.len() / 150) {
        let mut damaged = sound.clone();
        damaged[at] ^= 0x55;
        try_with(&damaged);
    }
    std::fs::write(dir.path().join("tokenizer.json"), r#"{"model": {"type": "BPE", "vocab": {}}}"#).expect("written");
    let error = T5Tokenizer::load(dir.path()).err().expect("not a unigram model").to_string();
    assert_says(&error, &["tokenizer.json", "BPE"]);
}
