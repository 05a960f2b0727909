//! Latents as the autoencoder has them, `[1, C, F, h, w]`, and as the transformer does, one token each: `[1, F · h · w, C]`.

use sango_tensor::Tensor;

use super::vae::AutoencoderKLLTXVideo;
use crate::error::Result;

/// `[1, C, F, h, w]` → `[1, F · h · w, C]`.
pub(super) fn pack(latents: &Tensor) -> Result<Tensor> {
    let [batch, channels, frames, height, width] = latents.dims()?;
    Ok(latents.reshape(&[batch, channels, frames * height * width])?.transpose(1, 2)?)
}

/// `[1, F · h · w, C]` → `[1, C, F, h, w]`.
pub(super) fn unpack(tokens: &Tensor, [frames, height, width]: [usize; 3]) -> Result<Tensor> {
    let [batch, _, channels] = tokens.dims()?;
    Ok(tokens.transpose(1, 2)?.reshape(&[batch, channels, frames, height, width])?)
}

/// Latents of the autoencoder with the mean and deviation that the transformer was trained with. The factor of the
/// autoencoder is only undone afterwards, as in the pipelines.
pub(super) fn normalize(latents: &Tensor, vae: &AutoencoderKLLTXVideo) -> Result<Tensor> {
    let by_channel = |values: &[f32]| Tensor::from_vec(values.to_vec(), &[1, values.len(), 1, 1, 1]);
    Ok(latents.sub(&by_channel(vae.latents_mean())?)?.div(&by_channel(vae.latents_std())?)?)
}

/// Latents as the decoder takes them.
pub(super) fn denormalize(latents: &Tensor, vae: &AutoencoderKLLTXVideo) -> Result<Tensor> {
    let by_channel = |values: &[f32]| Tensor::from_vec(values.to_vec(), &[1, values.len(), 1, 1, 1]);
    let scaled = latents.mul(&by_channel(vae.latents_std())?)?;
    let scaling_factor = vae.scaling_factor();
    let scaled = if scaling_factor == 1.0 { scaled } else { scaled.mul_scalar(1.0 / scaling_factor)? };
    Ok(scaled.add(&by_channel(vae.latents_mean())?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_puts_channels_last() {
        let latents = Tensor::from_vec((0..24).map(|x| x as f32).collect(), &[1, 2, 3, 2, 2]).expect("latents");
        let tokens = pack(&latents).expect("packed");
        assert_eq!(
            (tokens.shape(), &tokens.as_f32().expect("f32")[..4]),
            (&[1, 12, 2][..], &[0.0, 12.0, 1.0, 13.0][..])
        );
        let back = unpack(&tokens, [3, 2, 2]).expect("unpacked");
        assert_eq!(back.as_f32().expect("f32"), latents.as_f32().expect("f32"));
    }
}
