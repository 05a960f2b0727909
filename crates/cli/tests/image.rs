//! `sango image` as a user calls it: what it saves, and what it says to bad input.

use sango_media::{Limits, load_image};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
}

/// `sango image` in a folder of its own, with the shipped model. `options` are separated by spaces.
fn image(folder: &TempDir, prompt: &str, options: &str) -> Output {
    let mut sango = Command::new(env!("CARGO_BIN_EXE_sango"));
    sango.args(["image", "--prompt", prompt]).args(options.split_whitespace());
    sango.current_dir(folder).env("SANGO_MODELS", models()).output().unwrap()
}

/// What it says when it fails; it saves nothing then.
fn refusal(folder: &TempDir, prompt: &str, options: &str) -> String {
    let before = fs::read_dir(folder).unwrap().count();
    let output = image(folder, prompt, options);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.starts_with("error: "), "{options}: {said}");
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(fs::read_dir(folder).unwrap().count(), before, "{options}: {said}");
    said
}

fn folder_with_pictures() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let drawn = image(&folder, "a red circle", "--steps 2 --seed 1 -o whole.png");
    assert!(drawn.status.success(), "{}", String::from_utf8_lossy(&drawn.stderr));
    let whole = fs::read(folder.path().join("whole.png")).unwrap();
    fs::write(folder.path().join("cut.png"), &whole[..whole.len() / 2]).unwrap();
    fs::write(folder.path().join("text.png"), "hello").unwrap();
    folder
}

#[test]
fn a_picture_of_the_size_asked_for_is_saved() {
    let folder = tempfile::tempdir().unwrap();
    let output = image(&folder, "a red circle", "--steps 2 --size 64x32 -o a.png --animation a.gif");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for file in ["a.png", "a.gif"] {
        let picture = load_image(&folder.path().join(file), &Limits::default()).unwrap();
        assert_eq!(picture.dimensions(), (64, 32), "{file}");
    }
}

#[test]
fn bad_input_is_named_with_what_to_do() {
    let folder = folder_with_pictures();
    let missing = "No such file";
    for (options, words) in [
        ("-o a.png --size 65x64", ["`width` is 65", "multiple of 16"]),
        ("-o a.png --size 64", ["'64' is not a size", "256x256"]),
        ("-o a.png --size 99999x64", ["`width` is 99999", "up to 512"]),
        ("-o a.png --steps 0", ["`steps` is 0", "between 1"]),
        ("-o nowhere/a.png", ["nowhere", "create it first"]),
        ("-o a.png --animation nowhere/a.gif", ["nowhere", "create it first"]),
        ("-o .", ["is a folder", "picture.png"]),
        ("-o a.png --image cut.png", ["--image cut.png", "damaged"]),
        ("-o a.png --image text.png", ["--image text.png", "send PNG"]),
        ("-o a.png --image none.png", ["--image: none.png", missing]),
        ("-o a.png --image whole.png --mask cut.png", ["--mask cut.png", "damaged"]),
        ("-o a.png --image whole.png --mask none.png", ["--mask: none.png", missing]),
        ("-o a.png --image whole.png --strength 2", ["`strength` is 2", "between 0 and 1"]),
        ("-o a.png --model none", ["no model 'none'", "shapes/amused"]),
        ("-o a.png --model .", ["model_index.json", "aMUSEd"]),
    ] {
        let said = refusal(&folder, "a red circle", options);
        assert!(words.iter().all(|word| said.contains(word)), "{options}: {said}");
        assert_eq!(said.matches(missing).count(), usize::from(words.contains(&missing)), "told once: {said}");
    }
    assert!(refusal(&folder, "", "-o a.png").contains("`prompt` is empty"));
    let long = refusal(&folder, &"x".repeat(10_000), "-o a.png");
    assert!(long.contains("10000 characters") && long.contains("at most 4096"), "{long}");
}

#[test]
fn a_damaged_model_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    copy(&models().join("shapes/amused"), &model);
    let weights = model.join("transformer/diffusion_pytorch_model.safetensors");
    File::options().write(true).open(&weights).unwrap().set_len(100_000).unwrap();
    let said = refusal(&folder, "a red circle", "-o a.png --model model");
    assert!(said.contains("diffusion_pytorch_model.safetensors") && said.contains("truncated"), "{said}");
}

/// The limit on a file's size asks for the same handling as a full disk does.
#[cfg(unix)]
#[test]
fn a_full_disk_keeps_the_old_picture() {
    let folder = folder_with_pictures();
    let whole = folder.path().join("whole.png");
    let before = fs::read(&whole).unwrap();
    let script = "trap '' XFSZ; ulimit -f 1; exec \"$0\" \"$@\"";
    let mut sango = Command::new("sh");
    sango.args(["-c", script, env!("CARGO_BIN_EXE_sango"), "image", "--prompt", "a blue square", "-o", "whole.png"]);
    let output = sango.current_dir(&folder).env("SANGO_MODELS", models()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("no room to save whole.png"), "{said}");
    assert_eq!(fs::read(&whole).unwrap(), before);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 3, "no rubbish");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
