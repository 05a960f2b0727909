//! `sango understand` as a user calls it: what it says, and what it says to bad input.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
}

/// `sango understand` in a folder of its own, with the shipped model. `options` are separated by spaces.
fn understand(folder: &TempDir, question: &str, options: &str) -> Output {
    let mut sango = Command::new(env!("CARGO_BIN_EXE_sango"));
    sango.args(["understand", "--question", question]).args(options.split_whitespace());
    sango.current_dir(folder).env("SANGO_MODELS", models()).output().unwrap()
}

fn folder_with_media() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", "testsrc=size=64x64:rate=4:duration=2", "-pix_fmt", "yuv420p"])
        .args(["clip.mp4", "-frames:v", "1", "still.png"])
        .current_dir(&folder)
        .status();
    assert!(made.unwrap().success());
    let whole = fs::read(folder.path().join("clip.mp4")).unwrap();
    fs::write(folder.path().join("cut.mp4"), &whole[..whole.len() / 3]).unwrap();
    fs::write(folder.path().join("text.mp4"), "hello").unwrap();
    folder
}

#[test]
fn the_answer_is_on_standard_output_and_the_frames_beside_it() {
    let folder = folder_with_media();
    let output = understand(&folder, "What happens?", "clip.mp4 --max-tokens 6 --frames 2");
    let (said, beside) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{beside}");
    assert!(said.ends_with('\n') && !said.trim().is_empty(), "{said}");
    assert_eq!(beside.lines().filter(|line| line.starts_with("frame ")).count(), 2, "{beside}");

    let output = understand(&folder, "What happens?", "clip.mp4 --max-tokens 6 --frames 2 --json");
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["text"], said.trim_end_matches('\n'));
    assert_eq!((value["frames"].as_array().unwrap().len(), &value["frames"][0]["media"]), (2, &0.into()));
    assert!(value["usage"]["completion_tokens"].as_u64().unwrap() <= 6 && value["seed"].is_null());
}

#[test]
fn several_files_are_told_apart_and_a_seed_repeats_what_was_drawn() {
    let folder = folder_with_media();
    let options =
        "still.png clip.mp4 --frames 1 --max-tokens 8 --temperature 1.2 --top-k 40 --top-p 0.95 --seed 7 --json";
    let answers: Vec<serde_json::Value> =
        (0..2).map(|_| serde_json::from_slice(&understand(&folder, "What?", options).stdout).unwrap()).collect();
    assert_eq!(answers[0]["text"], answers[1]["text"]);
    assert_eq!((&answers[0]["frames"][0]["media"], &answers[0]["seed"]), (&1.into(), &7.into()));
    let drawn = understand(&folder, "What?", "clip.mp4 --max-tokens 2 --temperature 1");
    assert!(String::from_utf8(drawn.stderr).unwrap().contains("(seed "));
}

#[test]
fn bad_input_is_named_with_what_to_do() {
    let folder = folder_with_media();
    for (question, options, words) in [
        ("What?", "none.mp4", ["none.mp4", "No such file"]),
        ("What?", "text.mp4", ["text.mp4", "give MP4"]),
        ("What?", "cut.mp4", ["cut.mp4", "video"]),
        ("What?", ".", ["is a folder", "name a video"]),
        ("What?", "clip.mp4 --model none", ["no model 'none'", "shapes/smolvlm2"]),
        ("What?", "clip.mp4 --model amused", ["amused", ""]),
        ("What?", "clip.mp4 --max-tokens 0", ["max_new_tokens", "0"]),
        ("What?", "clip.mp4 --temperature=-1", ["temperature", "-1"]),
        ("What?", "clip.mp4 --frames 0", ["num_frames", "0"]),
        ("What?", "clip.mp4 --lora none", ["none", ""]),
        (" ", "clip.mp4", ["--question", "empty"]),
    ] {
        let output = understand(&folder, question, options);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && !said.contains("panicked"), "{options}: {said}");
        assert!(words.iter().all(|word| said.contains(word)), "{options}: {said}");
        let json = understand(&folder, question, &format!("{options} --json"));
        let value: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap_or_default();
        assert!(value["error"]["message"].is_string() || options.contains('-'), "{options}");
    }
}

#[test]
fn the_model_is_listed_and_sound() {
    let folder = tempfile::tempdir().unwrap();
    let sango = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_sango")).args(arguments).env("SANGO_MODELS", models()).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(sango(&["models", "list"]).contains("shapes/smolvlm2"));
    let model = models().join("shapes/smolvlm2");
    assert!(sango(&["models", "check", model.to_str().unwrap()]).contains("sound smolvlm2"));
    drop(folder);
}
