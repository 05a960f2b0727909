//! Frames far apart are sought, and are the very frames that reading through gives.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sango_media::{MediaError, Video, VideoLimits};

use crate::samples::{self, Folder, number, open, read};

/// Large enough that seeking is cheaper than decoding through a group of pictures.
const SIZE: (u32, u32) = (1280, 720);

fn large(folder: &Folder, name: &str, frames: usize, arguments: &[&str]) -> std::path::PathBuf {
    let path = folder.path(name);
    samples::ffmpeg(frames, SIZE, "25", &[arguments, &[path.to_str().unwrap()]].concat());
    path
}

#[test]
fn sparse_frames_are_exact() {
    let folder = Folder::new();
    let x264 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "30", "-bf", "3"];
    let open_gop = [&x264[..], &["-x264-params", "open-gop=1"]].concat();
    let refresh = [&x264[..], &["-x264-params", "intra-refresh=1"]].concat();
    let live = [&x264[..], &["-f", "matroska", "-live", "1"]].concat();
    let parameters = "log-level=none:keyint=30:min-keyint=30:bframes=3:open-gop=1";
    let hevc = ["-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-x265-params", parameters];
    let files = [
        large(&folder, "closed.mp4", 120, &x264),
        large(&folder, "open.mp4", 120, &open_gop),
        large(&folder, "refresh.mp4", 120, &refresh),
        large(&folder, "closed.mkv", 120, &x264),
        large(&folder, "live.mkv", 120, &live),
        large(&folder, "closed.ts", 120, &x264),
        large(&folder, "hevc.mp4", 120, &hevc),
    ];
    for path in files {
        let video = open(&path).unwrap();
        assert_eq!(video.info().frames, 120, "{}", path.display());
        for wanted in [&[0, 29, 30, 31, 91, 92, 119][..], &[59], &[60], &[61], &[119], &[5, 5, 100, 100, 101]] {
            let frames = read(&video, wanted).unwrap();
            let numbers: Vec<usize> = frames.iter().map(|frame| number(&frame.image)).collect();
            assert_eq!(numbers, wanted, "{}", path.display());
            assert!(frames.iter().all(|frame| !frame.substitute));
        }
    }
}

#[test]
fn indices_are_checked_and_any_order_is_put_right() {
    let folder = Folder::new();
    let video = open(&folder.mp4("some.mp4", 30)).unwrap();
    let error = read(&video, &[3, 30]).unwrap_err();
    assert!(matches!(error, MediaError::NoSuchFrame { index: 30, frames: 30 }), "{error}");
    let numbers =
        |indices: &[usize]| read(&video, indices).unwrap().iter().map(|frame| number(&frame.image)).collect::<Vec<_>>();
    assert_eq!(numbers(&[20, 3, 3]), [3, 3, 20]);
    assert_eq!(numbers(&[]), [0; 0]);
    assert_eq!(video.time_of(30), None);
}

#[test]
fn the_reader_may_stop_and_the_process_with_it() {
    let folder = Folder::new();
    let video = open(&folder.mp4("some.mp4", 60)).unwrap();
    let mut seen = 0;
    video
        .read_frames(&(0..60).collect::<Vec<_>>(), &mut |_| {
            seen += 1;
            if seen == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    assert_eq!(seen, 3);

    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let stop = Arc::new(move || count.fetch_add(1, Ordering::Relaxed) > 20);
    let limits = VideoLimits { stop: Some(stop), ..VideoLimits::default() };
    let path = folder.path("some.mp4");
    let stopped = Video::open(&path, &limits).and_then(|video| read(&video, &(0..60).collect::<Vec<_>>()));
    assert!(matches!(stopped, Err(MediaError::Cancelled)), "{stopped:?}");
    let none = VideoLimits { time: Duration::ZERO, ..VideoLimits::default() };
    assert!(matches!(Video::open(&path, &none), Err(MediaError::TimedOut { seconds: 0 })));
}
