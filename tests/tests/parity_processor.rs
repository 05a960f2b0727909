//! SmolVLM2's processor against `AutoProcessor`, on the cases of `tests/parity/smolvlm2_processor.py`.
//!
//! Ids, frames, masks and tile grids are equal; pixels of lossless pictures and everything that is computed from pixels
//! are equal bit for bit. Where a decoder stands between, every byte is within 1 of the reference's.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sango_media::{Limits, RgbImage, Video, VideoLimits, load_image};
use sango_models::smolvlm2::{
    Content, Message, ProcessorOptions, Role, SmolVLMProcessor, SmolVLMTokenizer, Tile, VideoMetadata,
};
use sango_tensor::Weights;
use sango_tests::copy_folder;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// How far apart the committed bytes of a tile lie.
const STRIDE: usize = 1_000_003;

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("parity/cases/smolvlm2-processor")
}

fn json(name: &str) -> Value {
    let text = std::fs::read_to_string(cases().join(name)).expect("the case is committed");
    serde_json::from_str(&text).expect("it is JSON")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn number(value: &Value) -> usize {
    value.as_u64().expect("a whole number") as usize
}

fn string(value: &Value) -> &str {
    value.as_str().expect("a string")
}

/// A folder of settings with the tokenizer that all of them share.
fn folder(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    copy_folder(&cases().join("tokenizer"), dir.path());
    copy_folder(&cases().join("folders").join(name), dir.path());
    dir
}

fn processor(name: &str) -> SmolVLMProcessor {
    SmolVLMProcessor::load(folder(name).path()).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn content(part: &Value) -> Content {
    let path = || cases().join("media").join(string(&part["path"]));
    match string(&part["type"]) {
        "text" => Content::Text(string(&part["text"]).into()),
        "image" => Content::Image(Arc::new(load_image(&path(), &Limits::default()).expect("a picture"))),
        _ => Content::Video(Arc::new(Video::open(&path(), &VideoLimits::default()).expect("a video"))),
    }
}

fn messages(case: &Value) -> Vec<Message> {
    let role = |name| match name {
        "system" => Role::System,
        "user" => Role::User,
        _ => Role::Assistant,
    };
    list(&case["messages"])
        .iter()
        .map(|turn| Message::new(role(string(&turn["role"])), list(&turn["content"]).iter().map(content).collect()))
        .collect()
}

fn options(case: &Value) -> ProcessorOptions {
    ProcessorOptions {
        num_frames: case["num_frames"].as_u64().map(|frames| frames as usize),
        fps: case["fps"].as_f64(),
        add_generation_prompt: case["add_generation_prompt"] == true,
    }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether every file of the case is lossless or decoded by code that every machine has alike.
fn is_exact(case: &Value) -> bool {
    let mut parts = list(&case["messages"]).iter().flat_map(|turn| list(&turn["content"]));
    parts.all(|part| part["path"].as_str().is_none_or(|path| path.ends_with(".png") || path.ends_with(".gif")))
}

/// The bytes of a tile as the reference lays them out, `[3, height, width]`, 0 in the padding.
fn planes(tile: &Tile) -> Vec<u8> {
    let (height, width) = (tile.height(), tile.width());
    let mut bytes = vec![0; 3 * height * width];
    for (x, y, pixel) in tile.picture().enumerate_pixels() {
        for (channel, byte) in pixel.0.into_iter().enumerate() {
            bytes[(channel * height + y as usize) * width + x as usize] = byte;
        }
    }
    bytes
}

#[test]
fn conversations_make_the_same_ids_frames_and_pixels() {
    let pixels = Weights::open_file(cases().join("pixels.safetensors")).expect("the pixels are committed");
    let tensor = |name: &str| pixels.get(name, &pixels.shape(name).expect("it is there")).expect("it can be read");
    let all = json("cases.json");
    assert!(list(&all).len() > 20);
    for (at, case) in list(&all).iter().enumerate() {
        let name = string(&case["folder"]);
        let inputs = processor(name)
            .process(&messages(case), &options(case))
            .unwrap_or_else(|error| panic!("case {at} ({name}): {error}"));

        let ids: Vec<u32> = list(&case["ids"])
            .iter()
            .flat_map(|run| std::iter::repeat_n(number(&run[0]) as u32, number(&run[1])))
            .collect();
        assert_eq!(inputs.input_ids, ids, "case {at} ({name}): ids");

        let frames: Vec<Value> =
            inputs.frames.iter().map(|frame| serde_json::json!([frame.video, frame.index, frame.timestamp])).collect();
        assert_eq!(Value::from(frames), case["frames"], "case {at} ({name}): frames");

        let areas: Vec<Value> = inputs
            .tiles
            .iter()
            .map(|tile| {
                let (width, height) = tile.picture().dimensions();
                serde_json::json!([height, width, tile.height(), tile.width()])
            })
            .collect();
        assert_eq!(Value::from(areas), case["areas"], "case {at} ({name}): sizes and masks");

        let hashes: Vec<String> = inputs.tiles.iter().map(|tile| hex(tile.picture().as_raw())).collect();
        let equal = list(&case["sha256"]).iter().zip(&hashes).filter(|(expected, hash)| **expected == **hash).count();
        println!("case {at} ({name}): {equal} of {} tiles are equal bit for bit", hashes.len());
        assert!(equal == hashes.len() || !is_exact(case), "case {at} ({name}): pixels");

        if inputs.tiles.is_empty() {
            continue;
        }
        let expected = tensor(&at.to_string());
        let expected = expected.as_u8().expect("bytes");
        let row = expected.len() / inputs.tiles.len();
        for (tile, expected) in inputs.tiles.iter().zip(expected.chunks_exact(row)) {
            let bytes = planes(tile);
            let chosen: Vec<u8> = (0..row).map(|at| bytes[at * STRIDE % bytes.len()]).collect();
            let apart = chosen.iter().zip(expected).map(|(a, b)| a.abs_diff(*b)).max();
            assert!(apart <= Some(1), "case {at} ({name}): bytes are {apart:?} apart");
        }
    }
}

#[test]
fn bytes_become_the_same_numbers() {
    let values = Weights::open_file(cases().join("values.safetensors")).expect("the values are committed");
    let ramp = RgbImage::from_fn(256, 256, |x, y| sango_media::Rgb([x as u8, y as u8, (x ^ y) as u8]));
    let folders = std::fs::read_dir(cases().join("folders")).expect("folders");
    for name in folders.map(|entry| entry.expect("a folder").file_name().into_string().expect("a name")) {
        let processor = processor(&name);
        let image = processor.image_processor().preprocess(&ramp).expect("tiles").tiles[0].clone();
        let frame = processor.video_processor().preprocess_frame(&ramp).expect("a tile");
        for (kind, tile) in [("image", image), ("video", frame)] {
            let expected = values.get(&format!("{name}.{kind}"), &[3, 256]).expect("it is there");
            let expected = expected.as_f32().expect("f32");
            let found = tile.pixel_values().expect("values");
            let area = tile.height() * tile.width();
            for (at, (value, byte)) in found.as_f32().expect("f32").iter().zip(planes(&tile)).enumerate() {
                let expected = expected[at / area * 256 + usize::from(byte)];
                assert!((value - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{name} {kind}: {byte} is {value}");
            }
        }
    }
}

#[test]
fn random_pixels_in_random_sizes_are_resized_bit_for_bit() {
    let tables = json("tables.json");
    let mut processors = std::collections::BTreeMap::new();
    for row in list(&tables["noise"]) {
        let (name, seed, width, height) = (string(&row[0]), number(&row[1]), number(&row[2]), number(&row[3]));
        let processor = processors.entry(name).or_insert_with(|| processor(name));
        let mut state = seed as u32;
        let bytes = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        let bytes = bytes.take(3 * width * height).collect();
        let picture = RgbImage::from_raw(width as u32, height as u32, bytes).expect("enough bytes");
        let image = processor.image_processor().preprocess(&picture).expect("tiles");
        let frame = processor.video_processor().preprocess_frame(&picture).expect("a tile");
        let all = |tiles: &[Tile]| tiles.iter().flat_map(|tile| tile.picture().as_raw()).copied().collect::<Vec<u8>>();
        assert_eq!(hex(&all(&image.tiles)), row[4], "{name}: a picture of {width}x{height}");
        assert_eq!(hex(&all(&[frame])), row[5], "{name}: a frame of {width}x{height}");
    }
}

#[test]
fn pictures_of_any_size_are_split_alike() {
    let tables = json("tables.json");
    for (name, rows) in tables["grids"].as_object().expect("folders") {
        let processor = processor(name);
        for row in list(rows) {
            let grid = processor.image_processor().tile_grid(number(&row[0]), number(&row[1]));
            assert_eq!(grid, (number(&row[2]), number(&row[3])), "{name}: {row}");
        }
    }
}

#[test]
fn the_same_frames_of_any_video_are_looked_at() {
    let tables = json("tables.json");
    for (name, rows) in tables["frames"].as_object().expect("folders") {
        let processor = processor(name);
        for row in list(rows) {
            let metadata =
                VideoMetadata { total_num_frames: number(&row[0]), fps: row[1].as_f64(), duration: row[2].as_f64() };
            let num_frames = row[3].as_u64().map(|frames| frames as usize);
            let indices = processor.video_processor().sample_frames(&metadata, num_frames, row[4].as_f64());
            let indices = indices.unwrap_or_else(|error| panic!("{name}: {row}: {error}"));
            let checksum: usize = indices.iter().enumerate().map(|(at, index)| (at + 1) * index).sum();
            let found = [indices.len(), indices[0], indices[indices.len() - 1], checksum];
            let expected: Vec<usize> = list(row)[5..].iter().map(number).collect();
            assert_eq!(found, expected[..], "{name}: {row}");
        }
    }
}

#[test]
fn texts_become_the_same_ids_and_stream_back() {
    let dir = folder("small");
    let tokenizer = SmolVLMTokenizer::load(dir.path()).expect("a tokenizer");
    for case in list(&json("texts.json")) {
        let ids: Vec<u32> = list(&case["ids"]).iter().map(|id| number(id) as u32).collect();
        if let Some(text) = case["text"].as_str() {
            assert_eq!(tokenizer.encode(text).expect("ids"), ids, "{text:?}");
        }
        assert_eq!(tokenizer.decode(&ids, false).expect("text"), case["all"]);
        assert_eq!(tokenizer.decode(&ids, true).expect("text"), case["skipped"]);
        let mut stream = tokenizer.stream(&[]);
        let mut pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).expect("text")).collect();
        pieces.push(stream.finish().expect("text"));
        assert_eq!(pieces.concat(), case["skipped"], "{pieces:?}");
    }
}

#[test]
fn a_stream_holds_back_what_may_be_the_end() {
    let dir = folder("small");
    let tokenizer = SmolVLMTokenizer::load(dir.path()).expect("a tokenizer");
    let streamed = |text: &str, stop: &[&str]| {
        let stop: Vec<String> = stop.iter().map(|&text| text.to_owned()).collect();
        let mut stream = tokenizer.stream(&stop);
        let mut out = String::new();
        for id in tokenizer.encode(text).expect("ids") {
            let piece = stream.push(id).expect("text");
            out += &piece;
            assert!(stop.iter().all(|stop| !out.contains(stop)), "{out:?}");
            if stream.is_stopped() {
                break;
            }
        }
        out + &stream.finish().expect("text")
    };
    assert_eq!(streamed("A red circle. User: no", &["User:", "\n\n"]), "A red circle. ");
    assert_eq!(streamed("It ends\n\nhere", &["User:", "\n\n"]), "It ends");
    assert_eq!(streamed("Use a Us", &["User:"]), "Use a Us", "what was held back comes in the end");
    assert_eq!(streamed("珊瑚 🙂", &["瑚"]), "珊");
    assert_eq!(streamed("all<end_of_utterance>", &[]), "all");
}

#[test]
fn what_is_prepared_once_is_not_read_again() {
    let processor = processor("small");
    let case = &json("cases.json")[13];
    let mut calls = 0;
    let raw = messages(case);
    let prepared = processor
        .prepare(&raw, &options(case), &mut |done, total| {
            calls += 1;
            assert!(done <= total);
            ControlFlow::Continue(())
        })
        .expect("prepared");
    assert!(prepared.iter().flat_map(|turn| &turn.content).all(|part| !matches!(part, Content::Video(_))));
    let again = processor.process(&prepared, &options(case)).expect("inputs");
    let once = processor.process(&raw, &options(case)).expect("inputs");
    assert_eq!(calls, once.frames.len());
    assert_eq!(again.input_ids, once.input_ids);
    assert_eq!(again.frames, once.frames);
    let keys = |tiles: &[Tile]| tiles.iter().map(Tile::key).collect::<Vec<_>>();
    assert_eq!(keys(&again.tiles), keys(&once.tiles));
    let cancelled = processor.prepare(&raw, &options(case), &mut |_, _| ControlFlow::Break(()));
    assert_eq!(cancelled.expect_err("cancelled").to_string(), "cancelled");
}

#[test]
fn conversations_that_cannot_be_asked_are_refused() {
    let processor = processor("256m");
    let refused = |messages: &[Message]| {
        processor.process(messages, &ProcessorOptions::default()).expect_err("refused").to_string()
    };
    let text = |text: &str| Content::Text(text.into());
    assert!(refused(&[]).contains("is empty"));
    assert!(refused(&[Message::user(vec![])]).contains("message 1"));
    assert!(refused(&[Message::user(vec![text("an <image>?")])]).contains("<image>"));
    assert!(refused(&[Message::user(vec![text("a <video>?")])]).contains("<video>"));
    let picture = Content::Image(Arc::new(RgbImage::new(8, 8)));
    assert!(refused(&[Message::user(vec![picture, text("<image>")])]).contains("2 times with 1 pictures"));
    let video = Content::Video(Arc::new(
        Video::open(&cases().join("media/clip.gif"), &VideoLimits::default()).expect("a video"),
    ));
    let none = ProcessorOptions { num_frames: Some(0), ..ProcessorOptions::default() };
    let error = processor.process(&[Message::user(vec![video])], &none).expect_err("no frames");
    assert!(error.to_string().contains("num_frames"), "{error}");
}

#[test]
fn folders_that_cannot_be_followed_say_why() {
    let refused = |name: &str, file: &str, edit: &dyn Fn(&mut Value)| {
        let dir = folder(name);
        let path = dir.path().join(file);
        let mut settings: Value = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("JSON");
        edit(&mut settings);
        std::fs::write(&path, settings.to_string()).expect("written");
        SmolVLMProcessor::load(dir.path()).err().expect("refused").to_string()
    };
    let config = "preprocessor_config.json";
    for (field, value) in [
        ("resample", serde_json::json!(5)),
        ("size", serde_json::json!({"shortest_edge": 9})),
        ("size", serde_json::json!({"height": 1 << 20, "width": 4})),
        ("max_image_size", serde_json::json!({"longest_edge": 0})),
        ("max_image_size", serde_json::json!(32)),
        ("image_mean", serde_json::json!([0.5, 0.5])),
        ("image_std", serde_json::json!(0)),
        ("do_resize", serde_json::json!("yes")),
        ("rescale_factor", serde_json::json!(0)),
        ("video_sampling", serde_json::json!({"fps": 0, "max_frames": 3})),
        ("video_sampling", serde_json::json!({"fps": 1})),
    ] {
        let error = refused("small", config, &|settings| settings[field] = value.clone());
        let named = if field == "video_sampling" { "fps` is" } else { field };
        assert!(error.contains(config) && (error.contains(named) || error.contains("max_frames")), "{error}");
    }
    let error = refused("small", "processor_config.json", &|settings| settings["image_seq_len"] = 0.into());
    assert!(error.contains("image_seq_len"), "{error}");
    let error = refused("whole", "processor_config.json", &|settings| settings["chat_template"] = "{% for %}".into());
    assert!(error.contains("chat template"), "{error}");
    let error = refused("small", "tokenizer.json", &|settings| settings["model"]["vocab"] = 3.into());
    assert!(error.contains("tokenizer.json"), "{error}");
    for missing in ["tokenizer.json", config] {
        let dir = folder("small");
        std::fs::remove_file(dir.path().join(missing)).expect("removed");
        let error = SmolVLMProcessor::load(dir.path()).err().expect("missing").to_string();
        assert!(error.contains(missing), "{error}");
    }
}
