//! Sampling as `LTXPipeline` does it with `FlowMatchEulerDiscreteScheduler`.

use tch::{Kind, Tensor, no_grad};

use super::transformer::{LTXVideoTransformer3DModel, RotaryPosEmbed};

/// How to sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Steps.
    pub steps: usize,
    /// How far the prompt is followed beyond what the model says of it; 1 is the model itself.
    pub guidance_scale: f64,
    /// The scheduler's `shift`: more than 1 spends more steps on what is mostly noise.
    pub shift: f64,
}

/// A sigma through the scheduler's `shift`.
pub fn shifted(sigma: f64, shift: f64) -> f64 {
    shift * sigma / (1.0 + (shift - 1.0) * sigma)
}

/// The share of noise before each step, and 0 at the end.
pub fn sigmas(sampling: &Sampling) -> Vec<f64> {
    let n = sampling.steps;
    let last = 1.0 / n as f64;
    let linear = (0..n).map(|i| 1.0 - (1.0 - last) * i as f64 / (n.max(2) - 1) as f64);
    linear.map(|sigma| shifted(sigma, sampling.shift)).chain([0.0]).collect()
}

/// Prompts as the text encoder gives them: hidden states and mask.
pub type Encoded<'a> = (&'a Tensor, &'a Tensor);

/// Noise `[B, S, C]` → latents `[B, S, C]`, f32. `empty` is the negative prompt, `[1, L', D]`.
///
/// `given` are the latents of the first tokens where a frame is given, as `LTXImageToVideoPipeline` takes one.
#[allow(clippy::too_many_arguments)] // what the pipeline holds, and what it is asked for
pub fn sample(
    model: &LTXVideoTransformer3DModel,
    kind: Kind,
    noise: &Tensor,
    given: Option<&Tensor>,
    prompts: Encoded,
    empty: Encoded,
    rope: &RotaryPosEmbed,
    sampling: &Sampling,
) -> Tensor {
    let (b, tokens, sigmas) = (noise.size()[0], noise.size()[1], sigmas(sampling));
    let known = given.map_or(0, |given| given.size()[1]);
    let mut latents = noise.narrow(1, known, tokens - known).to_kind(Kind::Float);
    let (captions, mask) = (prompts.0.to_kind(kind), prompts.1);
    let (none, none_mask) = (empty.0.to_kind(kind), empty.1);
    let none = none.expand([b, none.size()[1], none.size()[2]], false);
    let none_mask = none_mask.expand([b, none_mask.size()[1]], false);
    let all = |latents: &Tensor| match given {
        Some(given) => Tensor::cat(&[given, latents], 1),
        None => latents.shallow_clone(),
    };
    no_grad(|| {
        let still = Tensor::zeros([b], (Kind::Float, latents.device()));
        for pair in sigmas.windows(2) {
            let timestep = Tensor::full([b], pair[0] * 1000.0, (Kind::Float, latents.device()));
            let input = all(&latents).to_kind(kind);
            let parts = [(known, &still), (tokens - known, &timestep)];
            let parts = if known > 0 { &parts[..] } else { &parts[1..] };
            let run = |captions: &Tensor, mask: &Tensor| {
                let velocity = model.forward(&input, parts, captions, mask, rope);
                velocity.narrow(1, known, tokens - known).to_kind(Kind::Float)
            };
            let mut velocity = run(&captions, mask);
            if sampling.guidance_scale != 1.0 {
                let unguided = run(&none, &none_mask);
                velocity = &unguided + (velocity - &unguided) * sampling.guidance_scale;
            }
            latents += velocity * (pair[1] - pair[0]);
        }
    });
    all(&latents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_lead_from_noise_to_none() {
        let steps = sigmas(&Sampling { steps: 4, guidance_scale: 1.0, shift: 1.0 });
        assert_eq!(steps, [1.0, 0.75, 0.5, 0.25, 0.0]);
        let steps = sigmas(&Sampling { steps: 2, guidance_scale: 1.0, shift: 3.0 });
        assert_eq!(steps, [1.0, 0.75, 0.0]);
        assert_eq!(sigmas(&Sampling { steps: 1, guidance_scale: 1.0, shift: 1.0 }), [1.0, 0.0]);
    }
}
