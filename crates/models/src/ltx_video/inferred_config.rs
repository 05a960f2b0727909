//! What the names and shapes of a single file's tensors say about its configurations, for files without metadata.

use std::path::Path;

use sango_tensor::Weights;
use serde_json::{Value, json};

use crate::error::{ModelError, Result};

/// All published models have as many heads.
const NUM_ATTENTION_HEADS: usize = 32;

/// The configuration of diffusers for the transformer whose names begin with `prefix`.
pub(super) fn infer_transformer(path: &Path, weights: &Weights, prefix: &str) -> Result<Value> {
    let shape = |name: &str, dim: usize| -> Result<usize> {
        let shape = weights.shape(&format!("{prefix}{name}"))?;
        shape.get(dim).copied().ok_or_else(|| unknown(path, format!("`{name}` has {} dimensions", shape.len())))
    };
    let (inner, in_channels) = (shape("patchify_proj.weight", 0)?, shape("patchify_proj.weight", 1)?);
    if inner == 0 || !inner.is_multiple_of(2 * NUM_ATTENTION_HEADS) {
        return Err(unknown(path, format!("{inner} features do not divide into {NUM_ATTENTION_HEADS} heads")));
    }
    Ok(json!({
        "_class_name": "LTXVideoTransformer3DModel",
        "in_channels": in_channels,
        "out_channels": shape("proj_out.weight", 0)?,
        "patch_size": 1,
        "patch_size_t": 1,
        "num_attention_heads": NUM_ATTENTION_HEADS,
        "attention_head_dim": inner / NUM_ATTENTION_HEADS,
        "cross_attention_dim": shape("transformer_blocks.0.attn2.to_k.weight", 1)?,
        "num_layers": count(weights, &format!("{prefix}transformer_blocks.")),
        "caption_channels": shape("caption_projection.linear_1.weight", 1)?,
        "activation_fn": "gelu-approximate",
        "qk_norm": "rms_norm_across_heads",
        "norm_elementwise_affine": false,
        "norm_eps": 1e-6,
        "attention_bias": true,
        "attention_out_bias": true,
    }))
}

/// Lightricks' configuration of the autoencoder.
pub(super) fn infer_vae(path: &Path, vae: &Weights) -> Result<Value> {
    let shape = |name: &str| -> Result<Vec<usize>> {
        let shape = vae.shape(name)?;
        match shape.len() {
            5 => Ok(shape),
            dims => Err(unknown(path, format!("`vae.{name}` has {dims} dimensions where a convolution has 5"))),
        }
    };
    let timestep_conditioning = vae.contains("decoder.last_time_embedder.timestep_embedder.linear_1.weight");
    let patch_channels = shape("encoder.conv_in.conv.weight")?[1];
    let patch_size = (1..=64).find(|patch| 3 * patch * patch == patch_channels);
    let patch_size = patch_size.ok_or_else(|| {
        unknown(path, format!("its encoder reads {patch_channels} values, which are no patch of pixels"))
    })?;

    let mut encoder = Vec::new();
    let mut width = shape("encoder.conv_in.conv.weight")?[0];
    let encoder_base = width;
    for n in 0..count(vae, "encoder.down_blocks.") {
        let at = format!("encoder.down_blocks.{n}.");
        encoder.push(if let Some(layers) = layers(vae, &at) {
            json!(["res_x", { "num_layers": layers }])
        } else if vae.contains(&format!("{at}conv1.conv.weight")) {
            let wide = shape(&format!("{at}conv1.conv.weight"))?[0];
            let multiplier = ratio(path, wide, width)?;
            width = wide;
            json!(["res_x_y", { "multiplier": multiplier }])
        } else if vae.contains(&format!("{at}conv.weight")) {
            json!(["compress_all", 1])
        } else {
            let made = shape(&format!("{at}conv.conv.weight"))?[0];
            // What comes after tells how many channels there are, and so how many neighbours became channels.
            let after = format!("encoder.down_blocks.{}.res_blocks.0.conv1.conv.weight", n + 1);
            let wide = shape(&after)?[1];
            let name = match ratio(path, wide, made)? {
                2 => "compress_time_res",
                4 => "compress_space_res",
                8 => "compress_all_res",
                other => return Err(unknown(path, format!("`vae.{at}conv` makes one of {other} neighbours"))),
            };
            let multiplier = ratio(path, wide, width)?;
            width = wide;
            json!([name, { "multiplier": multiplier }])
        });
    }

    let mut decoder = Vec::new();
    let mut width = shape("decoder.conv_in.conv.weight")?[0];
    for n in 0..count(vae, "decoder.up_blocks.") {
        let at = format!("decoder.up_blocks.{n}.");
        decoder.push(if let Some(layers) = layers(vae, &at) {
            let noise = vae.contains(&format!("{at}res_blocks.0.per_channel_scale1"));
            json!(["res_x", { "num_layers": layers, "inject_noise": noise }])
        } else if vae.contains(&format!("{at}conv1.conv.weight")) {
            let narrow = shape(&format!("{at}conv1.conv.weight"))?[0];
            let multiplier = ratio(path, width, narrow)?;
            width = narrow;
            json!(["res_x_y", { "multiplier": multiplier }])
        } else {
            let shape = shape(&format!("{at}conv.conv.weight"))?;
            let multiplier = ratio(path, 8 * shape[1], shape[0])?;
            width /= multiplier;
            // No tensor tells whether what is enlarged is added; decoders that are told the time do.
            json!(["compress_all", { "residual": timestep_conditioning, "multiplier": multiplier }])
        });
    }
    decoder.reverse();
    Ok(json!({
        "_class_name": "CausalVideoAutoencoder",
        "latent_channels": shape("decoder.conv_in.conv.weight")?[1],
        "encoder_blocks": encoder,
        "decoder_blocks": decoder,
        "encoder_base_channels": encoder_base,
        "decoder_base_channels": width,
        "patch_size": patch_size,
        "timestep_conditioning": timestep_conditioning,
    }))
}

/// How many numbered entries of a list there are.
fn count(weights: &Weights, list: &str) -> usize {
    let numbers = weights.names().filter_map(|name| name.strip_prefix(list)?.split('.').next()?.parse::<usize>().ok());
    numbers.max().map_or(0, |last| last.saturating_add(1).min(1 << 10))
}

/// The number of residual blocks, where a block consists of them.
fn layers(vae: &Weights, at: &str) -> Option<usize> {
    Some(count(vae, &format!("{at}res_blocks."))).filter(|&layers| layers > 0)
}

/// `a / b`, which must be whole.
fn ratio(path: &Path, a: usize, b: usize) -> Result<usize> {
    match b {
        0 => Err(unknown(path, "a convolution has no channels".into())),
        _ if a >= b && a.is_multiple_of(b) => Ok(a / b),
        _ => Err(unknown(path, format!("{a} channels next to {b} are not of a known generation"))),
    }
}

fn unknown(path: &Path, detail: String) -> ModelError {
    let detail = format!(
        "is of an unknown generation: {detail}, and it has no metadata that would tell (0.9.0 to 0.9.8 are known)"
    );
    ModelError::UnknownModel { dir: path.to_owned(), detail }
}
