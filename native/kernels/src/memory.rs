//! Zeroed, cache-line aligned memory. Large blocks come in huge pages where the system has them: they fault in two
//! hundred times less often when weights are packed, and cost the gemm fewer address look-ups.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

use crate::KernelError;

const ALIGN: usize = 64;
/// Blocks of at least this size are mapped instead of allocated.
#[cfg(target_os = "linux")]
const HUGE_PAGE: usize = 2 << 20;

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
        #[cfg(target_os = "linux")]
        if len >= HUGE_PAGE {
            return map(len).map(|ptr| Self { ptr, len }).ok_or(KernelError::OutOfMemory(len));
        }
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

/// Fresh pages, which the kernel hands out zeroed and page-aligned. Nothing is touched yet, so that the threads that
/// first write them share the work.
#[cfg(target_os = "linux")]
fn map(len: usize) -> Option<NonNull<u8>> {
    // SAFETY: a new private mapping touches no existing memory; the advice is only that, and may fail.
    unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let ptr = libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
        if ptr == libc::MAP_FAILED {
            return None;
        }
        libc::madvise(ptr, len, libc::MADV_HUGEPAGE);
        NonNull::new(ptr.cast())
    }
}

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        #[cfg(target_os = "linux")]
        if self.len >= HUGE_PAGE {
            // SAFETY: the mapping that `zeroed` made for this length.
            unsafe { libc::munmap(self.ptr.as_ptr().cast(), self.len) };
            return;
        }
        // SAFETY: the same layout as in `zeroed`, which succeeded for this length.
        unsafe { dealloc(self.ptr.as_ptr(), Layout::from_size_align_unchecked(self.len.max(ALIGN), ALIGN)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_zeroed_aligned_and_refused_when_absurd() {
        for len in [0, 1, 100, (2 << 20) - 1, 2 << 20, (5 << 20) + 3] {
            let mut bytes = AlignedBytes::zeroed(len).unwrap();
            assert_eq!((bytes.len(), bytes.as_ptr::<u8>() as usize % ALIGN), (len, 0));
            // SAFETY: the block has that many bytes.
            let all = unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr::<u8>(), len) };
            assert!(all.iter().all(|&b| b == 0));
            all.fill(1);
        }
        for absurd in [usize::MAX, isize::MAX as usize - 100] {
            assert!(matches!(AlignedBytes::zeroed(absurd), Err(KernelError::OutOfMemory(_))));
        }
    }
}
