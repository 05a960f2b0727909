//! `diffusers` `VQModel`: pictures to a grid of codes and back.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tch::nn::{Path, VarStore};
use tch::{Device, Kind, Tensor};

use crate::files::read_json;
use crate::nn::{Conv2d, Downsample2D, Embedding, GroupNorm, ResnetBlock2D, Upsample2D};

/// The fields of `vqvae/config.json` that a training run chooses.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct VqConfig {
    /// Width of each level; every level but the last halves the size.
    pub block_out_channels: Vec<i64>,
    /// Resnets per level of the encoder; the decoder has one more.
    pub layers_per_block: i64,
    /// Channels of the latent before and after quantisation.
    pub latent_channels: i64,
    /// Dimensions of a code.
    pub vq_embed_dim: i64,
    /// Number of codes.
    pub num_vq_embeddings: i64,
    /// Groups of the group norms.
    pub norm_num_groups: i64,
    /// Picture size in pixels.
    pub sample_size: i64,
}

impl Default for VqConfig {
    fn default() -> Self {
        Self {
            block_out_channels: vec![32, 32, 32, 32],
            layers_per_block: 0,
            latent_channels: 16,
            vq_embed_dim: 16,
            num_vq_embeddings: 512,
            norm_num_groups: 8,
            sample_size: 64,
        }
    }
}

impl VqConfig {
    /// How many pixels one code spans along an edge.
    pub fn scale_factor(&self) -> i64 {
        1 << (self.block_out_channels.len() as i64 - 1)
    }

    /// Codes along an edge of the picture.
    pub fn grid(&self) -> i64 {
        self.sample_size / self.scale_factor()
    }
}

/// The two resnets between the levels and the latent (no attention, as in the published aMUSEd checkpoints).
#[derive(Debug)]
struct MidBlock {
    resnets: [ResnetBlock2D; 2],
}

impl MidBlock {
    fn new(path: &Path, channels: i64, groups: i64) -> Self {
        let resnets = path / "resnets";
        Self { resnets: [0, 1].map(|i| ResnetBlock2D::new(&(&resnets / i), channels, channels, groups)) }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        self.resnets[1].forward(&self.resnets[0].forward(x))
    }
}

#[derive(Debug)]
struct DownEncoderBlock2D {
    resnets: Vec<ResnetBlock2D>,
    downsampler: Option<Downsample2D>,
}

#[derive(Debug)]
struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<DownEncoderBlock2D>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    fn new(path: &Path, config: &VqConfig) -> Self {
        let groups = config.norm_num_groups;
        let widths = &config.block_out_channels;
        let last = widths[widths.len() - 1];
        let mut inputs = widths[0];
        let mut down_blocks = Vec::new();
        for (i, &outputs) in widths.iter().enumerate() {
            let block = path / "down_blocks" / i as i64;
            let mut resnets = Vec::new();
            for j in 0..config.layers_per_block {
                let resnet = &block / "resnets" / j;
                resnets.push(ResnetBlock2D::new(&resnet, inputs, outputs, groups));
                inputs = outputs;
            }
            let downsampler =
                (i + 1 < widths.len()).then(|| Downsample2D::new(&(&block / "downsamplers" / 0), outputs));
            down_blocks.push(DownEncoderBlock2D { resnets, downsampler });
        }
        Self {
            conv_in: Conv2d::new(&(path / "conv_in"), 3, widths[0], 3),
            down_blocks,
            mid_block: MidBlock::new(&(path / "mid_block"), last, groups),
            conv_norm_out: GroupNorm::new(&(path / "conv_norm_out"), groups, last, 1e-6),
            conv_out: Conv2d::new(&(path / "conv_out"), last, config.latent_channels, 3),
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let mut h = self.conv_in.forward(x);
        for block in &self.down_blocks {
            for resnet in &block.resnets {
                h = resnet.forward(&h);
            }
            if let Some(downsampler) = &block.downsampler {
                h = downsampler.forward(&h);
            }
        }
        let h = self.mid_block.forward(&h);
        self.conv_out.forward(&self.conv_norm_out.forward(&h).silu())
    }
}

#[derive(Debug)]
struct UpDecoderBlock2D {
    resnets: Vec<ResnetBlock2D>,
    upsampler: Option<Upsample2D>,
}

#[derive(Debug)]
struct Decoder {
    conv_in: Conv2d,
    mid_block: MidBlock,
    up_blocks: Vec<UpDecoderBlock2D>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    fn new(path: &Path, config: &VqConfig) -> Self {
        let groups = config.norm_num_groups;
        let widths: Vec<i64> = config.block_out_channels.iter().rev().copied().collect();
        let first = widths[widths.len() - 1];
        let mut inputs = widths[0];
        let mut up_blocks = Vec::new();
        for (i, &outputs) in widths.iter().enumerate() {
            let block = path / "up_blocks" / i as i64;
            let mut resnets = Vec::new();
            for j in 0..=config.layers_per_block {
                let resnet = &block / "resnets" / j;
                resnets.push(ResnetBlock2D::new(&resnet, inputs, outputs, groups));
                inputs = outputs;
            }
            let upsampler = (i + 1 < widths.len()).then(|| Upsample2D::new(&(&block / "upsamplers" / 0), outputs));
            up_blocks.push(UpDecoderBlock2D { resnets, upsampler });
        }
        Self {
            conv_in: Conv2d::new(&(path / "conv_in"), config.latent_channels, widths[0], 3),
            mid_block: MidBlock::new(&(path / "mid_block"), widths[0], groups),
            up_blocks,
            conv_norm_out: GroupNorm::new(&(path / "conv_norm_out"), groups, first, 1e-6),
            conv_out: Conv2d::new(&(path / "conv_out"), first, 3, 3),
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let mut h = self.mid_block.forward(&self.conv_in.forward(x));
        for block in &self.up_blocks {
            for resnet in &block.resnets {
                h = resnet.forward(&h);
            }
            if let Some(upsampler) = &block.upsampler {
                h = upsampler.forward(&h);
            }
        }
        self.conv_out.forward(&self.conv_norm_out.forward(&h).silu())
    }
}

/// The whole model; pixels are RGB in 0..1, as aMUSEd's pipelines feed and read them.
#[derive(Debug)]
pub struct VqModel {
    encoder: Encoder,
    quant_conv: Conv2d,
    quantize: Embedding,
    post_quant_conv: Conv2d,
    decoder: Decoder,
}

impl VqModel {
    /// Adds all variables below `path`. The codebook is not trained by gradient: see [`super::codebook`].
    pub fn new(path: &Path, config: &VqConfig) -> Self {
        let (latent, dim) = (config.latent_channels, config.vq_embed_dim);
        let codes = config.num_vq_embeddings;
        Self {
            encoder: Encoder::new(&(path / "encoder"), config),
            quant_conv: Conv2d::new(&(path / "quant_conv"), latent, dim, 1),
            quantize: Embedding::new(&(path / "quantize" / "embedding"), codes, dim, 0.1),
            post_quant_conv: Conv2d::new(&(path / "post_quant_conv"), dim, latent, 1),
            decoder: Decoder::new(&(path / "decoder"), config),
        }
    }

    /// The model that training left in `dir` (`vq.json`, `vq.safetensors`), fixed.
    ///
    /// # Errors
    /// When it is not there or not complete.
    pub fn open(dir: &std::path::Path) -> Result<(Self, VqConfig)> {
        let config: VqConfig = read_json(&dir.join("vq.json"))?;
        let mut vs = VarStore::new(Device::Cpu);
        let model = Self::new(&vs.root(), &config);
        vs.freeze();
        vs.read_safetensors(dir.join("vq.safetensors"))?;
        Ok((model, config))
    }

    /// Pixels `[N, 3, H, W]` → latents before quantisation `[N, dim, h, w]`.
    pub fn encode(&self, pixels: &Tensor) -> Tensor {
        self.quant_conv.forward(&self.encoder.forward(pixels))
    }

    /// Latents `[N, dim, h, w]`, quantised or not → pixels `[N, 3, H, W]`, not clamped.
    pub fn decode(&self, latents: &Tensor) -> Tensor {
        self.decoder.forward(&self.post_quant_conv.forward(latents))
    }

    /// The codebook `[codes, dim]`.
    pub fn codebook(&self) -> &Tensor {
        &self.quantize.weight
    }

    /// Nearest code of each latent vector: `[N, dim, h, w]` → ids `[N, h, w]`.
    pub fn nearest(&self, latents: &Tensor) -> Tensor {
        let (n, dim, h, w) = latents.size4().unwrap_or((0, 0, 0, 0));
        let flat = latents.permute([0, 2, 3, 1]).reshape([n * h * w, dim]);
        nearest_codes(&flat, self.codebook()).view([n, h, w])
    }

    /// Codes `[N, h, w]` → latents `[N, dim, h, w]`.
    pub fn lookup(&self, ids: &Tensor) -> Tensor {
        self.quantize.forward(ids).permute([0, 3, 1, 2])
    }

    /// Pixels `[N, 3, H, W]` → codes `[N, h, w]`.
    pub fn tokenize(&self, pixels: &Tensor) -> Tensor {
        tch::no_grad(|| self.nearest(&self.encode(pixels)))
    }

    /// Codes `[N, h, w]` → pixels `[N, 3, H, W]` in 0..1.
    pub fn detokenize(&self, ids: &Tensor) -> Tensor {
        tch::no_grad(|| self.decode(&self.lookup(ids)).clamp(0.0, 1.0))
    }
}

/// Index of the nearest row of `codebook` `[K, D]` for each row of `flat` `[M, D]`.
pub fn nearest_codes(flat: &Tensor, codebook: &Tensor) -> Tensor {
    tch::no_grad(|| {
        let flat = flat.detach();
        let norms = codebook.square().sum_dim_intlist([-1i64].as_slice(), false, Kind::Float);
        // |x - c|² without |x|², which does not change the order.
        (norms - flat.matmul(&codebook.transpose(0, 1)) * 2.0).argmin(-1, false)
    })
}
