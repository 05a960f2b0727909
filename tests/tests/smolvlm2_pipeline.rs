//! Conversations through the whole SmolVLM2 pipeline, with a small model of random weights: what is remembered changes
//! nothing but the time, and every way to end an answer ends it.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use sango_media::{Rgb, RgbImage};
use sango_models::smolvlm2::{
    Answer, Content, FinishReason, Message, SamplingParams, SmolVLMPipeline, UnderstandEvent, UnderstandRequest,
};
use sango_models::{DType, LoadOptions};
use sango_tensor::{Tensor, save};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

const SPECIAL: [&str; 6] =
    ["<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<global-img>", "<image>", "<|im_end|>"];
const VOCABULARY: usize = 256 + SPECIAL.len();

/// A tokenizer of single bytes: the characters that byte-level vocabularies write for them.
fn tokenizer() -> Value {
    let plain = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut moved = 256u32..;
    let mut vocabulary = Map::new();
    for byte in 0..=255u8 {
        let code = if plain(byte) { u32::from(byte) } else { moved.next().expect("endless") };
        vocabulary.insert(char::from_u32(code).expect("a character").to_string(), byte.into());
    }
    let added: Vec<Value> = SPECIAL
        .iter()
        .enumerate()
        .map(|(n, token)| {
            json!({"id": 256 + n, "content": token, "special": true, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false})
        })
        .collect();
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
           "pre_tokenizer": bytes, "post_processor": bytes, "decoder": bytes,
           "model": {"type": "BPE", "vocab": vocabulary, "merges": []}})
}

/// Numbers that are the same everywhere (SplitMix64), around 0.
struct Random(u64);

impl Random {
    fn tensor(&mut self, shape: &[usize], scale: f32, around: f32) -> Tensor {
        let mut next = || {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        let numbers = (0..shape.iter().product()).map(|_| around + scale * next()).collect();
        Tensor::from_vec(numbers, shape).expect("a shape")
    }
}

fn weights() -> Vec<(String, Tensor)> {
    let mut random = Random(3);
    let mut all = Vec::new();
    let mut add = |name: String, shape: &[usize]| {
        let (scale, around) = match shape {
            [_] if name.ends_with("weight") => (0.2, 1.0),
            [_] => (0.2, 0.0),
            _ if name.contains("embed") => (1.0, 0.0),
            [_, rest @ ..] => (2.0 / (rest.iter().product::<usize>() as f32).sqrt(), 0.0),
            [] => (0.0, 0.0),
        };
        all.push((name, random.tensor(shape, scale, around)));
    };
    let (text, vision) = ("model.text_model", "model.vision_model");
    add(format!("{text}.embed_tokens.weight"), &[VOCABULARY, 32]);
    add("lm_head.weight".into(), &[VOCABULARY, 32]);
    add(format!("{text}.norm.weight"), &[32]);
    for n in 0..2 {
        let layer = format!("{text}.layers.{n}");
        for (name, shape) in [
            ("self_attn.q_proj", &[32, 32][..]),
            ("self_attn.k_proj", &[16, 32]),
            ("self_attn.v_proj", &[16, 32]),
            ("self_attn.o_proj", &[32, 32]),
            ("mlp.gate_proj", &[48, 32]),
            ("mlp.up_proj", &[48, 32]),
            ("mlp.down_proj", &[32, 48]),
            ("input_layernorm", &[32]),
            ("post_attention_layernorm", &[32]),
        ] {
            add(format!("{layer}.{name}.weight"), shape);
        }
    }
    let layer = format!("{vision}.encoder.layers.0");
    for (name, shape) in [
        (format!("{layer}.self_attn.q_proj"), &[24, 24][..]),
        (format!("{layer}.self_attn.k_proj"), &[24, 24]),
        (format!("{layer}.self_attn.v_proj"), &[24, 24]),
        (format!("{layer}.self_attn.out_proj"), &[24, 24]),
        (format!("{layer}.mlp.fc1"), &[40, 24]),
        (format!("{layer}.mlp.fc2"), &[24, 40]),
        (format!("{layer}.layer_norm1"), &[24]),
        (format!("{layer}.layer_norm2"), &[24]),
        (format!("{vision}.post_layernorm"), &[24]),
        (format!("{vision}.embeddings.patch_embedding"), &[24, 3, 4, 4]),
    ] {
        add(format!("{name}.weight"), shape);
        add(format!("{name}.bias"), &shape[..1]);
    }
    add(format!("{vision}.embeddings.position_embedding.weight"), &[64, 24]);
    add("model.connector.modality_projection.proj.weight".into(), &[32, 24 * 16]);
    all
}

/// A folder as it is published, with a context of 400 positions.
fn folder() -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, value: Value| std::fs::write(dir.path().join(name), value.to_string()).expect("written");
    write("tokenizer.json", tokenizer());
    write(
        "tokenizer_config.json",
        json!({"bos_token": SPECIAL[0], "eos_token": SPECIAL[1], "pad_token": SPECIAL[5], "image_token": SPECIAL[4]}),
    );
    write(
        "config.json",
        json!({
            "architectures": ["SmolVLMForConditionalGeneration"], "model_type": "smolvlm", "image_token_id": 260,
            "scale_factor": 4,
            "text_config": {"model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48,
                            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
                            "max_position_embeddings": 400},
            "vision_config": {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2,
                              "image_size": 32, "patch_size": 4},
        }),
    );
    write("generation_config.json", json!({"eos_token_id": 257, "suppress_tokens": [257, 256, 258, 259, 260, 261]}));
    write("processor_config.json", json!({"image_seq_len": 4}));
    write(
        "preprocessor_config.json",
        json!({
            "image_processor_type": "SmolVLMImageProcessor", "do_image_splitting": false, "resample": 1,
            "max_image_size": {"longest_edge": 32}, "size": {"longest_edge": 32},
            "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
            "video_sampling": {"fps": 1, "max_frames": 4, "video_size": {"longest_edge": 32}},
        }),
    );
    let template = "<|im_start|>{% for message in messages %}{{ message['role'] }}: {% for line in message['content'] %}\
                    {% if line['type'] == 'text' %}{{ line['text'] }}{% else %}{{ '<image>' }}{% endif %}{% endfor %}\
                    <end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
    std::fs::write(dir.path().join("chat_template.jinja"), template).expect("written");
    let weights = weights();
    let named: Vec<(&str, &Tensor)> = weights.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    save(dir.path().join("model.safetensors"), &named, None).expect("saved");
    dir
}

fn load(dir: &Path) -> SmolVLMPipeline {
    SmolVLMPipeline::load(dir, &LoadOptions::new(DType::F32)).expect("the folder is whole")
}

fn picture(shade: u8) -> Content {
    Content::Image(Arc::new(RgbImage::from_fn(40, 30, |x, y| Rgb([shade, 3 * x as u8, 5 * y as u8]))))
}

fn request(question: &str) -> UnderstandRequest {
    let content = vec![picture(9), picture(200), Content::Text(question.into())];
    let mut request = UnderstandRequest::new(vec![Message::user(content)]);
    request.max_new_tokens = Some(16);
    request
}

fn answer(pipeline: &SmolVLMPipeline, request: &UnderstandRequest) -> Answer {
    pipeline.answer(request, &mut |_| ControlFlow::Continue(())).expect("an answer")
}

/// The answer and how many pictures were looked at.
fn watched(pipeline: &SmolVLMPipeline, request: &UnderstandRequest) -> (Answer, usize) {
    let (mut pictures, mut text) = (0, String::new());
    let answer = pipeline.answer(request, &mut |event| {
        match event {
            UnderstandEvent::Vision { total, .. } => pictures = total,
            UnderstandEvent::Token { text: piece, .. } => text.push_str(piece),
            _ => {}
        }
        ControlFlow::Continue(())
    });
    let answer = answer.expect("an answer");
    assert_eq!(text, answer.text, "the pieces are the text");
    (answer, pictures)
}

#[test]
fn what_is_remembered_changes_nothing_but_the_work() {
    let dir = folder();
    let (warm, cold) = (load(dir.path()), load(dir.path()));
    let (first, pictures) = watched(&warm, &request("What is this?"));
    assert_eq!((first.tokens.len(), first.finish_reason, first.cached_tokens), (16, FinishReason::Length, 0));
    assert_eq!(pictures, 2);
    let (again, pictures) = watched(&warm, &request("What is this?"));
    assert_eq!((&again.tokens, pictures), (&first.tokens, 0));
    assert_eq!(again.cached_tokens, again.prompt_tokens - 1, "all but the last, whose logits are needed");

    let (second, pictures) = watched(&warm, &request("What was that, then?"));
    assert!(second.cached_tokens > 10 && second.cached_tokens < second.prompt_tokens - 5, "{second:?}");
    assert_eq!(pictures, 0);
    assert_eq!(second.tokens, answer(&cold, &request("What was that, then?")).tokens);

    // Another first picture: nothing after it may be taken from memory, but the second picture's features may.
    let mut other = request("What is this?");
    other.messages[0].content[0] = picture(77);
    let (third, pictures) = watched(&warm, &other);
    assert_eq!(pictures, 1);
    cold.clear_cache();
    assert_eq!(third.tokens, answer(&cold, &other).tokens);
    assert_ne!(third.tokens, first.tokens, "the picture matters");

    // The next turn goes on where the answer ended.
    let mut next = request("What is this?");
    next.messages.push(Message::assistant(first.text.clone()));
    next.messages.push(Message::user(vec![Content::Text("Are you sure?".into())]));
    let (next_answer, _) = watched(&warm, &next);
    cold.clear_cache();
    assert!(next_answer.cached_tokens >= first.prompt_tokens - 1);
    assert_eq!(next_answer.tokens, answer(&cold, &next).tokens);
}

#[test]
fn memory_stays_within_its_budget() {
    let dir = folder();
    let pipeline = |bytes| SmolVLMPipeline::load(dir.path(), &LoadOptions::new(DType::F32).cache_bytes(bytes));
    let (none, little) = (pipeline(0).expect("it loads"), pipeline(40_000).expect("it loads"));
    let expected: Vec<_> = (0..6).map(|n| answer(&none, &request(&"?".repeat(n + 1))).tokens).collect();
    assert_eq!(none.cached_bytes(), 0);
    for (n, expected) in expected.iter().enumerate().chain(expected.iter().enumerate()) {
        assert_eq!(&answer(&little, &request(&"?".repeat(n + 1))).tokens, expected);
        assert!(little.cached_bytes() <= 40_000 && little.cached_bytes() > 0);
    }
}

#[test]
fn an_answer_ends_when_nobody_wants_it() {
    let dir = folder();
    let pipeline = load(dir.path());
    let full = answer(&pipeline, &request("What is this?"));
    pipeline.clear_cache();
    let ended = pipeline.answer(&request("What is this?"), &mut |event| match event {
        UnderstandEvent::Token { index: 3, .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    let ended = ended.expect("what there is");
    assert_eq!((&ended.tokens[..], ended.finish_reason), (&full.tokens[..4], FinishReason::Cancelled));
    type Wanted = fn(&UnderstandEvent<'_>) -> bool;
    let moments: [Wanted; 3] = [
        |event| matches!(event, UnderstandEvent::Prepared { .. }),
        |event| matches!(event, UnderstandEvent::Vision { .. }),
        |event| matches!(event, UnderstandEvent::Prefill { .. }),
    ];
    for moment in moments {
        pipeline.clear_cache();
        let ended = pipeline.answer(&request("What is this?"), &mut |event| match moment(&event) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        });
        let ended = ended.expect("what there is");
        assert_eq!((ended.tokens.len(), ended.finish_reason), (0, FinishReason::Cancelled));
        assert_eq!(ended.prompt_tokens, full.prompt_tokens);
    }
    assert_eq!(answer(&pipeline, &request("What is this?")).tokens, full.tokens, "nothing half done is kept");
}

#[test]
fn stop_texts_and_lengths_end_an_answer() {
    let dir = folder();
    let pipeline = load(dir.path());
    let full = answer(&pipeline, &request("What is this?"));
    let (at, stop) = full.text.char_indices().filter(|(_, c)| c.is_ascii()).nth(2).expect("some ASCII");
    let first = full.text.find(stop).expect("it is there").min(at);
    let mut stopping = request("What is this?");
    stopping.stop = vec!["never said".into(), stop.to_string()];
    let (stopped, _) = watched(&pipeline, &stopping);
    assert_eq!((stopped.text.as_str(), stopped.finish_reason), (&full.text[..first], FinishReason::Stop));

    let mut long = request(&"word ".repeat(70));
    long.max_new_tokens = Some(1000);
    let cut = answer(&pipeline, &long);
    assert_eq!((cut.prompt_tokens + cut.tokens.len(), cut.finish_reason), (400, FinishReason::Length));
    let error = pipeline.answer(&request(&"word ".repeat(90)), &mut |_| ControlFlow::Continue(()));
    let error = error.expect_err("more than the context").to_string();
    assert!(error.contains("`messages`") && error.contains("at most 399"), "{error}");
}

#[test]
fn draws_follow_the_seed() {
    let dir = folder();
    let pipeline = load(dir.path());
    let drawn = |seed, temperature| {
        let mut request = request("What is this?");
        request.sampling = SamplingParams { temperature, seed: Some(seed), ..SamplingParams::default() };
        answer(&pipeline, &request).tokens
    };
    assert_eq!(drawn(1, Some(1.5)), drawn(1, Some(1.5)));
    assert_ne!(drawn(1, Some(1.5)), drawn(2, Some(1.5)));
    assert_eq!(drawn(1, Some(0.0)), drawn(2, None));
    for sampling in [
        SamplingParams { temperature: Some(f32::NAN), ..SamplingParams::default() },
        SamplingParams { top_p: Some(1.5), ..SamplingParams::default() },
        SamplingParams { repetition_penalty: Some(0.0), ..SamplingParams::default() },
    ] {
        let mut request = request("What is this?");
        request.sampling = sampling;
        pipeline.answer(&request, &mut |_| ControlFlow::Continue(())).expect_err("out of range");
    }
}

#[test]
fn threads_share_a_pipeline() {
    let dir = folder();
    let pipeline = load(dir.path());
    let expected = answer(&pipeline, &request("What is this?")).tokens;
    pipeline.clear_cache();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..3 {
                    assert_eq!(answer(&pipeline, &request("What is this?")).tokens, expected);
                }
            });
        }
    });
}

#[test]
fn int8_and_bf16_answer_too() {
    let dir = folder();
    for options in [LoadOptions::default(), LoadOptions::default().int8()] {
        let pipeline = SmolVLMPipeline::load(dir.path(), &options).expect("it loads");
        let first = answer(&pipeline, &request("What is this?"));
        assert_eq!(first.tokens.len(), 16);
        assert_eq!(answer(&pipeline, &request("What is this?")).tokens.len(), 16);
    }
}
