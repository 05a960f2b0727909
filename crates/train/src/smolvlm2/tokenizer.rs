//! The byte-level BPE tokenizer of the shapes world, with the special tokens of SmolVLM2.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use sango_shapes::story::{Story, StoryKind};
use sango_shapes::{VOCABULARY, rng};
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer, TokenizerImpl};

use super::prompt::{clock, duration, number};

/// Pads and unknowns of the published tokenizer.
const END_OF_TEXT: &str = "<|endoftext|>";
/// Begins every conversation.
pub const IM_START: &str = "<|im_start|>";
/// Pads.
pub const IM_END: &str = "<|im_end|>";
/// Says that the picture that follows is the whole one.
pub const GLOBAL_IMAGE: &str = "<global-img>";
/// Stands before, between and after pictures.
pub const FAKE_IMAGE: &str = "<fake_token_around_image>";
/// Stands for one vector of image features.
pub const IMAGE: &str = "<image>";
/// Ends a turn, and so every answer.
pub const END_OF_UTTERANCE: &str = "<end_of_utterance>";
/// Rows and columns that a picture can be cut into.
const TILES: usize = 6;

/// A tokenizer with the ids that training needs.
#[derive(Clone, Debug)]
pub struct ShapesTokenizer {
    tokenizer: Tokenizer,
    /// Id of [`IM_START`].
    pub bos: i64,
    /// Id of [`END_OF_UTTERANCE`].
    pub eos: i64,
    /// Id of [`IM_END`].
    pub pad: i64,
    /// Id of [`IMAGE`].
    pub image: i64,
}

impl ShapesTokenizer {
    /// Learns merges until every word that the world uses is one token.
    ///
    /// # Errors
    /// When the library refuses the corpus.
    pub fn learn() -> Result<Self> {
        let fail = |e: tokenizers::Error| anyhow!("training the tokenizer: {e}");
        let special = |text: &str| AddedToken::from(text.to_owned(), true);
        let mut trainer = BpeTrainer::builder()
            .show_progress(false)
            .vocab_size(4096)
            .min_frequency(1)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens([END_OF_TEXT, IM_START, IM_END].map(special).to_vec())
            .build();
        let pieces = ByteLevel::new(false, true, true);
        let mut learning =
            TokenizerImpl::<BPE, tokenizers::NormalizerWrapper, ByteLevel, ByteLevel, ByteLevel>::new(BPE::default());
        learning.with_pre_tokenizer(Some(pieces)).with_decoder(Some(pieces));
        learning.train(&mut trainer, corpus().iter()).map_err(fail)?;
        let mut late = vec![GLOBAL_IMAGE.to_owned()];
        late.extend((1..=TILES).flat_map(|r| (1..=TILES).map(move |c| format!("<row_{r}_col_{c}>"))));
        late.extend([FAKE_IMAGE, IMAGE, END_OF_UTTERANCE].map(str::to_owned));
        let late: Vec<AddedToken> = late.iter().map(|text| special(text)).collect();
        learning.add_special_tokens(late).map_err(fail)?;
        let text = learning.to_string(false).map_err(fail)?;
        Self::from_text(&text)
    }

    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// When the file is missing, damaged, or lacks a special token of SmolVLM2.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        Self::from_text(&text).with_context(|| format!("reading {}", path.display()))
    }

    fn from_text(text: &str) -> Result<Self> {
        let tokenizer: Tokenizer = text.parse().map_err(|e| anyhow!("{e}"))?;
        let id = |token: &str| -> Result<i64> {
            let id = tokenizer.token_to_id(token).with_context(|| format!("the tokenizer has no {token}"))?;
            Ok(i64::from(id))
        };
        let (bos, eos, pad, image) = (id(IM_START)?, id(END_OF_UTTERANCE)?, id(IM_END)?, id(IMAGE)?);
        Ok(Self { bos, eos, pad, image, tokenizer })
    }

    /// Number of tokens, special ones included.
    pub fn vocab_size(&self) -> i64 {
        self.tokenizer.get_vocab_size(true) as i64
    }

    /// Ids of a text; special tokens in it are recognised.
    ///
    /// # Errors
    /// Never for this tokenizer, which spells what it does not know in bytes.
    pub fn encode(&self, text: &str) -> Result<Vec<i64>> {
        let encoding = self.tokenizer.encode(text, false).map_err(|e| anyhow!("{text:?}: {e}"))?;
        Ok(encoding.get_ids().iter().map(|&id| i64::from(id)).collect())
    }

    /// Text of ids, special tokens left out.
    ///
    /// # Errors
    /// When an id is none of the tokenizer's.
    pub fn decode(&self, ids: &[i64]) -> Result<String> {
        let ids: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
        self.tokenizer.decode(&ids, true).map_err(|e| anyhow!("decoding {ids:?}: {e}"))
    }

    /// Writes `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, dir: &Path, max_length: i64) -> Result<()> {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let path = dir.join("tokenizer.json");
        self.tokenizer.save(&path, true).map_err(|e| anyhow!("writing {}: {e}", path.display()))?;
        crate::files::write_json(&dir.join("tokenizer_config.json"), &tokenizer_config(max_length))?;
        let map = json!({
            "bos_token": IM_START,
            "eos_token": END_OF_UTTERANCE,
            "pad_token": IM_END,
            "unk_token": END_OF_TEXT,
            "additional_special_tokens": [FAKE_IMAGE, IMAGE, END_OF_UTTERANCE],
        });
        crate::files::write_json(&dir.join("special_tokens_map.json"), &map)
    }
}

fn tokenizer_config(max_length: i64) -> Value {
    json!({
        "add_prefix_space": false,
        "bos_token": IM_START,
        "clean_up_tokenization_spaces": false,
        "eos_token": END_OF_UTTERANCE,
        "extra_special_tokens": {
            "end_of_utterance_token": END_OF_UTTERANCE,
            "fake_image_token": FAKE_IMAGE,
            "global_image_token": GLOBAL_IMAGE,
            "image_token": IMAGE,
        },
        "model_max_length": max_length,
        "pad_token": IM_END,
        "processor_class": "SmolVLMProcessor",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": END_OF_TEXT,
    })
}

/// Everything the world says and the processor adds, each different text once, so that merges do not depend on chance.
fn corpus() -> Vec<String> {
    let mut texts = BTreeSet::new();
    let mut rng = rng(1);
    for &kind in StoryKind::ALL {
        for _ in 0..400 {
            let story = Story::sample_training(kind, &mut rng);
            for ask in story.asks() {
                texts.extend(ask.phrasings().into_iter().map(|text| format!("User: {text}")));
                texts.extend(story.answer(ask).map(|text| format!("Assistant: {text}")));
            }
        }
    }
    texts.extend(VOCABULARY.iter().map(|word| format!(" {word}")));
    for n in 0..=64 {
        let (minutes, count) = (n as f64 * 60.0 + n as f64, number(n));
        texts.insert(format!(
            "User: You are provided the following series of {count} frames from a {} [H:MM:SS] video.\n",
            duration(minutes)
        ));
        texts.insert(format!("\n\nFrame from {}:", clock(minutes)));
    }
    texts.extend(["System: ".to_owned(), "Assistant:".to_owned(), "Yes. No.".to_owned()]);
    texts.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_one_token_and_everything_comes_back() {
        let tokenizer = ShapesTokenizer::learn().expect("a tokenizer");
        assert!(tokenizer.vocab_size() < 1024, "{}", tokenizer.vocab_size());
        assert_eq!((tokenizer.bos, tokenizer.pad), (1, 2));
        for word in VOCABULARY.iter().filter(|word| **word != ",") {
            assert_eq!(tokenizer.encode(&format!(" {word}")).expect("ids").len(), 1, "{word}");
        }
        for text in [" a small red circle moves left", "Größe? 三角 <image>", "\n\nFrame from 00:12:"] {
            let ids = tokenizer.encode(text).expect("ids");
            assert_eq!(tokenizer.decode(&ids).expect("text"), text.replace("<image>", ""));
        }
        assert_eq!(tokenizer.encode("<row_6_col_6><image>").expect("ids").len(), 2);
    }

    #[test]
    fn the_same_corpus_gives_the_same_tokenizer() {
        let text = |t: &ShapesTokenizer| t.tokenizer.to_string(false).expect("JSON");
        let (one, two) = (ShapesTokenizer::learn().expect("one"), ShapesTokenizer::learn().expect("two"));
        assert_eq!(text(&one), text(&two));
        let dir = tempfile::tempdir().expect("a folder");
        one.save(dir.path(), 2048).expect("saved");
        let read = ShapesTokenizer::load(&dir.path().join("tokenizer.json")).expect("read");
        assert_eq!(text(&one), text(&read));
        std::fs::write(dir.path().join("tokenizer.json"), "{").expect("written");
        assert!(ShapesTokenizer::load(&dir.path().join("tokenizer.json")).is_err());
    }
}
