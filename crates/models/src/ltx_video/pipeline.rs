//! Loading a model and making videos with it.

use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use sango_tensor::{DType, Tensor, release_buffers};
use serde::Serialize;

use super::conditioning::{Given, Start, start};
use super::denoise::denoise;
use super::latents::denormalize;
use super::memory::{MemoryEstimate, available};
use super::noise::{Draw, NoiseSource};
use super::parts::Parts;
use super::plan::{Model, PipelineClass, Plan};
use super::prompts::Prompts;
use super::request::LTXVideoRequest;
use super::scheduler::FlowMatchEulerDiscreteScheduler;
use super::settings::LTXVideoSettings;
use super::transformer_ltx::{LTXVideoTransformer3DModel, TextConditioning};
use super::vae::{AutoencoderKLLTXVideo, DecodeOptions, InjectedNoise, Progress, TilePlan, Tiling};
use crate::LoadOptions;
use crate::error::{ModelError, Result};
use crate::pixels::{Rgb8, to_rgb8};
use crate::t5::T5Tokenizer;

/// Text to video, image to video and video to video with one model (`LTXPipeline`, `LTXImageToVideoPipeline` and
/// `LTXConditionPipeline` in one).
pub struct LTXVideoPipeline {
    pub(super) prompts: Prompts,
    pub(super) transformer: LTXVideoTransformer3DModel,
    pub(super) vae: AutoencoderKLLTXVideo,
    pub(super) scheduler: FlowMatchEulerDiscreteScheduler,
    pub(super) settings: LTXVideoSettings,
    pub(super) class: PipelineClass,
    uniform: bool,
    summary: LTXVideoSummary,
}

/// What a model is, for people and programs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LTXVideoSummary {
    /// Name of the folder or file.
    pub name: String,
    /// Default width in pixels.
    pub width: usize,
    /// Default height in pixels.
    pub height: usize,
    /// Default number of frames.
    pub num_frames: usize,
    /// Default frames per second.
    pub frame_rate: f64,
    /// Default number of steps.
    pub steps: usize,
    /// Default guidance scale.
    pub guidance_scale: f64,
    /// What widths and heights must be multiples of.
    pub size_multiple: usize,
    /// Numbers of frames are multiples of this, and one.
    pub frame_multiple: usize,
    /// Parameters of the text encoder, the transformer and the autoencoder.
    pub parameters: usize,
    /// The type that matrices are kept in, `f32` or `bf16`.
    pub dtype: &'static str,
}

impl fmt::Display for LTXVideoSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, width, height, num_frames, frame_rate, steps, guidance_scale, dtype, .. } = self;
        let millions = self.parameters as f64 / 1e6;
        write!(f, "{name}: {num_frames} frames of {width}×{height} pixels at {frame_rate} a second")?;
        write!(f, ", {millions:.1} M parameters in {dtype}, {steps} steps with guidance {guidance_scale}")
    }
}

/// What a generation reports on its way.
pub enum LTXVideoEvent<'a> {
    /// The prompts are being read.
    TextEncoder,
    /// Conditioning frames are being encoded.
    Encode {
        /// Parts done.
        done: usize,
        /// Parts in all.
        total: usize,
    },
    /// A step is done.
    Step {
        /// The step, from 1.
        step: usize,
        /// Steps in all.
        total: usize,
        /// Decodes the middle frame as the model would leave it now; costs time, so only for who shows it.
        preview: &'a dyn Fn() -> Result<Rgb8>,
    },
    /// The video is being decoded.
    Decode {
        /// Parts done.
        done: usize,
        /// Parts in all.
        total: usize,
    },
}

/// A video, and how long it took.
#[derive(Debug, Clone)]
pub struct LTXVideoOutput {
    /// `[1, 3, T, H, W]` in 0..1.
    pub video: Tensor,
    /// The final latents, normalised, `[1, C, F, h, w]`.
    pub latents: Tensor,
    /// Frames per second.
    pub frame_rate: f32,
    /// How long the parts took.
    pub timings: Timings,
}

/// How long the parts of a generation took.
#[derive(Debug, Clone, Default)]
pub struct Timings {
    /// Tokenizing and encoding the prompts, and what the transformer makes of them once.
    pub text_encoder: Duration,
    /// Encoding conditioning frames.
    pub encode: Duration,
    /// Every step.
    pub steps: Vec<Duration>,
    /// Decoding the latents.
    pub decode: Duration,
}

impl LTXVideoPipeline {
    /// Loads a folder in diffusers layout or one of Lightricks' single files. The text encoder is opened when a prompt
    /// is first read; it and the tokenizer may be missing, for use with ids or states only.
    ///
    /// # Errors
    /// When a file is missing or damaged, a configuration asks for something unknown, or parts do not fit each other;
    /// the message names the file and the key.
    pub fn load(path: impl AsRef<Path>, options: &LoadOptions) -> Result<Self> {
        let parts = Parts::open(path.as_ref())?;
        // Configurations first: they are quick to read and most mistakes show there.
        let scheduler = parts.scheduler()?;
        let config = parts.transformer_config()?;
        let vae_config = parts.vae_config()?;
        if config.in_channels != vae_config.latent_channels {
            let detail = format!(
                "is {}, but the autoencoder's latent_channels is {}",
                config.in_channels, vae_config.latent_channels
            );
            return Err(ModelError::Config {
                path: parts.path_of("transformer/config.json"),
                field: "in_channels",
                detail,
            });
        }
        let settings = LTXVideoSettings::of(&parts, &vae_config)?;
        let tokenizer = parts.tokenizer_dir().map(|dir| T5Tokenizer::load(&dir)).transpose()?;
        let prompts = Prompts::new(tokenizer, parts.text_encoder_dir(), options, config.caption_channels);
        // Where layers are not kept this reads no more than the file's header.
        let encoder = if options.int8 && !options.eager { None } else { prompts.encoder()? };
        let transformer = LTXVideoTransformer3DModel::load(&parts.transformer()?.with_dtype(options.dtype), config)?;
        let vae = AutoencoderKLLTXVideo::load(&parts.vae()?.with_dtype(options.dtype), vae_config)?;
        if options.eager {
            vae.load_encoder()?;
        }
        let summary = LTXVideoSummary {
            name: parts.name(),
            width: settings.width,
            height: settings.height,
            num_frames: settings.num_frames,
            frame_rate: settings.frame_rate,
            steps: settings.steps,
            guidance_scale: settings.guidance_scale,
            size_multiple: settings.size_multiple,
            frame_multiple: settings.frame_multiple,
            parameters: transformer.parameters()
                + vae.parameters()
                + encoder.as_ref().map_or(0, |encoder| encoder.parameters()),
            dtype: if options.dtype == DType::BF16 { "bf16" } else { "f32" },
        };
        Ok(Self {
            prompts,
            transformer,
            vae,
            scheduler,
            settings,
            class: parts.class(),
            uniform: parts.uniform(),
            summary,
        })
    }

    /// What the model is and its defaults.
    pub fn summary(&self) -> LTXVideoSummary {
        self.summary.clone()
    }

    /// Width of the text encoder's states, as [`super::LTXVideoPrompt::Embeds`] must have them.
    pub fn text_width(&self) -> usize {
        self.transformer.config().caption_channels
    }

    /// The defaults, and what requests may ask for.
    pub fn settings(&self) -> &LTXVideoSettings {
        &self.settings
    }

    /// How much memory `request` takes, beyond the model itself.
    ///
    /// # Errors
    /// [`ModelError::Request`] for options that make no sense.
    pub fn estimate(&self, request: &LTXVideoRequest) -> Result<MemoryEstimate> {
        self.estimate_plan(request, &self.plan(request)?, u64::MAX)
    }

    /// Makes a video. `on_event` is called on the way; when it breaks, the generation ends within a step or a tile, with
    /// [`ModelError::Cancelled`].
    ///
    /// The same request on the same machine gives the same video.
    ///
    /// # Errors
    /// [`ModelError::Request`] for options that make no sense and [`ModelError::Memory`] for what does not fit, both
    /// before any work is done.
    pub fn generate(
        &self,
        request: &LTXVideoRequest,
        on_event: &mut dyn FnMut(LTXVideoEvent<'_>) -> ControlFlow<()>,
    ) -> Result<LTXVideoOutput> {
        let plan = self.plan(request)?;
        let budget = request.memory_budget.or_else(available).unwrap_or(u64::MAX);
        self.estimate_plan(request, &plan, budget)?.check(budget)?;
        tell(on_event, LTXVideoEvent::TextEncoder)?;
        let started = Instant::now();
        let text = self.read_prompts(request, &plan)?;
        let mut timings = Timings { text_encoder: started.elapsed(), ..Timings::default() };

        let noise = NoiseSource::Seeded(request.seed);
        let started = Instant::now();
        let tiling = if budget == u64::MAX { Tiling::Never } else { Tiling::Budget(budget) };
        let begin =
            self.start(&plan, &noise, &tiling, &mut |done, total| on_event(LTXVideoEvent::Encode { done, total }))?;
        timings.encode = started.elapsed();
        let (latents, steps) = denoise(&self.transformer, &plan, begin, &text, &noise, &mut |after| {
            let preview = || self.preview(&plan, &(after.denoised)()?);
            tell(on_event, LTXVideoEvent::Step { step: after.step, total: after.total, preview: &preview })
        })?;
        timings.steps = steps;
        drop(text);
        // The decoder works in other sizes than the transformer did.
        release_buffers();

        let started = Instant::now();
        let options = DecodeOptions { tiling, noise: InjectedNoise::Seed(request.seed) };
        let decoded = self.decode(&plan, &latents, &noise, &options, &mut |done, total| {
            on_event(LTXVideoEvent::Decode { done, total })
        })?;
        let shape = decoded.shape().to_vec();
        let mut pixels = decoded.into_f32_vec()?;
        pixels.iter_mut().for_each(|x| *x = (*x * 0.5 + 0.5).clamp(0.0, 1.0));
        let video = Tensor::from_vec(pixels, &shape)?;
        timings.decode = started.elapsed();
        release_buffers();
        Ok(LTXVideoOutput { video, latents, frame_rate: plan.frame_rate, timings })
    }

    /// The request with all defaults, checked.
    fn plan(&self, request: &LTXVideoRequest) -> Result<Plan> {
        let plan = Plan::new(request, &self.model())?;
        self.prompts.check("prompt", &request.prompt)?;
        if plan.guidance.scale.is_some() {
            self.prompts.check("negative_prompt", &request.negative_prompt)?;
            let lengths = [&request.prompt, &request.negative_prompt].map(|p| Prompts::tokens(p, plan.text_tokens));
            if lengths[0] != lengths[1] {
                let detail = format!("has {} tokens, the prompt {}; both must have as many", lengths[1], lengths[0]);
                return Err(ModelError::request("negative_prompt", detail));
            }
        }
        Ok(plan)
    }

    pub(super) fn model(&self) -> Model<'_> {
        Model {
            settings: &self.settings,
            scheduler: &self.scheduler,
            class: self.class,
            uniform: self.uniform,
            layers: self.transformer.config().num_layers,
        }
    }

    fn estimate_plan(&self, request: &LTXVideoRequest, plan: &Plan, budget: u64) -> Result<MemoryEstimate> {
        let text_tokens = Prompts::tokens(&request.prompt, plan.text_tokens);
        let mut parts = Vec::new();
        if let Some(encoder) = self.prompts.encoder()? {
            parts.push(("text encoder", encoder.working_bytes(text_tokens)));
        }
        let (rows, tokens) = (plan.guidance.rows(), plan.tokens(self.settings.frame_multiple));
        parts.push(("transformer", self.transformer.working_bytes(rows, tokens, text_tokens)));
        // In tiles where that is what fits; what does not fit in any is told as it is.
        let planned = |plan: Result<TilePlan>| match plan {
            Ok(plan) => Ok(plan.peak_bytes),
            Err(ModelError::Memory { needed, .. }) => Ok(needed),
            Err(error) => Err(error),
        };
        let [frames, height, width] = plan.size;
        let given = plan.image.iter().chain(plan.conditions.iter().map(|condition| &condition.frames));
        let longest = given.filter_map(|frames| frames.shape().get(2).copied()).max();
        if let Some(longest) = longest {
            parts.push(("encoder", planned(self.vae.plan_encode(longest, height, width, budget))?));
        }
        parts.push(("decoder", planned(self.vae.plan(frames, height, width, budget))?));
        Ok(MemoryEstimate::of_stages(parts))
    }

    /// What the transformer makes of the prompts: the negative one first, and the prompt again for a disturbed copy.
    fn read_prompts(&self, request: &LTXVideoRequest, plan: &Plan) -> Result<TextConditioning> {
        let mut wanted = Vec::new();
        if plan.guidance.scale.is_some() {
            wanted.push(&request.negative_prompt);
        }
        wanted.push(&request.prompt);
        let masked = plan.class == PipelineClass::Condition;
        let encoded = wanted
            .into_iter()
            .map(|prompt| self.prompts.encode(prompt, plan.text_tokens, masked))
            .collect::<Result<Vec<_>>>()?;
        self.condition(encoded.iter().map(|prompt| (&prompt.embeds, &prompt.mask)).collect(), plan)
    }

    /// Prompts `([1, S, D], [1, S])` as the transformer keeps them for all steps.
    pub(super) fn condition(&self, mut prompts: Vec<(&Tensor, &Tensor)>, plan: &Plan) -> Result<TextConditioning> {
        if plan.stg.is_some() {
            prompts.extend(prompts.last().copied());
        }
        let (embeds, masks): (Vec<&Tensor>, Vec<&Tensor>) = prompts.into_iter().unzip();
        self.transformer.condition(&Tensor::cat(&embeds, 0)?, &Tensor::cat(&masks, 0)?)
    }

    /// The latents to begin with.
    pub(super) fn start(
        &self,
        plan: &Plan,
        noise: &NoiseSource<'_>,
        tiling: &Tiling,
        progress: &mut Progress<'_>,
    ) -> Result<Start> {
        let given = Given { vae: &self.vae, noise, tiling };
        start(plan, &given, self.transformer.rope(), self.transformer.config().in_channels, progress)
    }

    /// The video `[1, 3, T, H, W]` of normalised latents, about −1..1.
    pub(super) fn decode(
        &self,
        plan: &Plan,
        latents: &Tensor,
        noise: &NoiseSource<'_>,
        options: &DecodeOptions,
        progress: &mut Progress<'_>,
    ) -> Result<Tensor> {
        let mut latents = denormalize(latents, &self.vae)?;
        if !self.vae.timestep_conditioning() {
            return self.vae.decode(&latents, None, options, progress);
        }
        let scale = plan.decode_noise_scale;
        if scale > 0.0 {
            let drawn = noise.draw(Draw::Decode, latents.shape())?;
            latents = latents.mul_scalar(1.0 - scale)?.add(&drawn.mul_scalar(scale)?)?;
        }
        self.vae.decode(&latents, Some(plan.decode_timestep), options, progress)
    }

    /// The middle frame of normalised latents, on its own: a latent frame decodes to one frame where it is the first.
    fn preview(&self, plan: &Plan, latents: &Tensor) -> Result<Rgb8> {
        let middle = denormalize(&latents.narrow(2, plan.grid[0] / 2, 1)?, &self.vae)?;
        let timestep = self.vae.timestep_conditioning().then_some(plan.decode_timestep);
        let mut on = |_, _| ControlFlow::Continue(());
        let frame = self.vae.decode(&middle, timestep, &DecodeOptions::default(), &mut on)?;
        let frame = frame.narrow(2, 0, 1)?.squeeze(2)?;
        to_rgb8(&frame.mul_scalar(0.5)?.add_scalar(0.5)?.clamp(0.0, 1.0)?)
    }
}

fn tell(on_event: &mut dyn FnMut(LTXVideoEvent<'_>) -> ControlFlow<()>, event: LTXVideoEvent<'_>) -> Result<()> {
    match on_event(event) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(ModelError::Cancelled),
    }
}
