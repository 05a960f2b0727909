//! The scores of a finished model: stories that training never shows, rendered to MP4 files and decoded again, every
//! question asked in words and every answer read by the judge.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;
use sango_shapes::rng;
use sango_shapes::story::{Ask, Story, StoryKind, judge};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use super::clips::{SIZE, ffmpeg};
use super::llama::Caches;
use super::model::{SmolVlm, causal};
use super::prompt::{Layout, question};
use super::tokenizer::ShapesTokenizer;
use crate::data::mix;

/// Tokens that an answer has at most.
const MAX_NEW_TOKENS: usize = 48;
/// How the clips are rendered.
const FRAMES: usize = 17;
const RATE: f64 = 8.0;

/// How to judge.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
pub struct EvaluateOptions {
    /// Held-out clips to render and ask about.
    #[arg(long, default_value_t = 600)]
    pub clips: usize,
    /// Questions about each, in random phrasings.
    #[arg(long, default_value_t = 6)]
    pub asks: usize,
    /// The first of the seeds that the clips are drawn from.
    #[arg(long, default_value_t = 1)]
    pub first_seed: u64,
    /// Keep the clips and a list of questions and answers (`questions.jsonl`) here.
    #[arg(long)]
    pub keep: Option<PathBuf>,
}

/// A held-out story for a seed, with questions in words.
pub fn held_out(seed: u64, asks: usize) -> (Story, Vec<(Ask, String)>) {
    use rand::seq::SliceRandom;
    let mut rng = rng(seed);
    let story = Story::sample_held_out(StoryKind::sample(&mut rng), &mut rng);
    let mut all = story.asks();
    all.shuffle(&mut rng);
    let questions = all.into_iter().take(asks).map(|ask| (ask, ask.phrase(&mut rng))).collect();
    (story, questions)
}

/// Writes stories of trained combinations as MP4 files with a list of questions and answers, `questions.jsonl`; returns
/// the list's path.
///
/// # Errors
/// When a file cannot be written.
pub fn write_clips(clips: usize, asks: usize, seed: u64, dir: &Path) -> Result<PathBuf> {
    use rand::seq::SliceRandom;
    std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    let mut rng = rng(mix(seed, 91));
    let mut list = String::new();
    for number in 0..clips {
        let story = Story::sample_training(StoryKind::sample(&mut rng), &mut rng);
        let name = format!("{number:05}.mp4");
        write_mp4(&story.render(FRAMES, SIZE), SIZE, RATE, &dir.join(&name))?;
        let mut all = story.asks();
        all.shuffle(&mut rng);
        for ask in all.into_iter().take(asks) {
            let line = json!({"media": name, "question": ask.phrase(&mut rng), "answer": story.answer(ask)});
            list.push_str(&format!("{line}\n"));
        }
    }
    let path = dir.join("questions.jsonl");
    std::fs::write(&path, list).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

/// Writes frames of `size × size` RGB bytes as an ordinary H.264 file.
///
/// # Errors
/// When `ffmpeg` fails.
pub fn write_mp4(frames: &[Vec<u8>], size: usize, fps: f64, path: &Path) -> Result<()> {
    let mut child = Command::new(ffmpeg())
        .args(["-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", &format!("{size}x{size}")])
        .args(["-r", &fps.to_string(), "-i", "pipe:0", "-vf", "scale=out_color_matrix=bt709:out_range=tv"])
        .args(["-c:v", "libx264", "-pix_fmt", "yuv420p", "-colorspace", "bt709", "-color_primaries", "bt709"])
        .args(["-color_trc", "bt709", "-color_range", "tv", "-movflags", "+faststart"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .context("starting ffmpeg")?;
    let mut pipe = child.stdin.take().context("a pipe")?;
    for frame in frames {
        pipe.write_all(frame).context("feeding ffmpeg")?;
    }
    drop(pipe);
    ensure!(child.wait()?.success(), "ffmpeg could not write {}", path.display());
    Ok(())
}

/// The frames of a file that `layout` samples, normalised: `[frames, 3, S, S]`.
///
/// # Errors
/// When `ffmpeg` fails or the file has too few frames.
pub fn read_frames(path: &Path, layout: Layout) -> Result<Tensor> {
    let out = Command::new(ffmpeg())
        .args(["-v", "error", "-i"])
        .arg(path)
        .args(["-vf", &format!("scale={SIZE}:{SIZE}:flags=bicubic"), "-fps_mode", "passthrough"])
        .args(["-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("starting ffmpeg")?;
    ensure!(out.status.success(), "ffmpeg could not read {}", path.display());
    let (frame, side) = (SIZE * SIZE * 3, SIZE as i64);
    ensure!(out.stdout.len() == layout.frames() * frame, "{} has not {} frames", path.display(), layout.frames());
    let picked: Vec<u8> =
        layout.sampled().iter().flat_map(|&i| out.stdout[i * frame..(i + 1) * frame].iter().copied()).collect();
    let pixels = Tensor::from_slice(&picked).view([-1, side, side, 3]).permute([0, 3, 1, 2]).to_kind(Kind::Float);
    Ok((pixels / 127.5 - 1.0).contiguous())
}

/// A model that has looked at a clip once and answers questions about it, each on its own.
#[derive(Debug)]
pub struct Conversation<'a> {
    model: &'a SmolVlm,
    tokenizer: &'a ShapesTokenizer,
    caches: Caches,
    read: i64,
}

impl<'a> Conversation<'a> {
    /// Looks at `pixels` (the sampled frames of `layout`).
    ///
    /// # Errors
    /// When the pictures do not fit the prompt.
    pub fn about(model: &'a SmolVlm, tokenizer: &'a ShapesTokenizer, layout: Layout, pixels: &Tensor) -> Result<Self> {
        let mut this = Self { model, tokenizer, caches: Caches::new(), read: 0 };
        let ids = tokenizer.encode(&layout.prefix(model.config.image_seq_len()))?;
        tch::no_grad(|| -> Result<()> {
            let features = model.image_features(pixels, None, false);
            let mut caches = Caches::new();
            this.feed(&ids, Some(&features), &mut caches, 0)?;
            this.caches = caches;
            Ok(())
        })?;
        this.read = ids.len() as i64;
        Ok(this)
    }

    /// The likeliest answer to a question.
    ///
    /// # Errors
    /// See [`ShapesTokenizer::encode`].
    pub fn answer(&self, text: &str) -> Result<String> {
        tch::no_grad(|| {
            let mut caches: Caches =
                self.caches.iter().map(|c| c.as_ref().map(|(k, v)| (k.shallow_clone(), v.shallow_clone()))).collect();
            let mut fed = self.tokenizer.encode(&question(text))?;
            let (mut at, mut said) = (self.read, Vec::new());
            while said.len() < MAX_NEW_TOKENS {
                let next = self.feed(&fed, None, &mut caches, at)?;
                at += fed.len() as i64;
                if next == self.tokenizer.eos {
                    break;
                }
                said.push(next);
                fed = vec![next];
            }
            Ok(self.tokenizer.decode(&said)?.trim().to_owned())
        })
    }

    /// Goes on reading from position `at`; the likeliest next token.
    fn feed(&self, ids: &[i64], features: Option<&Tensor>, caches: &mut Caches, at: i64) -> Result<i64> {
        let len = ids.len() as i64;
        let embeds = self.model.embed(&Tensor::from_slice(ids).unsqueeze(0), features)?;
        let positions = Tensor::arange_start(at, at + len, (Kind::Int64, embeds.device())).unsqueeze(0);
        let mask = causal(len, at + len);
        let hidden = self.model.text_model.forward(&embeds, &positions, &mask, caches, false);
        Ok(self.model.head(&hidden.select(1, len - 1)).argmax(-1, false).int64_value(&[0]))
    }
}

/// Judges the model in the Hugging Face folder `model`; writes `dir/evaluation.json`.
///
/// # Errors
/// When the folder is not a model or a file cannot be written.
pub fn evaluate(options: &EvaluateOptions, model: &Path, dir: &Path) -> Result<Value> {
    let (_vs, net) = SmolVlm::load(model, Kind::Float)?;
    let tokenizer = ShapesTokenizer::load(&model.join("tokenizer.json"))?;
    for folder in options.keep.iter().map(PathBuf::as_path).chain([dir]) {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let layout = Layout::Clip { frames: FRAMES, fps: RATE };
    let (mut scores, mut lines) = (BTreeMap::<(&str, &str), (usize, usize)>::new(), Vec::new());
    for seed in options.first_seed..options.first_seed + options.clips as u64 {
        let (story, questions) = held_out(seed, options.asks);
        let name = format!("{seed:05}.mp4");
        let path = options.keep.as_ref().map_or_else(|| dir.join("clip.mp4"), |keep| keep.join(&name));
        write_mp4(&story.render(FRAMES, SIZE), SIZE, RATE, &path)?;
        let conversation = Conversation::about(&net, &tokenizer, layout, &read_frames(&path, layout)?)?;
        for (ask, text) in questions {
            let said = conversation.answer(&text)?;
            let right = judge(&story, ask, &said);
            for key in [("all", ""), ("question", ask.kind()), ("story", story.kind.name())] {
                let score = scores.entry(key).or_default();
                *score = (score.0 + usize::from(right), score.1 + 1);
            }
            let answer = story.answer(ask);
            lines.push(json!({
                "media": name, "question": text, "answer": answer, "kind": ask.kind(), "said": said, "right": right,
            }));
        }
    }
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(dir.join("answers.jsonl"), &text).context("writing the answers")?;
    match &options.keep {
        Some(keep) => std::fs::write(keep.join("questions.jsonl"), &text).context("writing the questions")?,
        None => std::fs::remove_file(dir.join("clip.mp4")).context("removing the last clip")?,
    }
    let table: Vec<Value> = scores
        .iter()
        .map(|((of, name), (right, asked))| json!({"of": of, "name": name, "right": right, "asked": asked}))
        .collect();
    for ((of, name), (right, asked)) in &scores {
        println!("{of:<10} {name:<12} {right:>5} of {asked:>5} {:>6.1} %", 100.0 * *right as f64 / *asked as f64);
    }
    let value = json!({"clips": options.clips, "first_seed": options.first_seed, "scores": table});
    std::fs::write(dir.join("evaluation.json"), serde_json::to_string_pretty(&value)?)?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smolvlm2::config::SmolVlmConfig;
    use tch::nn::VarStore;

    #[test]
    fn an_answer_over_caches_is_the_answer_without_them() {
        let _generator = crate::generator();
        tch::manual_seed(2);
        let tokenizer = ShapesTokenizer::learn().expect("a tokenizer");
        let mut config = SmolVlmConfig::shapes(tokenizer.vocab_size(), tokenizer.image);
        (config.text.num_hidden_layers, config.vision.num_hidden_layers) = (2, 1);
        let vs = VarStore::new(tch::Device::Cpu);
        let model = SmolVlm::new(&vs.root(), &config);
        let layout = Layout::Clip { frames: 9, fps: 8.0 };
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("clip.mp4");
        let (story, _) = held_out(3, 1);
        write_mp4(&story.render(9, SIZE), SIZE, 8.0, &path).expect("written");
        let pixels = read_frames(&path, layout).expect("read");
        let conversation = Conversation::about(&model, &tokenizer, layout, &pixels).expect("looked");
        let text = "What colour is it?";
        let said = conversation.answer(text).expect("an answer");
        assert_eq!(said, conversation.answer(text).expect("the same again"));
        let mut ids = tokenizer.encode(&(layout.prefix(4) + &question(text))).expect("ids");
        let mut alone = Vec::new();
        while alone.len() < MAX_NEW_TOKENS {
            let all = Tensor::from_slice(&ids).unsqueeze(0);
            let logits = tch::no_grad(|| model.forward(&all, Some(&pixels), None)).expect("logits");
            let next = logits.select(1, -1).argmax(-1, false).int64_value(&[0]);
            if next == tokenizer.eos {
                break;
            }
            alone.push(next);
            ids.push(next);
        }
        assert_eq!(tokenizer.decode(&alone).expect("text").trim(), said);
        assert!(read_frames(&path, Layout::Clip { frames: 17, fps: 8.0 }).is_err(), "too few frames");
    }
}
