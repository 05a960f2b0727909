//! What `AutoProcessor` reads of a folder to make its image and video processors, with its precedence and defaults.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::resize::{MAX_IMAGE_SIZE, Resample};
use super::tile::Normalize;
use crate::config::read_json;
use crate::error::{ModelError, Result};

/// `processor_config.json`: the processor itself, and since transformers 5 the two processors nested in it.
const PROCESSOR_NAME: &str = "processor_config.json";
const IMAGE_PROCESSOR_NAME: &str = "preprocessor_config.json";
const VIDEO_PROCESSOR_NAME: &str = "video_preprocessor_config.json";
/// `image_seq_len` of the processor class.
const DEFAULT_IMAGE_SEQ_LEN: usize = 169;
/// `max_image_size` of the processor classes; their `size` is four times that.
const DEFAULT_MAX_IMAGE_SIZE: usize = 364;

/// One JSON object of a configuration, with the file that it stands in.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    path: PathBuf,
    json: Value,
}

impl Settings {
    /// The settings of the image processor: nested in `processor_config.json`, else `preprocessor_config.json`.
    pub(super) fn of_images(dir: &Path) -> Result<Self> {
        Self::first(dir, "image_processor", &[IMAGE_PROCESSOR_NAME])
    }

    /// The settings of the video processor: nested, else its own file, else those of the image processor.
    pub(super) fn of_videos(dir: &Path) -> Result<Self> {
        Self::first(dir, "video_processor", &[VIDEO_PROCESSOR_NAME, IMAGE_PROCESSOR_NAME])
    }

    /// The settings of the processor itself, which may be missing.
    pub(super) fn of_processor(dir: &Path) -> Result<Self> {
        let path = dir.join(PROCESSOR_NAME);
        let json = if path.is_file() { read_json(&path)? } else { Value::Null };
        Ok(Self { path, json })
    }

    fn first(dir: &Path, nested: &str, files: &[&str]) -> Result<Self> {
        let mut processor = Self::of_processor(dir)?;
        if processor.json[nested].is_object() {
            processor.json = processor.json[nested].take();
            return Ok(processor);
        }
        match files.iter().map(|name| dir.join(name)).find(|path| path.is_file()) {
            Some(path) => Ok(Self { json: read_json(&path)?, path }),
            None => {
                let detail = format!(
                    "has no {IMAGE_PROCESSOR_NAME} (or `{nested}` in {PROCESSOR_NAME}): it says how pictures are \
                     resized; take it from the folder that the model was published in"
                );
                Err(ModelError::UnknownModel { dir: dir.to_owned(), detail })
            }
        }
    }

    pub(super) fn error(&self, field: &'static str, detail: impl Into<String>) -> ModelError {
        ModelError::Config { path: self.path.clone(), field, detail: detail.into() }
    }

    /// The value of `field`; `None` where it is missing or null, which both mean the class's default.
    pub(super) fn get(&self, field: &str) -> Option<&Value> {
        self.json.get(field).filter(|value| !value.is_null())
    }

    pub(super) fn image_seq_len(&self) -> Result<usize> {
        match self.get("image_seq_len") {
            None => Ok(DEFAULT_IMAGE_SEQ_LEN),
            Some(value) => whole(value)
                .filter(|length| (1..=1 << 16).contains(length))
                .ok_or_else(|| self.error("image_seq_len", format!("is {value}; it must be a whole number above 0"))),
        }
    }

    pub(super) fn switch(&self, field: &'static str, default: bool) -> Result<bool> {
        match self.get(field) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(*value),
            Some(value) => Err(self.error(field, format!("is {value}; it must be true or false"))),
        }
    }

    pub(super) fn resample(&self) -> Result<Resample> {
        match self.get("resample") {
            None => Ok(Resample::Lanczos),
            Some(value) => value.as_u64().and_then(Resample::from_number).ok_or_else(|| {
                let detail = "; 0 (nearest), 1 (Lanczos), 2 (bilinear) and 3 (bicubic) can be used";
                self.error("resample", format!("is {value}{detail}"))
            }),
        }
    }

    pub(super) fn size(&self) -> Result<Size> {
        match self.get("size") {
            None => Ok(Size::LongestEdge(4 * DEFAULT_MAX_IMAGE_SIZE)),
            Some(value) => self.read_size("size", value),
        }
    }

    /// A size in any form that the reference takes: an object with `longest_edge` or `height` and `width`, a number
    /// for both sides, or a list of height and width.
    pub(super) fn read_size(&self, field: &'static str, value: &Value) -> Result<Size> {
        let side = |value: &Value| whole(value).filter(|&side| side > 0);
        let both = |height: &Value, width: &Value| Some(Size::Exact(side(height)?, side(width)?));
        let size = match value {
            Value::Object(_) if !value["longest_edge"].is_null() => side(&value["longest_edge"]).map(Size::LongestEdge),
            Value::Object(_) => both(&value["height"], &value["width"]),
            Value::Number(_) => both(value, value),
            Value::Array(sides) if sides.len() == 2 => both(&sides[0], &sides[1]),
            _ => None,
        };
        match size {
            Some(Size::Exact(height, width)) if height.max(width) > MAX_IMAGE_SIZE => {
                Err(self.error(field, format!("is {value}; sides can be at most {MAX_IMAGE_SIZE}")))
            }
            Some(size) => Ok(size),
            None => Err(self.error(field, format!("is {value}; it must have `longest_edge`, or `height` and `width`"))),
        }
    }

    /// `max_image_size.longest_edge`, the side of every tile.
    pub(super) fn max_image_size(&self) -> Result<usize> {
        let Some(value) = self.get("max_image_size") else { return Ok(DEFAULT_MAX_IMAGE_SIZE) };
        whole(&value["longest_edge"]).filter(|side| (1..=MAX_IMAGE_SIZE).contains(side)).ok_or_else(|| {
            let detail = format!("is {value}; it must have a `longest_edge` between 1 and {MAX_IMAGE_SIZE}");
            self.error("max_image_size", detail)
        })
    }

    pub(super) fn normalize(&self) -> Result<Arc<Normalize>> {
        let factor = match self.get("rescale_factor") {
            None => 1.0 / 255.0,
            Some(value) => value
                .as_f64()
                .filter(|factor| factor.is_normal())
                .ok_or_else(|| self.error("rescale_factor", format!("is {value}; it must be a number, not 0")))?,
        };
        let rescale = self.switch("do_rescale", true)?.then_some(factor);
        let normalize = match self.switch("do_normalize", true)? {
            false => None,
            true => Some((self.channels("image_mean")?, self.channels("image_std")?)),
        };
        if normalize.is_some_and(|(_, std)| std.contains(&0.0)) {
            return Err(self.error("image_std", "is 0, by which no pixel can be divided"));
        }
        Ok(Arc::new(Normalize::new(rescale, normalize)))
    }

    /// One number for all channels, or one for each.
    fn channels(&self, field: &'static str) -> Result<[f32; 3]> {
        let Some(value) = self.get(field) else { return Ok([0.5; 3]) };
        let number = |value: &Value| value.as_f64().map(|number| number as f32).filter(|number| number.is_finite());
        let channels = match value {
            Value::Array(channels) => match channels.as_slice() {
                [one] => number(one).map(|one| [one; 3]),
                [red, green, blue] => {
                    number(red).zip(number(green)).zip(number(blue)).map(|((red, green), blue)| [red, green, blue])
                }
                _ => None,
            },
            _ => number(value).map(|one| [one; 3]),
        };
        channels.ok_or_else(|| self.error(field, format!("is {value}; it must be a number or three")))
    }
}

/// The size that a picture is resized to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// The longer side becomes this long, and the other follows.
    LongestEdge(usize),
    /// Height and width.
    Exact(usize, usize),
}

/// A whole number, which JSON may also write as `64.0`.
pub(super) fn whole(value: &Value) -> Option<usize> {
    let float = || value.as_f64().filter(|number| number.fract() == 0.0 && (0.0..1e15).contains(number));
    value.as_u64().or_else(|| float().map(|number| number as u64)).and_then(|number| usize::try_from(number).ok())
}
