//! Taking in what a question is about: onto the disk, and looked at once to be sure that it can be shown to a model.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sango_media::{Limits, MediaError, MediaFormat, MediaKind, Video, VideoLimits};

use crate::files::Files;
use crate::upload::{Incoming, Received, Upload};
use crate::{ErrorKind, JobError, MediaInfo, MediaType};

/// Where media go, and what they may cost.
pub(crate) struct Intake<'a> {
    /// Bounds on pictures.
    pub(crate) images: &'a Limits,
    /// Bound on the file of a video.
    pub(crate) max_video_bytes: u64,
    pub(crate) uploads: &'a Files,
    /// What is known about a file that a job has brought.
    pub(crate) known: &'a dyn Fn(&str) -> Result<Option<MediaInfo>, JobError>,
}

impl Intake<'_> {
    /// Takes the uploads in and says what they are.
    pub(crate) fn take(&self, uploads: Vec<Upload>) -> Result<(Vec<Upload>, Vec<MediaInfo>), JobError> {
        let taken = uploads.into_iter().map(|upload| self.take_one(upload));
        Ok(taken.collect::<Result<Vec<_>, _>>()?.into_iter().unzip())
    }

    fn take_one(&self, upload: Upload) -> Result<(Upload, MediaInfo), JobError> {
        let incoming = || Incoming::new(self.uploads.folder(), self.max_video_bytes);
        let received = match upload {
            Upload::Known(sha256) => {
                let info = self.find(&sha256)?;
                return Ok((Upload::Known(sha256), info));
            }
            Upload::Received(received) => received,
            Upload::Path(path) => incoming()?.copy(&path)?,
            Upload::Bytes(bytes) => {
                let mut incoming = incoming()?;
                incoming.write(&bytes)?;
                incoming.finish()?
            }
        };
        let info = match (self.known)(received.sha256())? {
            Some(info) => info,
            None => self.look_at(&received)?,
        };
        Ok((Upload::Received(received), info))
    }

    fn find(&self, sha256: &str) -> Result<MediaInfo, JobError> {
        if sha256.len() != 64 || !sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            let message = "`media`: `sha256` is the hash of a file, 64 digits of lower-case hex";
            return Err(JobError::new(ErrorKind::InvalidMedia, message));
        }
        let known = (self.known)(sha256)?.filter(|_| self.uploads.has(sha256));
        known.ok_or_else(|| not_here(sha256))
    }
}

/// The file is not here, or no longer.
pub(crate) fn not_here(sha256: &str) -> JobError {
    let message = format!("`media`: no job has brought the file {sha256}, or it is no longer kept: send it again");
    JobError::new(ErrorKind::InvalidMedia, message)
}

impl Intake<'_> {
    fn look_at(&self, received: &Received) -> Result<MediaInfo, JobError> {
        let path = received.path();
        let info = MediaInfo {
            kind: MediaType::Image,
            sha256: received.sha256().to_owned(),
            bytes: received.bytes(),
            content_type: content_type(&head(path)?).to_owned(),
            width: 0,
            height: 0,
            duration: None,
            frames: None,
            fps: None,
        };
        match sango_media::sniff_file(path).map_err(refused)? {
            MediaKind::Image => {
                let picture = sango_media::load_image(path, self.images).map_err(refused)?;
                Ok(MediaInfo { width: picture.width(), height: picture.height(), ..info })
            }
            MediaKind::Video => {
                let limits = VideoLimits { max_bytes: self.max_video_bytes, ..VideoLimits::default() };
                let video = Video::open(path, &limits).map_err(refused)?;
                let found = video.info();
                Ok(MediaInfo {
                    kind: MediaType::Video,
                    width: found.width,
                    height: found.height,
                    duration: Some(found.duration).filter(|seconds| seconds.is_finite()),
                    frames: Some(found.frames as u64),
                    fps: Some(found.fps).filter(|fps| fps.is_finite()),
                    ..info
                })
            }
        }
    }
}

fn refused(error: MediaError) -> JobError {
    let message = match &error {
        MediaError::UnknownFormat => {
            "`media` is neither a video nor a picture that Sango can read: send MP4, MOV, WebM, MKV, AVI, GIF, PNG, JPEG \
             or WebP"
                .to_owned()
        }
        other => format!("`media`: {other}"),
    };
    JobError::new(JobError::from(error).kind, message)
}

fn head(path: &Path) -> Result<Vec<u8>, JobError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(64).read_to_end(&mut bytes));
    read.map_err(|error| JobError::new(ErrorKind::Storage, format!("cannot read an upload: {error}")))?;
    Ok(bytes)
}

/// The media type by the first bytes, as a browser should be told it. What is in no browser's list is just bytes.
fn content_type(head: &[u8]) -> &'static str {
    let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    if let Some(format) = MediaFormat::guess(head) {
        return format.content_type();
    }
    match () {
        () if at(4, b"ftypqt") => "video/quicktime",
        () if at(4, b"ftyp") => "video/mp4",
        () if at(4, b"moov") || at(4, b"mdat") || at(4, b"wide") => "video/quicktime",
        () if at(0, &[0x1a, 0x45, 0xdf, 0xa3]) => match head.windows(4).any(|four| four == b"webm") {
            true => "video/webm",
            false => "video/x-matroska",
        },
        () if at(0, b"RIFF") && at(8, b"AVI ") => "video/x-msvideo",
        () if at(0, b"OggS") => "video/ogg",
        () if at(0, &[0, 0, 1]) => "video/mpeg",
        () if at(0, &[0x47]) || at(4, &[0x47]) => "video/mp2t",
        () => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_those_that_browsers_know() {
        for (head, wanted) in [
            (&b"\0\0\0\x20ftypisom"[..], "video/mp4"),
            (b"\0\0\0\x14ftypqt  ", "video/quicktime"),
            (b"\x1a\x45\xdf\xa3\x9f\x42\x82\x84webm", "video/webm"),
            (b"\x1a\x45\xdf\xa3\x9f\x42\x82\x88matroska", "video/x-matroska"),
            (b"GIF89a", "image/gif"),
            (b"\x89PNG\r\n\x1a\n", "image/png"),
            (b"RIFF....AVI ", "video/x-msvideo"),
            (b"", "application/octet-stream"),
            (b"<svg onload=alert(1)>", "application/octet-stream"),
        ] {
            assert_eq!(content_type(head), wanted, "{head:?}");
        }
    }
}
