//! Taking in what a question is about: onto the disk, and looked at once to be sure that it can be shown to a model.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sango_media::Limits;

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
        let refused = |error: sango_media::MediaError| {
            let error = JobError::from(error);
            JobError::new(error.kind, format!("`media`: {error}"))
        };
        let picture = sango_media::load_image(received.path(), self.images).map_err(refused)?;
        let content_type = sango_media::MediaFormat::guess(&head(received.path())?).map_or("", |it| it.content_type());
        Ok(MediaInfo {
            kind: MediaType::Image,
            sha256: received.sha256().to_owned(),
            bytes: received.bytes(),
            content_type: content_type.to_owned(),
            width: picture.width(),
            height: picture.height(),
            duration: None,
            frames: None,
            fps: None,
        })
    }
}

fn head(path: &Path) -> Result<Vec<u8>, JobError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(64).read_to_end(&mut bytes));
    read.map_err(|error| JobError::new(ErrorKind::Storage, format!("cannot read an upload: {error}")))?;
    Ok(bytes)
}
