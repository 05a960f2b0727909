//! Memory of floating-point tensors that is used again instead of being returned to the system.
//!
//! A forward pass asks for the same few large sizes thousands of times. Memory fresh from the system has to be mapped
//! and zeroed page by page, which costs more than many of the ops that fill it, so a thread keeps the large buffers it
//! drops and hands them out again.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use half::bf16;

/// Smaller buffers are left to the allocator, which is quick at these.
const MIN_KEPT: usize = 16 * 1024;
/// Buffers of a type that one thread keeps at most.
const MAX_KEPT: usize = 16;
/// Elements of a type that one thread keeps at most: the working set of a decoder at its largest resolution.
const MAX_KEPT_ELEMENTS: usize = 48 << 20;

pub(crate) struct FreeList<T> {
    buffers: Vec<Vec<T>>,
    elements: usize,
}

impl<T> FreeList<T> {
    const fn new() -> Self {
        Self { buffers: Vec::new(), elements: 0 }
    }

    /// The smallest kept buffer that holds `len` elements without wasting more than half of itself.
    fn take(&mut self, len: usize) -> Option<Vec<T>> {
        let best = (0..self.buffers.len())
            .filter(|&i| (len..=2 * len).contains(&self.buffers[i].capacity()))
            .min_by_key(|&i| self.buffers[i].capacity())?;
        let buffer = self.buffers.swap_remove(best);
        self.elements -= buffer.capacity();
        Some(buffer)
    }

    fn keep(&mut self, buffer: Vec<T>) {
        self.elements += buffer.capacity();
        self.buffers.push(buffer);
        while self.buffers.len() > MAX_KEPT || self.elements > MAX_KEPT_ELEMENTS {
            self.elements -= self.buffers.remove(0).capacity();
        }
    }
}

/// An element type whose buffers are kept.
pub(crate) trait Kept: Copy + 'static {
    const ZERO: Self;

    /// Calls `f` with this thread's list, unless the thread is ending and the list is gone.
    fn free_list<R>(f: impl FnOnce(&mut FreeList<Self>) -> R) -> Option<R>;
}

macro_rules! kept {
    ($($t:ty, $zero:expr);*) => {$(
        impl Kept for $t {
            const ZERO: Self = $zero;

            fn free_list<R>(f: impl FnOnce(&mut FreeList<Self>) -> R) -> Option<R> {
                thread_local! {
                    static FREE: RefCell<FreeList<$t>> = const { RefCell::new(FreeList::new()) };
                }
                FREE.try_with(|free| f(&mut free.borrow_mut())).ok()
            }
        }
    )*};
}
kept!(f32, 0.0; bf16, bf16::ZERO);

/// Gives the memory this thread has kept back to the system; call it between stages that work in different sizes.
pub fn release_buffers() {
    f32::free_list(|free| *free = FreeList::new());
    bf16::free_list(|free| *free = FreeList::new());
}

/// Elements of a floating-point tensor.
#[derive(Debug)]
pub(crate) struct Buffer<T: Kept = f32>(Vec<T>);

impl<T: Kept> Buffer<T> {
    /// `len` elements with any (initialised) values: for ops that write every one of them.
    pub(crate) fn uninit(len: usize) -> Self {
        let mut v = match len {
            0..MIN_KEPT => None,
            _ => T::free_list(|free| free.take(len)).flatten(),
        };
        match &mut v {
            Some(v) if v.len() < len => v.resize(len, T::ZERO),
            Some(v) => v.truncate(len),
            None => {}
        }
        Self(v.unwrap_or_else(|| vec![T::ZERO; len]))
    }

    /// The elements, no longer kept for others.
    pub(crate) fn into_vec(mut self) -> Vec<T> {
        std::mem::take(&mut self.0)
    }

    /// `len` zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        Self(vec![T::ZERO; len])
    }
}

impl<T: Kept> From<Vec<T>> for Buffer<T> {
    fn from(v: Vec<T>) -> Self {
        Self(v)
    }
}

impl<T: Kept> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.0.capacity() >= MIN_KEPT {
            let v = std::mem::take(&mut self.0);
            // Without a list the memory is simply freed.
            T::free_list(|free| free.keep(v));
        }
    }
}

impl<T: Kept> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Kept> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_used_again() {
        release_buffers();
        let first = Buffer::<f32>::uninit(MIN_KEPT);
        let at = first.as_ptr();
        drop(first);
        let again = Buffer::<f32>::uninit(MIN_KEPT - 1);
        assert_eq!(again.len(), MIN_KEPT - 1, "small enough for the allocator");
        assert_ne!(again.as_ptr(), at);
        assert_eq!(Buffer::<f32>::uninit(MIN_KEPT).as_ptr(), at);
    }

    #[test]
    fn reused_memory_has_the_length_asked_for() {
        release_buffers();
        drop(Buffer::<f32>::zeros(2 * MIN_KEPT));
        let shorter = Buffer::<f32>::uninit(MIN_KEPT + 5);
        assert_eq!(shorter.len(), MIN_KEPT + 5);
        drop(shorter);
        assert_eq!(Buffer::<f32>::uninit(2 * MIN_KEPT).len(), 2 * MIN_KEPT);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut free = FreeList::<f32>::new();
        for _ in 0..2 * MAX_KEPT {
            free.keep(Vec::with_capacity(MIN_KEPT));
        }
        assert_eq!(free.buffers.len(), MAX_KEPT);
        free.keep(Vec::with_capacity(MAX_KEPT_ELEMENTS + 1));
        assert!(free.elements <= MAX_KEPT_ELEMENTS);
        assert_eq!(free.elements, free.buffers.iter().map(Vec::capacity).sum::<usize>());
    }
}
