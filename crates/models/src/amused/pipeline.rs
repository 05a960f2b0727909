//! Loading a model folder and making pictures with it.

use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use sango_tensor::{DType, Tensor};
use serde::Serialize;

use super::denoise::{Canvas, NoiseSource, Plan, StepEvent, denoise};
use super::noise::generator;
use super::picture::{prepare_image, prepare_mask, size_of, to_output};
use super::request::{AmusedRequest, Prompts};
use super::scheduler::{AmusedScheduler, MaskingSchedule};
use super::settings::AmusedSettings;
use super::uvit_2d::{UVit2DConditioning, UVit2DModel};
use super::uvit_config::UVit2DConfig;
use super::vq_config::VQConfig;
use super::vq_model::VQModel;
use crate::LoadOptions;
use crate::clip::{CLIPTextModelOutput, CLIPTextModelWithProjection, CLIPTokenizer};
use crate::error::{ModelError, Result};

/// Text-to-image, image-to-image and inpainting with one model (`AmusedPipeline`, `AmusedImg2ImgPipeline` and
/// `AmusedInpaintPipeline` in one).
pub struct AmusedPipeline {
    pub(super) text_encoder: CLIPTextModelWithProjection,
    pub(super) tokenizer: Option<CLIPTokenizer>,
    pub(super) transformer: UVit2DModel,
    pub(super) vqvae: VQModel,
    pub(super) scheduler: AmusedScheduler,
    pub(super) settings: AmusedSettings,
    summary: AmusedSummary,
}

/// What a model is, for people and programs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AmusedSummary {
    /// Name of the folder.
    pub name: String,
    /// Default width in pixels.
    pub width: usize,
    /// Default height in pixels.
    pub height: usize,
    /// Pixels per token along a side; sizes are multiples of this (of twice this when the model halves its grid).
    pub scale_factor: usize,
    /// What widths and heights must be multiples of.
    pub size_multiple: usize,
    /// Number of codes.
    pub codebook_size: usize,
    /// Default number of steps.
    pub steps: usize,
    /// Default guidance scale.
    pub guidance_scale: f32,
    /// Parameters of the text encoder, the transformer and the VQ autoencoder.
    pub parameters: usize,
    /// The type that matrices are kept in, `f32` or `bf16`.
    pub dtype: &'static str,
}

impl fmt::Display for AmusedSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, width, height, codebook_size, steps, guidance_scale, dtype, .. } = self;
        let millions = self.parameters as f64 / 1e6;
        write!(f, "{name}: {width}×{height} pixels, {codebook_size} codes, {millions:.1} M parameters in {dtype}")?;
        write!(f, ", {steps} steps with guidance {guidance_scale}")
    }
}

/// Pictures, and how long they took.
#[derive(Debug, Clone)]
pub struct AmusedOutput {
    /// `[B, 3, H, W]` in 0..1.
    pub images: Tensor,
    /// The final tokens, `[B, h, w]`.
    pub tokens: Tensor,
    /// How long the parts took.
    pub timings: Timings,
}

/// How long the parts of a generation took.
#[derive(Debug, Clone, Default)]
pub struct Timings {
    /// Tokenizing and encoding the prompts, and what the transformer makes of them once.
    pub text_encoder: Duration,
    /// Every step.
    pub steps: Vec<Duration>,
    /// Decoding the tokens.
    pub decode: Duration,
}

impl AmusedPipeline {
    /// Loads a folder in diffusers layout. The tokenizer may be missing, for use with ids only.
    ///
    /// # Errors
    /// When a file is missing or damaged, a configuration asks for something unknown, or parts do not fit each other;
    /// the message names the file and the key.
    pub fn load(dir: impl AsRef<Path>, options: &LoadOptions) -> Result<Self> {
        let dir = dir.as_ref();
        if !dir.is_dir() {
            return Err(ModelError::UnknownModel { dir: dir.to_owned(), detail: "there is no such folder".into() });
        }
        let part = |name: &str| dir.join(name);
        // Configurations first: they are quick to read and most mistakes show there.
        let scheduler_path = part("scheduler").join("scheduler_config.json");
        let scheduler = AmusedScheduler::load(&scheduler_path)?;
        let uvit = UVit2DConfig::read(&part("transformer").join("config.json"))?;
        let (vq, act) = VQConfig::read(&part("vqvae").join("config.json"))?;
        let mask_token_id = scheduler.mask_token_id;
        if !(uvit.value.codebook_size as i64..uvit.value.vocab_size as i64).contains(&mask_token_id) {
            let detail = format!(
                "is {mask_token_id}; it must lie between the transformer's codebook_size ({}) and vocab_size ({})",
                uvit.value.codebook_size, uvit.value.vocab_size
            );
            return Err(ModelError::Config { path: scheduler_path, field: "mask_token_id", detail });
        }
        uvit.equal(
            "codebook_size",
            uvit.value.codebook_size,
            "the VQ model's num_vq_embeddings",
            vq.value.num_vq_embeddings,
        )?;
        let text_encoder = CLIPTextModelWithProjection::load(&part("text_encoder"), options.dtype)?;
        let text = text_encoder.config();
        uvit.equal(
            "encoder_hidden_size",
            uvit.value.encoder_hidden_size,
            "the text encoder's hidden_size",
            text.hidden_size,
        )?;
        uvit.equal(
            "cond_embed_dim",
            uvit.value.cond_embed_dim,
            "the text encoder's projection_dim",
            text.projection_dim,
        )?;
        let tokenizer_dir = part("tokenizer");
        let tokenizer = tokenizer_dir
            .is_dir()
            .then(|| CLIPTokenizer::load(&tokenizer_dir, text.max_position_embeddings))
            .transpose()?;
        let transformer = UVit2DModel::load_config(&part("transformer"), uvit, options.dtype)?;
        let vqvae = VQModel::load_config(&part("vqvae"), vq, act)?;
        if options.eager {
            vqvae.load_encoder()?;
        }
        let settings = AmusedSettings::of(dir, transformer.config(), vqvae.config())?;
        let summary = AmusedSummary {
            name: dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            width: settings.side,
            height: settings.side,
            scale_factor: settings.scale_factor,
            size_multiple: settings.size_multiple,
            codebook_size: transformer.config().codebook_size,
            steps: settings.steps,
            guidance_scale: settings.guidance_scale as f32,
            parameters: text_encoder.parameters() + transformer.parameters() + vqvae.parameters(),
            dtype: if options.dtype == DType::BF16 { "bf16" } else { "f32" },
        };
        Ok(Self { text_encoder, tokenizer, transformer, vqvae, scheduler, settings, summary })
    }

    /// What the model is and its defaults.
    pub fn summary(&self) -> AmusedSummary {
        self.summary.clone()
    }

    /// How many ids a prompt has at most, and how many different ones there are, for callers that bring their own.
    pub fn prompt_shape(&self) -> (usize, usize) {
        let text = self.text_encoder.config();
        (text.max_position_embeddings, text.vocab_size)
    }

    /// Makes pictures. `on_step` is called after every step; when it breaks, the generation ends with
    /// [`ModelError::Cancelled`].
    ///
    /// The same request on the same machine gives the same pictures, whatever else is made beside them.
    ///
    /// # Errors
    /// [`ModelError::Request`] for options that make no sense, before any work is done.
    pub fn generate(
        &self,
        request: &AmusedRequest,
        on_step: &mut dyn FnMut(&StepEvent<'_>) -> ControlFlow<()>,
    ) -> Result<AmusedOutput> {
        request.validate()?;
        let (height, width) = self.size(request)?;
        let steps = request.steps.unwrap_or(self.settings.steps);
        let run = first_step(request, steps)?..steps;
        let started = Instant::now();
        let guidance = request.guidance_scale.unwrap_or(self.settings.guidance_scale as f32);
        let guidance_scale = (guidance > 1.0).then_some(guidance);
        let conditionings = self.encode_prompts(request, guidance_scale.is_some(), (width, height))?;
        let mut timings = Timings { text_encoder: started.elapsed(), ..Timings::default() };

        let pictures = request.prompt.len() * request.images_per_prompt;
        let mut generators: Vec<_> = (0..pictures).map(|index| generator(request.seed, index)).collect();
        let (start, scheduler, starting_mask_ratio) = self.start(request, (height, width))?;
        let mut canvas = Canvas { pictures: vec![start; pictures], grid: self.grid((height, width)) };
        if request.image.is_some() && request.mask.is_none() {
            for (picture, rng) in canvas.pictures.iter_mut().zip(&mut generators) {
                self.mask_for_strength(picture, run.start, steps, rng);
            }
        }
        let [start_temperature, end_temperature] = self.settings.temperature;
        let plan = Plan {
            scheduler,
            run,
            steps,
            temperature: request.temperature.unwrap_or((start_temperature as f32, end_temperature as f32)),
            starting_mask_ratio,
            guidance_scale,
            conditionings: &conditionings,
        };
        let mut check = |event: &StepEvent<'_>| match on_step(event) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(ModelError::Cancelled),
        };
        let models = (&self.transformer, &self.vqvae);
        timings.steps = denoise(models, &plan, &mut canvas, &mut NoiseSource::Seeded(generators), None, &mut check)?;
        let started = Instant::now();
        let tokens = canvas.tensor()?;
        let images = self.decode(&tokens)?;
        timings.decode = started.elapsed();
        Ok(AmusedOutput { images, tokens, timings })
    }

    /// Pictures `[B, 3, H, W]` of tokens `[B, h, w]`, one after the other to bound memory.
    pub(super) fn decode(&self, tokens: &Tensor) -> Result<Tensor> {
        let pictures = (0..tokens.dim(0)?)
            .map(|n| to_output(&self.vqvae.decode(&tokens.narrow(0, n, 1)?)?))
            .collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&pictures.iter().collect::<Vec<_>>(), 0)?)
    }

    /// Rows and columns of the token grid of a picture.
    pub(super) fn grid(&self, (height, width): (usize, usize)) -> (usize, usize) {
        (height / self.summary.scale_factor, width / self.summary.scale_factor)
    }

    /// The tokens of a picture `[1, 3, H, W]`.
    pub(super) fn encode_image(&self, image: &Tensor, size: (usize, usize)) -> Result<Vec<i64>> {
        let latents = self.vqvae.encode(&prepare_image(image, size)?)?;
        Ok(self.vqvae.quantize(&latents)?.as_i64()?.to_vec())
    }

    /// The tokens to start with, with the scheduler and the share of masked tokens that go with them.
    pub(super) fn start(
        &self,
        request: &AmusedRequest,
        size: (usize, usize),
    ) -> Result<(Vec<i64>, AmusedScheduler, f32)> {
        let (rows, columns) = self.grid(size);
        let mask_token_id = self.scheduler.mask_token_id;
        let Some(image) = &request.image else {
            return Ok((vec![mask_token_id; rows * columns], self.scheduler.clone(), 1.0));
        };
        let mut tokens = self.encode_image(image, size)?;
        let Some(mask) = &request.mask else { return Ok((tokens, self.scheduler.clone(), 1.0)) };
        let covered = prepare_mask(mask, (rows, columns))?;
        for (token, _) in tokens.iter_mut().zip(&covered).filter(|(_, covered)| **covered) {
            *token = mask_token_id;
        }
        let ratio = covered.iter().filter(|covered| **covered).count() as f32 / covered.len() as f32;
        // `AmusedInpaintPipeline` always uses the linear schedule.
        Ok((tokens, AmusedScheduler { mask_token_id, masking_schedule: MaskingSchedule::Linear }, ratio))
    }

    /// Masks as much of a picture as the steps from `first` on will fill in.
    fn mask_for_strength(&self, picture: &mut [i64], first: usize, steps: usize, rng: &mut impl rand::Rng) {
        match first.checked_sub(1) {
            // Here the reference counts back to the last step and masks nothing, though it says that a strength of 1
            // ignores the image.
            None => picture.fill(self.scheduler.mask_token_id),
            Some(before) => {
                let uniform: Vec<f32> = picture.iter().map(|_| rand::RngExt::random(rng)).collect();
                self.scheduler.add_noise(picture, before, steps, &uniform);
            }
        }
    }

    /// Height and width of the pictures.
    fn size(&self, request: &AmusedRequest) -> Result<(usize, usize)> {
        let (multiple, largest) = (self.settings.size_multiple, self.settings.largest_side);
        let (default_height, default_width) = match &request.image {
            Some(image) => size_of(image, multiple)?,
            None => (self.summary.height, self.summary.width),
        };
        let check = |field: &'static str, value: usize| {
            if value == 0 || !value.is_multiple_of(multiple) || value > largest {
                let below = (value - value % multiple).clamp(multiple, largest);
                let detail =
                    format!("is {value}; it must be a multiple of {multiple} up to {largest}, for example {below}");
                return Err(ModelError::request(field, detail));
            }
            Ok(value)
        };
        let height = check("height", request.height.unwrap_or(default_height))?;
        Ok((height, check("width", request.width.unwrap_or(default_width))?))
    }

    /// What the transformer makes of every prompt, beside its negative when `guided`.
    fn encode_prompts(
        &self,
        request: &AmusedRequest,
        guided: bool,
        (width, height): (usize, usize),
    ) -> Result<Vec<UVit2DConditioning>> {
        let prompts = request.prompt.len();
        let positive = self.ids(&request.prompt)?;
        let encoded = if guided {
            let negative = self.ids(&request.negative_prompt)?;
            self.text_encoder.forward(&Tensor::cat(&[&positive, &negative], 0)?)?
        } else {
            self.text_encoder.forward(&positive)?
        };
        let micro = request.micro_conditioning;
        let micro_conds = [width as f32, height as f32, micro.crop.0, micro.crop.1, micro.aesthetic_score];
        (0..prompts)
            .map(|n| {
                let negative = guided.then(|| prompts + n.min(request.negative_prompt.len() - 1));
                self.condition(&encoded, negative, n, &micro_conds)
            })
            .collect()
    }

    /// What the transformer makes of row `positive` of an encoded batch, after row `negative` where there is guidance.
    pub(super) fn condition(
        &self,
        encoded: &CLIPTextModelOutput,
        negative: Option<usize>,
        positive: usize,
        micro_conds: &[f32],
    ) -> Result<UVit2DConditioning> {
        let rows: Vec<i64> = negative.into_iter().chain([positive]).map(|row| row as i64).collect();
        let branches = rows.len();
        let rows = Tensor::from_i64(rows, &[branches])?;
        let micro_conds = Tensor::from_vec(micro_conds.repeat(branches), &[branches, micro_conds.len()])?;
        self.transformer.condition(
            &encoded.penultimate_hidden_state.index_select(0, &rows)?,
            &encoded.text_embeds.index_select(0, &rows)?,
            &micro_conds,
        )
    }

    /// Ids `[B, S]` of prompts.
    pub(super) fn ids(&self, prompts: &Prompts) -> Result<Tensor> {
        let texts = match prompts {
            Prompts::Ids(ids) => return Ok(ids.clone()),
            Prompts::Text(texts) => texts,
        };
        let Some(tokenizer) = &self.tokenizer else {
            return Err(ModelError::request("prompt", "is text, but the model folder has no `tokenizer`; give ids"));
        };
        let ids = texts.iter().map(|text| tokenizer.encode(text)).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::from_i64(ids.concat(), &[texts.len(), tokenizer.model_max_length()])?)
    }
}

/// The first step that is made: fewer are needed the closer the result is to stay to the image.
fn first_step(request: &AmusedRequest, steps: usize) -> Result<usize> {
    if request.image.is_none() {
        return Ok(0);
    }
    let strength = request.strength.unwrap_or(if request.mask.is_some() { 1.0 } else { 0.5 });
    match steps_for_strength(steps, strength) {
        0 => {
            let detail = format!("is {strength}, which leaves none of {steps} steps to make; raise it or the steps");
            Err(ModelError::request("strength", detail))
        }
        run => Ok(steps - run),
    }
}

/// `int(steps * strength)` with the strength as it was written: 0.7 in f32 is a little less, and 10 · 0.7 is 7.
pub(super) fn steps_for_strength(steps: usize, strength: f32) -> usize {
    let written: f64 = strength.to_string().parse().unwrap_or(f64::from(strength));
    ((steps as f64 * written) as usize).min(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strength_counts_steps_as_written() {
        assert_eq!(steps_for_strength(10, 0.7), 7);
        assert_eq!(steps_for_strength(12, 0.5), 6);
        assert_eq!(steps_for_strength(12, 1.0), 12);
        assert_eq!(steps_for_strength(12, 0.01), 0);
    }
}
