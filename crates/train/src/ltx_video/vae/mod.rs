//! `diffusers` `AutoencoderKLLTXVideo` in the form of LTX-Video 0.9.5: space and time are folded into channels, and a
//! plain average of what was folded runs beside every convolution that does so.

mod blocks;
mod config;

pub use config::VaeConfig;

use tch::nn::Path;
use tch::{Kind, Tensor};

use blocks::{CausalConv3d, Downsampler, ResnetBlock3d, Upsampler, rms_norm};

/// Encoder and decoder.
#[derive(Debug)]
pub struct AutoencoderKLLTXVideo {
    encoder: Encoder,
    decoder: Decoder,
    latent_channels: i64,
}

/// What the encoder says about the latents.
#[derive(Debug)]
pub struct Posterior {
    /// `[B, C, f, h, w]`.
    pub mean: Tensor,
    /// Logarithm of the variance, `[B, 1, f, h, w]`: one value for all channels.
    pub logvar: Tensor,
}

impl Posterior {
    /// Latents drawn from libtorch's generator.
    pub fn sample(&self) -> Tensor {
        &self.mean + self.mean.randn_like() * (&self.logvar * 0.5).exp()
    }

    /// Distance from the standard normal distribution, the mean over all values.
    pub fn kl(&self) -> Tensor {
        let spread = self.logvar.exp() - 1.0 - &self.logvar;
        (self.mean.square().mean(Kind::Float) + spread.mean(Kind::Float)) * 0.5
    }
}

impl AutoencoderKLLTXVideo {
    /// Adds `encoder` and `decoder` below `path`.
    pub fn new(path: &Path, config: &VaeConfig) -> Self {
        Self {
            encoder: Encoder::new(&(path / "encoder"), config),
            decoder: Decoder::new(&(path / "decoder"), config),
            latent_channels: config.latent_channels,
        }
    }

    /// Clips `[B, 3, 4k + 1, H, W]` in −1..1 → the distribution of their latents, f32.
    pub fn encode(&self, clips: &Tensor) -> Posterior {
        let moments = self.encoder.forward(clips).to_kind(Kind::Float);
        Posterior {
            mean: moments.narrow(1, 0, self.latent_channels),
            logvar: moments.narrow(1, self.latent_channels, 1).clamp(-30.0, 20.0),
        }
    }

    /// Latents `[B, C, f, h, w]` → clips `[B, 3, 4(f − 1) + 1, H, W]` in −1..1, not clamped, f32.
    pub fn decode(&self, latents: &Tensor) -> Tensor {
        self.decoder.forward(latents).to_kind(Kind::Float)
    }

    /// Lets the decoder, which has seen single pictures only, begin with clips that stand still.
    pub fn inflate(&self) {
        for (upsampler, _) in &self.decoder.up_blocks {
            upsampler.inflate();
        }
    }
}

#[derive(Debug)]
struct Encoder {
    patch_size: i64,
    conv_in: CausalConv3d,
    down_blocks: Vec<(Vec<ResnetBlock3d>, Downsampler)>,
    mid_block: Vec<ResnetBlock3d>,
    conv_out: CausalConv3d,
}

impl Encoder {
    fn new(path: &Path, config: &VaeConfig) -> Self {
        let (widths, layers, causal) = (&config.block_out_channels, &config.layers_per_block, config.encoder_causal);
        let last = widths[widths.len() - 1];
        let down_blocks = (0..widths.len() - 1)
            .map(|i| {
                let block = path / "down_blocks" / i;
                let resnets = resnets(&(&block / "resnets"), layers[i], widths[i], causal);
                (resnets, Downsampler::new(&(&block / "downsamplers" / 0), widths[i], widths[i + 1], causal))
            })
            .collect();
        let conv_out = CausalConv3d::new(&(path / "conv_out"), last, config.latent_channels + 1, causal);
        conv_out.fix_last(config.initial_logvar);
        Self {
            patch_size: config.patch_size,
            conv_in: CausalConv3d::new(&(path / "conv_in"), 3 * config.patch_size.pow(2), widths[0], causal),
            down_blocks,
            mid_block: resnets(&(path / "mid_block" / "resnets"), layers[layers.len() - 1], last, causal),
            conv_out,
        }
    }

    fn forward(&self, clips: &Tensor) -> Tensor {
        let (size, p) = (clips.size(), self.patch_size);
        let (b, c, t, h, w) = (size[0], size[1], size[2], size[3], size[4]);
        let mut x = clips.reshape([b, c, t, h / p, p, w / p, p]).permute([0, 1, 6, 4, 2, 3, 5]).reshape([
            b,
            c * p * p,
            t,
            h / p,
            w / p,
        ]);
        x = self.conv_in.forward(&x);
        for (resnets, downsampler) in &self.down_blocks {
            x = through(resnets, x);
            x = downsampler.forward(&x);
        }
        x = through(&self.mid_block, x);
        self.conv_out.forward(&rms_norm(&x).silu())
    }
}

#[derive(Debug)]
struct Decoder {
    patch_size: i64,
    conv_in: CausalConv3d,
    mid_block: Vec<ResnetBlock3d>,
    up_blocks: Vec<(Upsampler, Vec<ResnetBlock3d>)>,
    conv_out: CausalConv3d,
}

impl Decoder {
    fn new(path: &Path, config: &VaeConfig) -> Self {
        let layers = &config.decoder_layers_per_block;
        let causal = config.decoder_causal;
        let widths: Vec<i64> = config.decoder_block_out_channels.iter().rev().copied().collect();
        let up_blocks = widths
            .iter()
            .enumerate()
            .map(|(i, &width)| {
                let block = path / "up_blocks" / i;
                let upsampler = Upsampler::new(&(&block / "upsamplers" / 0), width, causal);
                (upsampler, resnets(&(&block / "resnets"), layers[widths.len() - 1 - i], width / 2, causal))
            })
            .collect();
        let out = 3 * config.patch_size.pow(2);
        Self {
            patch_size: config.patch_size,
            conv_in: CausalConv3d::new(&(path / "conv_in"), config.latent_channels, widths[0], causal),
            mid_block: resnets(&(path / "mid_block" / "resnets"), layers[layers.len() - 1], widths[0], causal),
            up_blocks,
            conv_out: CausalConv3d::new(&(path / "conv_out"), widths[widths.len() - 1] / 2, out, causal),
        }
    }

    fn forward(&self, latents: &Tensor) -> Tensor {
        let mut x = through(&self.mid_block, self.conv_in.forward(latents));
        for (upsampler, resnets) in &self.up_blocks {
            x = through(resnets, upsampler.forward(&x));
        }
        x = self.conv_out.forward(&rms_norm(&x).silu());
        let (size, p) = (x.size(), self.patch_size);
        let (b, c, t, h, w) = (size[0], size[1] / (p * p), size[2], size[3], size[4]);
        x.reshape([b, c, p, p, t, h, w]).permute([0, 1, 4, 5, 3, 6, 2]).reshape([b, c, t, h * p, w * p])
    }
}

fn resnets(path: &Path, layers: i64, width: i64, causal: bool) -> Vec<ResnetBlock3d> {
    (0..layers).map(|i| ResnetBlock3d::new(&(path / i), width, causal)).collect()
}

fn through(resnets: &[ResnetBlock3d], x: Tensor) -> Tensor {
    resnets.iter().fold(x, |x, resnet| resnet.forward(&x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::nn::VarStore;
    use tch::{Device, no_grad};

    fn small() -> VaeConfig {
        VaeConfig {
            latent_channels: 4,
            block_out_channels: vec![8, 16, 32],
            decoder_block_out_channels: vec![16, 32],
            ..VaeConfig::default()
        }
    }

    #[test]
    fn what_is_encoded_never_looks_ahead() {
        let _generator = crate::generator();
        let vs = VarStore::new(Device::Cpu);
        let model = AutoencoderKLLTXVideo::new(&vs.root(), &small());
        let clips = Tensor::randn([2, 3, 9, 32, 32], (Kind::Float, Device::Cpu));
        let posterior = no_grad(|| model.encode(&clips));
        assert_eq!(posterior.mean.size(), [2, 4, 3, 2, 2]);
        assert!((posterior.logvar.mean(Kind::Float).double_value(&[]) + 5.0).abs() < 1e-6);
        let first = no_grad(|| model.encode(&clips.narrow(2, 0, 5)));
        assert!(first.mean.allclose(&posterior.mean.narrow(2, 0, 2), 1e-4, 1e-5, false));
        assert_eq!(no_grad(|| model.decode(&posterior.mean)).size(), [2, 3, 9, 32, 32]);
    }

    #[test]
    fn an_inflated_decoder_shows_a_picture_that_stands_still() {
        let _generator = crate::generator();
        let vs = VarStore::new(Device::Cpu);
        let model = AutoencoderKLLTXVideo::new(&vs.root(), &small());
        let latent = Tensor::randn([1, 4, 1, 2, 2], (Kind::Float, Device::Cpu));
        let picture = no_grad(|| model.decode(&latent));
        model.inflate();
        let clip = no_grad(|| model.decode(&latent.expand([1, 4, 3, 2, 2], false)));
        assert!(no_grad(|| model.decode(&latent)).allclose(&picture, 1e-4, 1e-5, false), "pictures stay as they were");
        assert!(clip.allclose(&picture.expand_as(&clip), 1e-3, 1e-4, false));
    }
}
