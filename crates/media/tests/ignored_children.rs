//! A process that ignores SIGCHLD, as Erlang's virtual machine does, learns no exit status of its children. Alone in its
//! file: the disposition holds for the whole process.
#![cfg(unix)]

use sango_media::{EncodeOptions, FrameRate, MediaError, Video, VideoLimits};
use std::ops::ControlFlow;
use std::process::Command;

#[test]
fn videos_are_read_without_exit_statuses() {
    let folder = tempfile::tempdir().unwrap();
    let (clip, cut) = (folder.path().join("clip.mp4"), folder.path().join("cut.mp4"));
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", "testsrc=size=64x64:rate=4:duration=2", "-pix_fmt", "yuv420p"])
        .arg(&clip)
        .status();
    assert!(made.unwrap().success());
    let whole = std::fs::read(&clip).unwrap();
    std::fs::write(&cut, &whole[..whole.len() / 3]).unwrap();
    // SAFETY: changes only this process's own signal disposition, and this is the only test in the binary.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };

    let video = Video::open(&clip, &VideoLimits::default()).unwrap();
    assert_eq!(video.info().frames, 8);
    let mut seen = Vec::new();
    let read = video.read_frames(&[0, 5, 7], &mut |frame| {
        seen.push(frame.index);
        ControlFlow::Continue(())
    });
    read.unwrap();
    assert_eq!(seen, [0, 5, 7]);
    let refused = Video::open(&cut, &VideoLimits::default()).unwrap_err();
    assert!(matches!(refused, MediaError::DamagedVideo { .. } | MediaError::NotAVideo { .. }), "{refused}");

    let made = folder.path().join("made.mp4");
    let frames = vec![image::RgbImage::from_pixel(64, 64, image::Rgb([200, 30, 30])); 9];
    sango_media::encode_mp4(&made, &frames, &EncodeOptions::new(FrameRate::new(8, 1).unwrap())).unwrap();
    assert_eq!(Video::open(&made, &VideoLimits::default()).unwrap().info().frames, 9);
}
