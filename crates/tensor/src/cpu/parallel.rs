//! Sharing a loop between threads when it is long enough to be worth it.

use sango_kernels::pool;

/// Elements below which handing work to another thread costs more than it saves.
pub(crate) const MIN_PARALLEL: usize = 64 * 1024;

/// A pointer that several threads use for disjoint parts of one slice.
struct Shared<T>(*mut T);
// SAFETY: only `for_each_chunk` makes these, and it gives every task its own part of the slice.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// # Safety
    /// `start..start + len` lies in the slice and no other thread uses it.
    #[expect(clippy::mut_from_ref, reason = "the parts are disjoint")]
    unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}

/// Calls `f(first_row, rows)` for parts of `out`, which is made of rows of `row` elements; in parallel when `cost`
/// (about the number of elements read and written) is large.
pub(crate) fn for_each_chunk<T: Send>(out: &mut [T], row: usize, cost: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    if out.is_empty() {
        return;
    }
    let rows = out.len() / row;
    let tasks = if cost < MIN_PARALLEL { 1 } else { (4 * pool::num_threads()).min(rows) };
    if tasks <= 1 {
        return f(0, out);
    }
    let shared = Shared(out.as_mut_ptr());
    pool::parallel_for(tasks, &|task| {
        let (first, end) = (rows * task / tasks, rows * (task + 1) / tasks);
        // SAFETY: tasks have disjoint ranges of rows, all within `out`, which outlives `parallel_for`.
        f(first, unsafe { shared.part(first * row, (end - first) * row) });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_visited_once() {
        for rows in [1, 2, 7, 64, 1000] {
            let mut out = vec![0u32; rows * 3];
            for_each_chunk(&mut out, 3, usize::MAX, |first, part| {
                for (i, x) in part.iter_mut().enumerate() {
                    *x += 1 + (first * 3 + i) as u32;
                }
            });
            assert!(out.iter().enumerate().all(|(i, &x)| x == 1 + i as u32), "{rows} rows");
        }
        for_each_chunk(&mut [0u8; 0], 0, usize::MAX, |_, _| panic!("nothing to do"));
    }
}
