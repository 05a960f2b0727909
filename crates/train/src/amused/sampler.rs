//! Drawing with the transformer: MaskGIT sampling as `AmusedPipeline` and `AmusedScheduler` do it.

use tch::{Kind, Tensor};

use super::uvit_2d::{Condition, UVit2DModel};

/// The choices of a drawing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Steps.
    pub steps: i64,
    /// How far the prompt pushes away from the empty prompt.
    pub guidance_scale: f64,
    /// Randomness in the order of unmasking, at the first step and at the last.
    pub temperature: (f64, f64),
}

impl Default for Sampling {
    fn default() -> Self {
        Self { steps: 12, guidance_scale: 4.0, temperature: (2.0, 0.0) }
    }
}

/// Draws the tokens `[B, h·w]` of pictures for `condition`; `empty` is the same for the empty prompt.
///
/// The random numbers are those of libtorch's global generator.
pub fn sample(model: &UVit2DModel, condition: &Condition, empty: &Condition, sampling: &Sampling) -> Tensor {
    tch::no_grad(|| {
        let b = condition.pooled_text_emb.size()[0];
        let cells = model.cells();
        let mask = model.mask_token();
        let both = Condition {
            encoder_hidden_states: Tensor::cat(&[&empty.encoder_hidden_states, &condition.encoder_hidden_states], 0),
            pooled_text_emb: Tensor::cat(&[&empty.pooled_text_emb, &condition.pooled_text_emb], 0),
            micro_conds: Tensor::cat(&[&empty.micro_conds, &condition.micro_conds], 0),
        };
        let mut tokens = Tensor::full([b, cells], mask, (Kind::Int64, tch::Device::Cpu));
        for step in 0..sampling.steps {
            let logits = if sampling.guidance_scale > 1.0 {
                let out = model.forward(&tokens.repeat([2, 1]), &both).chunk(2, 0);
                &out[0] + (&out[1] - &out[0]) * sampling.guidance_scale
            } else {
                model.forward(&tokens, condition)
            };
            tokens = advance(&tokens, &logits, mask, step, sampling);
        }
        tokens
    })
}

/// One step of `AmusedScheduler`: fill in every masked cell, then mask the least certain again.
fn advance(tokens: &Tensor, logits: &Tensor, mask: i64, step: i64, sampling: &Sampling) -> Tensor {
    let unknown = tokens.eq(mask);
    let probs = logits.softmax(-1, Kind::Float);
    let (b, l, k) = probs.size3().unwrap_or((0, 0, 0));
    let drawn = probs.view([b * l, k]).multinomial(1, false).view([b, l]);
    let filled = drawn.where_self(&unknown, tokens);
    if step + 1 == sampling.steps {
        return filled;
    }
    let ratio = (step + 1) as f64 / sampling.steps as f64;
    let keep = (ratio * std::f64::consts::FRAC_PI_2).cos();
    let most = unknown.sum_dim_intlist([-1i64].as_slice(), true, Kind::Int64) - 1;
    let length = most.clamp_max((l as f64 * keep).floor() as i64).clamp_min(1);
    let chosen = probs.gather(-1, &filled.unsqueeze(-1), false).squeeze_dim(-1);
    let certain = Tensor::full_like(&chosen, f64::from(f32::MAX));
    let chosen = chosen.where_self(&unknown, &certain);
    let (from, to) = sampling.temperature;
    let share = step as f64 / (sampling.steps - 1).max(1) as f64;
    let temperature = from + (to - from) * share;
    let uniform = Tensor::rand_like(&chosen).clamp_min(1e-20);
    let gumbel = -(-uniform.log()).clamp_min(1e-20).log();
    let confidence = chosen.clamp_min(1e-20).log() + gumbel * temperature;
    let (sorted, _) = confidence.sort(-1, false);
    let cut_off = sorted.gather(1, &length, false);
    filled.masked_fill(&confidence.lt_tensor(&cut_off), mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_leaves_as_many_masked_as_the_schedule_says() {
        let _generator = crate::generator();
        tch::manual_seed(3);
        let sampling = Sampling::default();
        let mask = 9;
        let mut tokens = Tensor::full([5, 64], mask, (Kind::Int64, tch::Device::Cpu));
        for step in 0..12 {
            let logits = Tensor::randn([5, 64, 9], (Kind::Float, tch::Device::Cpu));
            let before = tokens.copy();
            tokens = advance(&tokens, &logits, mask, step, &sampling);
            let known = before.ne(mask);
            assert_eq!(tokens.masked_select(&known), before.masked_select(&known), "known tokens stay");
            let share = ((step + 1) as f64 / 12.0 * std::f64::consts::FRAC_PI_2).cos();
            let expected = if step == 11 { 0 } else { ((64.0 * share).floor() as i64).max(1) };
            let masked = tokens.eq(mask).sum_dim_intlist([1i64].as_slice(), false, Kind::Int64);
            for i in 0..5 {
                assert_eq!(masked.int64_value(&[i]), expected, "step {step}");
            }
        }
    }
}
