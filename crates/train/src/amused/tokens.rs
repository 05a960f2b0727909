//! The data of the transformer: pictures as codes, each with a caption.

use rand::{Rng, RngExt};
use sango_shapes::{Prompt, Scene, rng};
use tch::{Kind, Tensor};

use super::patches::PatchCodebook;
use super::text::TextCache;
use crate::data::{Batch, mix, settle};

/// Pictures encoded once.
#[derive(Debug)]
pub struct TokenData {
    /// `[N, h·w]`.
    pub tokens: Tensor,
    /// Row of each caption in the text cache, `[N]`.
    pub captions: Tensor,
}

impl TokenData {
    /// Renders and encodes `n` training scenes and embeds their captions.
    ///
    /// `jitter` is how much of a scene's deviation from the grid stays (see [`settle`]).
    pub fn build(book: &PatchCodebook, text: &mut TextCache, seed: u64, n: usize, size: usize, jitter: f32) -> Self {
        let mut rng = rng(mix(seed, 31));
        let (mut tokens, mut captions) = (Vec::new(), Vec::new());
        for start in (0..n).step_by(256) {
            let scenes: Vec<Scene> = (start..n.min(start + 256))
                .map(|_| {
                    let scene = Scene::sample_training(&mut rng);
                    settle(scene, jitter, &mut rng)
                })
                .collect();
            let said: Vec<String> = scenes.iter().map(|s| say(s, &mut rng)).collect();
            captions.extend(text.add(&said));
            tokens.push(book.tokenize(&Batch::render(scenes, size)));
        }
        Self { tokens: Tensor::cat(&tokens, 0), captions: Tensor::from_slice(&captions) }
    }

    /// Tokens and caption rows of one step; a caption becomes the empty prompt (row 0) one time in ten.
    pub fn batch(&self, seed: u64, step: u64, n: usize) -> (Tensor, Tensor) {
        let mut rng = rng(mix(mix(seed, 32), step));
        let total = self.tokens.size()[0];
        let picks: Vec<i64> = (0..n).map(|_| rng.random_range(0..total)).collect();
        let picks = Tensor::from_slice(&picks);
        let keep: Vec<i64> = (0..n).map(|_| i64::from(rng.random_bool(0.9))).collect();
        let rows = self.captions.index_select(0, &picks) * Tensor::from_slice(&keep);
        (self.tokens.index_select(0, &picks), rows)
    }
}

/// A caption of a scene; one in eight leaves something out, as people do.
fn say(scene: &Scene, rng: &mut impl Rng) -> String {
    let mut prompt: Prompt = scene.prompt();
    if rng.random_range(0..8) == 0 {
        let mut drop = || rng.random_bool(0.4);
        if drop() {
            prompt.size = None;
        }
        if drop() {
            prompt.background = None;
        }
        if drop() {
            prompt.place = None;
        }
        if drop() {
            prompt.colour = None;
        }
    }
    prompt.paraphrase(rng)
}

/// Masks a share of the cells of each row drawn as in MaskGIT, cos(π/2·u): ids with the mask in place, and the
/// boolean mask. Uses libtorch's generator.
pub fn mask_cells(tokens: &Tensor, mask_token: i64) -> (Tensor, Tensor) {
    let (n, l) = tokens.size2().unwrap_or((0, 0));
    let options = (Kind::Float, tokens.device());
    let share = (Tensor::rand([n, 1], options) * std::f64::consts::FRAC_PI_2).cos();
    let count = (share * l as f64).round().clamp_min(1.0);
    // The rank of a uniform number among its row is a random permutation.
    let rank = Tensor::rand([n, l], options).argsort(-1, false).argsort(-1, false);
    let masked = rank.lt_tensor(&count);
    (tokens.masked_fill(&masked, mask_token), masked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_hide_between_one_and_all_cells() {
        let _generator = crate::generator();
        tch::manual_seed(5);
        let tokens = Tensor::zeros([400, 64], (Kind::Int64, tch::Device::Cpu));
        let (ids, masked) = mask_cells(&tokens, 7);
        assert_eq!(ids.eq(7), masked);
        let counts = masked.sum_dim_intlist([1i64].as_slice(), false, Kind::Int64);
        assert!(counts.min().int64_value(&[]) >= 1);
        assert!(counts.max().int64_value(&[]) >= 63);
        // The mean of cos(π/2·u) is 2/π.
        let mean = counts.mean(Kind::Float).double_value(&[]) / 64.0;
        assert!((mean - 2.0 / std::f64::consts::PI).abs() < 0.05, "{mean}");
    }

    #[test]
    fn captions_that_leave_things_out_still_parse() {
        let _generator = crate::generator();
        let mut rng = rng(6);
        for _ in 0..500 {
            let scene = Scene::sample_training(&mut rng);
            let text = say(&scene, &mut rng);
            let prompt = Prompt::parse(&text).unwrap_or_else(|e| panic!("{text:?}: {e}"));
            assert!(prompt.shape.is_none() || prompt.shape == Some(scene.attributes.shape), "{text}");
        }
    }
}
