//! Still picture or video, by the first bytes: names and claimed types are not believed.

use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::Path;

use crate::{MediaError, MediaFormat, video};

/// What a file is to be read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaKind {
    /// One picture: [`load_image`](crate::load_image).
    Image,
    /// Several: [`Video::open`](crate::Video::open). An animated GIF, WebP or PNG is one too.
    Video,
}

/// Tells a still picture from a video. `bytes` is the whole file, or as much of it as there is.
///
/// # Errors
/// [`MediaError::UnknownFormat`] when it is neither.
pub fn sniff(bytes: &[u8]) -> Result<MediaKind, MediaError> {
    kind(&mut Cursor::new(bytes)).ok_or(MediaError::UnknownFormat)
}

/// [`sniff`] for a file; a few kilobytes of it are read.
///
/// # Errors
/// As [`sniff`], and [`MediaError::Io`] with the path.
pub fn sniff_file(path: &Path) -> Result<MediaKind, MediaError> {
    let file = File::open(path).map_err(|source| MediaError::Io { path: path.to_owned(), source })?;
    kind(&mut BufReader::new(file)).ok_or(MediaError::UnknownFormat)
}

fn kind(file: &mut (impl Read + Seek)) -> Option<MediaKind> {
    let mut head = Vec::new();
    file.by_ref().take(512).read_to_end(&mut head).ok()?;
    file.rewind().ok()?;
    let animated = match MediaFormat::guess(&head) {
        Some(MediaFormat::Jpeg) => false,
        Some(MediaFormat::Png) => is_animated_png(file),
        Some(MediaFormat::Gif) => gif_has_two_pictures(file).unwrap_or(false),
        Some(MediaFormat::WebP) => is_animated_webp(file),
        None => return is_video(&head).then_some(MediaKind::Video),
    };
    Some(if animated { MediaKind::Video } else { MediaKind::Image })
}

/// Whether these are the first bytes of a container that people keep video in.
fn is_video(head: &[u8]) -> bool {
    let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    let boxes: [&[u8; 4]; 7] = [b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"];
    boxes.iter().any(|name| at(4, *name)) // MP4, QuickTime
        || at(0, &[0x1a, 0x45, 0xdf, 0xa3]) // Matroska, WebM
        || (at(0, b"RIFF") && at(8, b"AVI "))
        || (at(0, &[0x47]) && at(188, &[0x47])) // MPEG-TS
        || (at(4, &[0x47]) && at(196, &[0x47])) // the same with time codes: camcorders
        || at(0, &[0, 0, 1, 0xba]) // MPEG-PS
        || at(0, &[0, 0, 1, 0xb3])
        || at(0, b"FLV\x01")
        || at(0, b"OggS")
        || at(0, &[0x30, 0x26, 0xb2, 0x75, 0x8e, 0x66, 0xcf, 0x11]) // ASF, WMV
        || at(0, &[0x06, 0x0e, 0x2b, 0x34]) // MXF
        || at(0, b"DKIF") // IVF
        || at(0, b"YUV4MPEG2 ")
        || at(0, b"nut/multimedia container\0")
}

fn is_animated_png(file: &mut (impl Read + Seek)) -> bool {
    let mut chunk = [0; 8];
    if file.seek(SeekFrom::Start(8)).is_err() {
        return false;
    }
    // `acTL` comes before the first pixels; a file with this many chunks before them is none to search through.
    for _ in 0..1000 {
        if file.read_exact(&mut chunk).is_err() {
            return false;
        }
        match &chunk[4..] {
            b"acTL" => {
                let mut frames = [0; 4];
                return file.read_exact(&mut frames).is_ok() && u32::from_be_bytes(frames) > 1;
            }
            b"IDAT" => return false,
            _ => {}
        }
        let length = i64::from(u32::from_be_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]));
        if file.seek(SeekFrom::Current(length + 4)).is_err() {
            return false;
        }
    }
    false
}

fn is_animated_webp(file: &mut (impl Read + Seek)) -> bool {
    let mut frames = 0;
    video::for_each_webp_frame(file, |_| {
        frames += 1;
        if frames > 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    frames > 1
}

/// Walks the blocks of a GIF up to its second picture.
fn gif_has_two_pictures(file: &mut (impl Read + Seek)) -> Option<bool> {
    let colours = |packed: u8| if packed & 0x80 == 0 { 0 } else { 3 * (2_i64 << (packed & 7)) };
    let mut header = [0; 13];
    file.read_exact(&mut header).ok()?;
    file.seek(SeekFrom::Current(colours(header[10]))).ok()?;
    let mut pictures = 0;
    loop {
        let mut one = [0; 1];
        file.read_exact(&mut one).ok()?;
        match one[0] {
            0x2c => {
                pictures += 1;
                if pictures == 2 {
                    return Some(true);
                }
                let mut descriptor = [0; 9];
                file.read_exact(&mut descriptor).ok()?;
                file.seek(SeekFrom::Current(colours(descriptor[8]) + 1)).ok()?; // and the code size
            }
            0x21 => drop(file.seek(SeekFrom::Current(1)).ok()?), // the extension's label
            _ => return Some(false),
        }
        loop {
            file.read_exact(&mut one).ok()?;
            if one[0] == 0 {
                break;
            }
            file.seek(SeekFrom::Current(i64::from(one[0]))).ok()?;
        }
    }
}
