//! From logits to a token, in the order of `generate`: `transformers/generation/logits_process.py`.

use rand::RngExt;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;

use super::generation_config::{GenerationConfig, SamplingParams};

/// Changes logits by what was said before, and chooses a token.
pub struct LogitsProcessor {
    config: GenerationConfig,
    repetition_penalty: f32,
    /// `None` takes the most likely token.
    sampling: Option<SamplingParams>,
    rng: ChaCha12Rng,
    /// Length of the prompt.
    prompt: usize,
    /// Leading tokens of the prompt that are padding.
    padding: usize,
    order: Vec<u32>,
}

impl LogitsProcessor {
    /// For one answer to a prompt of `prompt` tokens, of which the first `padding` do not count.
    pub fn new(config: &GenerationConfig, params: &SamplingParams, prompt: usize, padding: usize) -> Self {
        let penalty = params.or(&config.sampling).repetition_penalty.unwrap_or(1.0);
        Self {
            repetition_penalty: penalty,
            sampling: config.sampling_for(params),
            rng: ChaCha12Rng::seed_from_u64(params.seed.unwrap_or(0)),
            config: config.clone(),
            prompt,
            padding,
            order: Vec::new(),
        }
    }

    /// The token that follows `ids` (prompt and answer so far), given its logits, which are changed.
    pub fn next(&mut self, ids: &[u32], scores: &mut [f32]) -> u32 {
        self.process(ids, scores);
        if self.sampling.is_none() {
            return argmax(scores);
        }
        self.warp(scores);
        softmax(scores);
        let total: f64 = scores.iter().map(|&p| f64::from(p)).sum();
        let mut left = self.rng.random::<f64>() * total;
        let mut chosen = 0;
        for (id, &p) in scores.iter().enumerate().filter(|(_, p)| **p > 0.0) {
            chosen = id;
            left -= f64::from(p);
            if left < 0.0 {
                break;
            }
        }
        chosen as u32
    }

    /// The probabilities from which the token after `ids` is drawn, in the place of its logits.
    pub fn probabilities(&mut self, ids: &[u32], scores: &mut [f32]) {
        self.process(ids, scores);
        self.warp(scores);
        softmax(scores);
    }

    /// What greedy decoding does as well.
    fn process(&self, ids: &[u32], scores: &mut [f32]) {
        let config = &self.config;
        let answered = ids.len() - self.prompt.min(ids.len());
        if self.repetition_penalty != 1.0 {
            penalise(ids.get(self.padding..).unwrap_or(&[]), self.repetition_penalty, scores);
        }
        let n = config.no_repeat_ngram_size;
        if n > 0 && ids.len() >= n {
            let recent = &ids[ids.len() + 1 - n..];
            let again = ids.windows(n).filter(|run| run[..n - 1] == *recent).map(|run| run[n - 1]);
            forbid(again, scores);
        }
        if ids.len() < config.min_length || answered < config.min_new_tokens {
            forbid(config.eos_token_id.iter().copied(), scores);
        }
        forbid(config.suppress_tokens.iter().copied(), scores);
        if answered == 0 {
            forbid(config.begin_suppress_tokens.iter().copied(), scores);
        }
    }

    /// What only drawing does.
    fn warp(&mut self, scores: &mut [f32]) {
        let Some(sampling) = &self.sampling else { return };
        if let Some(temperature) = sampling.temperature.filter(|&t| t != 1.0) {
            scores.iter_mut().for_each(|score| *score /= temperature);
        }
        if let Some(k) = sampling.top_k.filter(|&k| k > 0 && k < scores.len()) {
            let mut sorted = scores.to_vec();
            let (_, &mut smallest, _) = sorted.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
            keep(scores, |score| score >= smallest);
        }
        if let Some(p) = sampling.top_p.filter(|&p| p < 1.0) {
            top_p(scores, p, &mut self.order);
        }
        if let Some(min_p) = sampling.min_p {
            // A probability relative to the largest is the exponential of the difference of the logits.
            let largest = scores[argmax(scores) as usize];
            keep(scores, |score| score == largest || (score - largest).exp() >= min_p);
        }
    }
}

/// The first of the largest.
pub(super) fn argmax(scores: &[f32]) -> u32 {
    let mut best = 0;
    for (id, &score) in scores.iter().enumerate() {
        if score > scores[best] || scores[best].is_nan() {
            best = id;
        }
    }
    best as u32
}

fn forbid(ids: impl Iterator<Item = u32>, scores: &mut [f32]) {
    for id in ids {
        if let Some(score) = scores.get_mut(id as usize) {
            *score = f32::NEG_INFINITY;
        }
    }
}

fn keep(scores: &mut [f32], wanted: impl Fn(f32) -> bool) {
    scores.iter_mut().filter(|score| !wanted(**score)).for_each(|score| *score = f32::NEG_INFINITY);
}

/// Makes every token that was already there less likely, once however often it was.
fn penalise(ids: &[u32], penalty: f32, scores: &mut [f32]) {
    let mut seen = vec![false; scores.len()];
    ids.iter().for_each(|&id| {
        if let Some(seen) = seen.get_mut(id as usize) {
            *seen = true;
        }
    });
    for (score, _) in scores.iter_mut().zip(seen).filter(|(_, seen)| *seen) {
        *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
    }
}

/// Drops the least likely tokens that together have at most `1 − p`.
fn top_p(scores: &mut [f32], p: f32, order: &mut Vec<u32>) {
    order.clear();
    order.extend((0..scores.len() as u32).filter(|&id| scores[id as usize] > f32::NEG_INFINITY));
    order.sort_by(|&a, &b| scores[a as usize].total_cmp(&scores[b as usize]));
    let Some(&best) = order.last() else { return };
    let largest = scores[best as usize];
    let total: f32 = order.iter().map(|&id| (scores[id as usize] - largest).exp()).sum();
    let mut below = 0.0;
    for &id in &order[..order.len() - 1] {
        below += (scores[id as usize] - largest).exp() / total;
        if below > 1.0 - p {
            break;
        }
        scores[id as usize] = f32::NEG_INFINITY;
    }
}

fn softmax(scores: &mut [f32]) {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut total = 0.0f64;
    for score in scores.iter_mut() {
        *score = (*score - largest).exp();
        total += f64::from(*score);
    }
    scores.iter_mut().for_each(|score| *score = (f64::from(*score) / total) as f32);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sango_tensor::Weights;
    use serde_json::Value;

    use super::*;

    #[test]
    fn probabilities_are_those_of_the_reference() {
        let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/parity/cases");
        let dir = cases.join("smolvlm2-sampling");
        let text = std::fs::read_to_string(dir.join("settings.json")).expect("the settings");
        let settings: Vec<Value> = serde_json::from_str(&text).expect("a list");
        let tensors = Weights::open_file(dir.join("sampling.safetensors")).expect("the case");
        let config = GenerationConfig::read(&cases.join("smolvlm2-yarn/model")).expect("a folder");
        for (n, setting) in settings.iter().enumerate() {
            let number = |key: &str| setting[key].as_f64().map(|x| x as f32);
            let params = SamplingParams {
                temperature: number("temperature").or(Some(1.0)),
                // All of them, unless the reference was told a number.
                top_k: Some(setting["top_k"].as_u64().unwrap_or(0) as usize),
                top_p: number("top_p"),
                min_p: number("min_p"),
                repetition_penalty: number("repetition_penalty"),
                seed: None,
            };
            let get = |name: &str| {
                let name = format!("{n}.{name}");
                tensors.get(&name, &tensors.shape(&name).expect("listed")).expect("read")
            };
            let ids: Vec<u32> = get("ids").as_i64().expect("ids").iter().map(|&id| id as u32).collect();
            let mut scores = get("scores").as_f32().expect("scores").to_vec();
            LogitsProcessor::new(&config, &params, ids.len(), 0).probabilities(&ids, &mut scores);
            let probabilities = get("probs");
            for (id, (p, expected)) in scores.iter().zip(probabilities.as_f32().expect("floats")).enumerate() {
                assert!((p - expected).abs() < 1e-6, "{setting}: {p} instead of {expected} for {id}");
            }
        }
    }

    #[test]
    fn draws_come_as_often_as_they_are_likely() {
        let config = GenerationConfig::read(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/parity/cases/smolvlm2-yarn/model"),
        );
        let params = SamplingParams { temperature: Some(1.0), top_k: Some(0), ..SamplingParams::default() };
        let mut processor = LogitsProcessor::new(&config.expect("a folder"), &params, 0, 0);
        let wanted = [0.5f32, 0.25, 0.125, 0.125, 0.0];
        let mut counts = [0; 5];
        for _ in 0..4000 {
            let mut scores = wanted.map(f32::ln);
            counts[processor.next(&[], &mut scores) as usize] += 1;
        }
        for (count, p) in counts.iter().zip(wanted) {
            assert!((*count as f32 / 4000.0 - p).abs() < 0.03, "{counts:?}");
        }
    }
}
