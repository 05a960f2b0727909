//! The SmolVLM2 side of `sango parity`.

use std::ops::ControlFlow;

use sango_tensor::{DType, Tensor, Weights};

use super::generation_config::SamplingParams;
use super::logits_process::LogitsProcessor;
use super::modeling::SmolVLMForConditionalGeneration;
use crate::error::{ModelError, Result};

/// The names and tensors to write.
type Outputs = Vec<(&'static str, Tensor)>;

/// Tokens that are generated unless the inputs say otherwise.
const MAX_NEW_TOKENS: usize = 20;

/// Runs the model on `inputs`. Rows of a batch do not see each other, so they are run one after the other.
pub(crate) fn run(model: &SmolVLMForConditionalGeneration, inputs: &Weights) -> Result<Outputs> {
    let rows = token_rows(inputs, model.config().text_config.vocab_size)?;
    let max_new_tokens = match inputs.contains("max_new_tokens") {
        true => usize::try_from(inputs.get("max_new_tokens", &[1])?.as_i64()?[0]).unwrap_or(0),
        false => MAX_NEW_TOKENS,
    };
    if !(1..=1 << 20).contains(&max_new_tokens) {
        return Err(ModelError::request("max_new_tokens", "must be between 1 and 1048576"));
    }
    let features = image_features(model, inputs)?;
    let image_token = model.config().image_token_id;
    let width = model.config().text_config.hidden_size;
    let places = |row: &[u32]| row.iter().filter(|&&id| id == image_token).count();
    let flat = features.as_ref().map(|f| f.reshape(&[f.shape()[0] * f.shape()[1], width])).transpose()?;
    let wanted: usize = rows.iter().map(|row| places(row)).sum();
    if let Some(flat) = flat.as_ref().filter(|flat| flat.shape()[0] != wanted) {
        let detail = format!("have {wanted} image tokens, but the pictures make {}", flat.shape()[0]);
        return Err(ModelError::request("input_ids", detail));
    }
    let padding = padding(model, &rows);
    let (mut logits, mut answers, mut used) = (Vec::new(), Vec::new(), 0);
    for (row, mask) in rows.iter().zip(&padding) {
        let own = flat.as_ref().map(|flat| flat.narrow(0, used, places(row))).transpose()?;
        used += places(row);
        let inputs_embeds = model.embed(row, own.as_ref())?;
        logits.push(model.forward(&inputs_embeds)?);
        answers.push(answer(model, row, mask.as_deref(), &inputs_embeds, max_new_tokens)?);
    }
    let longest = answers.iter().map(Vec::len).max().unwrap_or(0);
    let pad = i64::from(model.generation_config().pad_token_id.unwrap_or(0));
    let generated = answers.iter().flat_map(|answer| {
        answer.iter().map(|&id| i64::from(id)).chain(std::iter::repeat_n(pad, longest - answer.len()))
    });
    let mut outputs = vec![
        ("logits", Tensor::cat(&logits.iter().collect::<Vec<_>>(), 0)?),
        ("generated_ids", Tensor::from_i64(generated.collect(), &[answers.len(), longest])?),
    ];
    outputs.extend(features.map(|features| ("image_features", features)));
    Ok(outputs)
}

fn token_rows(inputs: &Weights, vocab_size: usize) -> Result<Vec<Vec<u32>>> {
    let shape = inputs.shape("input_ids")?;
    let (&[batch, length], ids) = (shape.as_slice(), inputs.get("input_ids", &shape)?) else {
        return Err(ModelError::request("input_ids", format!("has shape {shape:?}; it must be [rows, tokens]")));
    };
    if batch == 0 || length == 0 {
        return Err(ModelError::request("input_ids", "is empty; there is nothing to continue"));
    }
    let valid = |&id: &i64| {
        u32::try_from(id).ok().filter(|&id| (id as usize) < vocab_size).ok_or_else(|| {
            let detail = format!("has the id {id}, which is not in the vocabulary of {vocab_size}");
            ModelError::request("input_ids", detail)
        })
    };
    ids.as_i64()?.chunks_exact(length).map(|row| row.iter().map(valid).collect()).collect()
}

/// The features of every picture that is not blank (of the first, where all are).
fn image_features(model: &SmolVLMForConditionalGeneration, inputs: &Weights) -> Result<Option<Tensor>> {
    if !inputs.contains("pixel_values") {
        return Ok(None);
    }
    let shape = inputs.shape("pixel_values")?;
    let &[batch, frames, channels, height, width] = shape.as_slice() else {
        let detail = format!("has shape {shape:?}; it must be [rows, pictures, 3, height, width]");
        return Err(ModelError::request("pixel_values", detail));
    };
    if shape.contains(&0) {
        return Err(ModelError::request("pixel_values", format!("has shape {shape:?}, which holds nothing")));
    }
    let pictures = batch * frames;
    let pixel_values = inputs.get_f32("pixel_values", &shape)?;
    let pixels = pixel_values.as_f32()?.chunks_exact(channels * height * width);
    let mut real: Vec<usize> =
        (0..pictures).zip(pixels).filter(|(_, p)| p.iter().any(|&x| x != 0.0)).map(|(n, _)| n).collect();
    if real.is_empty() {
        real.push(0);
    }
    let pick = |all: &Tensor| -> Result<Tensor> {
        let parts = real.iter().map(|&n| all.narrow(0, n, 1)).collect::<Result<Vec<_>, _>>()?;
        Ok(Tensor::cat(&parts.iter().collect::<Vec<_>>(), 0)?)
    };
    let mask = match inputs.contains("pixel_attention_mask") {
        true => {
            let mask = inputs.get("pixel_attention_mask", &[batch, frames, height, width])?.to_dtype(DType::U8);
            Some(pick(&mask.reshape(&[pictures, height, width])?)?)
        }
        false => None,
    };
    let pixel_values = pick(&pixel_values.reshape(&[pictures, channels, height, width])?)?;
    let features = model.get_image_features(&pixel_values, mask.as_ref(), &mut |_, _| ControlFlow::Continue(()))?;
    Ok(Some(features))
}

/// Which tokens count, where `generate` infers from the padding among them that not all do.
fn padding(model: &SmolVLMForConditionalGeneration, rows: &[Vec<u32>]) -> Vec<Option<Vec<bool>>> {
    let config = model.generation_config();
    let pad = config.pad_token_id.filter(|pad| !config.eos_token_id.contains(pad));
    let padded = pad.filter(|pad| rows.iter().any(|row| row.contains(pad)));
    let mask = |row: &[u32], pad: u32| row.iter().map(|&id| id != pad).collect::<Vec<_>>();
    rows.iter().map(|row| padded.map(|pad| mask(row, pad)).filter(|mask| mask.contains(&false))).collect()
}

/// The greedy continuation of one row.
fn answer(
    model: &SmolVLMForConditionalGeneration,
    ids: &[u32],
    mask: Option<&[bool]>,
    inputs_embeds: &Tensor,
    max_new_tokens: usize,
) -> Result<Vec<u32>> {
    let mut cache = model.text_model().cache(ids.len() + max_new_tokens)?;
    let on_token = &mut |_, _| ControlFlow::Continue(());
    let greedy = SamplingParams { temperature: Some(0.0), ..SamplingParams::default() };
    let padded = mask.map_or(0, |mask| mask.iter().take_while(|&&real| !real).count());
    let padded = if padded == ids.len() { 0 } else { padded };
    let mut processor = LogitsProcessor::new(model.generation_config(), &greedy, ids.len(), padded);
    let Some(mask) = mask else {
        let logits = model.prefill(inputs_embeds, &mut cache, &mut |_, _| ControlFlow::Continue(()))?;
        return Ok(model.generate(ids, logits, &mut cache, &mut processor, max_new_tokens, on_token)?.tokens);
    };
    // Positions count real tokens only; padding has position 0, and nothing looks at it.
    let mut next = 0;
    let positions: Vec<u32> = mask
        .iter()
        .map(|&real| {
            if real {
                next += 1;
                next - 1
            } else {
                0
            }
        })
        .collect();
    let length = positions.iter().max().map_or(0, |&longest| longest as usize + 1);
    let hidden = |seen: usize, from: usize| {
        let rows = (from..seen).flat_map(|at| (0..seen).map(move |key| (at, key)));
        rows.map(|(at, key)| if key <= at && mask.get(key) != Some(&false) { 0.0 } else { f32::NEG_INFINITY }).collect()
    };
    let added = Tensor::from_vec(hidden(ids.len(), 0), &[1, 1, ids.len(), ids.len()])?;
    let logits = model.step(inputs_embeds, &positions, length, Some(&added), &mut cache)?;
    let mut position = positions.last().copied().unwrap_or(0);
    let mut decode = |token: u32| {
        position += 1;
        let seen = cache.len() + 1;
        let added = Tensor::from_vec(hidden(seen, seen - 1), &[1, 1, 1, seen])?;
        model.step(&model.embed(&[token], None)?, &[position], position as usize + 1, Some(&added), &mut cache)
    };
    Ok(model.continue_with(ids, logits, &mut processor, max_new_tokens, on_token, &mut decode)?.tokens)
}
