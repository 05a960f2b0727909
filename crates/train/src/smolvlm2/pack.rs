//! Several questions about one clip in one sequence: every question sees the clip and itself, so the cost of looking is
//! shared and each answer is what it would be alone.

use std::collections::BTreeMap;

use anyhow::Result;
use sango_shapes::story::{Ask, Story};
use tch::{Kind, Tensor};

use super::prompt::{self, Layout};
use super::tokenizer::ShapesTokenizer;

/// Target of a position that is not learned.
pub const IGNORED: i64 = -100;

/// A question in words with the answer it should get.
#[derive(Clone, Debug, PartialEq)]
pub struct Exchange {
    /// What is asked.
    pub ask: Ask,
    /// The question.
    pub question: String,
    /// The answer.
    pub answer: String,
}

impl Exchange {
    /// A question about `story` in the given words; nothing where it has no answer.
    pub fn new(story: &Story, ask: Ask, question: String) -> Option<Self> {
        Some(Self { ask, question, answer: story.answer(ask)? })
    }
}

/// Sequences of one layout, ready for the model.
#[derive(Debug)]
pub struct Packed {
    /// `[B, L]`.
    pub ids: Tensor,
    /// `[B, L]`: every question goes on where the clip ended.
    pub positions: Tensor,
    /// Zero or −∞, `[B, 1, L, L]`.
    pub mask: Tensor,
    /// The token that each position should predict, or [`IGNORED`], `[B, L]`.
    pub targets: Tensor,
    /// For each sequence and question, where its answer's predictions begin and how many there are.
    pub answers: Vec<Vec<(usize, usize)>>,
}

/// Turns words into ids, and remembers what it has turned.
#[derive(Debug)]
pub struct Packer {
    tokenizer: ShapesTokenizer,
    image_seq_len: i64,
    known: BTreeMap<String, Vec<i64>>,
}

impl Packer {
    /// For a model whose pictures take `image_seq_len` tokens.
    pub fn new(tokenizer: ShapesTokenizer, image_seq_len: i64) -> Self {
        Self { tokenizer, image_seq_len, known: BTreeMap::new() }
    }

    /// Number of tokens.
    pub fn tokenizer(&self) -> &ShapesTokenizer {
        &self.tokenizer
    }

    fn ids(&mut self, text: &str) -> Result<Vec<i64>> {
        if let Some(ids) = self.known.get(text) {
            return Ok(ids.clone());
        }
        let ids = self.tokenizer.encode(text)?;
        self.known.insert(text.to_owned(), ids.clone());
        Ok(ids)
    }

    /// The prompt as far as the question.
    ///
    /// # Errors
    /// See [`ShapesTokenizer::encode`].
    pub fn prefix(&mut self, layout: Layout) -> Result<Vec<i64>> {
        self.ids(&layout.prefix(self.image_seq_len))
    }

    /// One sequence per item of `exchanges`, padded to the longest.
    ///
    /// # Errors
    /// See [`ShapesTokenizer::encode`].
    pub fn pack(&mut self, layout: Layout, exchanges: &[Vec<Exchange>]) -> Result<Packed> {
        let prefix = self.prefix(layout)?;
        let start = prefix.len();
        let (mut rows, mut answers) = (Vec::new(), Vec::new());
        for exchanges in exchanges {
            let mut row = Row { ids: prefix.clone(), ..Row::default() };
            row.positions.extend(0..start as i64);
            row.segments.resize(start, 0);
            row.targets.resize(start, IGNORED);
            let mut spans = Vec::new();
            for (number, exchange) in exchanges.iter().enumerate() {
                let asked = self.ids(&prompt::question(&exchange.question))?;
                let answer = self.ids(&prompt::answer(&exchange.answer))?;
                // The last token of the question predicts the first of the answer; its last is not fed at all.
                let fed = asked.len() + answer.len() - 1;
                spans.push((row.ids.len() + asked.len() - 1, answer.len()));
                row.targets.extend(std::iter::repeat_n(IGNORED, asked.len() - 1).chain(answer.iter().copied()));
                row.ids.extend(asked.iter().chain(&answer[..answer.len() - 1]));
                row.positions.extend((start..start + fed).map(|p| p as i64));
                row.segments.extend(std::iter::repeat_n(number as i64 + 1, fed));
            }
            rows.push(row);
            answers.push(spans);
        }
        let longest = rows.iter().map(|row| row.ids.len()).max().unwrap_or(0);
        for row in &mut rows {
            row.ids.resize(longest, self.tokenizer.pad);
            row.positions.resize(longest, start as i64);
            row.segments.resize(longest, -1);
            row.targets.resize(longest, IGNORED);
        }
        let stack = |pick: &dyn Fn(&Row) -> &[i64]| {
            let flat: Vec<i64> = rows.iter().flat_map(|row| pick(row).iter().copied()).collect();
            Tensor::from_slice(&flat).view([-1, longest as i64])
        };
        let segments = stack(&|row| &row.segments);
        Ok(Packed {
            ids: stack(&|row| &row.ids),
            positions: stack(&|row| &row.positions),
            mask: mask(&segments),
            targets: stack(&|row| &row.targets),
            answers,
        })
    }
}

#[derive(Debug, Default)]
struct Row {
    ids: Vec<i64>,
    positions: Vec<i64>,
    /// 0 for the clip, then 1, 2, … for the questions, −1 for padding.
    segments: Vec<i64>,
    targets: Vec<i64>,
}

/// Position i may look at an earlier j of its own segment or of the clip.
fn mask(segments: &Tensor) -> Tensor {
    let (rows, columns) = (segments.unsqueeze(2), segments.unsqueeze(1));
    let l = segments.size()[1];
    let earlier = Tensor::ones([l, l], (Kind::Bool, segments.device())).tril(0);
    let seen = rows.eq_tensor(&columns).logical_or(&columns.eq(0)).logical_and(&earlier);
    Tensor::zeros(seen.size(), (Kind::Float, segments.device()))
        .masked_fill(&seen.logical_not(), f64::NEG_INFINITY)
        .unsqueeze(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smolvlm2::config::SmolVlmConfig;
    use crate::smolvlm2::llama::Caches;
    use crate::smolvlm2::model::SmolVlm;
    use sango_shapes::rng;
    use sango_shapes::story::StoryKind;
    use tch::Device;
    use tch::nn::VarStore;

    #[test]
    fn packed_questions_see_what_they_would_see_alone() {
        let _generator = crate::generator();
        tch::manual_seed(4);
        let tokenizer = ShapesTokenizer::learn().expect("a tokenizer");
        let mut config = SmolVlmConfig::shapes(tokenizer.vocab_size(), tokenizer.image);
        (config.text.num_hidden_layers, config.vision.num_hidden_layers) = (2, 1);
        let vs = VarStore::new(Device::Cpu);
        let model = SmolVlm::new(&vs.root(), &config);
        let mut packer = Packer::new(tokenizer, 4);
        let layout = Layout::Clip { frames: 9, fps: 8.0 };
        let mut rng = rng(3);
        let exchanges: Vec<Vec<Exchange>> = (0..2)
            .map(|_| {
                let story = Story::sample_training(StoryKind::Pair, &mut rng);
                let asks = story.asks();
                asks.iter().filter_map(|&a| Exchange::new(&story, a, a.phrase(&mut rng))).collect()
            })
            .collect();
        let features = Tensor::randn([8, 4, config.text.hidden_size], (Kind::Float, Device::Cpu));
        let run = |packed: &Packed, features: &Tensor| {
            let embeds = model.embed(&packed.ids, Some(features)).expect("they fit");
            tch::no_grad(|| {
                let hidden =
                    model.text_model.forward(&embeds, &packed.positions, &packed.mask, &mut Caches::new(), false);
                model.head(&hidden)
            })
        };
        let together = packer.pack(layout, &exchanges).expect("packed");
        let all = run(&together, &features);
        for (b, exchanges) in exchanges.iter().enumerate() {
            for (exchange, &(from, len)) in exchanges.iter().zip(&together.answers[b]) {
                let alone = packer.pack(layout, &[vec![exchange.clone()]]).expect("packed");
                let one = run(&alone, &features.narrow(0, b as i64 * 4, 4));
                let (at, same_len) = alone.answers[0][0];
                assert_eq!(len, same_len);
                let expected = one.get(0).narrow(0, at as i64, len as i64);
                let got = all.get(b as i64).narrow(0, from as i64, len as i64);
                assert!((expected - got).abs().max().double_value(&[]) < 1e-4, "{exchange:?}");
                let targets = together.targets.get(b as i64).narrow(0, from as i64, len as i64);
                let ids = Vec::<i64>::try_from(&targets).expect("ids");
                assert_eq!(packer.tokenizer().decode(&ids).expect("text").trim(), exchange.answer);
                assert_eq!(ids.last(), Some(&packer.tokenizer().eos));
            }
        }
    }
}
