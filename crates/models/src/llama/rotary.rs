//! The angles of rotary positions: `LlamaRotaryEmbedding` and the functions of `modeling_rope_utils.py`.

use std::f32::consts::PI;

use sango_tensor::Tensor;
use serde_json::Value;

use crate::error::Result;

/// A key of the configuration, and what is wrong with its value.
type Refusal = (&'static str, String);

/// Inverse frequencies, which may depend on the length of the sequence.
#[derive(Debug, Clone)]
pub(super) struct LlamaRotaryEmbedding {
    frequencies: Frequencies,
    /// What cosines and sines are multiplied by.
    attention_scaling: f32,
}

#[derive(Debug, Clone)]
enum Frequencies {
    Fixed(Vec<f32>),
    /// `dynamic`: the base grows with what exceeds `longest`.
    Dynamic {
        base: f32,
        factor: f32,
        longest: usize,
        dim: usize,
    },
    /// `longrope`: other frequencies for sequences above `original`.
    Long {
        short: Vec<f32>,
        long: Vec<f32>,
        original: usize,
    },
}

impl LlamaRotaryEmbedding {
    /// From standardised `rope_parameters`.
    pub(super) fn new(rope: &Value, max_position_embeddings: usize, head_dim: usize) -> Result<Self, Refusal> {
        let given = Given { rope };
        let kind = rope["rope_type"].as_str().unwrap_or_default();
        let base = given.number("rope_theta")?.ok_or(("rope_theta", "is missing".to_owned()))?;
        if !(base > 0.0 && base.is_finite()) {
            return Err(("rope_theta", format!("is {base}; it must be positive")));
        }
        // The plain kind turns whole heads whatever this says; the others would leave a part of the head over.
        if !matches!(kind, "default" | "proportional")
            && given.number("partial_rotary_factor")?.is_some_and(|f| f != 1.0)
        {
            return Err(("partial_rotary_factor", "is not 1, which Llama cannot do".into()));
        }
        let inv_freq = inverse_frequencies(base, head_dim);
        let original = given.length("original_max_position_embeddings")?;
        let mut attention_scaling = 1.0;
        let frequencies = match kind {
            "default" => Frequencies::Fixed(inv_freq),
            "linear" => {
                let factor = given.factor()?;
                Frequencies::Fixed(inv_freq.iter().map(|f| f / factor).collect())
            }
            "dynamic" => {
                if head_dim <= 2 {
                    return Err(("head_dim", format!("is {head_dim}; dynamic scaling needs more than 2")));
                }
                let longest = max_position_embeddings;
                Frequencies::Dynamic { base, factor: given.factor()?, longest, dim: head_dim }
            }
            "llama3" => Frequencies::Fixed(llama3(&given, &inv_freq, original)?),
            "yarn" => {
                let (frequencies, scaling) = yarn(&given, base, head_dim, original, max_position_embeddings)?;
                attention_scaling = scaling;
                Frequencies::Fixed(frequencies)
            }
            "longrope" => {
                let factor = given.number("factor")?.unwrap_or(max_position_embeddings as f32 / original as f32);
                let wanted = (1.0 + factor.ln() / (original as f32).ln()).sqrt();
                attention_scaling =
                    given.number("attention_factor")?.unwrap_or(if factor <= 1.0 { 1.0 } else { wanted });
                let by = |key| given.factors(key, &inv_freq);
                Frequencies::Long { short: by("short_factor")?, long: by("long_factor")?, original }
            }
            "proportional" => {
                let factor = given.number("factor")?.unwrap_or(1.0);
                let part = given.number("partial_rotary_factor")?.unwrap_or(1.0);
                let turned = ((part * head_dim as f32 / 2.0) as usize).min(head_dim / 2);
                let scaled = inv_freq.iter().enumerate().map(|(i, f)| if i < turned { f / factor } else { 0.0 });
                Frequencies::Fixed(scaled.collect())
            }
            other => {
                let known = "default, linear, dynamic, yarn, longrope, llama3 and proportional";
                return Err(("rope_type", format!("is \"{other}\"; known are {known}")));
            }
        };
        let all_finite = match &frequencies {
            Frequencies::Fixed(f) => f.iter().all(|f| f.is_finite()),
            Frequencies::Long { short, long, .. } => short.iter().chain(long).all(|f| f.is_finite()),
            Frequencies::Dynamic { .. } => true,
        };
        if !all_finite || !attention_scaling.is_finite() {
            return Err(("rope_parameters", format!("are {rope}, which make angles that are not numbers")));
        }
        Ok(Self { frequencies, attention_scaling })
    }

    /// Whether a sequence of `length` positions has the angles of every shorter one, so that what was computed for a
    /// part of it holds for the whole.
    pub(super) fn stable_up_to(&self, length: usize) -> bool {
        match self.frequencies {
            Frequencies::Fixed(_) => true,
            Frequencies::Dynamic { longest, .. } => length <= longest,
            Frequencies::Long { original, .. } => length <= original,
        }
    }

    /// Cosines and sines of `positions` in a sequence of `length` positions, `[positions, head_dim / 2]` each.
    pub(super) fn forward(&self, positions: &[u32], length: usize) -> Result<(Tensor, Tensor)> {
        let scaled;
        let inv_freq = match &self.frequencies {
            Frequencies::Fixed(inv_freq) => inv_freq,
            Frequencies::Dynamic { base, factor, longest, dim } => {
                let growth = factor * length.max(*longest) as f32 / *longest as f32 - (factor - 1.0);
                scaled = inverse_frequencies(base * growth.powf(*dim as f32 / (*dim as f32 - 2.0)), *dim);
                &scaled
            }
            Frequencies::Long { short, long, original } => {
                if length > *original {
                    long
                } else {
                    short
                }
            }
        };
        let shape = [positions.len(), inv_freq.len()];
        let angles = || positions.iter().flat_map(|&at| inv_freq.iter().map(move |f| at as f32 * f));
        let cos = angles().map(|a| a.cos() * self.attention_scaling).collect();
        let sin = angles().map(|a| a.sin() * self.attention_scaling).collect();
        Ok((Tensor::from_vec(cos, &shape)?, Tensor::from_vec(sin, &shape)?))
    }
}

fn inverse_frequencies(base: f32, dim: usize) -> Vec<f32> {
    (0..dim / 2).map(|i| 1.0 / base.powf((2 * i) as f32 / dim as f32)).collect()
}

/// `_compute_llama3_parameters`.
fn llama3(given: &Given<'_>, inv_freq: &[f32], original: usize) -> Result<Vec<f32>, Refusal> {
    let factor = given.factor()?;
    let needed = |key| given.number(key)?.ok_or((key, "is missing".to_owned()));
    let (low, high) = (needed("low_freq_factor")?, needed("high_freq_factor")?);
    let original = original as f32;
    let scaled = inv_freq.iter().map(|&f| {
        let wavelength = 2.0 * PI / f;
        if wavelength > original / low {
            f / factor
        } else if wavelength < original / high {
            f
        } else {
            let smooth = (original / wavelength - low) / (high - low);
            (1.0 - smooth) * f / factor + smooth * f
        }
    });
    Ok(scaled.collect())
}

/// `_compute_yarn_parameters`: frequencies, and what cosines and sines are multiplied by.
fn yarn(
    given: &Given<'_>,
    base: f32,
    dim: usize,
    original: usize,
    max_position_embeddings: usize,
) -> Result<(Vec<f32>, f32), Refusal> {
    let factor = match given.number("factor")? {
        Some(_) => given.factor()?,
        None => max_position_embeddings as f32 / original as f32,
    };
    let set = |key| Ok::<_, Refusal>(given.number(key)?.filter(|&x| x != 0.0));
    let mscale = |scale: f32, by: f32| if scale <= 1.0 { 1.0 } else { 0.1 * by * scale.ln() + 1.0 };
    let scaling = match (given.number("attention_factor")?, set("mscale")?, set("mscale_all_dim")?) {
        (Some(factor), ..) => factor,
        (None, Some(by), Some(all)) => mscale(factor, by) / mscale(factor, all),
        _ => mscale(factor, 1.0),
    };
    let turns = |turns: f32| {
        dim as f64 * (original as f64 / (f64::from(turns) * 2.0 * std::f64::consts::PI)).ln()
            / (2.0 * f64::from(base).ln())
    };
    let (mut low, mut high) = (turns(set("beta_fast")?.unwrap_or(32.0)), turns(set("beta_slow")?.unwrap_or(1.0)));
    if given.rope["truncate"].as_bool() != Some(false) {
        (low, high) = (low.floor(), high.ceil());
    }
    let (low, mut high) = (low.max(0.0), high.min(dim as f64 - 1.0));
    if low == high {
        high += 0.001;
    }
    let (low, span) = (low as f32, (high - low) as f32);
    let frequencies = (0..dim / 2).map(|i| {
        let slow = base.powf((2 * i) as f32 / dim as f32);
        let kept = 1.0 - ((i as f32 - low) / span).clamp(0.0, 1.0);
        1.0 / (factor * slow) * (1.0 - kept) + 1.0 / slow * kept
    });
    Ok((frequencies.collect(), scaling))
}

/// Numbers of `rope_parameters`.
struct Given<'a> {
    rope: &'a Value,
}

impl Given<'_> {
    fn number(&self, key: &'static str) -> Result<Option<f32>, Refusal> {
        match &self.rope[key] {
            Value::Null => Ok(None),
            value => {
                let number = value.as_f64().filter(|x| x.is_finite()).map(|x| x as f32);
                number.map(Some).ok_or_else(|| (key, format!("is {value}; it must be a number")))
            }
        }
    }

    fn factor(&self) -> Result<f32, Refusal> {
        match self.number("factor")? {
            Some(factor) if factor > 0.0 => Ok(factor),
            other => Err(("factor", format!("is {other:?}; this rope_type needs a positive number"))),
        }
    }

    fn length(&self, key: &'static str) -> Result<usize, Refusal> {
        let length = self.rope[key].as_u64().filter(|n| (1..=1 << 24).contains(n));
        length
            .map(|n| n as usize)
            .ok_or_else(|| (key, format!("is {}; it must be a number of positions", self.rope[key])))
    }

    /// `inv_freq` divided by the numbers of a list, one for each.
    fn factors(&self, key: &'static str, inv_freq: &[f32]) -> Result<Vec<f32>, Refusal> {
        let list = self.rope[key].as_array().map_or(&[][..], Vec::as_slice);
        let numbers: Vec<f32> = list.iter().filter_map(Value::as_f64).map(|x| x as f32).collect();
        if numbers.len() != inv_freq.len() || list.len() != inv_freq.len() {
            return Err((key, format!("must list {} numbers", inv_freq.len())));
        }
        Ok(inv_freq.iter().zip(numbers).map(|(f, by)| 1.0 / (by / f)).collect())
    }
}
