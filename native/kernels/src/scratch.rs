//! Scratch memory that kernels borrow from a per-thread store, and pointers that tasks share.

use std::cell::RefCell;

use crate::KernelError;
use crate::memory::AlignedBytes;

/// A thread keeps at most this much scratch between calls; the largest decoder convolution in bf16 needs 48 MiB.
const KEEP: usize = 64 << 20;

/// A pointer that the tasks of one [`parallel_for`](crate::pool::parallel_for) share; each task touches its own part.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(*mut T);

// SAFETY: dereferencing is unsafe, and every use keeps tasks apart.
unsafe impl<T: Sync> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn new(ptr: *mut T) -> Self {
        Self(ptr)
    }

    /// # Safety
    /// As `<*mut T>::add`.
    pub(crate) unsafe fn add(&self, count: usize) -> *mut T {
        // SAFETY: passed on from the caller.
        unsafe { self.0.add(count) }
    }
}

thread_local! {
    static STORE: RefCell<Vec<AlignedBytes>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with `len` bytes of 64-byte aligned scratch whose contents are unspecified (but initialised).
/// Calls may nest; memory is reused between calls on the same thread so that large buffers fault in only once.
pub(crate) fn with<R>(len: usize, f: impl FnOnce(*mut u8) -> R) -> Result<R, KernelError> {
    let kept = STORE.with_borrow_mut(|store| {
        let fit = store.iter().enumerate().filter(|(_, b)| b.len() >= len).min_by_key(|(_, b)| b.len());
        fit.map(|(i, _)| i).map(|i| store.swap_remove(i))
    });
    let mut buffer = match kept {
        Some(buffer) => buffer,
        None => AlignedBytes::zeroed(len.checked_next_multiple_of(4096).ok_or(KernelError::OutOfMemory(len))?)?,
    };
    #[cfg(test)]
    let _lent = lent::Lent::new(buffer.len());
    let result = f(buffer.as_mut_ptr());
    STORE.with_borrow_mut(|store| {
        store.push(buffer);
        while store.iter().map(AlignedBytes::len).sum::<usize>() > KEEP {
            let largest = (0..store.len()).max_by_key(|&i| store[i].len()).expect("the store is not empty");
            store.swap_remove(largest);
        }
    });
    Ok(result)
}

/// How much is lent on all threads together, for tests of what a kernel needs.
#[cfg(test)]
pub(crate) mod lent {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    static NOW: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);

    pub(super) struct Lent(usize);

    impl Lent {
        pub(super) fn new(bytes: usize) -> Self {
            MOST.fetch_max(NOW.fetch_add(bytes, SeqCst) + bytes, SeqCst);
            Self(bytes)
        }
    }

    impl Drop for Lent {
        fn drop(&mut self) {
            NOW.fetch_sub(self.0, SeqCst);
        }
    }

    /// The most bytes that were lent at a time since the last call.
    pub(crate) fn most() -> usize {
        MOST.swap(NOW.load(SeqCst), SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_scratch_is_aligned_and_distinct() {
        with(100, |a| {
            with(100, |b| {
                assert_eq!((a as usize % 64, b as usize % 64), (0, 0));
                assert_ne!(a, b);
            })
            .unwrap();
        })
        .unwrap();
        assert!(matches!(with(usize::MAX, |_| ()), Err(KernelError::OutOfMemory(_))));
    }
}
