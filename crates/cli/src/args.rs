//! The command line, as `clap` sees it.

mod video;

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

pub use video::{PipelineArgs, VideoArgs};

/// Draws pictures and makes videos from words, answers questions about videos, and serves all of it, without Python.
#[derive(Debug, Parser)]
#[command(name = "sango", version, about, propagate_version = true)]
pub struct Cli {
    /// Print one JSON object (or, for a failure, `{"error": …}`) instead of text.
    #[arg(long, global = true)]
    pub json: bool,
    /// Threads that compute; by default every physical core.
    #[arg(long, global = true, value_name = "N", env = "SANGO_NUM_THREADS")]
    pub threads: Option<usize>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answer a question about videos and pictures.
    Understand(Box<UnderstandArgs>),
    /// Draw a picture from a prompt.
    Image(Box<ImageArgs>),
    /// Make a video from a prompt.
    Video(Box<VideoArgs>),
    /// Say what happens in a clip, draw a picture of it, and make a new clip of both.
    Pipeline(Box<PipelineArgs>),
    /// Serve the studio page, the HTTP API and the WebSocket.
    Serve(ServeArgs),
    /// List, fetch or check models.
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Run a model on tensors from a file and write its outputs, for comparison with a reference.
    Parity(ParityArgs),
    /// Measure a model on this machine.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Say what this machine can do, and what is missing.
    Doctor(ModelsDir),
}

/// Where models are looked up by name.
#[derive(Debug, Clone, Args)]
pub struct ModelsDir {
    /// Folder of model folders; by default `./models`, then `models` beside the program.
    #[arg(long, value_name = "DIR", env = "SANGO_MODELS")]
    pub models: Option<PathBuf>,
}

/// `sango image`.
#[derive(Debug, Args)]
pub struct ImageArgs {
    /// What the picture shows.
    #[arg(long)]
    pub prompt: String,
    /// What it should not show.
    #[arg(long, default_value = "")]
    pub negative: String,
    /// Denoising steps; the model's own default is usually 12.
    #[arg(long)]
    pub steps: Option<usize>,
    /// Classifier-free guidance; 1 or less turns it off.
    #[arg(long)]
    pub guidance: Option<f32>,
    /// The same seed, model and options give the same bytes on the same machine. Without one, the seed used is printed.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Width and height in pixels, as in 256x256.
    #[arg(long, value_name = "WxH")]
    pub size: Option<Size>,
    /// Start from this picture instead of from nothing.
    #[arg(long, value_name = "IN.png")]
    pub image: Option<PathBuf>,
    /// Redraw only where this picture is white (inpainting).
    #[arg(long, value_name = "M.png", requires = "image")]
    pub mask: Option<PathBuf>,
    /// How much of the starting picture to redraw, 0 to 1.
    #[arg(long, requires = "image")]
    pub strength: Option<f32>,
    /// Where the picture goes.
    #[arg(short, long, value_name = "OUT.png")]
    pub output: PathBuf,
    /// Also save the picture forming, one frame a step.
    #[arg(long, value_name = "STEPS.gif")]
    pub animation: Option<PathBuf>,
    /// A model folder, or the name of one under the models folder.
    #[arg(long)]
    pub model: Option<String>,
    /// How weights are kept and multiplied.
    #[arg(long, value_enum, default_value_t = Dtype::Bf16)]
    pub dtype: Dtype,
    #[command(flatten)]
    pub models_dir: ModelsDir,
}

/// `sango understand`.
#[derive(Debug, Args)]
pub struct UnderstandArgs {
    /// What the question is about: any number of videos and pictures.
    #[arg(required = true, value_name = "MEDIA")]
    pub media: Vec<PathBuf>,
    /// What you want to know.
    #[arg(long)]
    pub question: String,
    /// The most frames of each video that the model is shown; by default the model's own number.
    #[arg(long, value_name = "N")]
    pub frames: Option<usize>,
    /// Frames taken of each second, up to --frames.
    #[arg(long, value_name = "F")]
    pub fps: Option<f64>,
    /// The most tokens of the answer.
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<usize>,
    /// 0 takes the likeliest token each time; above it tokens are drawn.
    #[arg(long, value_name = "T")]
    pub temperature: Option<f32>,
    /// Draw from so many of the likeliest tokens; 0 is all of them.
    #[arg(long, value_name = "N")]
    pub top_k: Option<usize>,
    /// Draw from the likeliest tokens that together have this probability.
    #[arg(long, value_name = "P")]
    pub top_p: Option<f32>,
    /// Leave out tokens whose probability is below this share of the likeliest one's.
    #[arg(long, value_name = "P")]
    pub min_p: Option<f32>,
    /// Above 1, tokens that were there already become less likely.
    #[arg(long, value_name = "F")]
    pub repetition_penalty: Option<f32>,
    /// The same seed, model and options draw the same answer. Without one, the seed used is printed.
    #[arg(long)]
    pub seed: Option<u64>,
    /// A model folder, or the name of one under the models folder.
    #[arg(long)]
    pub model: Option<String>,
    /// A folder with a LoRA adapter in PEFT's format.
    #[arg(long, value_name = "DIR")]
    pub lora: Option<PathBuf>,
    /// How weights are kept and multiplied.
    #[arg(long, value_enum, default_value_t = Precision::Bf16)]
    pub dtype: Precision,
    #[command(flatten)]
    pub models_dir: ModelsDir,
}

/// How the weights of a language model are kept; activations are f32 either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// 32-bit floats.
    F32,
    /// bfloat16: half the memory, about twice the speed.
    Bf16,
    /// int8 in the decoder, bfloat16 elsewhere: answers come quicker, and differ a little.
    Int8,
}

impl Precision {
    /// How to load a model so.
    pub fn load_options(self) -> sango_models::LoadOptions {
        use sango_models::{DType, LoadOptions};
        match self {
            Self::F32 => LoadOptions::new(DType::F32),
            Self::Bf16 => LoadOptions::new(DType::BF16),
            Self::Int8 => LoadOptions::default().int8(),
        }
    }
}

/// `sango serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address to listen on; anything but loopback opens the server to the network.
    #[arg(long, default_value = "127.0.0.1:4000")]
    pub addr: SocketAddr,
    /// Where jobs and results are kept.
    #[arg(long, value_name = "DIR", env = "SANGO_DATA", default_value = ".sango")]
    pub data: PathBuf,
    /// Open the page in the browser once the server answers.
    #[arg(long)]
    pub open: bool,
    #[command(flatten)]
    pub models_dir: ModelsDir,
}

/// `sango models`.
#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// The models found in the models folder.
    List(ModelsDir),
    /// Download a published checkpoint (needs the `hub` feature).
    Pull {
        /// `amused`, `smolvlm2`, `ltx-video` and their variants, or any `owner/repository`.
        name: String,
        #[command(flatten)]
        models_dir: ModelsDir,
    },
    /// Load a model folder and report what is in it, or what is wrong with it.
    Check {
        /// The model folder.
        dir: PathBuf,
    },
}

/// `sango parity`.
#[derive(Debug, Args)]
pub struct ParityArgs {
    /// The model folder.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Safetensors file with the input tensors.
    #[arg(long, value_name = "IN.safetensors")]
    pub inputs: PathBuf,
    /// Where the output tensors go.
    #[arg(long, value_name = "OUT.safetensors")]
    pub outputs: PathBuf,
    /// How weights are kept and multiplied.
    #[arg(long, value_enum, default_value_t = WeightDtype::F32)]
    pub dtype: WeightDtype,
    /// A folder with a LoRA adapter in PEFT's format.
    #[arg(long, value_name = "DIR")]
    pub lora: Option<PathBuf>,
}

/// `sango bench`.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Text-to-image, from prompt ids to PNG bytes.
    Image(BenchImageArgs),
    /// A question about frames, from pixels and ids to the tokens of the answer, and a second one about the same frames.
    Understand(BenchUnderstandArgs),
    /// Text-to-video, from prompt embeddings to frames.
    Video(BenchVideoArgs),
}

/// `sango bench video`.
#[derive(Debug, Args)]
pub struct BenchVideoArgs {
    /// The model folder; random weights are as good as real ones, and no text encoder is needed.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Width and height in pixels.
    #[arg(long, value_name = "WxH", default_value = "256x256")]
    pub size: Size,
    /// Number of frames.
    #[arg(long, default_value_t = 25)]
    pub frames: usize,
    /// Denoising steps.
    #[arg(long, default_value_t = 8)]
    pub steps: usize,
    /// Classifier-free guidance.
    #[arg(long, default_value_t = 3.0)]
    pub guidance: f32,
    /// How weights are kept and multiplied.
    #[arg(long, value_enum, default_value_t = Dtype::Bf16)]
    pub dtype: Dtype,
    /// Videos made; each figure is the median over them.
    #[arg(long, default_value_t = 1)]
    pub runs: usize,
    /// Seed of the random embeddings and noise.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// `sango bench understand`.
#[derive(Debug, Args)]
pub struct BenchUnderstandArgs {
    /// The model folder; random weights are as good as real ones, and no tokenizer is needed.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Frames that are looked at.
    #[arg(long, default_value_t = 8)]
    pub frames: usize,
    /// Tokens of text in the prompt, beside those of the frames. A quarter of them is the question.
    #[arg(long, default_value_t = 100)]
    pub prompt_tokens: usize,
    /// Tokens of the answer.
    #[arg(long, default_value_t = 64)]
    pub new_tokens: usize,
    /// How weights are kept and multiplied.
    #[arg(long, value_enum, default_value_t = WeightDtype::Bf16)]
    pub dtype: WeightDtype,
    /// Answers measured; each figure is the median over them.
    #[arg(long, default_value_t = 3)]
    pub runs: usize,
    /// Seed of the random ids and pixels.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// `sango bench image`.
#[derive(Debug, Args)]
pub struct BenchImageArgs {
    /// The model folder; random weights are as good as real ones, and no tokenizer is needed.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Denoising steps.
    #[arg(long, default_value_t = 12)]
    pub steps: usize,
    /// Classifier-free guidance.
    #[arg(long, default_value_t = 4.0)]
    pub guidance: f32,
    /// How weights are kept and multiplied.
    #[arg(long, value_enum, default_value_t = Dtype::Bf16)]
    pub dtype: Dtype,
    /// Pictures drawn; each figure is the median over them.
    #[arg(long, default_value_t = 3)]
    pub runs: usize,
    /// Seed of the random ids and noise.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// Numeric type of the weights; activations are f32 either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// 32-bit floats.
    F32,
    /// bfloat16: half the memory, about twice the speed.
    Bf16,
}

impl Dtype {
    /// The name as printed in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

impl From<Dtype> for sango_tensor::DType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::BF16,
        }
    }
}

/// Numeric type of the weights of a model with a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WeightDtype {
    /// 32-bit floats.
    F32,
    /// bfloat16: half the memory, about twice the speed.
    Bf16,
    /// bfloat16 with the decoder's matrices in 8-bit integers: quicker once the answer has begun.
    Int8,
}

impl WeightDtype {
    /// The name as printed in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }
}

impl From<WeightDtype> for sango_tensor::DType {
    fn from(dtype: WeightDtype) -> Self {
        match dtype {
            WeightDtype::F32 => Self::F32,
            WeightDtype::Bf16 | WeightDtype::Int8 => Self::BF16,
        }
    }
}

/// A picture's width and height in pixels, written `WxH`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let side = |part: &str| part.parse::<usize>().ok().filter(|side| *side > 0);
        text.split_once(['x', 'X', '×'])
            .and_then(|(width, height)| Some(Self { width: side(width)?, height: side(height)? }))
            .ok_or_else(|| format!("'{text}' is not a size; write width x height in pixels, as in 256x256"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_are_two_positive_numbers() {
        assert_eq!("256x128".parse(), Ok(Size { width: 256, height: 128 }));
        for bad in ["", "256", "256x", "0x64", "-1x64", "axb", "99999999999999999999x1"] {
            assert!(bad.parse::<Size>().is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn a_mask_needs_a_picture() {
        let args = ["sango", "image", "--prompt", "x", "-o", "o.png", "--mask", "m.png"];
        assert!(Cli::try_parse_from(args).is_err());
    }
}
