//! The files that people have.

use std::path::Path;

use sango_media::{MediaKind, Rgb, RgbImage, sniff_file};

use crate::samples::{self, Folder, HEIGHT, WIDTH, number, open, read, read_all};

/// Every frame is there, in order, at its time; and a few asked for alone are the same to the last bit.
fn check(path: &Path, frames: usize, codec: &str) {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    assert_eq!(sniff_file(path).unwrap(), MediaKind::Video, "{name}");
    let video = open(path).unwrap_or_else(|error| panic!("{name}: {error}"));
    let info = video.info().clone();
    assert_eq!((info.frames, info.codec.as_str(), info.damage.as_deref()), (frames, codec, None), "{name}");
    assert_eq!((info.width, info.height), (WIDTH, HEIGHT), "{name}");
    // A container that does not say for how long the last frame is shown makes the rate come out higher.
    assert!((info.fps - 25.0).abs() < 1.0, "{name}: {} fps", info.fps);
    assert!((info.duration - frames as f64 / 25.0).abs() < 0.05, "{name}: {} s", info.duration);
    let all = read_all(&video).unwrap_or_else(|error| panic!("{name}: {error}"));
    let numbers: Vec<usize> = all.iter().map(|frame| number(&frame.image)).collect();
    assert_eq!(numbers, (0..frames).collect::<Vec<_>>(), "{name}");
    for (index, frame) in all.iter().enumerate() {
        assert_eq!((frame.index, frame.substitute), (index, false), "{name}");
        assert!((frame.time - index as f64 / 25.0).abs() < 0.003, "{name}: frame {index} at {} s", frame.time);
        assert_eq!(video.time_of(index), Some(frame.time));
    }
    let some = [1, frames / 3, frames / 2 + 1, frames - 1];
    for frame in read(&video, &some).unwrap() {
        assert!(frame.image == all[frame.index].image, "{name}: frame {} alone is another", frame.index);
    }
}

const X264: [&str; 6] = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-g", "12"];

#[test]
fn h264_in_every_container() {
    let folder = Folder::new();
    let h264 = |name: &str, more: &[&str]| check(&folder.sample(name, 60, &[&X264, more].concat()), 60, "h264");
    h264("moov-at-end.mp4", &[]);
    h264("faststart.mp4", &["-movflags", "+faststart"]);
    h264("fragmented.mp4", &["-movflags", "+frag_keyframe+empty_moov"]);
    h264("h264.mov", &[]);
    h264("h264.mkv", &[]);
    h264("h264.ts", &[]);
    h264("h264.flv", &[]);
    h264("ten-bit.mp4", &["-pix_fmt", "yuv420p10le"]);
    h264("full-range.mp4", &["-pix_fmt", "yuvj420p"]);
    h264("open-gop.mp4", &["-bf", "3", "-x264-params", "open-gop=1:b-adapt=0"]);
    h264("intra-refresh.mkv", &["-x264-params", "intra-refresh=1"]);
}

#[test]
fn hevc_vp9_av1_and_prores() {
    let folder = Folder::new();
    let quiet = "log-level=none:keyint=12:bframes=3:open-gop=1";
    let hevc = ["-c:v", "libx265", "-x265-params", quiet, "-preset", "ultrafast", "-tag:v", "hvc1"];
    let ten = [&hevc[..], &["-pix_fmt", "yuv420p10le"]].concat();
    check(&folder.sample("hevc.mp4", 60, &[&hevc[..], &["-pix_fmt", "yuv420p"]].concat()), 60, "hevc");
    check(&folder.sample("hevc10.mp4", 60, &ten), 60, "hevc");
    let vp9 = ["-c:v", "libvpx-vp9", "-pix_fmt", "yuv420p", "-deadline", "realtime", "-cpu-used", "8", "-g", "12"];
    check(&folder.sample("vp9.webm", 60, &vp9), 60, "vp9");
    let av1 = ["-c:v", "libsvtav1", "-preset", "12", "-g", "12", "-pix_fmt", "yuv420p"];
    check(&folder.sample("av1.mp4", 60, &av1), 60, "av1");
    check(&folder.sample("prores.mov", 30, &["-c:v", "prores_ks", "-profile:v", "3"]), 30, "prores");
}

#[test]
fn older_formats() {
    let folder = Folder::new();
    // Hidden reference frames: more packets than pictures.
    let vp8 = ["-c:v", "libvpx", "-auto-alt-ref", "1", "-lag-in-frames", "16", "-b:v", "200k", "-arnr-maxframes", "7"];
    check(&folder.sample("vp8.webm", 60, &vp8), 60, "vp8");
    check(&folder.sample("b-frames.avi", 60, &["-c:v", "mpeg4", "-bf", "2", "-q:v", "3"]), 60, "mpeg4");
    check(&folder.sample("mpeg2.mpg", 60, &["-c:v", "mpeg2video", "-bf", "2", "-q:v", "3"]), 60, "mpeg2video");
    check(&folder.sample("mjpeg.avi", 30, &["-c:v", "mjpeg", "-q:v", "3"]), 30, "mjpeg");
    check(&folder.sample("wmv.wmv", 30, &["-c:v", "wmv2", "-q:v", "3"]), 30, "wmv2");
    check(&folder.sample("theora.ogv", 30, &["-c:v", "libtheora", "-q:v", "9"]), 30, "theora");
    check(&folder.sample("lossless.mkv", 30, &["-c:v", "ffv1"]), 30, "ffv1");
    let fields = [&X264[..], &["-flags", "+ildct+ilme", "-x264-params", "tff=1"]].concat();
    check(&folder.sample("interlaced.ts", 60, &fields), 60, "h264");
}

#[test]
fn animated_pictures() {
    let folder = Folder::new();
    check(&folder.sample("animated.gif", 30, &[]), 30, "gif");
    check(&folder.sample("animated.png", 30, &["-f", "apng", "-plays", "0"]), 30, "apng");
    check(&folder.sample("animated.webp", 30, &["-c:v", "libwebp_anim", "-lossless", "1"]), 30, "webp");
}

#[test]
fn stills_are_told_from_videos() {
    let folder = Folder::new();
    for (name, arguments) in [
        ("one.gif", &["-frames:v", "1"][..]),
        ("one.png", &["-frames:v", "1"]),
        ("one.jpg", &["-frames:v", "1", "-q:v", "3"]),
        ("one.webp", &["-frames:v", "1", "-c:v", "libwebp"]),
    ] {
        let path = folder.sample(name, 1, arguments);
        assert_eq!(sniff_file(&path).unwrap(), MediaKind::Image, "{name}");
        let error = open(&path).unwrap_err();
        assert!(error.to_string().contains("still picture"), "{name}: {error}");
    }
}

#[test]
fn a_recording_without_a_duration() {
    let folder = Folder::new();
    // As a browser's MediaRecorder writes it: no duration, no index, nothing sought back to.
    let vp9 = ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "12", "-f", "webm", "-live", "1"];
    check(&folder.sample("live.webm", 60, &vp9), 60, "vp9");
    let mkv = [&X264[..], &["-f", "matroska", "-live", "1"]].concat();
    check(&folder.sample("live.mkv", 60, &mkv), 60, "h264");
}

#[test]
fn a_variable_frame_rate_keeps_every_frame_and_its_time() {
    let folder = Folder::new();
    // 25 per second for a second, then one every 0.4 s.
    let slow = "setpts='round(if(lt(N,25),N/25,1+(N-25)*0.4)/TB)'";
    for name in ["variable.mkv", "variable.mp4"] {
        let path = folder.sample(name, 35, &[&X264[..], &["-vf", slow, "-fps_mode", "passthrough"]].concat());
        let video = open(&path).unwrap();
        assert_eq!(video.info().frames, 35, "{name}");
        let frames = read_all(&video).unwrap();
        for (index, frame) in frames.iter().enumerate() {
            let time = if index < 25 { index as f64 / 25.0 } else { 1.0 + (index - 25) as f64 * 0.4 };
            assert_eq!(number(&frame.image), index, "{name}");
            assert!((frame.time - time).abs() < 0.003, "{name}: frame {index} at {} s, not {time}", frame.time);
        }
        let alone = read(&video, &[30]).unwrap().remove(0);
        assert!(alone.image == frames[30].image, "{name}");
    }
}

#[test]
fn a_cut_that_keeps_hidden_frames() {
    let folder = Folder::new();
    let whole = folder.mp4("whole.mp4", 60);
    let cut = folder.path("cut.mp4");
    // Starts between key frames: the frames before are in the file, and the edit list hides them.
    let arguments = ["-ss", "0.72", "-i", whole.to_str().unwrap(), "-c", "copy", cut.to_str().unwrap()];
    samples::ffmpeg(0, (0, 0), "25", &arguments);
    let video = open(&cut).unwrap();
    let frames = read_all(&video).unwrap();
    let numbers: Vec<usize> = frames.iter().map(|frame| number(&frame.image)).collect();
    assert_eq!(numbers, (18..60).collect::<Vec<_>>());
    assert_eq!((video.info().frames, frames[0].time), (42, 0.0));
    for index in [0, 3, 20, 41] {
        assert!(read(&video, &[index]).unwrap()[0].image == frames[index].image);
    }
}

#[test]
fn phone_video_is_upright() {
    let folder = Folder::new();
    let plain = folder.mp4("plain.mp4", 10);
    let upright = read(&open(&plain).unwrap(), &[5]).unwrap().remove(0).image;
    for (degrees, clockwise) in [("90", 270), ("180", 180), ("270", 90)] {
        let turned = folder.path("turned.mp4");
        let rotate = format!("rotate={degrees}");
        let arguments =
            ["-i", plain.to_str().unwrap(), "-c", "copy", "-metadata:s:v", &rotate, turned.to_str().unwrap()];
        samples::ffmpeg(0, (0, 0), "25", &arguments);
        let video = open(&turned).unwrap();
        assert_eq!(video.info().rotation, clockwise, "rotate={degrees}");
        let expected = match clockwise {
            90 => image::imageops::rotate90(&upright),
            180 => image::imageops::rotate180(&upright),
            _ => image::imageops::rotate270(&upright),
        };
        assert_eq!((video.info().width, video.info().height), expected.dimensions());
        let got = read(&video, &[5]).unwrap().remove(0).image;
        // Turning swaps rows and columns of shared colour samples, so the colours between them differ a little.
        let difference: u64 = got.iter().zip(expected.iter()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
        assert!(difference / (got.len() as u64) < 4, "rotate={degrees}: {difference}");
    }
}

#[test]
fn odd_sizes_and_transparency() {
    let folder = Folder::new();
    for (width, height) in [(177, 95), (33, 1), (1, 33), (2, 2)] {
        let path = folder.path("odd.mkv");
        samples::ffmpeg(3, (width, height), "25", &["-c:v", "ffv1", "-pix_fmt", "bgr0", path.to_str().unwrap()]);
        let video = open(&path).unwrap();
        assert_eq!((video.info().width, video.info().height), (width, height));
        let frames = read_all(&video).unwrap();
        assert!(frames[2].image == samples::frame(2, width, height), "{width}x{height}: lossless RGB comes back");
    }
    let path = folder.path("alpha.mov");
    let red = "color=red@0.5:size=64x48:rate=5:duration=1,format=rgba";
    samples::ffmpeg(0, (0, 0), "5", &["-f", "lavfi", "-i", red, "-c:v", "qtrle", path.to_str().unwrap()]);
    let frames = read_all(&open(&path).unwrap()).unwrap();
    assert_eq!(frames.len(), 5);
    let Rgb([red, green, blue]) = *frames[0].image.get_pixel(30, 20);
    assert!(red >= 254 && green <= 1 && blue <= 1, "transparency is dropped, not blended: {red} {green} {blue}");
}

#[test]
fn colours_follow_what_the_file_states() {
    let folder = Folder::new();
    let colours = [[200, 30, 40], [20, 180, 60], [30, 60, 210], [128, 128, 128]];
    for (name, matrix, range) in [("601", "bt470bg", "tv"), ("709", "bt709", "tv"), ("full", "bt709", "pc")] {
        for colour in colours {
            let path = folder.path(&format!("{name}.mp4"));
            let [r, g, b] = colour;
            let source = format!("color=0x{r:02x}{g:02x}{b:02x}:size=64x64:rate=5:duration=0.4,format=gbrp");
            let filter = format!("scale=out_color_matrix={matrix}:out_range={range},format=yuv420p");
            let arguments = ["-f", "lavfi", "-i", &source, "-vf", &filter, "-c:v", "libx264", "-crf", "4"];
            let flags = ["-colorspace", matrix, "-color_range", range, path.to_str().unwrap()];
            samples::ffmpeg(0, (0, 0), "5", &[&arguments[..], &flags].concat());
            let picture: RgbImage = read(&open(&path).unwrap(), &[1]).unwrap().remove(0).image;
            let seen = picture.get_pixel(32, 32).0;
            assert!(seen.iter().zip(colour).all(|(a, b)| a.abs_diff(b) <= 4), "{name}: {seen:?}, not {colour:?}");
        }
    }
}

#[test]
fn a_cover_picture_is_not_the_video() {
    let folder = Folder::new();
    let (video, cover, both) =
        (folder.mp4("video.mp4", 10), folder.sample("cover.png", 1, &[]), folder.path("both.mp4"));
    let inputs = ["-i", cover.to_str().unwrap(), "-i", video.to_str().unwrap(), "-map", "0", "-map", "1", "-c", "copy"];
    samples::ffmpeg(
        0,
        (0, 0),
        "25",
        &[&inputs[..], &["-disposition:v:0", "attached_pic", both.to_str().unwrap()]].concat(),
    );
    let video = open(&both).unwrap();
    assert_eq!((video.info().frames, video.info().codec.as_str()), (10, "h264"));
    let sound = folder.path("sound.mp4");
    let sine = ["-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac", sound.to_str().unwrap()];
    samples::ffmpeg(0, (0, 0), "25", &sine);
    assert!(open(&sound).unwrap_err().to_string().contains("holds no video"));
}

#[test]
fn a_size_that_changes_midway_is_brought_back_to_the_first() {
    let folder = Folder::new();
    let (small, large) = (folder.path("small.ts"), folder.path("large.ts"));
    for (path, size) in [(&small, (96, 64)), (&large, (176, 96))] {
        samples::ffmpeg(8, size, "25", &[&X264[..], &[path.to_str().unwrap()]].concat());
    }
    let both = folder.path("both.ts");
    std::fs::write(&both, [std::fs::read(&small).unwrap(), std::fs::read(&large).unwrap()].concat()).unwrap();
    let frames = read_all(&open(&both).unwrap()).unwrap();
    assert!(frames.len() >= 15, "{}", frames.len());
    assert!(frames.iter().all(|frame| frame.image.dimensions() == (96, 64)));
}
