//! The LTX-Video side of `sango parity`.

use std::ops::ControlFlow;

use sango_tensor::{DType, Tensor, Weights};

use super::denoise::denoise;
use super::noise::{Draw, NoiseSource};
use super::pipeline::LTXVideoPipeline;
use super::plan::{PipelineClass, Plan};
use super::request::{LTXVideoCondition, LTXVideoPrompt, LTXVideoRequest, Stg, StgMode};
use super::vae::{DecodeOptions, Tiling};
use crate::error::{ModelError, Result};

/// The names and tensors to write.
type Outputs = Vec<(&'static str, Tensor)>;

/// Runs the pipeline that `inputs` ask for. What is not given is as the pipeline class has it; the latents of a picture are
/// the likeliest ones, and a decoder that adds noise adds none, unless there are tensors for them.
///
/// Beyond the contract, `image_noise` draws the picture's latents; `sigmas` or `timesteps` stand in place of `steps`;
/// `condition.N.frames` (−1..1), `.frame_index`, `.strength` and `.noise` are conditions, with `image_cond_noise_scale` and
/// `image_cond_noise` `[steps, L, C]`; `stg_scale`, `stg_blocks` and `stg_mode` ask for spatio-temporal guidance.
pub(crate) fn run(pipeline: &LTXVideoPipeline, inputs: &Weights) -> Result<Outputs> {
    let given = Given { inputs };
    let required = |name| given.optional(name)?.ok_or_else(|| ModelError::request(name, "is missing"));
    let latents = required("latents")?;
    let [1, _, frames, height, width] = latents.dims::<5>()? else {
        return Err(ModelError::request("latents", format!("has shape {:?}; one video is made", latents.shape())));
    };
    let prompt =
        |ids, mask| Ok::<_, ModelError>(LTXVideoPrompt::Ids { ids: required(ids)?, mask: given.mask(mask, ids)? });
    let mut request = LTXVideoRequest::new(prompt("prompt_ids", "prompt_mask")?);
    if inputs.contains("negative_prompt_ids") {
        request.negative_prompt = prompt("negative_prompt_ids", "negative_prompt_mask")?;
    }
    let settings = pipeline.settings();
    request.num_frames = Some((frames.max(1) - 1) * settings.frame_multiple + 1);
    request.height = Some(height * settings.size_multiple);
    request.width = Some(width * settings.size_multiple);
    request.frame_rate = Some(given.number("frame_rate")?.unwrap_or(25.0));
    request.guidance_scale = Some(given.number("guidance_scale")?.unwrap_or(3.0));
    request.guidance_rescale = Some(given.number("guidance_rescale")?.unwrap_or(0.0));
    request.decode_timestep = Some(given.number("decode_timestep")?.unwrap_or(0.0));
    // The pipelines take the one for the other.
    request.decode_noise_scale = given.number("decode_noise_scale")?.or(request.decode_timestep);
    request.image_cond_noise_scale = given.number("image_cond_noise_scale")?;
    request.timesteps = given.numbers("timesteps")?;
    request.sigmas = given.numbers("sigmas")?;
    if request.timesteps.is_none() && request.sigmas.is_none() {
        let steps = given.optional("steps")?.map(|steps| Ok::<_, ModelError>(steps.as_i64()?.first().copied()));
        request.num_inference_steps =
            Some(steps.transpose()?.flatten().map_or(50, |n| usize::try_from(n).unwrap_or(0)));
    }
    // Pixels are given in −1..1 here; a request's are in 0..1.
    let pixels = |tensor: Tensor| Ok::<_, ModelError>(tensor.to_dtype(DType::F32).mul_scalar(0.5)?.add_scalar(0.5)?);
    let image = given.optional("image")?;
    request.image = image.clone().map(pixels).transpose()?;
    request.conditions = given.conditions(&pixels)?;
    let conditioned = !request.conditions.is_empty() || inputs.contains("image_cond_noise_scale");
    request.stg = given.stg()?;

    let mut model = pipeline.model();
    if conditioned {
        model.class = PipelineClass::Condition;
    }
    let mut plan = Plan::new(&request, &model)?;
    // Not by way of 0..1, which would round.
    if let (Some(to), Some(image)) = (&mut plan.image, image) {
        *to = image.to_dtype(DType::F32).unsqueeze(2)?;
    }
    for (n, condition) in plan.conditions.iter_mut().enumerate() {
        if let Some(frames) = given.optional(&format!("condition.{n}.frames"))? {
            let kept = condition.frames.dim(2)?;
            condition.frames = frames.to_dtype(DType::F32).narrow(2, 0, kept)?;
        }
    }

    let masked = plan.class == PipelineClass::Condition;
    let encode = |prompt| pipeline.prompts.encode(prompt, plan.text_tokens, masked);
    let positive = encode(&request.prompt)?;
    let mut prompts = vec![(&positive.embeds, &positive.mask)];
    let negative = match plan.guidance.scale {
        Some(_) => Some(encode(&request.negative_prompt)?),
        None => None,
    };
    if let Some(negative) = &negative {
        prompts.insert(0, (&negative.embeds, &negative.mask));
    }
    let text = pipeline.condition(prompts, &plan)?;

    let draw = |draw| given.noise(draw);
    let noise = NoiseSource::Given(&draw);
    let on = &mut |_, _| ControlFlow::Continue(());
    let start = pipeline.start(&plan, &noise, &Tiling::Never, on)?;
    let mut velocity = None;
    let (latents, _) = denoise(&pipeline.transformer, &plan, start, &text, &noise, &mut |after| {
        if velocity.is_none() {
            velocity = Some((after.velocity)()?);
        }
        Ok(())
    })?;
    let video = pipeline.decode(&plan, &latents, &noise, &DecodeOptions::default(), on)?;
    let mut outputs = vec![("prompt_embeds", positive.embeds), ("latents", latents), ("video", video)];
    outputs.extend(velocity.map(|velocity| ("velocity", velocity)));
    Ok(outputs)
}

/// The input tensors, by name.
struct Given<'a> {
    inputs: &'a Weights,
}

impl Given<'_> {
    /// The tensor `name`, in whatever shape it has.
    fn optional(&self, name: &str) -> Result<Option<Tensor>> {
        match self.inputs.contains(name) {
            true => Ok(Some(self.inputs.get(name, &self.inputs.shape(name)?)?)),
            false => Ok(None),
        }
    }

    /// The mask of `ids`; without one, everything is text.
    fn mask(&self, name: &str, ids: &str) -> Result<Tensor> {
        match self.optional(name)? {
            Some(mask) => Ok(mask.to_dtype(DType::I64)),
            None => {
                let shape = self.inputs.shape(ids)?;
                Ok(Tensor::from_i64(vec![1; shape.iter().product()], &shape)?)
            }
        }
    }

    fn numbers(&self, name: &str) -> Result<Option<Vec<f32>>> {
        Ok(self.optional(name)?.map(|t| t.to_dtype(DType::F32).as_f32().map(<[f32]>::to_vec)).transpose()?)
    }

    /// The only value of the tensor `name`.
    fn number(&self, name: &str) -> Result<Option<f32>> {
        Ok(self.optional(name)?.map(|tensor| tensor.to_dtype(DType::F32).reshape(&[1])?.item()).transpose()?)
    }

    fn conditions(&self, pixels: &dyn Fn(Tensor) -> Result<Tensor>) -> Result<Vec<LTXVideoCondition>> {
        let mut found = Vec::new();
        while let Some(frames) = self.optional(&format!("condition.{}.frames", found.len()))? {
            let n = found.len();
            let at = self.number(&format!("condition.{n}.frame_index"))?.unwrap_or(0.0);
            let strength = self.number(&format!("condition.{n}.strength"))?.unwrap_or(1.0);
            found.push(LTXVideoCondition { frames: pixels(frames)?, frame_index: at as usize, strength });
        }
        Ok(found)
    }

    fn stg(&self) -> Result<Option<Stg>> {
        let Some(scale) = self.number("stg_scale")? else { return Ok(None) };
        let blocks = self.numbers("stg_blocks")?.unwrap_or_default().into_iter().map(|block| block as usize).collect();
        let modes = [StgMode::AttentionValues, StgMode::AttentionSkip, StgMode::Residual, StgMode::TransformerBlock];
        let mode = self.number("stg_mode")?.unwrap_or(0.0) as usize;
        let mode =
            *modes.get(mode).ok_or_else(|| ModelError::request("stg_mode", format!("is {mode}; 0 to 3 are known")))?;
        Ok(Some(Stg { scale, blocks, mode }))
    }

    fn noise(&self, draw: Draw) -> Result<Option<Tensor>> {
        let name = match draw {
            Draw::Latents => "latents".to_owned(),
            Draw::Image => "image_noise".to_owned(),
            Draw::Condition(n) => format!("condition.{n}.encode_noise"),
            Draw::ConditionNoise(n) => format!("condition.{n}.noise"),
            Draw::ConditionStep(step) => {
                let all = self.optional("image_cond_noise")?;
                return Ok(all.map(|all| all.narrow(0, step, 1)).transpose()?);
            }
            Draw::Step(step) => {
                let all = self.optional("step_noise")?;
                return Ok(all.map(|all| all.narrow(0, step, 1)).transpose()?);
            }
            Draw::Decode => "decode_noise".to_owned(),
        };
        self.optional(&name)
    }
}
