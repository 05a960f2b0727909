//! Frames to MP4 and back.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sango_media::{
    EncodeOptions, FrameRate, MediaError, Mp4Encoder, OddSize, Rgb, RgbImage, encode_mp4, ffmpeg_version,
};

use crate::samples::{Folder, frame, number, open, read_all};

fn options() -> EncodeOptions {
    EncodeOptions::new(FrameRate::from_f64(25.0).unwrap())
}

/// What is in the folder, hidden files too.
fn names(folder: &Folder) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder.path("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn probe(path: &Path, entries: &str) -> String {
    let arguments = ["-v", "error", "-select_streams", "v:0", "-show_entries", entries, "-of", "csv=p=0"];
    let output = Command::new("ffprobe").args(arguments).arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn frames_come_back() {
    let folder = Folder::new();
    let path = folder.path("out.mp4");
    let frames: Vec<RgbImage> = (0..60).map(|number| frame(number, 176, 96)).collect();
    encode_mp4(&path, &frames, &options()).unwrap();
    let video = open(&path).unwrap();
    let info = video.info();
    assert_eq!((info.width, info.height, info.frames, info.fps, info.duration), (176, 96, 60, 25.0, 2.4));
    for (index, decoded) in read_all(&video).unwrap().iter().enumerate() {
        assert_eq!(number(&decoded.image), index);
        let difference: u64 =
            decoded.image.iter().zip(frames[index].iter()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
        assert!(difference / (decoded.image.len() as u64) < 4, "frame {index}: {difference}");
    }
    assert_eq!(names(&folder), ["out.mp4"]);
    let again = folder.path("again.mp4");
    encode_mp4(&again, &frames, &options()).unwrap();
    assert!(fs::read(&path).unwrap() == fs::read(&again).unwrap(), "the same frames give the same bytes");
}

/// What browsers need: H.264 in 4:2:0, the index before the media, colours stated, a key frame every two seconds.
#[test]
fn browsers_can_play_and_seek() {
    let folder = Folder::new();
    let path = folder.path("out.mp4");
    encode_mp4(&path, (0..120).map(|number| frame(number, 176, 96)), &options()).unwrap();
    let entries = "stream=codec_name,pix_fmt,color_range,color_space,color_transfer,color_primaries,avg_frame_rate";
    assert_eq!(probe(&path, entries), "h264,yuv420p,tv,bt709,bt709,bt709,25/1");
    let flags = probe(&path, "packet=flags");
    let keys: Vec<usize> = flags.lines().enumerate().filter(|(_, line)| line.contains('K')).map(|(n, _)| n).collect();
    assert!(keys.len() >= 3 && keys.windows(2).all(|pair| pair[1] - pair[0] <= 50), "{keys:?}");
    let bytes = fs::read(&path).unwrap();
    let place = |name: &[u8]| bytes.windows(4).position(|found| found == name).unwrap();
    assert!(place(b"moov") < place(b"mdat"));
}

#[test]
fn colours_are_kept() {
    let folder = Folder::new();
    for colour in [[255, 255, 255], [0, 0, 0], [220, 20, 30], [10, 200, 60], [20, 40, 240], [250, 220, 30]] {
        let path = folder.path("out.mp4");
        encode_mp4(&path, vec![RgbImage::from_pixel(64, 64, Rgb(colour)); 3], &options()).unwrap();
        let seen = read_all(&open(&path).unwrap()).unwrap()[1].image.get_pixel(30, 30).0;
        assert!(seen.iter().zip(colour).all(|(a, b)| a.abs_diff(b) <= 3), "{seen:?}, not {colour:?}");
    }
}

#[test]
fn odd_sizes_and_fractional_rates() {
    let folder = Folder::new();
    let path = folder.path("out.mp4");
    let odd: Vec<RgbImage> = (0..5).map(|number| frame(number, 35, 21)).collect();
    let ntsc = EncodeOptions::new(FrameRate::from_f64(29.97).unwrap());
    encode_mp4(&path, &odd, &ntsc).unwrap();
    let video = open(&path).unwrap();
    assert_eq!((video.info().width, video.info().height), (36, 22));
    assert_eq!(probe(&path, "stream=avg_frame_rate"), "30000/1001");
    let refused = EncodeOptions { odd_size: OddSize::Refuse, ..options() };
    let error = encode_mp4(&path, &odd, &refused).unwrap_err();
    assert!(matches!(error, MediaError::EncodeVideo { .. }) && error.to_string().contains("35x21 is odd"), "{error}");
    assert_eq!(open(&path).unwrap().info().frames, 5, "what was there stays");
}

#[test]
fn what_cannot_be_encoded_is_said() {
    let folder = Folder::new();
    let path = folder.path("out.mp4");
    let none: [RgbImage; 0] = [];
    assert!(encode_mp4(&path, none, &options()).unwrap_err().to_string().contains("no frames"));
    let mixed = [RgbImage::new(16, 16), RgbImage::new(16, 18)];
    assert!(encode_mp4(&path, mixed, &options()).unwrap_err().to_string().contains("frame 1 is 16x18"));
    let bad = EncodeOptions { crf: 52, ..options() };
    assert!(encode_mp4(&path, [RgbImage::new(16, 16)], &bad).is_err());
    assert!(encode_mp4(&path, [RgbImage::new(0, 16)], &options()).is_err());
    assert!(names(&folder).is_empty(), "{:?}", names(&folder));
    let nowhere = encode_mp4(&folder.path("no/out.mp4"), [RgbImage::new(16, 16)], &options());
    assert!(nowhere.is_err());
}

#[test]
fn an_encoder_that_is_dropped_or_cancelled_leaves_nothing() {
    let folder = Folder::new();
    let path = folder.path("out.mp4");
    let mut encoder = Mp4Encoder::create(&path, 176, 96, &options()).unwrap();
    (0..40).for_each(|number| encoder.push(&frame(number, 176, 96)).unwrap());
    drop(encoder);
    assert!(names(&folder).is_empty(), "{:?}", names(&folder));

    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    let cancellable = EncodeOptions { stop: Some(Arc::new(move || asked.load(Ordering::Relaxed))), ..options() };
    let mut encoder = Mp4Encoder::create(&path, 176, 96, &cancellable).unwrap();
    encoder.push(&frame(0, 176, 96)).unwrap();
    stop.store(true, Ordering::Relaxed);
    assert!(matches!(encoder.push(&frame(1, 176, 96)), Err(MediaError::Cancelled)));
    assert!(matches!(encoder.finish(), Err(MediaError::Cancelled)));
    assert!(names(&folder).is_empty(), "{:?}", names(&folder));
}

#[test]
fn an_encoder_that_ends_early_is_an_error() {
    let folder = Folder::new();
    let path = folder.path("out.mp4");
    let encoder = Mp4Encoder::create(&path, 176, 96, &options()).unwrap();
    drop(encoder);
    fs::create_dir(&path).unwrap();
    let mut encoder = Mp4Encoder::create(&path, 176, 96, &options()).unwrap();
    encoder.push(&frame(0, 176, 96)).unwrap();
    assert!(encoder.finish().is_err(), "a folder is not replaced");
    assert_eq!(names(&folder), ["out.mp4"]);
    assert!(ffmpeg_version().unwrap().starts_with("ffmpeg version"));
}
