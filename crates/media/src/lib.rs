//! Images and video in and out of pixels, bounded against hostile input.
//!
//! ```
//! use sango_media::{Limits, RgbImage, encode_png, load_image_bytes, preview_png};
//!
//! let picture = RgbImage::from_pixel(64, 48, image::Rgb([200, 30, 30]));
//! let png = encode_png(&picture, &[("prompt", "珊瑚")])?;
//! assert_eq!(load_image_bytes(&png, &Limits::default())?, picture);
//! assert!(preview_png(&picture, 16)?.len() < png.len());
//! # Ok::<(), sango_media::MediaError>(())
//! ```

mod atomic;
mod error;
mod gif_file;
mod jpeg_file;
mod jpeg_pixels;
mod load;
mod png_file;
mod resize;
mod sniff;
mod strip;
mod video;

pub use atomic::write_atomic;
pub use error::MediaError;
pub use gif_file::encode_gif;
pub use image::{GrayImage, Rgb, RgbImage};
pub use jpeg_file::{encode_jpeg, preview_jpeg};
pub use load::{Limits, MediaFormat, Probe, load_image, load_image_bytes, load_mask, load_mask_bytes, probe};
pub use png_file::{encode_png, save_png};
pub use resize::{Filter, cover, fit_within, preview_png, resize, resize_mask};
pub use sniff::{MediaKind, sniff, sniff_file};
pub use strip::strip;
pub use video::{
    EncodeOptions, FrameRate, Mp4Encoder, OddSize, StopCheck, Video, VideoFrame, VideoInfo, VideoLimits, encode_mp4,
    ffmpeg_version,
};
