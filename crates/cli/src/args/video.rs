//! `sango video` and `sango pipeline`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use sango_models::ltx_video::StgMode;

use super::{Dtype, ModelsDir, Size};

/// `sango video`.
#[derive(Debug, Args)]
pub struct VideoArgs {
    /// What the video shows.
    #[arg(long)]
    pub prompt: String,
    /// What it should not show.
    #[arg(long, default_value = "")]
    pub negative: String,
    /// How many frames: a multiple of the model's temporal compression (usually 8) and one.
    #[arg(long, value_name = "N")]
    pub frames: Option<usize>,
    /// Frames per second.
    #[arg(long, value_name = "F")]
    pub fps: Option<f32>,
    /// Width and height in pixels, as in 704x480.
    #[arg(long, value_name = "WxH")]
    pub size: Option<Size>,
    /// Denoising steps.
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
    /// Classifier-free guidance; 1 or less turns it off.
    #[arg(long, value_name = "G")]
    pub guidance: Option<f32>,
    /// How far guidance is brought back to the contrast of what the prompt alone gives, 0 to 1.
    #[arg(long, value_name = "F")]
    pub guidance_rescale: Option<f32>,
    /// Spatio-temporal guidance: how far the video is led away from what weakened layers make.
    #[arg(long, value_name = "F", requires = "stg_blocks")]
    pub stg_scale: Option<f32>,
    /// The layers that are weakened, counted from 0, as in 19 or 18,19.
    #[arg(long, value_name = "N,…", value_delimiter = ',', requires = "stg_scale")]
    pub stg_blocks: Vec<usize>,
    /// What the weakened layers leave out.
    #[arg(long, value_enum, requires = "stg_scale")]
    pub stg_mode: Option<StgModeArg>,
    /// The same seed, model and options give the same video on the same machine. Without one, the seed used is printed.
    #[arg(long)]
    pub seed: Option<u64>,
    /// The first frame.
    #[arg(long, value_name = "FIRST.png")]
    pub image: Option<PathBuf>,
    /// How strictly the video keeps to what it is given, 0 to 1.
    #[arg(long, value_name = "F")]
    pub strength: Option<f32>,
    /// A picture that the video shows at a certain frame, as in 16=middle.png; may be given several times.
    #[arg(long, value_name = "FRAME=PICTURE")]
    pub keyframe: Vec<Keyframe>,
    /// Go on from the end of this video: it comes first, and then the new frames.
    #[arg(long, value_name = "VIDEO", conflicts_with = "image")]
    pub extend: Option<PathBuf>,
    /// The most memory to use, as in 8GiB; by default what the machine has available.
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Bytes>,
    /// Where the video goes: .mp4, or .gif.
    #[arg(short, long, value_name = "OUT.mp4")]
    pub output: PathBuf,
    /// A model folder or file, or the name of a folder under the models folder.
    #[arg(long)]
    pub model: Option<String>,
    /// How weights are kept and multiplied.
    #[arg(long, value_enum, default_value_t = Dtype::Bf16)]
    pub dtype: Dtype,
    #[command(flatten)]
    pub models_dir: ModelsDir,
}

/// `sango pipeline`.
#[derive(Debug, Args)]
pub struct PipelineArgs {
    /// What it begins with: videos and pictures.
    #[arg(required = true, value_name = "MEDIA")]
    pub media: Vec<PathBuf>,
    /// What is asked about it; the answer becomes the prompts.
    #[arg(long, default_value = sango_jobs::PIPELINE_QUESTION)]
    pub question: String,
    /// The same seed, models and media give the same results on the same machine. Without one, the seed used is printed.
    #[arg(long)]
    pub seed: Option<u64>,
    /// The folder where text.txt, image.png, video.mp4 and summary.json go; made if need be.
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// The name of the model that reads the media.
    #[arg(long, value_name = "NAME")]
    pub understand_model: Option<String>,
    /// The name of the model that draws the picture.
    #[arg(long, value_name = "NAME")]
    pub image_model: Option<String>,
    /// The name of the model that makes the video.
    #[arg(long, value_name = "NAME")]
    pub video_model: Option<String>,
    /// How weights are kept and multiplied.
    #[arg(long, value_enum, default_value_t = Dtype::Bf16)]
    pub dtype: Dtype,
    #[command(flatten)]
    pub models_dir: ModelsDir,
}

/// What weakened layers leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "kebab-case")]
pub enum StgModeArg {
    /// Attention mixes nothing: each token keeps its own values.
    AttentionValues,
    /// Attention gives its input back.
    AttentionSkip,
    /// What the layer adds.
    Residual,
    /// The whole layer.
    TransformerBlock,
}

impl From<StgModeArg> for StgMode {
    fn from(mode: StgModeArg) -> Self {
        match mode {
            StgModeArg::AttentionValues => Self::AttentionValues,
            StgModeArg::AttentionSkip => Self::AttentionSkip,
            StgModeArg::Residual => Self::Residual,
            StgModeArg::TransformerBlock => Self::TransformerBlock,
        }
    }
}

/// A picture and the frame that shows it, written `FRAME=PICTURE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyframe {
    /// Which frame, from 0.
    pub frame: usize,
    /// The picture's file.
    pub picture: PathBuf,
}

impl FromStr for Keyframe {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text.split_once('=').and_then(|(frame, picture)| Some((frame.parse().ok()?, picture)));
        match parsed {
            Some((frame, picture)) if !picture.is_empty() => Ok(Self { frame, picture: picture.into() }),
            _ => Err(format!("'{text}' is not a frame and a picture; write them as in 16=middle.png")),
        }
    }
}

/// A number of bytes, written as in `8GiB`, `500MB` or `1073741824`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let unit = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => Some(1.0),
            "k" | "kib" => Some(1024.0),
            "m" | "mib" => Some(1024.0 * 1024.0),
            "g" | "gib" => Some(1024.0 * 1024.0 * 1024.0),
            "kb" => Some(1e3),
            "mb" => Some(1e6),
            "gb" => Some(1e9),
            _ => None,
        };
        let bytes = number.parse::<f64>().ok().zip(unit).map(|(number, unit)| number * unit);
        match bytes {
            Some(bytes) if bytes >= 1.0 && bytes < 2f64.powi(63) => Ok(Self(bytes as u64)),
            _ => Err(format!("'{text}' is not an amount of memory; write it as in 8GiB or 500MB")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyframes_are_a_frame_and_a_picture() {
        assert_eq!("16=a=b.png".parse(), Ok(Keyframe { frame: 16, picture: "a=b.png".into() }));
        for bad in ["", "16", "16=", "=a.png", "-1=a.png", "x=a.png"] {
            assert!(bad.parse::<Keyframe>().is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn memory_has_a_unit() {
        for (text, bytes) in
            [("8GiB", 8 << 30), ("1.5 g", 3 << 29), ("500MB", 500_000_000), ("4096", 4096), ("2k", 2048)]
        {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for bad in ["", "GiB", "-1GiB", "8 apples", "1e9", "0", "99999999999GiB", "1.2.3"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad} was accepted");
        }
    }
}
