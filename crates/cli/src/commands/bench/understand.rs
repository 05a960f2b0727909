//! `sango bench understand`: a question about frames, and another one about the same, from random ids and pixels.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use sango_models::LoadOptions;
use sango_models::llama::LlamaCache;
use sango_models::smolvlm2::{GenerationConfig, LogitsProcessor, SamplingParams, SmolVLMForConditionalGeneration};
use sango_tensor::Tensor;
use serde::Serialize;

use super::ms;
use crate::args::{BenchUnderstandArgs, WeightDtype};
use crate::report;

/// Figures of one model, medians over the runs; times in milliseconds.
#[derive(Debug, Serialize)]
struct Figures {
    load_ms: f64,
    first_token_ms: f64,
    second_first_token_ms: f64,
    decode_tokens_per_s: f64,
    total_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_rss_mb: Option<f64>,
    dtype: &'static str,
    threads: usize,
    isa: &'static str,
}

/// Pixels and ids to tokens, after one run to warm up. The clock starts when pixels and ids are there and shows the first
/// token when it has been chosen; the second question shares all but its own words with the first, whose keys and values
/// are still there.
pub fn run(args: &BenchUnderstandArgs, json: bool) -> anyhow::Result<()> {
    anyhow::ensure!(args.runs > 0, "--runs must be at least 1");
    anyhow::ensure!(args.frames > 0, "--frames must be at least 1");
    anyhow::ensure!(args.prompt_tokens > 1, "--prompt-tokens must be at least 2");
    anyhow::ensure!(args.new_tokens > 1, "--new-tokens must be at least 2");
    let started = Instant::now();
    let options = LoadOptions::new(args.dtype.into());
    let options = if args.dtype == WeightDtype::Int8 { options.int8() } else { options };
    let model = SmolVLMForConditionalGeneration::load(&args.model, &options)?;
    let load = started.elapsed();

    let bench = Bench::new(&model, args)?;
    let (mut first, mut second, mut per_token, mut total) = (vec![], vec![], vec![], vec![]);
    for run in 0..=args.runs {
        let times = bench.ask_twice()?;
        if run > 0 {
            first.push(ms(times.first_token));
            second.push(ms(times.second_first_token));
            per_token.push(ms(times.total - times.first_token) / (args.new_tokens - 1) as f64);
            total.push(ms(times.total));
        }
    }
    let median = |values| report::median(values).unwrap_or_default();
    let figures = Figures {
        load_ms: ms(load),
        first_token_ms: median(first),
        second_first_token_ms: median(second),
        decode_tokens_per_s: 1e3 / median(per_token),
        total_ms: median(total),
        peak_rss_mb: report::peak_rss_mb(),
        dtype: args.dtype.name(),
        threads: sango_kernels::pool::num_threads(),
        isa: sango_kernels::Isa::active().name(),
    };
    report::result(json, &figures, || {
        format!(
            "{} on {} × {}: load {:.0} ms, first token {:.0} ms, then {:.1} tokens/s, in all {:.0} ms; \
             second question {:.0} ms to its first token; {} MiB",
            figures.dtype,
            figures.threads,
            figures.isa,
            figures.load_ms,
            figures.first_token_ms,
            figures.decode_tokens_per_s,
            figures.total_ms,
            figures.second_first_token_ms,
            figures.peak_rss_mb.map_or("?".into(), |mb| format!("{mb:.0}")),
        )
    })
}

struct Times {
    first_token: Duration,
    total: Duration,
    second_first_token: Duration,
}

struct Bench<'a> {
    model: &'a SmolVLMForConditionalGeneration,
    /// `[frames, 3, height, width]`
    pixels: Tensor,
    /// Words, frames and a question.
    prompt: Vec<u32>,
    /// Another question.
    question: Vec<u32>,
    /// The folder's, but that answers do not end early.
    config: GenerationConfig,
    new_tokens: usize,
}

impl<'a> Bench<'a> {
    fn new(model: &'a SmolVLMForConditionalGeneration, args: &BenchUnderstandArgs) -> anyhow::Result<Self> {
        let config = model.config();
        let (size, channels) = (config.vision_config.image_size, config.vision_config.num_channels);
        let mut random = Random(args.seed);
        let shape = [args.frames, channels, size, size];
        let pixels = (0..shape.iter().product()).map(|_| random.next() as f32 / (1u64 << 31) as f32 - 1.0).collect();
        let pixels = Tensor::from_vec(pixels, &shape)?;
        let vocabulary = config.text_config.vocab_size as u64;
        let image = config.image_token_id;
        let mut words = |count: usize| -> Vec<u32> {
            let word = |_| (random.next() % vocabulary) as u32;
            (0..count).map(word).map(|id| if id == image { 0 } else { id }).collect()
        };
        let asked = (args.prompt_tokens / 4).max(1);
        let mut prompt = words(args.prompt_tokens - asked);
        prompt.extend(std::iter::repeat_n(image, args.frames * config.image_tokens(size, size)?));
        prompt.extend(words(asked));
        let question = words(asked);
        let config = GenerationConfig { min_new_tokens: args.new_tokens, ..model.generation_config().clone() };
        Ok(Self { model, pixels, prompt, question, config, new_tokens: args.new_tokens })
    }

    fn ask_twice(&self) -> anyhow::Result<Times> {
        let started = Instant::now();
        let go_on = &mut |_: usize, _: usize| ControlFlow::Continue(());
        let features = self.model.get_image_features(&self.pixels, None, go_on)?;
        let [frames, tokens, width] = features.dims()?;
        let features = features.reshape(&[frames * tokens, width])?;
        let mut cache = self.model.text_model().cache(self.prompt.len() + self.new_tokens)?;
        let embeds = self.model.embed(&self.prompt, Some(&features))?;
        let logits = self.model.prefill(&embeds, &mut cache, go_on)?;
        let first_token = self.answer(&self.prompt, logits, &mut cache, self.new_tokens, started)?;
        let total = started.elapsed();

        let started = Instant::now();
        let shared = self.prompt.len() - self.question.len();
        cache.truncate(shared);
        let logits = self.model.prefill(&self.model.embed(&self.question, None)?, &mut cache, go_on)?;
        let ids = [&self.prompt[..shared], &self.question].concat();
        let second_first_token = self.answer(&ids, logits, &mut cache, 1, started)?;
        Ok(Times { first_token, total, second_first_token })
    }

    /// Generates, and tells how long after `started` the first token came.
    fn answer(
        &self,
        ids: &[u32],
        logits: Tensor,
        cache: &mut LlamaCache,
        new_tokens: usize,
        started: Instant,
    ) -> anyhow::Result<Duration> {
        let greedy = SamplingParams { temperature: Some(0.0), ..SamplingParams::default() };
        let mut processor = LogitsProcessor::new(&self.config, &greedy, ids.len(), 0);
        let mut first = Duration::ZERO;
        let mut on_token = |_, index: usize| {
            if index == 0 {
                first = started.elapsed();
            }
            ControlFlow::Continue(())
        };
        let made = self.model.generate(ids, logits, cache, &mut processor, new_tokens, &mut on_token)?;
        anyhow::ensure!(made.tokens.len() == new_tokens, "the answer ended after {} tokens", made.tokens.len());
        Ok(first)
    }
}

/// SplitMix64's step, 32 bits at a time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 32
    }
}
