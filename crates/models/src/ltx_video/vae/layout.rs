//! What a configuration means, block by block: checked once, then followed by what loads the layers and by what estimates
//! their memory.

use super::AutoencoderKLLTXVideoConfig;
use crate::config::Config;
use crate::error::Result;

/// More blocks than this halve a side of a million pixels to one.
const MAX_BLOCKS: usize = 16;
const MAX_LAYERS: usize = 256;

/// The encoder's blocks and the decoder's, each in the order in which they run.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) encoder: EncoderLayout,
    pub(super) decoder: DecoderLayout,
}

#[derive(Debug, Clone)]
pub(super) struct EncoderLayout {
    /// Channels of a patch.
    pub(super) patch_channels: usize,
    /// Channels after the first convolution.
    pub(super) first: usize,
    pub(super) blocks: Vec<DownBlock>,
    /// Channels and residual blocks of the middle block, the last one here.
    pub(super) last: usize,
    pub(super) mid_layers: usize,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct DownBlock {
    pub(super) in_channels: usize,
    pub(super) out_channels: usize,
    pub(super) layers: usize,
    pub(super) downsample: Option<Downsample>,
    /// Whether a residual block at the end changes the number of channels.
    pub(super) conv_out: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Downsample {
    /// A convolution with stride 2 in all directions.
    Conv,
    /// A convolution beside an average, both with neighbours moved into channels.
    Residual { stride: [usize; 3] },
}

impl Downsample {
    pub(super) fn stride(self) -> [usize; 3] {
        match self {
            Self::Conv => [2; 3],
            Self::Residual { stride } => stride,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct DecoderLayout {
    /// Channels and residual blocks of the middle block, the first one here.
    pub(super) first: usize,
    pub(super) mid_layers: usize,
    pub(super) mid_noise: bool,
    pub(super) blocks: Vec<UpBlock>,
    pub(super) last: usize,
    /// Channels of a patch.
    pub(super) patch_channels: usize,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct UpBlock {
    /// Channels of what comes in, divided by the factor of `upsample`: what `conv_in` and the time embedding are made for.
    pub(super) in_channels: usize,
    pub(super) out_channels: usize,
    pub(super) layers: usize,
    pub(super) inject_noise: bool,
    /// Whether a residual block at the beginning changes the number of channels.
    pub(super) conv_in: bool,
    pub(super) upsample: Option<Upsample>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Upsample {
    pub(super) residual: bool,
    pub(super) factor: usize,
}

impl Layout {
    /// # Errors
    /// [`crate::ModelError::Config`] naming the key that is wrong.
    pub(super) fn new(config: &Config<AutoencoderKLLTXVideoConfig>) -> Result<Self> {
        let c = &config.value;
        for (field, value) in [
            ("in_channels", c.in_channels),
            ("out_channels", c.out_channels),
            ("latent_channels", c.latent_channels),
            ("spatial_compression_ratio", c.spatial_compression_ratio.unwrap_or(1)),
            ("temporal_compression_ratio", c.temporal_compression_ratio.unwrap_or(1)),
        ] {
            config.positive(field, value)?;
        }
        for (field, value) in [("patch_size", c.patch_size), ("patch_size_t", c.patch_size_t)] {
            if !(1..=64).contains(&value) {
                return Err(config.error(field, format!("is {value}; it must be between 1 and 64")));
            }
        }
        config.eps("resnet_norm_eps", c.resnet_norm_eps)?;
        if !c.scaling_factor.is_finite() || c.scaling_factor == 0.0 {
            let detail = format!("is {}; it must be a number other than 0", c.scaling_factor);
            return Err(config.error("scaling_factor", detail));
        }
        let pixels = c.patch_size * c.patch_size;
        let layout = Self { encoder: encoder(config, pixels)?, decoder: decoder(config, pixels)? };
        config.multiple("out_channels", layout.decoder.patch_channels, "patch_size_t", c.patch_size_t)?;
        Ok(layout)
    }
}

/// The entry `index` of a list that must have at least `blocks` (and `extra`) entries.
struct Lists<'a> {
    config: &'a Config<AutoencoderKLLTXVideoConfig>,
}

impl Lists<'_> {
    fn at_least<T>(&self, field: &'static str, list: &[T], needed: usize) -> Result<()> {
        if list.len() >= needed {
            return Ok(());
        }
        Err(self.config.error(field, format!("has {} entries; this many blocks need {needed}", list.len())))
    }

    fn blocks(&self, field: &'static str, blocks: usize) -> Result<()> {
        if (1..=MAX_BLOCKS).contains(&blocks) {
            return Ok(());
        }
        Err(self.config.error(field, format!("makes {blocks} blocks; 1 to {MAX_BLOCKS} are supported")))
    }

    fn widths(&self, field: &'static str, widths: &[usize]) -> Result<()> {
        widths.iter().try_for_each(|&width| self.config.positive(field, width))
    }

    fn layers(&self, field: &'static str, layers: &[usize]) -> Result<()> {
        match layers.iter().find(|&&layers| layers > MAX_LAYERS) {
            None => Ok(()),
            Some(layers) => Err(self.config.error(field, format!("has {layers} layers; at most {MAX_LAYERS} are run"))),
        }
    }
}

fn encoder(config: &Config<AutoencoderKLLTXVideoConfig>, pixels: usize) -> Result<EncoderLayout> {
    let (c, lists) = (&config.value, Lists { config });
    let is_095 = c.down_block_types.last().is_some_and(|name| name == "LTXVideo095DownBlock3D");
    let blocks = c.block_out_channels.len().saturating_sub(usize::from(is_095));
    lists.blocks("block_out_channels", blocks)?;
    lists.widths("block_out_channels", &c.block_out_channels)?;
    lists.at_least("down_block_types", &c.down_block_types, blocks)?;
    lists.at_least("spatio_temporal_scaling", &c.spatio_temporal_scaling, blocks)?;
    lists.at_least("layers_per_block", &c.layers_per_block, blocks + 1)?;
    lists.layers("layers_per_block", &c.layers_per_block)?;
    let first = c.block_out_channels[0];
    let (mut width, mut made) = (first, Vec::new());
    for n in 0..blocks {
        let in_channels = width;
        width = c.block_out_channels[if is_095 { n + 1 } else { (n + 1).min(blocks - 1) }];
        let scales = c.spatio_temporal_scaling[n];
        let (downsample, conv_out) = match c.down_block_types[n].as_str() {
            "LTXVideoDownBlock3D" => (scales.then_some(Downsample::Conv), in_channels != width),
            "LTXVideo095DownBlock3D" => {
                lists.at_least("downsample_type", &c.downsample_type, n + 1)?;
                let downsample = match scales {
                    true => Some(downsample_type(config, &c.downsample_type[n], in_channels, width)?),
                    false => None,
                };
                let keeps = !matches!(downsample, Some(Downsample::Residual { .. }));
                if keeps && in_channels != width {
                    let detail = format!("goes from {in_channels} to {width} in a block that cannot change it");
                    return Err(config.error("block_out_channels", detail));
                }
                (downsample, false)
            }
            other => {
                let known = "LTXVideoDownBlock3D and LTXVideo095DownBlock3D";
                return Err(config.error("down_block_types", format!("names a `{other}`; known are {known}")));
            }
        };
        let layers = c.layers_per_block[n];
        made.push(DownBlock { in_channels, out_channels: width, layers, downsample, conv_out });
    }
    let mid_layers = *c.layers_per_block.last().unwrap_or(&0);
    Ok(EncoderLayout { patch_channels: c.in_channels * pixels, first, blocks: made, last: width, mid_layers })
}

fn downsample_type(
    config: &Config<AutoencoderKLLTXVideoConfig>,
    name: &str,
    in_channels: usize,
    out_channels: usize,
) -> Result<Downsample> {
    let stride = match name {
        "conv" => return Ok(Downsample::Conv),
        "spatial" => [1, 2, 2],
        "temporal" => [2, 1, 1],
        "spatiotemporal" => [2, 2, 2],
        other => {
            let known = "conv, spatial, temporal and spatiotemporal";
            return Err(config.error("downsample_type", format!("names \"{other}\"; known are {known}")));
        }
    };
    let steps: usize = stride.iter().product();
    if !out_channels.is_multiple_of(steps) || !(in_channels * steps).is_multiple_of(out_channels) {
        let detail = format!(
            "goes from {in_channels} to {out_channels}, which a {name} step cannot do: the new number must be a multiple \
             of {steps} and divide {}",
            in_channels * steps
        );
        return Err(config.error("block_out_channels", detail));
    }
    Ok(Downsample::Residual { stride })
}

fn decoder(config: &Config<AutoencoderKLLTXVideoConfig>, pixels: usize) -> Result<DecoderLayout> {
    let (c, lists) = (&config.value, Lists { config });
    let blocks = c.decoder_block_out_channels.len();
    lists.blocks("decoder_block_out_channels", blocks)?;
    lists.widths("decoder_block_out_channels", &c.decoder_block_out_channels)?;
    lists.at_least("decoder_spatio_temporal_scaling", &c.decoder_spatio_temporal_scaling, blocks)?;
    lists.at_least("decoder_layers_per_block", &c.decoder_layers_per_block, blocks + 1)?;
    lists.layers("decoder_layers_per_block", &c.decoder_layers_per_block)?;
    lists.at_least("decoder_inject_noise", &c.decoder_inject_noise, blocks + 1)?;
    lists.at_least("upsample_residual", &c.upsample_residual, blocks)?;
    lists.at_least("upsample_factor", &c.upsample_factor, blocks)?;
    // The lists are in the encoder's order.
    let widths: Vec<usize> = c.decoder_block_out_channels.iter().rev().copied().collect();
    let layers: Vec<usize> = c.decoder_layers_per_block.iter().rev().copied().collect();
    let noise: Vec<bool> = c.decoder_inject_noise.iter().rev().copied().collect();
    let factors: Vec<usize> = c.upsample_factor.iter().rev().copied().collect();
    let scales: Vec<bool> = c.decoder_spatio_temporal_scaling.iter().rev().copied().collect();
    let residual: Vec<bool> = c.upsample_residual.iter().rev().copied().collect();
    let (mut width, mut made) = (widths[0], Vec::new());
    for n in 0..blocks {
        let (before, factor) = (width, factors[n]);
        config.positive("upsample_factor", factor)?;
        let in_channels = before / factor;
        width = widths[n] / factor;
        let upsample = scales[n].then_some(Upsample { residual: residual[n], factor });
        let block = UpBlock {
            in_channels,
            out_channels: width,
            layers: layers[n + 1],
            inject_noise: noise[n + 1],
            conv_in: in_channels != width,
            upsample,
        };
        check_up_block(config, &block, before, factor)?;
        made.push(block);
    }
    Ok(DecoderLayout {
        first: widths[0],
        mid_layers: layers[0],
        mid_noise: noise[0],
        blocks: made,
        last: width,
        patch_channels: c.out_channels * pixels,
    })
}

/// Whether a block fits what comes before it: `before` channels.
fn check_up_block(
    config: &Config<AutoencoderKLLTXVideoConfig>,
    block: &UpBlock,
    before: usize,
    factor: usize,
) -> Result<()> {
    let error = |field, detail: String| Err(config.error(field, detail));
    let width = block.out_channels;
    if width == 0 {
        return error("upsample_factor", format!("is {factor}, more than the channels it divides"));
    }
    if factor > 1 && (block.conv_in || before != width * factor || block.upsample.is_none()) {
        let detail =
            format!("is {factor} in a block from {before} to {width} channels; it can only divide what it enlarges");
        return error("upsample_factor", detail);
    }
    if block.conv_in && config.value.timestep_conditioning {
        let detail = "is true, and a block that changes the number of channels cannot be told the time";
        return error("timestep_conditioning", detail.into());
    }
    if block.conv_in && block.inject_noise && block.in_channels != 1 {
        let detail = "is true for a block that changes the number of channels, which cannot be";
        return error("decoder_inject_noise", detail.into());
    }
    if let Some(Upsample { residual, factor }) = block.upsample {
        let wide = width * factor;
        if !(wide * 8).is_multiple_of(8 * factor)
            || (residual && (!wide.is_multiple_of(8) || !8usize.is_multiple_of(factor)))
        {
            let detail = format!("is {factor} for {wide} channels, which do not divide that way");
            return error("upsample_factor", detail);
        }
    }
    Ok(())
}
