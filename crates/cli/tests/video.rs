//! `sango video` and `sango pipeline` as a user calls them: what they save, and what they say to bad input. The models for
//! videos are those of the parity cases: very small, and of random weights.

use sango_media::{MediaKind, Rgb, RgbImage, Video, VideoInfo, VideoLimits, save_png, sniff_file};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn sango(folder: &TempDir, models: &Path) -> Command {
    let mut sango = Command::new(env!("CARGO_BIN_EXE_sango"));
    sango.current_dir(folder).env("SANGO_MODELS", models);
    sango
}

/// `sango video` in a folder of its own. `options` are separated by spaces.
fn video(folder: &TempDir, options: &str) -> Output {
    let mut sango = sango(folder, &root().join("tests/parity/cases"));
    sango.args(["video", "--prompt", "a red circle", "--model", "ltx-video-plain/model"]);
    sango.args(["--size", "64x64", "--steps", "2", "--seed", "7"]).args(options.split_whitespace()).output().unwrap()
}

fn made(folder: &TempDir, options: &str) -> Value {
    let output = video(folder, &format!("{options} --json"));
    let (said, beside) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{options}: {said} {beside}");
    serde_json::from_str(&said).unwrap()
}

/// What it says when it fails; it saves nothing then.
fn refusal(folder: &TempDir, options: &str) -> String {
    let before = fs::read_dir(folder).unwrap().count();
    let output = video(folder, options);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.starts_with("error: "), "{options}: {said}");
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(fs::read_dir(folder).unwrap().count(), before, "{options}: {said}");
    said
}

fn info(folder: &TempDir, name: &str) -> VideoInfo {
    Video::open(&folder.path().join(name), &VideoLimits::default()).unwrap().info().clone()
}

fn folder_with_pictures() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, red) in [("first.png", 250), ("last.png", 20)] {
        let picture = RgbImage::from_fn(90, 60, |x, y| Rgb([red, x as u8, y as u8]));
        save_png(&folder.path().join(name), &picture, &[]).unwrap();
    }
    folder
}

#[test]
fn words_become_a_video_and_the_same_ones_the_same_bytes() {
    let folder = folder_with_pictures();
    let value = made(&folder, "--frames 9 --fps 10 -o a.mp4");
    assert_eq!(
        (&value["frames"], &value["fps"], &value["seed"], &value["steps"]),
        (&9.into(), &10.0.into(), &7.into(), &2.into())
    );
    let found = info(&folder, "a.mp4");
    assert_eq!((found.frames, found.width, found.height), (9, 64, 64));
    assert!((found.fps - 10.0).abs() < 1e-6);
    made(&folder, "--frames 9 --fps 10 -o b.mp4");
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    assert_eq!(read("a.mp4"), read("b.mp4"));
    made(&folder, "--frames 9 --fps 10 -o c.gif");
    assert_eq!(info(&folder, "c.gif").frames, 9);
    assert!(matches!(sniff_file(&folder.path().join("c.gif")), Ok(MediaKind::Video)));
}

#[test]
fn pictures_and_videos_set_the_conditions() {
    let folder = folder_with_pictures();
    made(&folder, "--frames 9 --fps 10 -o plain.mp4");
    made(&folder, "--frames 9 --fps 10 --image first.png -o image.mp4");
    made(&folder, "--frames 17 --fps 10 --image first.png --keyframe 16=last.png --strength 0.9 -o keyed.mp4");
    assert_eq!(info(&folder, "keyed.mp4").frames, 17);
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    assert_ne!(read("plain.mp4"), read("image.mp4"));

    // What is gone on with comes first, whole; of the new frames those that show it again are left out.
    let value = made(&folder, "--frames 25 --extend image.mp4 -o longer.mp4");
    assert_eq!((&value["frames"], &value["fps"]), (&25.into(), &10.0.into()), "9, and 25 without 9");
    assert_eq!(info(&folder, "longer.mp4").frames, 25);
}

#[test]
fn guidance_has_its_options() {
    let folder = folder_with_pictures();
    made(
        &folder,
        "--frames 9 --guidance 2 --guidance-rescale 0.5 --stg-scale 1 --stg-blocks 0 --stg-mode residual -o a.mp4",
    );
    assert!(refusal(&folder, "--frames 9 --stg-scale 1 --stg-blocks 77 -o b.mp4").contains("77"));
}

#[test]
fn bad_input_is_refused_before_any_work() {
    let folder = folder_with_pictures();
    fs::write(folder.path().join("text.mp4"), "hello").unwrap();
    for (options, words) in [
        ("--frames 10 -o o.mp4", "and one"),
        ("--size 65x64 -o o.mp4", "multiple"),
        ("-o o.png", ".mp4"),
        ("-o nowhere/o.mp4", "nowhere"),
        ("--image nowhere.png -o o.mp4", "nowhere.png"),
        ("--keyframe 0=text.mp4 -o o.mp4", "--keyframe text.mp4"),
        ("--frames 9 --keyframe 90=last.png -o o.mp4", "90"),
        ("--extend text.mp4 -o o.mp4", "--extend"),
        ("--strength 2 --frames 9 --keyframe 0=first.png -o o.mp4", "strength"),
        ("--frames 49 --memory 1MB -o o.mp4", "memory"),
    ] {
        let said = refusal(&folder, options);
        assert!(said.to_lowercase().contains(words), "{options}: {said}");
    }
}

#[test]
fn a_clip_becomes_words_a_picture_and_a_new_clip() {
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().join("models");
    fs::create_dir(&models).unwrap();
    for name in ["amused", "smolvlm2"] {
        std::os::unix::fs::symlink(root().join("models/shapes").join(name), models.join(name)).unwrap();
    }
    // Random weights of the published sizes' defaults would take an hour.
    let sizes = r#"{"width": 64, "height": 64, "num_frames": 9, "frame_rate": 8, "steps": 2}"#;
    let tiny = models.join("tiny-ltx");
    copy(&root().join("tests/parity/cases/ltx-video-plain/model"), &tiny);
    fs::write(tiny.join("sango.json"), sizes).unwrap();

    let clip = root().join("web/public/clips/green-star.mp4");
    let output = sango(&folder, &models).args(["pipeline", "--seed", "7", "-o", "out", "--json"]).arg(&clip).output();
    let output = output.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said} {}", String::from_utf8_lossy(&output.stderr));
    let value: Value = serde_json::from_str(&said).unwrap();
    let out = folder.path().join("out");
    let text = fs::read_to_string(out.join("text.txt")).unwrap();
    assert_eq!(value["stages"][0]["text"], text.trim_end());
    assert_eq!(value["stages"][2]["prompt"], text.trim_end());
    assert!(value["stages"][1]["prompt"].as_str().unwrap().starts_with("a large green star on a"), "{value}");
    assert_eq!(sango_media::load_image(&out.join("image.png"), &Default::default()).unwrap().dimensions(), (64, 64));
    assert_eq!(Video::open(&out.join("video.mp4"), &VideoLimits::default()).unwrap().info().frames, 9);
    let summary: Value = serde_json::from_str(&fs::read_to_string(out.join("summary.json")).unwrap()).unwrap();
    assert_eq!((&summary, &summary["seed"]), (&value, &7.into()));

    let again = sango(&folder, &models).args(["pipeline", "--seed", "7", "-o", "again"]).arg(&clip).output().unwrap();
    let beside = String::from_utf8(again.stderr).unwrap();
    for words in ["1/3 understand: What happens?", "2/3 image: a large green star", "3/3 video: ", "again/video.mp4"] {
        assert!(beside.contains(words), "{words}: {beside}");
    }
    for name in ["text.txt", "image.png", "video.mp4"] {
        assert_eq!(
            fs::read(out.join(name)).unwrap(),
            fs::read(folder.path().join("again").join(name)).unwrap(),
            "{name}"
        );
    }

    let refused = sango(&folder, &models).args(["pipeline", "models", "-o", "no"]).output().unwrap();
    assert!(String::from_utf8(refused.stderr).unwrap().contains("is a folder"));
    assert!(!folder.path().join("no").exists());
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.as_ref().unwrap().file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(from, to).unwrap();
        }
    }
}
