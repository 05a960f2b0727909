//! `LTXVideoDownsampler3d` and `LTXVideoUpsampler3d`, and the patches at both ends: neighbours become channels and channels
//! become neighbours.

use sango_tensor::{Tensor, Weights};

use super::causal_conv3d::LTXVideoCausalConv3d;
use crate::error::{ModelError, Result};

/// Halves the directions of `stride`: a convolution beside an average over groups of channels.
pub(super) struct LTXVideoDownsampler3d {
    conv: LTXVideoCausalConv3d,
    stride: [usize; 3],
    group_size: usize,
}

impl LTXVideoDownsampler3d {
    pub(super) fn load(
        weights: &Weights,
        in_channels: usize,
        out_channels: usize,
        stride: [usize; 3],
        is_causal: bool,
    ) -> Result<Self> {
        let steps: usize = stride.iter().product();
        let conv =
            LTXVideoCausalConv3d::load(&weights.pp("conv"), in_channels, out_channels / steps, 3, [1; 3], is_causal)?;
        Ok(Self { conv, stride, group_size: in_channels * steps / out_channels })
    }

    /// `[B, T, H, W, in_channels]` → `[B, T', H', W', out_channels]`, where `T'` is half of `T + 1`.
    pub(super) fn forward(&self, hidden_states: Tensor) -> Result<Tensor> {
        let mut hidden_states = hidden_states;
        if self.stride[0] > 1 {
            let first = hidden_states.narrow(1, 0, self.stride[0] - 1)?;
            hidden_states = Tensor::cat(&[&first, &hidden_states], 1)?;
        }
        let residual = self.group_means(&space_to_depth(&hidden_states, self.stride)?)?;
        let hidden_states = space_to_depth(&self.conv.forward(&hidden_states)?, self.stride)?;
        Ok(hidden_states.add(&residual)?)
    }

    fn group_means(&self, x: &Tensor) -> Result<Tensor> {
        let mut shape = x.shape().to_vec();
        if let Some(last) = shape.last_mut() {
            *last /= self.group_size;
        }
        let mut grouped = shape.clone();
        grouped.push(self.group_size);
        Ok(x.reshape(&grouped)?.mean(-1)?.reshape(&shape)?)
    }
}

/// Doubles the directions of `stride`: a convolution, beside the input itself where `residual`.
pub(super) struct LTXVideoUpsampler3d {
    conv: LTXVideoCausalConv3d,
    stride: [usize; 3],
    residual: bool,
    upscale_factor: usize,
}

impl LTXVideoUpsampler3d {
    pub(super) fn load(
        weights: &Weights,
        in_channels: usize,
        residual: bool,
        upscale_factor: usize,
        is_causal: bool,
    ) -> Result<Self> {
        let stride = [2; 3];
        let out_channels = in_channels * stride.iter().product::<usize>() / upscale_factor;
        let conv = LTXVideoCausalConv3d::load(&weights.pp("conv"), in_channels, out_channels, 3, [1; 3], is_causal)?;
        Ok(Self { conv, stride, residual, upscale_factor })
    }

    /// `[B, T, H, W, in_channels]` → `[B, 2 T − 1, 2 H, 2 W, in_channels / upscale_factor]`.
    pub(super) fn forward(&self, hidden_states: Tensor) -> Result<Tensor> {
        let convolved = self.conv.forward(&hidden_states)?;
        if !self.residual {
            drop(hidden_states);
            return self.enlarge(&convolved);
        }
        let residual = self.enlarge(&hidden_states)?;
        drop(hidden_states);
        let enlarged = self.enlarge(&convolved)?;
        drop(convolved);
        let shape = enlarged.shape().to_vec();
        let [batch, frames, height, width, channels] = residual.dims()?;
        let repeats = self.stride.iter().product::<usize>() / self.upscale_factor;
        // Repeated one after the other, as channels of the result.
        let enlarged = enlarged.reshape(&[batch, frames, height, width, repeats, channels])?;
        let residual = residual.reshape(&[batch, frames, height, width, 1, channels])?;
        Ok(enlarged.add(&residual)?.reshape(&shape)?)
    }

    /// Channels become neighbours, and what came before the first frame is left out.
    fn enlarge(&self, x: &Tensor) -> Result<Tensor> {
        let enlarged = depth_to_space(x, self.stride)?;
        let (skip, frames) = (self.stride[0] - 1, enlarged.dim(1)?);
        Ok(enlarged.narrow(1, skip, frames - skip)?)
    }
}

/// `[B, T, H, W, C]` → `[B, T / s, H / s, W / s, C · s · s · s]`, with the stride of each direction.
fn space_to_depth(x: &Tensor, [t, h, w]: [usize; 3]) -> Result<Tensor> {
    let [batch, frames, height, width, channels] = x.dims()?;
    if !(frames.is_multiple_of(t) && height.is_multiple_of(h) && width.is_multiple_of(w)) {
        let detail = format!(
            "cannot be made smaller: inside the encoder it has {frames} frames of {height} × {width}, which do not divide \
             by {t}, {h} and {w}"
        );
        return Err(ModelError::request("video", detail));
    }
    let split = x.reshape(&[batch, frames / t, t, height / h, h, width / w, w, channels])?;
    let moved = split.permute(&[0, 1, 3, 5, 7, 2, 4, 6])?;
    Ok(moved.reshape(&[batch, frames / t, height / h, width / w, channels * t * h * w])?)
}

/// `[B, T, H, W, C · s · s · s]` → `[B, T · s, H · s, W · s, C]`.
fn depth_to_space(x: &Tensor, [t, h, w]: [usize; 3]) -> Result<Tensor> {
    let [batch, frames, height, width, channels] = x.dims()?;
    let channels = channels / (t * h * w);
    let split = x.reshape(&[batch, frames, height, width, channels, t, h, w])?;
    let moved = split.permute(&[0, 1, 5, 2, 6, 3, 7, 4])?;
    Ok(moved.reshape(&[batch, frames * t, height * h, width * w, channels])?)
}

/// `[B, C, T, H, W]` → `[B, T, H / p, W / p, C · p · p]`. The reference puts columns of a patch before its rows.
pub(super) fn patchify(video: &Tensor, patch: usize) -> Result<Tensor> {
    let [batch, channels, frames, height, width] = video.dims()?;
    if !height.is_multiple_of(patch) || !width.is_multiple_of(patch) {
        let detail = format!("is {width} × {height}; both sides must be multiples of {patch}");
        return Err(ModelError::request("video", detail));
    }
    let (height, width) = (height / patch, width / patch);
    let split = video.reshape(&[batch, channels, frames, height, patch, width, patch])?;
    let moved = split.permute(&[0, 2, 3, 5, 1, 6, 4])?;
    Ok(moved.reshape(&[batch, frames, height, width, channels * patch * patch])?)
}

/// `[B, T, H, W, C · p_t · p · p]` → `[B, C, T · p_t, H · p, W · p]`.
pub(super) fn unpatchify(x: &Tensor, patch_t: usize, patch: usize) -> Result<Tensor> {
    let [batch, frames, height, width, channels] = x.dims()?;
    let channels = channels / (patch_t * patch * patch);
    let split = x.reshape(&[batch, frames, height, width, channels, patch_t, patch, patch])?;
    let moved = split.permute(&[0, 4, 1, 5, 2, 7, 3, 6])?;
    Ok(moved.reshape(&[batch, channels, frames * patch_t, height * patch, width * patch])?)
}
