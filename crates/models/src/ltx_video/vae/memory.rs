//! How much memory encoding and decoding take: what is alive at once, block by block. A test holds it against what the
//! operating system counts.

use super::AutoencoderKLLTXVideoConfig;
use super::layout::{DecoderLayout, Downsample, EncoderLayout};

/// Scratch that convolutions keep for copies of frames, and what allocators keep back, unless frames are larger.
const SCRATCH: u64 = 128 << 20;
/// Bytes of a number where it is not rounded.
const F32: u64 = 4;

/// Something with time, height and width, in latents, patches or pixels.
pub(super) type Size = [usize; 3];

fn volume(size: Size) -> u64 {
    size.iter().map(|&n| n as u64).product()
}

/// Bytes that are alive at once in a half of the model.
struct Live {
    /// Numbers in a batch of 1 count this often.
    batch: u64,
    /// Bytes of a number between the two convolutions of a residual block.
    narrow: u64,
    peak: u64,
}

impl Live {
    fn note(&mut self, numbers: u64) {
        self.peak = self.peak.max(self.batch * numbers);
    }

    /// A residual block from `before` to `after` numbers.
    fn resnet(&mut self, before: u64, after: u64, inject_noise: bool) {
        let between = if inject_noise { F32 } else { self.narrow };
        // The first convolution, then the shortcut (where it is not the input itself), then the second convolution.
        self.note(F32 * before + between * after * if inject_noise { 2 } else { 1 });
        if before != after {
            self.note((F32 + self.narrow) * before + between * after);
            self.note(self.narrow * before + (F32 + between) * after);
        }
        let noisy = if inject_noise { F32 * after } else { 0 };
        self.note(2 * F32 * after + between * after + noisy);
    }

    /// The peak, and a sixteenth for what is kept for the next tensor of its size and then is not of that size.
    fn bytes(&self) -> u64 {
        self.peak + self.peak / 16
    }

    /// The copies of three frames that a convolution makes, where they are larger than what it makes of many.
    fn scratch(&self, [_, height, width]: Size, channels: usize) -> u64 {
        3 * volume([1, height + 2, width + 2]) * channels as u64 * F32
    }
}

/// Bytes that decoding a tile of latents takes at its peak, beyond the weights; what comes out counts.
pub(super) fn decoding(
    config: &AutoencoderKLLTXVideoConfig,
    layout: &DecoderLayout,
    narrow: bool,
    batch: usize,
    latents: Size,
) -> u64 {
    let mut live = Live { batch: batch as u64, narrow: if narrow { 2 } else { F32 }, peak: 0 };
    let mut size = latents;
    let mut channels = layout.first;
    let numbers = |size: Size, channels: usize| volume(size) * channels as u64;
    let mut scratch = SCRATCH;
    live.note(F32 * (2 * numbers(size, config.latent_channels) + numbers(size, channels)));
    if layout.mid_layers > 0 {
        let all = numbers(size, channels);
        live.resnet(all, all, layout.mid_noise);
    }
    for block in &layout.blocks {
        if block.conv_in {
            live.resnet(numbers(size, channels), numbers(size, block.out_channels), block.inject_noise);
            channels = block.out_channels;
        }
        if let Some(upsample) = block.upsample {
            let before = numbers(size, channels);
            size = [2 * size[0], 2 * size[1], 2 * size[2]];
            let after = numbers(size, block.out_channels);
            // What the convolution makes, the same enlarged, and beside it either the input or what is added to it.
            live.note(F32 * (before + 2 * after + if upsample.residual { before } else { 0 }));
            size[0] -= 1;
        }
        channels = block.out_channels;
        if block.layers > 0 {
            let all = numbers(size, channels);
            live.resnet(all, all, block.inject_noise);
        }
        scratch = scratch.max(live.scratch(size, channels));
    }
    // The last convolution reads all of it; then patches become pixels.
    let patches = numbers(size, layout.patch_channels);
    live.note(F32 * (numbers(size, channels) + patches));
    live.note(2 * F32 * patches);
    live.bytes() + scratch
}

/// Bytes that encoding a tile of a video takes at its peak, beyond the weights and the video itself.
pub(super) fn encoding(
    config: &AutoencoderKLLTXVideoConfig,
    layout: &EncoderLayout,
    narrow: bool,
    batch: usize,
    video: Size,
) -> u64 {
    let mut live = Live { batch: batch as u64, narrow: if narrow { 2 } else { F32 }, peak: 0 };
    let mut size = [video[0], video[1] / config.patch_size, video[2] / config.patch_size];
    let numbers = |size: Size, channels: usize| volume(size) * channels as u64;
    let mut channels = layout.first;
    let mut scratch = SCRATCH.max(live.scratch(size, channels));
    // A tile is cut out of the video, then made into patches.
    live.note(F32 * (3 * numbers(size, layout.patch_channels)).max(numbers(size, layout.patch_channels + channels)));
    for block in &layout.blocks {
        let before = numbers(size, channels);
        if block.layers > 0 {
            live.resnet(before, before, false);
        }
        if let Some(downsample) = block.downsample {
            let stride = downsample.stride();
            let longer = numbers([size[0] + 1, size[1], size[2]], channels);
            size = std::array::from_fn(|n| size[n].div_ceil(stride[n]));
            match downsample {
                Downsample::Conv => live.note(F32 * (before + numbers(size, channels))),
                // The input with a frame more, the same rearranged and its means, then the convolution twice.
                Downsample::Residual { .. } => {
                    let after = numbers(size, block.out_channels);
                    live.note(F32 * (before.max(longer) + longer + after));
                    live.note(F32 * (longer + 3 * after));
                    channels = block.out_channels;
                }
            }
        }
        if block.conv_out {
            live.resnet(numbers(size, channels), numbers(size, block.out_channels), false);
        }
        channels = block.out_channels;
        scratch = scratch.max(live.scratch(size, channels));
    }
    if layout.mid_layers > 0 {
        let all = numbers(size, channels);
        live.resnet(all, all, false);
    }
    let moments = numbers(size, config.latent_channels + 1);
    live.note(F32 * (numbers(size, channels) + 2 * moments));
    live.bytes() + scratch
}

/// Bytes of a result with `channels`.
pub(super) fn result(size: Size, channels: usize, batch: usize) -> u64 {
    F32 * volume(size) * channels as u64 * batch as u64
}
