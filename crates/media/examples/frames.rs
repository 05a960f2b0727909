//! `frames FILE [INDEX…]`: what is known of a video, and the time and sum of the given frames (by default all).

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use sango_media::{Video, VideoLimits};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: frames FILE [INDEX…]")?;
    let began = Instant::now();
    let video = Video::open(Path::new(&path), &VideoLimits::default())?;
    println!("{:?}", video.info());
    let opened = began.elapsed();
    let mut indices = arguments.map(|index| index.parse()).collect::<Result<Vec<usize>, _>>()?;
    if indices.is_empty() {
        indices = (0..video.info().frames).collect();
    }
    let mut given = 0;
    video.read_frames(&indices, &mut |frame| {
        given += 1;
        let sum: u64 = frame.image.iter().map(|&value| u64::from(value)).sum();
        println!("{} {:.6} {sum}{}", frame.index, frame.time, if frame.substitute { " substitute" } else { "" });
        ControlFlow::Continue(())
    })?;
    eprintln!(
        "opened in {:.3} s, {given} frames in {:.3} s",
        opened.as_secs_f64(),
        (began.elapsed() - opened).as_secs_f64()
    );
    Ok(())
}
