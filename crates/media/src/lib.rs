//! Images in and out of pixels, bounded against hostile input.
