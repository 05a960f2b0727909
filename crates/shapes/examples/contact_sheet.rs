//! Draws a page of the world for the eyes: pictures of every shape (the last columns from the held-out split) on top,
//! one clip per motion below.
//!
//! `cargo run --release -p sango-shapes --example contact_sheet -- SHEET.png [SEED]`

use sango_shapes::{Clip, Motion, Prompt, Scene, Shape, render, rng};
use std::error::Error;

const CELL: usize = 64;
const COLUMNS: usize = 9;
const PICTURE_ROWS: usize = 8;
const GAP: usize = 2;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: contact_sheet SHEET.png [SEED]")?;
    let mut rng = rng(arguments.next().map_or(Ok(1), |seed| seed.parse())?);

    let mut cells: Vec<Vec<u8>> = Vec::new();
    for i in 0..COLUMNS * PICTURE_ROWS {
        let shape = Shape::ALL.get(i % COLUMNS).copied();
        let prompt = Prompt { shape, ..Prompt::default() };
        let scene =
            if shape.is_some() { Scene::for_prompt(&prompt, &mut rng) } else { Scene::sample_held_out(&mut rng) };
        cells.push(render(&scene, CELL));
    }
    for &motion in Motion::ALL {
        let clip = Clip::for_prompt(&Prompt { motion: Some(motion), ..Prompt::default() }, &mut rng);
        println!("{}", clip.caption());
        cells.extend(clip.render(COLUMNS, CELL));
    }

    let step = CELL + GAP;
    let (width, height) = (COLUMNS * step + GAP, cells.len() / COLUMNS * step + GAP);
    let mut sheet = image::RgbImage::from_pixel(width as u32, height as u32, image::Rgb([90, 70, 60]));
    for (i, cell) in cells.iter().enumerate() {
        let (left, top) = (i % COLUMNS * step + GAP, i / COLUMNS * step + GAP);
        for (n, pixel) in cell.chunks_exact(3).enumerate() {
            let (x, y) = (left + n % CELL, top + n / CELL);
            sheet.put_pixel(x as u32, y as u32, image::Rgb([pixel[0], pixel[1], pixel[2]]));
        }
    }
    sheet.save(&path)?;
    Ok(())
}
