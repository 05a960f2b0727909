//! What a pipeline remembers of earlier requests, within one budget: frames of videos, features of pictures, and what the
//! decoder has read. Whatever was used longest ago is forgotten first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sango_tensor::Tensor;

use super::video::ProcessedVideo;
use crate::llama::LlamaCache;

/// What stands at a position of a prompt: a token, or a part of a picture (by the picture's key).
pub(super) type Place = u128;

/// Fewer positions are read again more quickly than they are found.
const MIN_PREFIX: usize = 8;

/// Positions that the decoder has read.
pub(super) struct Context {
    pub(super) places: Vec<Place>,
    pub(super) cache: LlamaCache,
}

impl Context {
    /// How many positions from the start are the same.
    fn shared(&self, places: &[Place]) -> usize {
        self.places.iter().zip(places).take_while(|(a, b)| a == b).count()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Video([u8; 32]),
    Features([u8; 32]),
    Context(u64),
}

enum Value {
    Video(ProcessedVideo),
    Features(Tensor),
    Context(Arc<Context>),
}

struct Entry {
    value: Value,
    bytes: usize,
    used: u64,
}

#[derive(Default)]
struct Inner {
    entries: HashMap<Key, Entry>,
    bytes: usize,
    /// Counts uses, and names contexts.
    clock: u64,
}

impl Inner {
    fn touch(&mut self, key: Key) -> Option<&Value> {
        self.clock += 1;
        let clock = self.clock;
        let entry = self.entries.get_mut(&key)?;
        entry.used = clock;
        Some(&entry.value)
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= entry.bytes;
        }
    }

    fn insert(&mut self, key: Key, value: Value, bytes: usize, budget: usize) {
        self.remove(&key);
        if bytes > budget {
            return;
        }
        while self.bytes + bytes > budget {
            let Some(oldest) = self.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| *key) else {
                break;
            };
            self.remove(&oldest);
        }
        self.clock += 1;
        self.bytes += bytes;
        self.entries.insert(key, Entry { value, bytes, used: self.clock });
    }
}

/// Shared by all threads that ask one pipeline.
pub(super) struct Memory {
    inner: Mutex<Inner>,
    budget: usize,
}

impl Memory {
    /// Remembers at most `budget` bytes.
    pub(super) fn new(budget: usize) -> Self {
        Self { inner: Mutex::default(), budget }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that are in use.
    pub(super) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    pub(super) fn clear(&self) {
        *self.lock() = Inner::default();
    }

    pub(super) fn video(&self, key: [u8; 32]) -> Option<ProcessedVideo> {
        match self.lock().touch(Key::Video(key)) {
            Some(Value::Video(video)) => Some(video.clone()),
            _ => None,
        }
    }

    pub(super) fn keep_video(&self, key: [u8; 32], video: &ProcessedVideo) {
        let bytes = video.tiles.iter().map(|tile| tile.picture().as_raw().len()).sum();
        self.lock().insert(Key::Video(key), Value::Video(video.clone()), bytes, self.budget);
    }

    pub(super) fn features(&self, key: [u8; 32]) -> Option<Tensor> {
        match self.lock().touch(Key::Features(key)) {
            Some(Value::Features(features)) => Some(features.clone()),
            _ => None,
        }
    }

    pub(super) fn keep_features(&self, key: [u8; 32], features: Tensor) {
        let bytes = features.numel() * features.dtype().size();
        self.lock().insert(Key::Features(key), Value::Features(features), bytes, self.budget);
    }

    /// The context that shares most of its beginning with `places`, and how much.
    pub(super) fn context(&self, places: &[Place]) -> Option<(Arc<Context>, usize)> {
        let mut inner = self.lock();
        let contexts = inner.entries.iter().filter_map(|(key, entry)| match &entry.value {
            Value::Context(context) => Some((*key, context.shared(places))),
            _ => None,
        });
        let (key, shared) = contexts.max_by_key(|(_, shared)| *shared).filter(|(_, shared)| *shared >= MIN_PREFIX)?;
        match inner.touch(key) {
            Some(Value::Context(context)) => Some((context.clone(), shared)),
            _ => None,
        }
    }

    /// Keeps a context in the place of those that are the beginning of it.
    pub(super) fn keep_context(&self, context: Context) {
        let mut inner = self.lock();
        let parts = inner.entries.iter().filter(|(_, entry)| match &entry.value {
            Value::Context(old) => old.shared(&context.places) == old.places.len(),
            _ => false,
        });
        for key in parts.map(|(key, _)| *key).collect::<Vec<_>>() {
            inner.remove(&key);
        }
        let bytes = context.cache.bytes() + context.places.len() * size_of::<Place>();
        let key = Key::Context(inner.clock);
        inner.insert(key, Value::Context(Arc::new(context)), bytes, self.budget);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(bytes: usize) -> Tensor {
        Tensor::zeros(&[bytes / 4]).expect("small")
    }

    #[test]
    fn what_was_used_longest_ago_is_forgotten_first() {
        let memory = Memory::new(1000);
        let key = |n| [n; 32];
        for n in 0..4 {
            memory.keep_features(key(n), features(240));
        }
        assert!(memory.features(key(0)).is_some(), "used again");
        memory.keep_features(key(4), features(240));
        let kept: Vec<u8> = (0..5).filter(|&n| memory.features(key(n)).is_some()).collect();
        assert_eq!(kept, [0, 2, 3, 4]);
        assert_eq!(memory.bytes(), 960);
        memory.keep_features(key(5), features(1004));
        assert!(memory.features(key(5)).is_none(), "more than everything");
        assert_eq!(memory.bytes(), 960);
        memory.keep_features(key(4), features(40));
        assert_eq!(memory.bytes(), 760, "replaced, not added");
        memory.clear();
        assert_eq!(memory.bytes(), 0);
    }
}
