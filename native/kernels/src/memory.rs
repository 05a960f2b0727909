//! Zeroed, cache-line aligned memory. Large blocks come in huge pages where the system has them: they fault in two
//! hundred times less often when weights are packed, and cost the gemm fewer address look-ups.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
#[cfg(target_os = "linux")]
use std::sync::{Arc, Mutex, PoisonError};

use crate::KernelError;

const ALIGN: usize = 64;
/// Blocks of at least this size are mapped instead of allocated.
#[cfg(target_os = "linux")]
const HUGE_PAGE: usize = 2 << 20;
/// What is mapped at once for blocks that are to share huge pages. (What is left over of it is never touched.)
#[cfg(target_os = "linux")]
const SLAB: usize = 64 << 20;
/// Sizes that share: smaller ones gain nothing from huge pages, larger ones nothing from sharing.
#[cfg(target_os = "linux")]
const SHARED: std::ops::Range<usize> = 16 << 10..16 << 20;

/// Zeroed bytes on a 64-byte boundary.
#[derive(Debug)]
pub(crate) struct AlignedBytes {
    ptr: NonNull<u8>,
    len: usize,
    /// The memory that this is a part of, where it has none of its own.
    #[cfg(target_os = "linux")]
    slab: Option<Arc<AlignedBytes>>,
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
            return map(len).map(|ptr| Self::own(ptr, len)).ok_or(KernelError::OutOfMemory(len));
        }
        // SAFETY: the layout has a non-zero size.
        let ptr = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(KernelError::OutOfMemory(len))?;
        Ok(Self::own(ptr, len))
    }

    /// [`Self::zeroed`] for what stays for long, as weights do: blocks share huge pages, as few are a whole number of them.
    /// The memory is given back when all of them are gone.
    #[cfg(target_os = "linux")]
    pub(crate) fn zeroed_to_stay(len: usize) -> Result<Self, KernelError> {
        /// The slab in use, and the bytes of it that are taken.
        static CURRENT: Mutex<Option<(Arc<AlignedBytes>, usize)>> = Mutex::new(None);
        if !SHARED.contains(&len) {
            return Self::zeroed(len);
        }
        let room = len.next_multiple_of(ALIGN);
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        let (slab, taken) = match current.take() {
            Some((slab, taken)) if taken + room <= slab.len => (slab, taken),
            _ => {
                let slab = Self::zeroed(SLAB)?;
                let skipped = slab.ptr.align_offset(HUGE_PAGE) % HUGE_PAGE;
                (Arc::new(slab), skipped)
            }
        };
        // SAFETY: the slab has that many bytes more, which nobody else is given.
        let ptr = unsafe { slab.ptr.add(taken) };
        *current = Some((slab.clone(), taken + room));
        Ok(Self { ptr, len, slab: Some(slab) })
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn zeroed_to_stay(len: usize) -> Result<Self, KernelError> {
        Self::zeroed(len)
    }

    fn own(ptr: NonNull<u8>, len: usize) -> Self {
        Self {
            ptr,
            len,
            #[cfg(target_os = "linux")]
            slab: None,
        }
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
        if self.slab.is_some() {
            return;
        }
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
        let mut kept: Vec<_> = (1..40).map(|i| AlignedBytes::zeroed_to_stay(i * 40_001).unwrap()).collect();
        for (i, bytes) in kept.iter_mut().enumerate() {
            assert_eq!((bytes.len(), bytes.as_ptr::<u8>() as usize % ALIGN), ((i + 1) * 40_001, 0));
            // SAFETY: the block has that many bytes.
            let all = unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr::<u8>(), bytes.len()) };
            assert!(all.iter().all(|&b| b == 0), "block {i} is its own");
            all.fill(1);
        }
        for absurd in [usize::MAX, isize::MAX as usize - 100] {
            assert!(matches!(AlignedBytes::zeroed(absurd), Err(KernelError::OutOfMemory(_))));
        }
    }
}
