//! The codebook of the VQ model, learned by counting rather than by gradient: k-means first, then a moving average of
//! the latents that each code received, with codes that nobody uses put where the error is largest.

use tch::{Kind, Tensor};

use super::vq_model::nearest_codes;

/// The running sums behind each code.
#[derive(Debug)]
pub struct EmaCodebook {
    /// Latents that each code received, decayed: `[codes]`.
    pub counts: Tensor,
    /// Sum of those latents, decayed: `[codes, dim]`.
    pub sums: Tensor,
    decay: f64,
}

impl EmaCodebook {
    /// Starts from a codebook `[codes, dim]`, each code as if it had just received one latent.
    pub fn new(codebook: &Tensor, decay: f64) -> Self {
        let codes = codebook.size()[0];
        Self {
            counts: Tensor::ones([codes], (Kind::Float, codebook.device())),
            sums: codebook.detach().to_kind(Kind::Float).copy(),
            decay,
        }
    }

    /// Takes in one batch of latents `[M, dim]` with their codes `[M]` and moves `codebook` accordingly.
    ///
    /// With `replace`, codes whose count has fallen under a threshold take the place of the batch's worst-served
    /// latents. Returns the number of codes replaced.
    pub fn update(&mut self, codebook: &mut Tensor, flat: &Tensor, ids: &Tensor, replace: bool) -> i64 {
        tch::no_grad(|| {
            let flat = flat.detach().to_kind(Kind::Float);
            let seen = Tensor::zeros_like(&self.counts);
            let ones = Tensor::ones([flat.size()[0]], (Kind::Float, flat.device()));
            let seen = seen.index_add(0, ids, &ones);
            let sums = Tensor::zeros_like(&self.sums).index_add(0, ids, &flat);
            let _ = self.counts.lerp_(&seen, 1.0 - self.decay);
            let _ = self.sums.lerp_(&sums, 1.0 - self.decay);
            let mut replaced = 0;
            if replace {
                replaced = self.replace_dead(codebook, &flat, ids);
            }
            let fresh = &self.sums / self.counts.clamp_min(1e-5).unsqueeze(-1);
            // A code that received nothing for long keeps its place.
            let alive = self.counts.gt(1e-4).unsqueeze(-1);
            codebook.copy_(&fresh.where_self(&alive, codebook));
            replaced
        })
    }

    fn replace_dead(&mut self, codebook: &Tensor, flat: &Tensor, ids: &Tensor) -> i64 {
        let dead = self.counts.lt(0.03).nonzero().squeeze_dim(-1);
        // Few at a time: the worst latents of one batch resemble each other.
        let n = dead.size()[0].min(flat.size()[0] / 16).min(8);
        if n == 0 {
            return 0;
        }
        let error =
            (flat - codebook.index_select(0, ids)).square().sum_dim_intlist([-1i64].as_slice(), false, Kind::Float);
        // Drawn with probability by error, so that one outlier does not take all.
        let worst = error.clamp_min(1e-12).multinomial(n, false);
        let dead = dead.narrow(0, 0, n);
        let fresh = flat.index_select(0, &worst);
        let _ = self.sums.index_copy_(0, &dead, &fresh);
        let ones = Tensor::ones([n], (Kind::Float, flat.device()));
        let _ = self.counts.index_copy_(0, &dead, &ones);
        n
    }
}

/// k-means on `points` `[M, dim]`: `k` centres `[k, dim]`, seeded far apart by sampling in proportion to the distance.
pub fn kmeans(points: &Tensor, k: i64, rounds: usize) -> Tensor {
    tch::no_grad(|| {
        let points = points.detach().to_kind(Kind::Float).contiguous();
        let m = points.size()[0];
        let first = Tensor::randint(m, [1], (Kind::Int64, points.device()));
        let mut centres = points.index_select(0, &first);
        let mut nearest = Tensor::full([m], f64::INFINITY, (Kind::Float, points.device()));
        while centres.size()[0] < k {
            let last = centres.narrow(0, centres.size()[0] - 1, 1);
            let distance = (&points - last).square().sum_dim_intlist([-1i64].as_slice(), false, Kind::Float);
            nearest = nearest.minimum(&distance);
            let next = nearest.clamp_min(1e-12).multinomial(1, false);
            centres = Tensor::cat(&[centres, points.index_select(0, &next)], 0);
        }
        for _ in 0..rounds {
            let ids = nearest_codes(&points, &centres);
            let ones = Tensor::ones([m], (Kind::Float, points.device()));
            let counts = Tensor::zeros([k], (Kind::Float, points.device())).index_add(0, &ids, &ones);
            let sums = Tensor::zeros_like(&centres).index_add(0, &ids, &points);
            let fresh = sums / counts.clamp_min(1.0).unsqueeze(-1);
            let alive = counts.gt(0.5).unsqueeze(-1);
            centres = fresh.where_self(&alive, &centres);
        }
        centres
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kmeans_finds_separate_clusters() {
        let _generator = crate::generator();
        tch::manual_seed(1);
        let centres = Tensor::from_slice(&[0.0f32, 0.0, 9.0, 9.0, -9.0, 4.0]).view([3, 2]);
        let points = centres.repeat([50, 1]) + Tensor::randn([150, 2], (Kind::Float, tch::Device::Cpu)) * 0.1;
        let found = kmeans(&points, 3, 5);
        let ids = nearest_codes(&centres, &found);
        let near = (found.index_select(0, &ids) - &centres).abs().max();
        assert!(near.double_value(&[]) < 0.2);
    }

    #[test]
    fn unused_codes_move_to_where_the_error_is() {
        let _generator = crate::generator();
        tch::manual_seed(2);
        let mut codebook = Tensor::from_slice(&[0.0f32, 100.0]).view([2, 1]);
        let mut ema = EmaCodebook::new(&codebook, 0.5);
        let flat = Tensor::from_slice(&[0.0f32; 16]).view([16, 1]) + 5.0;
        for _ in 0..20 {
            let ids = nearest_codes(&flat, &codebook);
            ema.update(&mut codebook, &flat, &ids, true);
        }
        assert!((codebook - 5.0).abs().max().double_value(&[]) < 0.1);
    }
}
