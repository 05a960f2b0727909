//! What a person watching a run sees: a progress bar, a JSONL log and a picture of the loss curve.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use plotters::prelude::*;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// Log and progress of one stage.
#[derive(Debug)]
pub struct Report {
    bar: ProgressBar,
    log: File,
    path: PathBuf,
    started: Instant,
    before: Duration,
}

impl Report {
    /// Notes the options in `dir/stage.options.json` and opens `dir/stage.jsonl` for appending, dropping lines from `step` on (a resumed run writes them again).
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn open(dir: &Path, stage: &str, options: &impl Serialize, step: u64, total: u64) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        std::fs::write(dir.join(format!("{stage}.options.json")), serde_json::to_string_pretty(options)?)?;
        let path = dir.join(format!("{stage}.jsonl"));
        let old = std::fs::read_to_string(&path).unwrap_or_default();
        let kept: Vec<(&str, Value)> = old
            .lines()
            .filter_map(|line| Some((line, serde_json::from_str::<Value>(line).ok()?)))
            .filter(|(_, v)| v["step"].as_u64().is_some_and(|s| s <= step && step > 0))
            .collect();
        let before = kept.last().and_then(|(_, v)| v["seconds"].as_f64());
        let text: String = kept.iter().map(|(line, _)| format!("{line}\n")).collect();
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        let log = OpenOptions::new().append(true).open(&path)?;
        let bar = ProgressBar::new(total);
        let template = "{prefix:>12} {wide_bar} {pos}/{len} {elapsed_precise}, {eta} left  {msg}";
        bar.set_style(ProgressStyle::with_template(template)?);
        bar.set_prefix(stage.to_owned());
        bar.set_position(step);
        bar.reset_eta();
        Ok(Self { bar, log, path, started: Instant::now(), before: Duration::from_secs_f64(before.unwrap_or(0.0)) })
    }

    /// Time spent in this stage, runs before a resume included.
    pub fn elapsed(&self) -> Duration {
        self.before + self.started.elapsed()
    }

    /// Moves the bar.
    pub fn tick(&self, step: u64) {
        self.bar.set_position(step);
    }

    /// Appends one line of values and shows them beside the bar (on a plain terminal: as a line).
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn log(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        let mut line = Map::new();
        line.insert("step".into(), json!(step));
        line.insert("seconds".into(), json!(self.elapsed().as_secs_f64()));
        let mut message = String::new();
        for (name, value) in values {
            line.insert((*name).into(), json!(value));
            message.push_str(&format!("{name} {value:.4} "));
        }
        writeln!(self.log, "{}", Value::Object(line)).context("writing the log")?;
        self.bar.set_position(step);
        if self.bar.is_hidden() {
            let seconds = self.elapsed().as_secs();
            eprintln!("step {step} at {seconds} s: {message}");
        }
        self.bar.set_message(message);
        Ok(())
    }

    /// Ends the bar and draws `name` over the steps into a PNG beside the log.
    ///
    /// # Errors
    /// When the log cannot be read or the picture not be written.
    pub fn finish(self, name: &str) -> Result<()> {
        self.bar.finish_and_clear();
        draw_curve(&self.path, name, &self.path.with_extension("png"))
    }
}

/// Draws the values called `name` of a JSONL log, with a running mean, on a logarithmic scale.
///
/// # Errors
/// When the log cannot be read or the picture not be written.
pub fn draw_curve(log: &Path, name: &str, png: &Path) -> Result<()> {
    let text = std::fs::read_to_string(log).with_context(|| format!("reading {}", log.display()))?;
    let points: Vec<(f64, f64)> = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|v| Some((v["step"].as_f64()?, v[name].as_f64()?)))
        .filter(|(_, y)| y.is_finite() && *y > 0.0)
        .collect();
    if points.len() < 2 {
        return Ok(());
    }
    let low = points.iter().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let high = points.iter().map(|p| p.1).fold(0.0, f64::max);
    let (first, last) = (points[0].0, points[points.len() - 1].0);
    let mut mean = points[0].1;
    let smooth: Vec<(f64, f64)> = points
        .iter()
        .map(|&(x, y)| {
            mean += 0.1 * (y - mean);
            (x, mean)
        })
        .collect();
    let (width, height) = (800u32, 400u32);
    let mut rgb = vec![0u8; (width * height * 3) as usize];
    let draw = |rgb: &mut [u8]| -> Result<(), Box<dyn std::error::Error>> {
        let root = BitMapBackend::with_buffer(rgb, (width, height)).into_drawing_area();
        root.fill(&WHITE)?;
        let y = (low * 0.95..high * 1.05).log_scale();
        let mut chart = ChartBuilder::on(&root).margin(16).build_cartesian_2d(first..last, y)?;
        // No text: the bitmap backend would need a font, and the numbers are in the log.
        chart.draw_series(LineSeries::new(points, RGBColor(190, 205, 235)))?;
        let line = RGBColor(30, 70, 160).stroke_width(2);
        chart.draw_series(LineSeries::new(smooth, line))?;
        root.present()?;
        Ok(())
    };
    draw(&mut rgb).map_err(|e| anyhow::anyhow!("drawing {}: {e}", png.display()))?;
    image::save_buffer(png, &rgb, width, height, image::ColorType::Rgb8)
        .with_context(|| format!("writing {}", png.display()))
}
