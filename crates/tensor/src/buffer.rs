//! `f32` memory that is used again instead of being returned to the system.
//!
//! A forward pass asks for the same few large sizes thousands of times. Memory fresh from the system has to be mapped
//! and zeroed page by page, which costs more than many of the ops that fill it, so a thread keeps the large buffers it
//! drops and hands them out again.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Smaller buffers are left to the allocator, which is quick at these.
const MIN_KEPT: usize = 16 * 1024;
/// Buffers one thread keeps at most.
const MAX_KEPT: usize = 16;
/// Elements one thread keeps at most (64 MiB).
const MAX_KEPT_ELEMENTS: usize = 16 << 20;

#[derive(Default)]
struct FreeList {
    buffers: Vec<Vec<f32>>,
    elements: usize,
}

impl FreeList {
    /// The smallest kept buffer that holds `len` elements without wasting more than half of itself.
    fn take(&mut self, len: usize) -> Option<Vec<f32>> {
        let best = (0..self.buffers.len())
            .filter(|&i| (len..=2 * len).contains(&self.buffers[i].capacity()))
            .min_by_key(|&i| self.buffers[i].capacity())?;
        let buffer = self.buffers.swap_remove(best);
        self.elements -= buffer.capacity();
        Some(buffer)
    }

    fn keep(&mut self, buffer: Vec<f32>) {
        self.elements += buffer.capacity();
        self.buffers.push(buffer);
        while self.buffers.len() > MAX_KEPT || self.elements > MAX_KEPT_ELEMENTS {
            self.elements -= self.buffers.remove(0).capacity();
        }
    }
}

thread_local! {
    static FREE: RefCell<FreeList> = RefCell::default();
}

/// Gives the memory this thread has kept back to the system; call it between stages that work in different sizes.
pub fn release_buffers() {
    FREE.with_borrow_mut(|free| *free = FreeList::default());
}

/// Elements of an `f32` tensor.
#[derive(Debug, Default)]
pub(crate) struct Buffer(Vec<f32>);

impl Buffer {
    /// `len` elements with any (initialised) values: for ops that write every one of them.
    pub(crate) fn uninit(len: usize) -> Self {
        let mut v = match len {
            0..MIN_KEPT => None,
            _ => FREE.with_borrow_mut(|free| free.take(len)),
        };
        match &mut v {
            Some(v) if v.len() < len => v.resize(len, 0.0),
            Some(v) => v.truncate(len),
            None => {}
        }
        Self(v.unwrap_or_else(|| vec![0.0; len]))
    }

    /// `len` zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        Self(vec![0.0; len])
    }
}

impl From<Vec<f32>> for Buffer {
    fn from(v: Vec<f32>) -> Self {
        Self(v)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.0.capacity() >= MIN_KEPT {
            let v = std::mem::take(&mut self.0);
            // While the thread ends its list may be gone already; then the memory is simply freed.
            let _ = FREE.try_with(|free| free.borrow_mut().keep(v));
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_used_again() {
        release_buffers();
        let first = Buffer::uninit(MIN_KEPT);
        let at = first.as_ptr();
        drop(first);
        let again = Buffer::uninit(MIN_KEPT - 1);
        assert_eq!(again.len(), MIN_KEPT - 1, "small enough for the allocator");
        assert_ne!(again.as_ptr(), at);
        assert_eq!(Buffer::uninit(MIN_KEPT).as_ptr(), at);
    }

    #[test]
    fn reused_memory_has_the_length_asked_for() {
        release_buffers();
        drop(Buffer::zeros(2 * MIN_KEPT));
        let shorter = Buffer::uninit(MIN_KEPT + 5);
        assert_eq!(shorter.len(), MIN_KEPT + 5);
        drop(shorter);
        assert_eq!(Buffer::uninit(2 * MIN_KEPT).len(), 2 * MIN_KEPT);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut free = FreeList::default();
        for _ in 0..2 * MAX_KEPT {
            free.keep(Vec::with_capacity(MIN_KEPT));
        }
        assert_eq!(free.buffers.len(), MAX_KEPT);
        free.keep(Vec::with_capacity(MAX_KEPT_ELEMENTS + 1));
        assert!(free.elements <= MAX_KEPT_ELEMENTS);
        assert_eq!(free.elements, free.buffers.iter().map(Vec::capacity).sum::<usize>());
    }
}
