//! Files that were made to do harm, and files that came to harm.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sango_media::{Limits, MediaError, Video, VideoLimits, load_image_bytes};

use crate::samples::{Folder, number, open, read, read_all};

fn strict() -> VideoLimits {
    VideoLimits { time: Duration::from_secs(20), threads: 2, ..VideoLimits::default() }
}

/// Opens and reads, and fails if that takes much longer than the limit.
fn try_all(path: &Path, limits: &VideoLimits) -> Result<usize, MediaError> {
    let began = Instant::now();
    let read = Video::open(path, limits).and_then(|video| read_all(&video)).map(|frames| frames.len());
    assert!(began.elapsed() < limits.time * 2 + Duration::from_secs(5), "{}: {read:?}", path.display());
    read
}

fn write(folder: &Folder, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path(name);
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn playlists_and_scripts_open_no_other_file() {
    let folder = Folder::new();
    let secret = folder.mp4("secret.mp4", 5);
    let secret_ts = folder.sample("secret.ts", 5, &["-c:v", "libx264", "-pix_fmt", "yuv420p"]);
    let (mp4, ts) = (secret.display(), secret_ts.display());
    let files = [
        ("hls", format!("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\nfile://{ts}\n#EXT-X-ENDLIST\n")),
        ("relative hls", "#EXTM3U\n#EXTINF:1,\nsecret.ts\n#EXT-X-ENDLIST\n".to_owned()),
        ("concat", format!("ffconcat version 1.0\nfile '{mp4}'\n")),
        ("dash", format!("<?xml version=\"1.0\"?><MPD><Period><BaseURL>{mp4}</BaseURL></Period></MPD>")),
        ("svg", format!("<svg xmlns=\"http://www.w3.org/2000/svg\"><image href=\"file://{mp4}\"/></svg>")),
        ("sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5000 RTP/AVP 96\n".to_owned()),
        ("reference", format!("[Reference]\nRef1=file://{mp4}\n")),
        ("subfile", format!("subfile,,start,0,end,0,,:{mp4}")),
        ("address", "http://127.0.0.1:1/video.mp4".to_owned()),
    ];
    for (name, text) in files {
        let path = write(&folder, "upload.mp4", text);
        assert!(matches!(open(&path), Err(MediaError::NotAVideo { .. })), "{name}");
    }
}

#[test]
fn a_whitelisted_beginning_does_not_let_a_playlist_through() {
    let folder = Folder::new();
    let secret = folder.sample("secret.ts", 5, &["-c:v", "libx264", "-pix_fmt", "yuv420p"]);
    // Passes for a movie at first sight ("free" where a box has its name), and for a playlist at second.
    let list =
        format!("#EXTfree\n#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n", secret.display());
    let path = write(&folder, "upload.mp4", list);
    let error = try_all(&path, &strict()).unwrap_err();
    assert!(matches!(error, MediaError::DamagedVideo { .. } | MediaError::NotAVideo { .. }), "{error}");
    assert!(!error.to_string().contains(folder.path("").to_str().unwrap()), "no paths in messages: {error}");
}

/// A QuickTime movie whose media lies in another file, as a data reference says.
#[test]
fn external_data_references_are_not_followed() {
    let folder = Folder::new();
    let secret = folder.sample("secret.mov", 8, &["-c:v", "mjpeg", "-movflags", "+faststart"]);
    let original = fs::read(&secret).unwrap();
    let at = original.windows(4).position(|name| name == b"dref").unwrap();
    // dref: version 4, count 4, then one entry: size 4, 'url ', flags 00 00 00 01 (the media is in this file).
    let entry = at + 12;
    assert_eq!(&original[entry + 4..entry + 8], b"url ");
    for (kind, reference) in
        [(b"url ", format!("file://{}\0", secret.display()).into_bytes()), (b"alis", alias(&secret))]
    {
        let mut changed = original[..entry].to_vec();
        changed.extend(u32::try_from(12 + reference.len()).unwrap().to_be_bytes());
        changed.extend(kind);
        changed.extend([0, 0, 0, 0]); // flags: elsewhere
        changed.extend(&reference);
        let grown = reference.len();
        changed.extend(&original[entry + 12..]);
        for name in [b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"] {
            let at = changed.windows(4).position(|found| found == name).unwrap() - 4;
            let size = u32::from_be_bytes(changed[at..at + 4].try_into().unwrap()) as usize + grown;
            changed[at..at + 4].copy_from_slice(&u32::try_from(size).unwrap().to_be_bytes());
        }
        // Take the media away: only the other file has it.
        let media = changed.windows(4).position(|found| found == b"mdat").unwrap();
        changed.truncate(media + 4);
        let path = write(&folder, "upload.mov", &changed);
        let read = try_all(&path, &strict());
        assert!(read.is_err(), "{}: {read:?}", String::from_utf8_lossy(kind));
    }
}

/// The Macintosh alias record that FFmpeg would follow: a path relative to this file's folder, and one from the root.
fn alias(target: &Path) -> Vec<u8> {
    let mut record = vec![0; 10]; // up to the volume's name
    record.extend([0; 28]);
    record.extend([0; 12]);
    record.extend([0; 64]);
    record.extend([0; 16]);
    record.extend([0, 1, 0, 1]); // levels from the alias and to the target
    record.extend([0; 16]);
    for (tag, text) in [(2_u16, target.to_str().unwrap()), (18, target.to_str().unwrap())] {
        record.extend(tag.to_be_bytes());
        record.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
        record.extend(text.as_bytes());
        record.extend(vec![0; text.len() % 2]);
    }
    record.extend([0xff, 0xff, 0, 0]);
    record
}

/// Opens `video` in a process of its own, with `script` in the place of `ffprobe`, and gives back what it printed.
fn with_ffprobe(folder: &Folder, video: &Path, script: &str) -> String {
    let program = write(folder, "another-ffprobe", format!("#!/bin/sh\n{script}\n"));
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hostile::opens_with_another_ffprobe", "--ignored", "--nocapture"])
        .env("SANGO_FFPROBE", &program)
        .env("SANGO_TEST_VIDEO", video)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Not a test of its own: [`with_ffprobe`] runs it.
#[test]
#[ignore = "run by other tests, with another ffprobe"]
fn opens_with_another_ffprobe() {
    let Some(path) = std::env::var_os("SANGO_TEST_VIDEO") else { return };
    let limits = VideoLimits { time: Duration::from_secs(2), max_frames: 10_000, ..VideoLimits::default() };
    println!("OPENED {:?}", Video::open(Path::new(&path), &limits).map(|video| video.info().clone()));
}

/// The kernel stands behind the whitelists: whatever runs in FFmpeg's place reads no other file, and writes none.
#[cfg(target_os = "linux")]
#[test]
fn a_decoder_that_was_taken_over_reads_no_other_file() {
    let folder = Folder::new();
    let video = folder.mp4("video.mp4", 5);
    let secret = write(&folder, "secret.txt", "swordfish");
    let (secret, new) = (secret.display(), folder.path("new.txt"));
    let script = format!(
        "seen=$(cat {secret} 2>/dev/null); own=$(head -c 8 {} | tail -c 4); echo x > {} 2>/dev/null\n\
         echo \"[error] own=$own seen=$seen home=$HOME variable=$SANGO_TEST_VIDEO\" >&2",
        video.display(),
        new.display()
    );
    let said = with_ffprobe(&folder, &video, &script);
    assert!(said.contains("own=ftyp") && said.contains("home=/nonexistent variable="), "{said}");
    assert!(!new.exists(), "nothing is written");
    if kernel_has_landlock() {
        assert!(said.contains("seen= home"), "{said}");
    } else {
        eprintln!("this kernel has no Landlock: what a decoder may open rests on FFmpeg's whitelists alone");
    }
}

#[cfg(target_os = "linux")]
fn kernel_has_landlock() -> bool {
    // SAFETY: asks for the version only (a null pointer, size 0 and the flag 1).
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0, 1) > 0 }
}

#[cfg(target_os = "linux")]
#[test]
fn a_decoder_that_hangs_is_ended_with_all_it_started() {
    let folder = Folder::new();
    let video = folder.mp4("video.mp4", 5);
    // Arguments that no other process has.
    let mark = format!("9{}.{}", std::process::id(), folder.path("").display().to_string().len());
    let began = Instant::now();
    let said = with_ffprobe(&folder, &video, &format!("sleep {mark} & sleep {mark}"));
    assert!(said.contains("TimedOut { seconds: 2 }"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(20));
    let sleeps = || {
        fs::read_dir("/proc").unwrap().flatten().any(|process| {
            fs::read(process.path().join("cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(&mark))
        })
    };
    // The kernel takes a moment over the killed.
    while sleeps() && began.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!sleeps(), "a sleep goes on");
}

#[test]
fn a_decoder_that_talks_without_end_is_ended() {
    let folder = Folder::new();
    let video = folder.mp4("video.mp4", 5);
    let endless = with_ffprobe(&folder, &video, "yes '[error] Invalid NAL unit size' >&2");
    assert!(endless.contains("TimedOut"), "{endless}");
    let packets = with_ffprobe(&folder, &video, "yes 'packet|pts=1|duration=1|flags=K_'");
    assert!(packets.contains("TooManyFrames"), "{packets}");
    let line = with_ffprobe(&folder, &video, "cat /dev/zero");
    assert!(line.contains("TimedOut"), "{line}");
    let missing = with_ffprobe(&folder, &video, "exit 3");
    assert!(missing.contains("Err("), "{missing}");
}

#[test]
fn rubbish_is_no_video() {
    let folder = Folder::new();
    assert!(matches!(open(&folder.path("missing.mp4")), Err(MediaError::Io { .. })));
    assert!(matches!(open(&folder.path("")), Err(MediaError::NotAVideo { .. })), "a folder");
    let mut state = 7_u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(200_000)
    .collect();
    let with = |head: &[u8]| [head, &noise].concat();
    let files: [(&str, Vec<u8>); 9] = [
        ("empty", vec![]),
        ("noise", noise.clone()),
        ("mp4", with(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom")),
        ("mkv", with(&[0x1a, 0x45, 0xdf, 0xa3])),
        ("avi", with(b"RIFF\0\0\x03\0AVI LIST")),
        ("gif", with(b"GIF89a\x10\0\x10\0\x80\0\0")),
        ("ogg", with(b"OggS")),
        ("flv", with(b"FLV\x01\x05\0\0\0\x09\0\0\0\0")),
        ("asf", with(&[0x30, 0x26, 0xb2, 0x75, 0x8e, 0x66, 0xcf, 0x11])),
    ];
    for (name, bytes) in files {
        let read = try_all(&write(&folder, "upload", bytes), &strict());
        assert!(
            matches!(read, Err(MediaError::NotAVideo { .. } | MediaError::DamagedVideo { .. })),
            "{name}: {read:?}"
        );
    }
}

#[test]
fn a_torn_file_gives_the_frames_there_are() {
    let folder = Folder::new();
    let x264 = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-g", "12", "-movflags", "+faststart"];
    for name in ["torn.mp4", "torn.mkv"] {
        let path = folder.sample(name, 120, if name == "torn.mp4" { &x264 } else { &x264[..6] });
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() * 6 / 10]).unwrap();
        let video = open(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        let info = video.info().clone();
        assert!((30..110).contains(&info.frames), "{name}: {}", info.frames);
        let damage = info.damage.unwrap_or_else(|| panic!("{name} says that it is torn"));
        if name == "torn.mp4" {
            assert_eq!(damage, format!("the file ends early: {} of its 120 frames are there", info.frames));
        }
        let frames = read_all(&video).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(frames.len(), info.frames, "{name}");
        // The last picture may be torn itself; those before it are whole.
        for frame in &frames[..frames.len() - 4] {
            assert_eq!(number(&frame.image), frame.index, "{name}");
        }
        assert_eq!(read(&video, &[info.frames - 1]).unwrap().len(), 1);
    }
    // Without its index at the end, an MP4 has nothing to go by.
    let path = folder.mp4("torn.mp4", 60);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() * 6 / 10]).unwrap();
    let error = open(&path).unwrap_err();
    assert!(matches!(&error, MediaError::DamagedVideo { reason } if reason.contains("moov")), "{error}");
}

/// Two groups of pictures in the middle are overwritten: the frames around them are right, and none is out of place.
#[test]
fn a_hole_in_the_middle_is_bridged() {
    let folder = Folder::new();
    let path = folder.sample("hole.mkv", 120, &["-c:v", "libx264", "-pix_fmt", "yuv420p", "-g", "12", "-bf", "2"]);
    let mut bytes = fs::read(&path).unwrap();
    let (from, to) = (bytes.len() * 45 / 100, bytes.len() * 60 / 100);
    bytes[from..to].fill(0);
    fs::write(&path, bytes).unwrap();
    let video = open(&path).unwrap();
    let frames = read_all(&video).unwrap();
    assert_eq!(frames.len(), video.info().frames);
    for (index, frame) in frames.iter().enumerate() {
        assert_eq!(frame.index, index);
    }
    assert_eq!(number(&frames[10].image), 10);
    assert_eq!(number(&frames[frames.len() - 1].image), 119);
    assert!(video.info().damage.is_some());
}

#[test]
fn giants_are_refused_before_they_are_decoded() {
    let folder = Folder::new();
    let patch = |name: &str, arguments: &[&str], at: &dyn Fn(&[u8]) -> usize, size: &[u8]| {
        let path = folder.sample(name, 3, arguments);
        let mut bytes = fs::read(&path).unwrap();
        let at = at(&bytes);
        bytes[at..at + size.len()].copy_from_slice(size);
        fs::write(&path, bytes).unwrap();
        path
    };
    let after =
        |bytes: &[u8], name: &[u8]| bytes.windows(name.len()).position(|found| found == name).unwrap() + name.len();
    let little = [0x30, 0x75, 0x30, 0x75]; // 30000 x 30000
    let wide: Vec<u8> = [30_000_u32.to_le_bytes(), 30_000_u32.to_le_bytes()].concat();
    let high: Vec<u8> = [30_000_u32.to_be_bytes(), 30_000_u32.to_be_bytes()].concat();
    let files = [
        patch("giant.gif", &[], &|_| 6, &little),
        patch("giant.avi", &["-c:v", "rawvideo", "-pix_fmt", "bgr24"], &|bytes| after(bytes, b"strf") + 8, &wide),
        patch("giant.png", &["-f", "apng"], &|bytes| after(bytes, b"IHDR"), &high),
        patch(
            "giant.ivf",
            &["-c:v", "libvpx", "-b:v", "200k"],
            &|bytes| after(bytes, &[0x9d, 0x01, 0x2a]),
            &little[..4],
        ),
        patch("giant.mov", &["-c:v", "rawvideo", "-pix_fmt", "rgb24"], &|bytes| after(bytes, b"raw ") + 24, &little),
    ];
    for path in files {
        let read = try_all(&path, &strict());
        assert!(
            matches!(
                read,
                Err(MediaError::TooManyPixels { .. }
                    | MediaError::DamagedVideo { .. }
                    | MediaError::OutOfMemory { .. })
            ),
            "{}: {read:?}",
            path.display()
        );
    }
}

#[test]
fn every_limit_holds() {
    let folder = Folder::new();
    let path = folder.mp4("video.mp4", 60);
    let with = |change: &dyn Fn(&mut VideoLimits)| {
        let mut limits = strict();
        change(&mut limits);
        try_all(&path, &limits)
    };
    assert!(matches!(with(&|limits| limits.max_bytes = 1000), Err(MediaError::TooManyBytes { limit: 1000, .. })));
    assert!(matches!(with(&|limits| limits.max_pixels = 1000), Err(MediaError::TooManyPixels { width: 176, .. })));
    assert!(matches!(with(&|limits| limits.max_frames = 59), Err(MediaError::TooManyFrames { limit: 59 })));
    assert_eq!(with(&|limits| limits.max_frames = 60).unwrap(), 60);
    // Not even its libraries fit.
    let starved = with(&|limits| limits.max_memory = 64 << 20).unwrap_err();
    assert!(matches!(starved, MediaError::OutOfMemory { limit } if limit == 64 << 20), "{starved}");
}

/// Tables that claim two thousand million samples in a few bytes, and times without sense.
#[test]
fn absurd_tables_end_in_time() {
    let folder = Folder::new();
    let whole = fs::read(folder.sample("small.mov", 30, &["-c:v", "mjpeg", "-movflags", "+faststart"])).unwrap();
    let at = |name: &[u8]| whole.windows(4).position(|found| found == name).unwrap() + 4;
    let absurd = 0x7fff_ffff_u32.to_be_bytes();
    /// Where, and what is put there.
    type Change = (usize, [u8; 4]);
    let cases: [(&str, Vec<Change>); 6] = [
        ("samples of one size", vec![(at(b"stsz") + 4, 1_u32.to_be_bytes()), (at(b"stsz") + 8, absurd)]),
        (
            "both counts",
            vec![
                (at(b"stsz") + 4, 1_u32.to_be_bytes()),
                (at(b"stsz") + 8, absurd),
                (at(b"stts") + 8, absurd),
                (at(b"stsc") + 12, absurd),
            ],
        ),
        ("durations", vec![(at(b"stts") + 12, absurd)]),
        ("length", vec![(at(b"mvhd") + 16, absurd), (at(b"mdhd") + 16, absurd)]),
        ("no time scale", vec![(at(b"mdhd") + 12, [0; 4])]),
        ("chunks", vec![(at(b"stco") + 4, absurd)]),
    ];
    for (name, changes) in cases {
        let mut bytes = whole.clone();
        for (at, value) in changes {
            bytes[at..at + 4].copy_from_slice(&value);
        }
        let path = write(&folder, "absurd.mov", bytes);
        let limits = VideoLimits { time: Duration::from_secs(10), ..strict() };
        let video = match Video::open(&path, &limits) {
            Ok(video) => video,
            Err(error) => {
                println!("{name}: {error}");
                continue;
            }
        };
        println!("{name}: {:?}", video.info());
        let info = video.info();
        assert!(info.fps.is_finite() && info.duration.is_finite() && info.fps > 0.0, "{name}: {info:?}");
        let some: Vec<usize> =
            [0, 1, info.frames / 2, info.frames - 1].into_iter().filter(|&i| i < info.frames).collect();
        let _ = read(&video, &some);
    }
}

#[test]
fn small_files_that_unfold_are_bounded() {
    // A still GIF and PNG of 900 million pixels.
    let mut gif = b"GIF89a\x30\x75\x30\x75\x80\0\0\0\0\0\xff\xff\xff".to_vec();
    gif.extend(b"\x2c\0\0\0\0\x30\x75\x30\x75\0\x02\x02\x4c\x01\0\x3b");
    let read = load_image_bytes(&gif, &Limits::default());
    assert!(matches!(read, Err(MediaError::TooManyPixels { width: 30_000, .. })), "{read:?}");
    for (width, height) in [(30_000, 30_000), (1, 0x7fff_ffff), (0x7fff_ffff, 1)] {
        let read = load_image_bytes(&png(width, height, None), &Limits::default());
        assert!(
            matches!(read, Err(MediaError::TooManyPixels { .. } | MediaError::Damaged { .. })),
            "{width}x{height}: {read:?}"
        );
    }
    // A colour profile of 256 MiB, packed, beside a single pixel.
    let bomb = png(1, 1, Some(256 << 20));
    assert!(bomb.len() < 1 << 20);
    let began = Instant::now();
    let _ = load_image_bytes(&bomb, &Limits::default());
    assert!(began.elapsed() < Duration::from_secs(10));
}

/// A PNG with this size in its header and, where asked, a colour profile of so many zeros.
fn png(width: u32, height: u32, profile: Option<usize>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 1, 1);
    if let Some(length) = profile {
        let mut info = png::Info::with_size(1, 1);
        info.icc_profile = Some(vec![0; length].into());
        encoder = png::Encoder::with_info(&mut bytes, info).unwrap();
    }
    encoder.set_color(png::ColorType::Grayscale);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&[0]).unwrap();
    writer.finish().unwrap();
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let checksum = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

/// Whatever bytes are changed, the answer comes in time and is frames or a typed error.
#[test]
fn changed_bytes_never_hang_or_panic() {
    let folder = Folder::new();
    let x264 = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-g", "6"];
    let vp9 = ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8"];
    let samples: Vec<Vec<u8>> = [
        ("a.mp4", &x264[..]),
        ("a.mkv", &x264),
        ("a.ts", &x264),
        ("a.webm", &vp9),
        ("a.avi", &["-c:v", "mpeg4", "-bf", "2"]),
        ("a.gif", &[]),
        ("a.webp", &["-c:v", "libwebp_anim"]),
        ("a.mov", &["-c:v", "prores_ks"]),
    ]
    .iter()
    .map(|(name, arguments)| fs::read(folder.sample(name, 10, arguments)).unwrap())
    .collect();
    let path = folder.path("changed");
    let flips = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..12);
    let config = Config { failure_persistence: None, ..Config::with_cases(40) };
    TestRunner::new(config)
        .run(&(0..samples.len(), flips), |(which, flips)| {
            let mut bytes = samples[which].clone();
            for (index, value, in_header) in flips {
                // Most of the structure is in the first kilobyte.
                let length = if in_header { bytes.len().min(1024) } else { bytes.len() };
                bytes[index.index(length)] = value;
            }
            fs::write(&path, bytes).unwrap();
            let limits = VideoLimits { max_frames: 5000, time: Duration::from_secs(10), ..strict() };
            if let Ok(video) = Video::open(&path, &limits) {
                let frames = video.info().frames;
                let _ = read(&video, &[0, frames / 2, frames - 1]);
            }
            Ok(())
        })
        .unwrap();
}
