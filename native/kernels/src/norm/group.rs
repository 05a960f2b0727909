//! Group normalisation of channels-last images, in two passes over the image: sums per channel, then the result.

#![expect(clippy::needless_range_loop, reason = "register tiles are arrays whose indices mean lanes")]

use crate::pool::parallel_for;
use crate::scratch::{self, Shared};
use crate::simd::{self, Kernel, Scalar, Simd, math};
use crate::{Activation, Isa, KernelError};

/// An image and its options, checked.
pub(super) struct Image<'a> {
    pub x: &'a [f32],
    pub channels: usize,
    pub groups: usize,
    pub weight: Option<&'a [f32]>,
    pub bias: Option<&'a [f32]>,
    pub eps: f32,
    pub activation: Activation,
}

/// Values that one task handles, about: they stay in the cache while a task goes over them channel by channel.
const TASK: usize = 32 * 1024;

impl Image<'_> {
    /// Normalises the image into `out`, which is as long as `x`.
    pub(super) fn run(&self, out: &mut [f32]) -> Result<(), KernelError> {
        let (isa, channels, pixels) = (Isa::active(), self.channels, self.x.len() / self.channels);
        let chunk = (TASK / channels).max(1);
        let tasks = pixels.div_ceil(chunk);
        let range = |task: usize| (task * chunk, ((task + 1) * chunk).min(pixels));
        // For each task the sums and the sums of squares of every channel; then mean, scale and shift.
        let len = (2 * tasks + 3) * channels;
        scratch::with(len * size_of::<f32>(), |memory| {
            // SAFETY: the scratch memory holds `len` values.
            let memory = unsafe { std::slice::from_raw_parts_mut(memory.cast::<f32>(), len) };
            let (partial, affine) = memory.split_at_mut(2 * tasks * channels);
            let sums = Shared::new(partial.as_mut_ptr());
            parallel_for(tasks, &|task| {
                // SAFETY: every task has its own part of the sums.
                let sums = unsafe { sums.add(2 * task * channels) };
                simd::dispatch(isa, Sums { image: self, pixels: range(task), sums });
            });
            self.combine(pixels, partial, affine);
            let (affine, out) = (affine.as_ptr() as usize, Shared::new(out.as_mut_ptr()));
            parallel_for(tasks, &|task| {
                let affine = affine as *const f32;
                simd::dispatch(isa, Apply { image: self, pixels: range(task), affine, out: &out });
            });
        })
    }

    /// From sums of `x − first pixel` per channel to the mean, scale and shift of each channel. Sums are taken relative
    /// to the first pixel because squares of values far from 0 would leave no digits for their variance.
    fn combine(&self, pixels: usize, partial: &[f32], affine: &mut [f32]) {
        let (channels, width) = (self.channels, self.channels / self.groups);
        let count = pixels as f64;
        let total = |offset: usize, c: usize| -> f64 {
            partial.chunks_exact(2 * channels).map(|part| f64::from(part[offset + c])).sum()
        };
        let moments: Vec<(f64, f64)> = (0..channels)
            .map(|c| {
                let (sum, squares) = (total(0, c), total(channels, c));
                (f64::from(self.x[c]) + sum / count, squares - sum * sum / count)
            })
            .collect();
        let (means, rest) = affine.split_at_mut(channels);
        let (scales, shifts) = rest.split_at_mut(channels);
        for (group, moments) in moments.chunks_exact(width).enumerate() {
            let mean = moments.iter().map(|m| m.0).sum::<f64>() / width as f64;
            let spread: f64 = moments.iter().map(|m| m.1 + count * (m.0 - mean).powi(2)).sum();
            let inverse = 1.0 / (spread / (count * width as f64) + f64::from(self.eps)).sqrt();
            for c in group * width..(group + 1) * width {
                means[c] = mean as f32;
                scales[c] = inverse as f32 * self.weight.map_or(1.0, |w| w[c]);
                shifts[c] = self.bias.map_or(0.0, |b| b[c]);
            }
        }
    }
}

/// Sums of `x − first` and its square over some pixels, for each channel.
struct Sums<'a> {
    image: &'a Image<'a>,
    pixels: (usize, usize),
    /// `[2][channels]`
    sums: *mut f32,
}

impl Sums<'_> {
    /// `N` vectors of channels from channel `c`.
    #[inline(always)]
    unsafe fn block<S: Simd, const N: usize>(&self, c: usize) {
        let channels = self.image.channels;
        // SAFETY: the channels exist in every pixel and in the sums (caller).
        unsafe {
            let x = self.image.x.as_ptr().add(c);
            let (mut sums, mut squares, mut first) = ([S::splat(0.0); N], [S::splat(0.0); N], [S::splat(0.0); N]);
            for v in 0..N {
                first[v] = S::load(x.add(v * S::LANES));
            }
            for pixel in self.pixels.0..self.pixels.1 {
                for v in 0..N {
                    let d = S::sub(S::load(x.add(pixel * channels + v * S::LANES)), first[v]);
                    sums[v] = S::add(sums[v], d);
                    squares[v] = S::fma(d, d, squares[v]);
                }
            }
            for v in 0..N {
                S::store(self.sums.add(c + v * S::LANES), sums[v]);
                S::store(self.sums.add(channels + c + v * S::LANES), squares[v]);
            }
        }
    }
}

impl Kernel for Sums<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let channels = self.image.channels;
        let mut c = 0;
        // SAFETY: blocks end within the channels.
        unsafe {
            while c + 4 * S::LANES <= channels {
                self.block::<S, 4>(c);
                c += 4 * S::LANES;
            }
            while c + S::LANES <= channels {
                self.block::<S, 1>(c);
                c += S::LANES;
            }
            while c < channels {
                self.block::<Scalar, 1>(c);
                c += 1;
            }
        }
    }
}

/// `activation((x − mean) · scale + shift)` for some pixels.
struct Apply<'a> {
    image: &'a Image<'a>,
    pixels: (usize, usize),
    /// `[3][channels]`
    affine: *const f32,
    out: &'a Shared<f32>,
}

impl Apply<'_> {
    #[inline(always)]
    unsafe fn lanes<S: Simd>(&self, pixel: usize, c: usize) {
        let channels = self.image.channels;
        // SAFETY: the channels exist in the pixel (caller).
        unsafe {
            let affine = self.affine.add(c);
            let d = S::sub(S::load(self.image.x.as_ptr().add(pixel * channels + c)), S::load(affine));
            let y = S::fma(d, S::load(affine.add(channels)), S::load(affine.add(2 * channels)));
            S::store(self.out.add(pixel * channels + c), math::activate::<S>(self.image.activation, y));
        }
    }
}

impl Kernel for Apply<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let whole = self.image.channels / S::LANES * S::LANES;
        for pixel in self.pixels.0..self.pixels.1 {
            // SAFETY: within the pixel, which belongs to this task.
            unsafe {
                for c in (0..whole).step_by(S::LANES) {
                    self.lanes::<S>(pixel, c);
                }
                for c in whole..self.image.channels {
                    self.lanes::<Scalar>(pixel, c);
                }
            }
        }
    }
}
