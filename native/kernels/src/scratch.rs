//! Cache-line aligned memory: packed weights own it, kernels borrow it from a per-thread store.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::RefCell;
use std::ptr::NonNull;

use crate::KernelError;

const ALIGN: usize = 64;
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

/// Zeroed bytes on a 64-byte boundary.
#[derive(Debug)]
pub(crate) struct AlignedBytes {
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: the buffer is plain memory with one owner.
unsafe impl Send for AlignedBytes {}
// SAFETY: shared access only reads.
unsafe impl Sync for AlignedBytes {}

impl AlignedBytes {
    pub(crate) fn zeroed(len: usize) -> Result<Self, KernelError> {
        let layout = Layout::from_size_align(len.max(ALIGN), ALIGN).map_err(|_| KernelError::OutOfMemory(len))?;
        // SAFETY: the layout has a non-zero size.
        let ptr = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(KernelError::OutOfMemory(len))?;
        Ok(Self { ptr, len })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn as_ptr<T>(&self) -> *const T {
        self.ptr.as_ptr().cast()
    }

    pub(crate) fn as_mut_ptr<T>(&mut self) -> *mut T {
        self.ptr.as_ptr().cast()
    }
}

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        // SAFETY: the same layout as in `zeroed`, which succeeded for this length.
        unsafe { dealloc(self.ptr.as_ptr(), Layout::from_size_align_unchecked(self.len.max(ALIGN), ALIGN)) }
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
        None => AlignedBytes::zeroed(len.next_multiple_of(4096))?,
    };
    let result = f(buffer.as_mut_ptr());
    STORE.with_borrow_mut(|store| {
        store.push(buffer);
        while store.iter().map(AlignedBytes::len).sum::<usize>() > KEEP {
            let smallest = (0..store.len()).min_by_key(|&i| store[i].len()).expect("the store is not empty");
            store.swap_remove(smallest);
        }
    });
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_scratch_is_aligned_and_distinct() {
        with(100, |a| {
            with(100, |b| {
                assert_eq!((a as usize % ALIGN, b as usize % ALIGN), (0, 0));
                assert_ne!(a, b);
            })
            .unwrap();
        })
        .unwrap();
        assert!(matches!(AlignedBytes::zeroed(usize::MAX), Err(KernelError::OutOfMemory(_))));
    }
}
