//! Between 8-bit pixels and the tensors that models take and make.

use sango_tensor::Tensor;

use crate::error::{ModelError, Result};

/// Interleaved 8-bit pixels, row by row, as `[1, channels, height, width]` in 0..1.
///
/// # Errors
/// When there are more or fewer bytes than that.
pub fn to_tensor(bytes: &[u8], channels: usize, (width, height): (u32, u32)) -> Result<Tensor> {
    let plane = |channel| bytes.iter().skip(channel).step_by(channels).map(|&byte| f32::from(byte) / 255.0);
    let values = (0..channels).flat_map(plane).collect();
    Ok(Tensor::from_vec(values, &[1, channels, height as usize, width as usize])?)
}

/// A picture of 8-bit RGB pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rgb8 {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// Red, green and blue of every pixel, row by row.
    pub bytes: Vec<u8>,
}

/// The first picture of `[B, 3, H, W]` in 0..1, rounded to 8 bits.
///
/// # Errors
/// When the tensor has another shape or type.
pub fn to_rgb8(images: &Tensor) -> Result<Rgb8> {
    let (height, width) = match *images.shape() {
        [batch, 3, height, width] if batch > 0 => (height, width),
        _ => {
            let detail = format!("have shape {:?}; pictures are [B, 3, H, W]", images.shape());
            return Err(ModelError::request("images", detail));
        }
    };
    let (values, plane) = (images.as_f32()?, height * width);
    let pixel = |at: usize| [0, 1, 2].map(|channel| (values[channel * plane + at] * 255.0).round() as u8);
    Ok(Rgb8 { width: width as u32, height: height as u32, bytes: (0..plane).flat_map(pixel).collect() })
}

/// The frames of the first video of `[B, 3, T, H, W]` in 0..1, each rounded to 8 bits when its turn comes.
///
/// # Errors
/// When the tensor has another shape or type.
pub fn to_rgb8_frames(videos: &Tensor) -> Result<impl ExactSizeIterator<Item = Rgb8> + '_> {
    let (frames, height, width) = match *videos.shape() {
        [batch, 3, frames, height, width] if batch > 0 => (frames, height, width),
        _ => {
            let detail = format!("has shape {:?}; videos are [B, 3, T, H, W]", videos.shape());
            return Err(ModelError::request("video", detail));
        }
    };
    let (values, plane) = (videos.as_f32()?, height * width);
    Ok((0..frames).map(move |frame| {
        let pixel = |at: usize| {
            [0, 1, 2].map(|c| (values[(c * frames + frame) * plane + at].clamp(0.0, 1.0) * 255.0).round() as u8)
        };
        Rgb8 { width: width as u32, height: height as u32, bytes: (0..plane).flat_map(pixel).collect() }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_in_their_order() {
        let of = |c: usize, frame: usize| [0.1 * c as f32, 0.2 * frame as f32];
        let values = (0..3).flat_map(|c| (0..2).flat_map(move |frame| of(c, frame))).collect();
        let video = Tensor::from_vec(values, &[1, 3, 2, 1, 2]).expect("a video");
        let frames: Vec<_> = to_rgb8_frames(&video).expect("frames").map(|frame| frame.bytes).collect();
        assert_eq!(frames, [vec![0, 26, 51, 0, 0, 0], vec![0, 26, 51, 51, 51, 51]]);
        let picture = Tensor::from_vec(vec![0.0; 3], &[1, 3, 1, 1]).expect("a picture");
        assert!(to_rgb8_frames(&picture).err().expect("four dimensions").to_string().contains("[1, 3, 1, 1]"));
    }

    #[test]
    fn bytes_come_back() {
        let bytes: Vec<u8> = (0..=255).cycle().take(3 * 17 * 16).collect();
        let tensor = to_tensor(&bytes, 3, (17, 16)).expect("as many bytes as pixels");
        assert_eq!(tensor.shape(), [1, 3, 16, 17]);
        assert_eq!(tensor.as_f32().expect("floats")[..3], [0.0, 3.0 / 255.0, 6.0 / 255.0], "red comes first");
        assert_eq!(to_rgb8(&tensor).expect("a picture"), Rgb8 { width: 17, height: 16, bytes });
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        assert!(to_tensor(&[0; 5], 3, (2, 1)).is_err());
        let grey = to_tensor(&[0, 128, 255], 1, (3, 1)).expect("a mask");
        assert!(to_rgb8(&grey).expect_err("one channel").to_string().contains("[1, 1, 1, 3]"));
    }
}
