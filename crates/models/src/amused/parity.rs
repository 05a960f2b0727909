//! The aMUSEd side of `sango parity`.

use sango_tensor::{Tensor, Weights};

use super::denoise::{Canvas, NoiseSource, Plan, denoise};
use super::noise::generator;
use super::picture::size_of;
use super::pipeline::{AmusedPipeline, steps_for_strength};
use super::request::{AmusedRequest, Prompts};
use crate::error::{ModelError, Result};

/// The names and tensors to write.
type Outputs = Vec<(&'static str, Tensor)>;

/// Runs the pipeline that `inputs` ask for. Rows of the given noise belong to the steps that are made, in order; what
/// is not given is as in the reference (12 steps, guidance 10, temperature 2 to 0) or drawn with seed 0.
pub(crate) fn run(pipeline: &AmusedPipeline, inputs: &Weights) -> Result<Outputs> {
    let given = Given { inputs };
    let image = given.optional("image")?;
    let mask = given.optional("mask")?;
    let steps = match inputs.contains("steps") {
        true => usize::try_from(inputs.get("steps", &[1])?.as_i64()?[0]).unwrap_or(0),
        false => 12,
    };
    if !(1..=1000).contains(&steps) {
        return Err(ModelError::request("steps", "must be between 1 and 1000"));
    }
    let summary = pipeline.summary();
    let codebook_size = summary.codebook_size;
    let noise_tokens = inputs.contains("gumbel_sample").then(|| inputs.shape("gumbel_sample")).transpose()?;
    let size = match &image {
        Some(image) => size_of(image, summary.scale_factor)?,
        None => given.picture_size(pipeline, noise_tokens.as_ref().and_then(|shape| shape.get(1).copied()))?,
    };
    let (height, width) = size;
    let grid = pipeline.grid(size);
    let tokens = grid.0 * grid.1;

    let prompt_ids = given.optional("prompt_ids")?.ok_or(ModelError::request("prompt_ids", "is missing"))?;
    let guidance = given.number("guidance_scale")?.unwrap_or(10.0);
    let guidance_scale = (guidance > 1.0).then_some(guidance);
    let encoded = match guidance_scale {
        Some(_) => {
            let negative = match given.optional("negative_prompt_ids")? {
                Some(ids) => ids,
                None => pipeline.ids(&Prompts::from(""))?,
            };
            pipeline.text_encoder.forward(&Tensor::cat(&[&prompt_ids, &negative], 0)?)?
        }
        None => pipeline.text_encoder.forward(&prompt_ids)?,
    };
    let micro_conds = match given.optional("micro_conds")? {
        Some(given) => given.as_f32()?.to_vec(),
        None => vec![width as f32, height as f32, 0.0, 0.0, 6.0],
    };
    let conditioning = pipeline.condition(&encoded, guidance_scale.map(|_| 1), 0, &micro_conds)?;

    let strength = given.number("strength")?.unwrap_or(if mask.is_some() { 1.0 } else { 0.5 });
    let first = if image.is_some() { steps - steps_for_strength(steps, strength) } else { 0 };
    let mut request = AmusedRequest::new(Prompts::Ids(prompt_ids));
    (request.image, request.mask) = (image, mask);
    let (mut start, scheduler, starting_mask_ratio) = pipeline.start(&request, size)?;
    let mut rng = generator(0, 0);
    if request.image.is_some() && request.mask.is_none() {
        let uniform = match given.optional("mask_noise")? {
            Some(noise) => noise.reshape(&[tokens])?.as_f32()?.to_vec(),
            None => (0..tokens).map(|_| rand::RngExt::random(&mut rng)).collect(),
        };
        // At full strength the reference reads `timesteps[-1]`, the last step.
        scheduler.add_noise(&mut start, (first + steps - 1) % steps, steps, &uniform);
    }
    let mut noise = match noise_tokens {
        Some(shape) => {
            let rows = shape.first().copied().unwrap_or(0);
            let sample = inputs.get_f32("gumbel_sample", &[rows, tokens, codebook_size])?;
            let mask = inputs.get_f32("gumbel_mask", &[rows, tokens])?;
            if rows < steps - first {
                let detail = format!("has {rows} rows for {} steps", steps - first);
                return Err(ModelError::request("gumbel_sample", detail));
            }
            NoiseSource::Given { sample, mask }
        }
        None => NoiseSource::Seeded(vec![rng]),
    };
    let temperature = match given.optional("temperature")? {
        Some(given) => (given.narrow(0, 0, 1)?.item()?, given.narrow(0, 1, 1)?.item()?),
        None => (2.0, 0.0),
    };
    let plan = Plan {
        scheduler,
        run: first..steps,
        steps,
        temperature,
        starting_mask_ratio,
        guidance_scale,
        conditionings: &[conditioning],
    };
    let mut canvas = Canvas { pictures: vec![start], grid };
    let mut logits = None;
    let mut after_each_step: Vec<i64> = Vec::new();
    let models = (&pipeline.transformer, &pipeline.vqvae);
    denoise(models, &plan, &mut canvas, &mut noise, Some(&mut logits), &mut |event| {
        after_each_step.extend_from_slice(event.tokens.as_i64()?);
        Ok(())
    })?;
    let runs = after_each_step.len() / tokens;
    let mut outputs = vec![
        ("prompt_embeds", encoded.penultimate_hidden_state.narrow(0, 0, 1)?),
        ("pooled_embeds", encoded.text_embeds.narrow(0, 0, 1)?),
        ("tokens", Tensor::from_i64(after_each_step, &[runs, tokens])?),
        ("image", pipeline.decode(&canvas.tensor()?)?),
    ];
    // No logits exist when the strength leaves no step to make.
    outputs.extend(logits.map(|logits| Ok::<_, ModelError>(("logits", logits.unsqueeze(0)?))).transpose()?);
    Ok(outputs)
}

/// The input tensors, by name.
struct Given<'a> {
    inputs: &'a Weights,
}

impl Given<'_> {
    /// The tensor `name`, in whatever shape it has.
    fn optional(&self, name: &'static str) -> Result<Option<Tensor>> {
        match self.inputs.contains(name) {
            true => Ok(Some(self.inputs.get(name, &self.inputs.shape(name)?)?)),
            false => Ok(None),
        }
    }

    /// The only value of the tensor `name`.
    fn number(&self, name: &'static str) -> Result<Option<f32>> {
        Ok(self.optional(name)?.map(|tensor| tensor.reshape(&[1])?.item()).transpose()?)
    }

    /// Height and width without an image: those of the micro-conditions when they fit the noise that was given (the
    /// pipeline sets them to its size), else the model's.
    fn picture_size(&self, pipeline: &AmusedPipeline, noise_tokens: Option<usize>) -> Result<(usize, usize)> {
        let summary = pipeline.summary();
        let default = (summary.height, summary.width);
        let (Some(noise_tokens), Some(micro_conds)) = (noise_tokens, self.optional("micro_conds")?) else {
            return Ok(default);
        };
        let &[width, height, ..] = micro_conds.as_f32()? else { return Ok(default) };
        let size = (height as usize, width as usize);
        let (rows, columns) = pipeline.grid(size);
        Ok(if rows.checked_mul(columns) == Some(noise_tokens) { size } else { default })
    }
}
