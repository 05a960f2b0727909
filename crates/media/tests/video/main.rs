//! Video through the real `ffmpeg`: what people have, what an attacker sends, and what Sango writes.
#![cfg(unix)]

mod encoding;
mod formats;
mod hostile;
mod samples;
mod seeking;
