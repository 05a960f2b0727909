//! Lightricks' autoencoders are lists of blocks; diffusers puts two or three of them into one. Which go together decides both
//! the configuration and the names of the tensors.

use serde_json::{Value, json};

use super::single_file::ConfigReader;
use crate::error::Result;

const MAX_BLOCKS: usize = 64;

/// The blocks of both halves, put together as diffusers has them.
pub(super) struct VaeBlocks {
    encoder: Half,
    decoder: Half,
}

/// The blocks of one half in the order in which they run.
struct Half {
    groups: Vec<Group>,
    /// Residual blocks of the middle block, which is the encoder's last and the decoder's first.
    mid_layers: usize,
    mid_noise: bool,
    /// Where each block of the file is in diffusers, without `encoder.` or `decoder.`.
    places: Vec<String>,
    /// Channels of the first convolution.
    first: usize,
}

/// One block of diffusers.
#[derive(Debug, Default, Clone)]
struct Group {
    layers: usize,
    noise: bool,
    has_resnets: bool,
    resample: Option<Resample>,
    /// Whether a residual block changes the number of channels.
    changes: bool,
    /// Channels after the block.
    width: usize,
}

#[derive(Debug, Clone, Copy)]
struct Resample {
    /// `downsample_type` of diffusers; `conv` for plain convolutions and for the decoder.
    kind: &'static str,
    residual: bool,
    factor: usize,
}

/// A block as the file lists it.
enum Block {
    ResX { layers: usize, noise: bool },
    ResXY { multiplier: usize },
    Compress(Resample),
}

impl VaeBlocks {
    pub(super) fn read(reader: &ConfigReader<'_>, vae: &Value) -> Result<Self> {
        reader.only("vae._class_name", &vae["_class_name"], &[json!("CausalVideoAutoencoder")])?;
        let list = |key: &str| if vae[key].is_null() { vae["blocks"].clone() } else { vae[key].clone() };
        let base = |field, key: &str| reader.size(field, &vae[key], Some(128));
        let encoder = blocks(reader, "vae.encoder_blocks", &list("encoder_blocks"), true)?;
        let mut decoder = blocks(reader, "vae.decoder_blocks", &list("decoder_blocks"), false)?;
        decoder.reverse();
        let encoder = encoder_half(reader, &encoder, base("vae.encoder_base_channels", "encoder_base_channels")?)?;
        let decoder = decoder_half(reader, &decoder, base("vae.decoder_base_channels", "decoder_base_channels")?)?;
        Ok(Self { encoder, decoder })
    }

    /// Whether the encoder is that of 0.9.5 and later.
    pub(super) fn is_095(&self) -> bool {
        self.encoder.groups.iter().any(|group| group.resample.is_some_and(|resample| resample.kind != "conv"))
    }

    /// `CausalVideoAutoencoder` → `AutoencoderKLLTXVideo`.
    pub(super) fn config(&self, reader: &ConfigReader<'_>, vae: &Value) -> Result<Value> {
        for (field, key, supported) in [
            ("vae.dims", "dims", json!(3)),
            ("vae.norm_layer", "norm_layer", json!("pixel_norm")),
            ("vae.latent_log_var", "latent_log_var", json!("uniform")),
            ("vae.use_quant_conv", "use_quant_conv", json!(false)),
            ("vae.normalize_latent_channels", "normalize_latent_channels", json!(false)),
            ("vae.spatial_padding_mode", "spatial_padding_mode", json!("zeros")),
        ] {
            reader.only(field, &vae[key], &[supported])?;
        }
        let patch = reader.size("vae.patch_size", &vae["patch_size"], Some(1))?;
        let (encoder, decoder) = (&self.encoder.groups, &self.decoder.groups);
        let scalings = |direction: &str| {
            let scales = |group: &&Group| group.resample.is_some_and(|resample| resample.kind != direction);
            encoder.iter().filter(scales).count().min(20)
        };
        let mut widths = vec![self.encoder.first];
        widths.extend(encoder.iter().map(|group| group.width));
        let kind = |group: &Group| group.resample.map_or("conv", |resample| resample.kind);
        let types: Vec<&str> = encoder
            .iter()
            .map(|group| if kind(group) == "conv" { "LTXVideoDownBlock3D" } else { "LTXVideo095DownBlock3D" })
            .collect();
        if types.last() != Some(&"LTXVideo095DownBlock3D") {
            widths.pop();
        }
        let mut layers: Vec<usize> = encoder.iter().map(|group| group.layers).collect();
        layers.push(self.encoder.mid_layers);
        // The decoder's lists are in the encoder's order.
        let decoder: Vec<&Group> = decoder.iter().rev().collect();
        let factor = |group: &Group| group.resample.map_or(1, |resample| resample.factor);
        let mut decoder_layers: Vec<usize> = decoder.iter().map(|group| group.layers).collect();
        decoder_layers.push(self.decoder.mid_layers);
        let mut noise: Vec<bool> = decoder.iter().map(|group| group.noise).collect();
        noise.push(self.decoder.mid_noise);
        Ok(json!({
            "_class_name": "AutoencoderKLLTXVideo",
            "in_channels": reader.size("vae.in_channels", &vae["in_channels"], Some(3))?,
            "out_channels": reader.size("vae.out_channels", &vae["out_channels"], Some(3))?,
            "latent_channels": reader.size("vae.latent_channels", &vae["latent_channels"], None)?,
            "block_out_channels": widths,
            "down_block_types": types,
            "downsample_type": encoder.iter().map(kind).collect::<Vec<_>>(),
            "layers_per_block": layers,
            "spatio_temporal_scaling": encoder.iter().map(|group| group.resample.is_some()).collect::<Vec<_>>(),
            "decoder_block_out_channels":
                decoder.iter().map(|group| group.width * factor(group)).collect::<Vec<_>>(),
            "decoder_layers_per_block": decoder_layers,
            "decoder_spatio_temporal_scaling":
                decoder.iter().map(|group| group.resample.is_some()).collect::<Vec<_>>(),
            "decoder_inject_noise": noise,
            "upsample_residual":
                decoder.iter().map(|group| group.resample.is_some_and(|r| r.residual)).collect::<Vec<_>>(),
            "upsample_factor": decoder.iter().map(|group| factor(group)).collect::<Vec<_>>(),
            "timestep_conditioning": vae["timestep_conditioning"].as_bool().unwrap_or(false),
            "patch_size": patch,
            "patch_size_t": 1,
            "resnet_norm_eps": 1e-6,
            "scaling_factor": vae["scaling_factor"].as_f64().unwrap_or(1.0),
            "encoder_causal": true,
            "decoder_causal": vae["causal_decoder"].as_bool().unwrap_or(false),
            "spatial_compression_ratio": patch.checked_shl(scalings("temporal") as u32),
            "temporal_compression_ratio": 1usize << scalings("spatial"),
        }))
    }

    /// The name that diffusers has for a tensor of the file (without `vae.`); nothing for statistics that it leaves out.
    pub(super) fn rename(&self, name: &str) -> Option<String> {
        if let Some(statistic) = name.strip_prefix("per_channel_statistics.") {
            return match statistic {
                "mean-of-means" => Some("latents_mean".into()),
                "std-of-means" => Some("latents_std".into()),
                _ => None,
            };
        }
        let block = |half: &str, list: &str, places: &[String]| {
            let rest = name.strip_prefix(half)?.strip_prefix(list)?;
            let (number, rest) = rest.split_once('.')?;
            let place = places.get(number.parse::<usize>().ok()?)?;
            Some(format!("{half}{place}.{rest}"))
        };
        let name = block("encoder.", "down_blocks.", &self.encoder.places)
            .or_else(|| block("decoder.", "up_blocks.", &self.decoder.places))
            .unwrap_or_else(|| name.to_owned());
        let parts = name.split('.').map(|part| match part {
            "res_blocks" => "resnets",
            "conv_shortcut" => "conv_shortcut.conv",
            "last_time_embedder" => "time_embedder",
            "last_scale_shift_table" => "scale_shift_table",
            part => part,
        });
        Some(parts.collect::<Vec<_>>().join(".").replace("norm3.norm.", "norm3."))
    }
}

/// A list of `[name, number of layers]` or `[name, {…}]`.
fn blocks(reader: &ConfigReader<'_>, field: &'static str, json: &Value, encoder: bool) -> Result<Vec<Block>> {
    let list = json.as_array().filter(|list| (1..=MAX_BLOCKS).contains(&list.len()));
    let list = list.ok_or_else(|| reader.error(field, format!("must list 1 to {MAX_BLOCKS} blocks")))?;
    list.iter()
        .map(|entry| {
            let (name, options) = (entry[0].as_str().unwrap_or_default(), &entry[1]);
            let number = |key: &str, default: usize| reader.size(field, &options[key], Some(default));
            let flag = |key: &str| options[key].as_bool().unwrap_or(false);
            let resample = |kind, factor| Block::Compress(Resample { kind, residual: flag("residual"), factor });
            Ok(match (name, encoder) {
                ("res_x", _) => {
                    let layers = if options.is_object() { &options["num_layers"] } else { options };
                    let layers = layers.as_u64().filter(|&layers| layers <= 256).ok_or_else(|| {
                        reader.error(field, format!("has a `res_x` of {layers} layers; 0 to 256 can be run"))
                    })?;
                    Block::ResX { layers: layers as usize, noise: flag("inject_noise") }
                }
                ("res_x_y", _) => Block::ResXY { multiplier: number("multiplier", 2)? },
                ("compress_all", true) => resample("conv", 1),
                ("compress_all", false) => resample("conv", number("multiplier", 1)?),
                ("compress_space_res", true) => resample("spatial", number("multiplier", 2)?),
                ("compress_time_res", true) => resample("temporal", number("multiplier", 2)?),
                ("compress_all_res", true) => resample("spatiotemporal", number("multiplier", 2)?),
                _ => {
                    let half = if encoder { "encoder" } else { "decoder" };
                    let detail = format!("names `{}`, which no {half} of 0.9.0 to 0.9.8 has", entry[0]);
                    return Err(reader.error(field, detail));
                }
            })
        })
        .collect()
}

/// Residual blocks, then what makes smaller, then a change of channels; the last residual blocks are the middle.
fn encoder_half(reader: &ConfigReader<'_>, blocks: &[Block], first: usize) -> Result<Half> {
    const FIELD: &str = "vae.encoder_blocks";
    let Some((Block::ResX { layers: mid_layers, .. }, blocks)) = blocks.split_last() else {
        return Err(reader.error(FIELD, "does not end with `res_x`"));
    };
    let mut groups: Vec<Group> = Vec::new();
    let (mut places, mut width) = (Vec::new(), first);
    for block in blocks {
        let fits = groups.last().is_some_and(|group| match block {
            Block::ResX { .. } => false,
            Block::Compress(_) => group.resample.is_none() && !group.changes,
            // What makes smaller and changes the channels at once leaves nothing to change.
            Block::ResXY { .. } => !group.changes && group.resample.is_none_or(|resample| resample.kind == "conv"),
        });
        if !fits {
            groups.push(Group { width, ..Group::default() });
        }
        let at = groups.len() - 1;
        let group = &mut groups[at];
        let place = match block {
            Block::ResX { layers, .. } => {
                (group.layers, group.has_resnets) = (*layers, true);
                format!("down_blocks.{at}")
            }
            Block::Compress(resample) => {
                group.resample = Some(*resample);
                width = times(reader, FIELD, width, resample.factor)?;
                format!("down_blocks.{at}.downsamplers.0")
            }
            Block::ResXY { multiplier } => {
                group.changes = *multiplier > 1;
                width = times(reader, FIELD, width, *multiplier)?;
                format!("down_blocks.{at}.conv_out")
            }
        };
        group.width = width;
        places.push(place);
    }
    // Before 0.9.5, diffusers has no way to say that the last block changes the number of channels; another one, empty,
    // makes it not the last.
    let plain = groups.last().is_none_or(|group| group.resample.is_none_or(|resample| resample.kind == "conv"));
    let before = groups.len().checked_sub(2).map_or(first, |n| groups[n].width);
    if plain && (before != width || groups.is_empty()) {
        groups.push(Group { width, ..Group::default() });
    }
    places.push("mid_block".into());
    Ok(Half { groups, mid_layers: *mid_layers, mid_noise: false, places, first })
}

/// The first residual blocks are the middle; then a change of channels, what enlarges, and residual blocks.
fn decoder_half(reader: &ConfigReader<'_>, blocks: &[Block], base: usize) -> Result<Half> {
    const FIELD: &str = "vae.decoder_blocks";
    let mut first = base;
    for block in blocks {
        first = match block {
            Block::ResX { .. } => first,
            Block::ResXY { multiplier } => times(reader, FIELD, first, *multiplier)?,
            Block::Compress(resample) => times(reader, FIELD, first, resample.factor)?,
        };
    }
    let Some((Block::ResX { layers: mid_layers, noise: mid_noise }, blocks)) = blocks.split_first() else {
        return Err(reader.error(FIELD, "does not end with `res_x`"));
    };
    let mut groups: Vec<Group> = Vec::new();
    let (mut places, mut width) = (vec!["mid_block".to_owned()], first);
    for block in blocks {
        let fits = groups.last().is_some_and(|group| match block {
            Block::ResXY { .. } => false,
            Block::Compress(resample) => {
                group.resample.is_none() && !group.has_resnets && !(group.changes && resample.factor > 1)
            }
            Block::ResX { .. } => !group.has_resnets,
        });
        if !fits {
            // What diffusers makes of the first entry is also the width of the middle, which must not change before.
            if groups.is_empty() && matches!(block, Block::ResXY { .. }) {
                groups.push(Group { width, ..Group::default() });
            }
            groups.push(Group { width, ..Group::default() });
        }
        let at = groups.len() - 1;
        let group = &mut groups[at];
        let place = match block {
            Block::ResXY { multiplier } => {
                group.changes = *multiplier > 1;
                width /= multiplier;
                format!("up_blocks.{at}.conv_in")
            }
            Block::Compress(resample) => {
                group.resample = Some(*resample);
                width /= resample.factor;
                format!("up_blocks.{at}.upsamplers.0")
            }
            Block::ResX { layers, noise } => {
                (group.layers, group.has_resnets, group.noise) = (*layers, true, *noise);
                format!("up_blocks.{at}")
            }
        };
        group.width = width;
        places.push(place);
    }
    if groups.is_empty() {
        groups.push(Group { width, ..Group::default() });
    }
    Ok(Half { groups, mid_layers: *mid_layers, mid_noise: *mid_noise, places, first })
}

fn times(reader: &ConfigReader<'_>, field: &'static str, width: usize, factor: usize) -> Result<usize> {
    width.checked_mul(factor).filter(|width| *width <= 1 << 24).ok_or_else(|| {
        reader.error(field, format!("makes {width} times {factor} channels; at most {} can be run", 1 << 24))
    })
}
