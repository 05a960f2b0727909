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

#[cfg(test)]
mod tests {
    use super::*;

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
