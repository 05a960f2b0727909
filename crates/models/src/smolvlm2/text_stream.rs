//! An answer as text, while its tokens come.

use super::tokenization::SmolVLMTokenizer;
use crate::error::Result;

/// Turns the ids of one answer into text as they come, in whole characters.
///
/// A token of a byte-level vocabulary can end in the middle of a character; such bytes are held back until the
/// character is whole. So is text that may be the beginning of a stop text. All pieces together are what decoding all
/// ids at once gives. Special tokens are left out.
pub struct TextStream {
    tokenizer: SmolVLMTokenizer,
    ids: Vec<u32>,
    /// Ids before this one are decoded and given out; they are kept while later ones depend on them.
    prefix: usize,
    /// Ids before this one are decoded.
    read: usize,
    /// Decoded text that is held back, because a stop text may have begun in it.
    held: String,
    stop: Vec<String>,
    stopped: bool,
}

impl TextStream {
    pub(super) fn new(tokenizer: SmolVLMTokenizer, stop: &[String]) -> Self {
        let stop = stop.iter().filter(|text| !text.is_empty()).cloned().collect();
        Self { tokenizer, ids: Vec::new(), prefix: 0, read: 0, held: String::new(), stop, stopped: false }
    }

    /// Takes the next id and returns the text that is now certain, which may be empty.
    ///
    /// # Errors
    /// [`crate::ModelError::Tokenizer`] when the tokenizer's decoder fails.
    pub fn push(&mut self, id: u32) -> Result<String> {
        if self.stopped {
            return Ok(String::new());
        }
        self.ids.push(id);
        let before = self.tokenizer.decode(&self.ids[self.prefix..self.read], true)?;
        let now = self.tokenizer.decode(&self.ids[self.prefix..], true)?;
        // U+FFFD at the end is a character that is not whole yet.
        match now.strip_prefix(before.as_str()) {
            Some(new) if !new.is_empty() && !new.ends_with(char::REPLACEMENT_CHARACTER) => {
                self.held.push_str(new);
                (self.prefix, self.read) = (self.read, self.ids.len());
                Ok(self.release())
            }
            _ => Ok(String::new()),
        }
    }

    /// The rest, when no id follows. Bytes that never became a character are U+FFFD in it.
    ///
    /// # Errors
    /// [`crate::ModelError::Tokenizer`] when the tokenizer's decoder fails.
    pub fn finish(&mut self) -> Result<String> {
        if self.stopped {
            return Ok(String::new());
        }
        let before = self.tokenizer.decode(&self.ids[self.prefix..self.read], true)?;
        let now = self.tokenizer.decode(&self.ids[self.prefix..], true)?;
        self.held.push_str(now.strip_prefix(before.as_str()).unwrap_or_default());
        (self.prefix, self.read) = (self.ids.len(), self.ids.len());
        let released = self.release();
        self.stopped = true;
        Ok(released + &std::mem::take(&mut self.held))
    }

    /// Whether a stop text has come; nothing more is given out then.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// The ids so far.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Takes out of `held` what no stop text can still begin in; all before a stop text that has come.
    fn release(&mut self) -> String {
        if let Some(at) = self.stop.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.stopped = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let begun = |at: &usize| self.stop.iter().any(|stop| stop.starts_with(&self.held[*at..]));
        let keep = self.held.char_indices().map(|(at, _)| at).find(begun).unwrap_or(self.held.len());
        let rest = self.held.split_off(keep);
        std::mem::replace(&mut self.held, rest)
    }
}
