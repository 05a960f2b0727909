//! The thread pool: one per process, as many threads as physical cores, work handed over in about a microsecond.
//!
//! Workers spin for a moment after each job and then sleep. The calling thread always takes part and never waits for a
//! worker that has not woken yet, so a loaded machine slows a kernel down but cannot stall it. Callers on several threads
//! take turns of a few milliseconds, so the machine is never oversubscribed; a nested call runs on the thread it is
//! made on.

use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long an idle worker spins before it sleeps, in spin-loop hints (about 20–50 µs).
const SPINS: u32 = 1500;
/// How long a caller waits at most while others use the pool again and again.
const PATIENCE: Duration = Duration::from_millis(5);
/// More threads than this are never useful to these kernels.
const MAX_THREADS: usize = 256;

/// Runs `body(0)`, …, `body(tasks - 1)`, each once, on the pool's threads and the calling one, and returns when all are
/// done. Denormals are treated as zero meanwhile, on every path alike.
///
/// # Panics
/// When a task panics, after the others have stopped.
pub fn parallel_for(tasks: usize, body: &(dyn Fn(usize) + Sync)) {
    let _flush = FlushDenormals::new();
    if tasks <= 1 || IN_TASK.get() || num_threads() == 1 {
        let _inside = InTask::enter();
        return (0..tasks).for_each(body);
    }
    pool().run(tasks, body);
}

/// The number of threads a kernel uses, the calling one included.
pub fn num_threads() -> usize {
    match THREADS.load(SeqCst) {
        0 => {
            set_num_threads(default_threads());
            THREADS.load(SeqCst)
        }
        threads => threads,
    }
}

/// Sets the number of threads (at least 1, at most 256). The default is the number of physical cores this process may
/// use, or `SANGO_NUM_THREADS`.
pub fn set_num_threads(threads: usize) {
    THREADS.store(threads.clamp(1, MAX_THREADS), SeqCst);
}

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

/// One job on offer. The pointers are valid while `ticket` is published in [`Pool::open`].
#[derive(Clone, Copy)]
struct Job {
    body: *const (dyn Fn(usize) + Sync),
    tasks: usize,
    helpers: usize,
}

// SAFETY: `body` is Sync, and the caller keeps it alive until no worker is active.
unsafe impl Send for Job {}

struct Pool {
    /// The number of the job on offer, or 0. Numbers only grow.
    open: AtomicU64,
    job: Mutex<Option<Job>>,
    next_task: AtomicUsize,
    /// Workers that may be looking at the job on offer.
    active: AtomicUsize,
    panicked: AtomicBool,
    sleeping: Mutex<usize>,
    wake: Condvar,
    workers: Mutex<usize>,
    turn: Turn,
}

fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| Pool {
        open: AtomicU64::new(0),
        job: Mutex::new(None),
        next_task: AtomicUsize::new(0),
        active: AtomicUsize::new(0),
        panicked: AtomicBool::new(false),
        sleeping: Mutex::new(0),
        wake: Condvar::new(),
        workers: Mutex::new(0),
        turn: Turn::default(),
    })
}

impl Pool {
    fn run(&'static self, tasks: usize, body: &(dyn Fn(usize) + Sync)) {
        let ticket = self.turn.take();
        let helpers = (num_threads() - 1).min(tasks - 1);
        self.ensure_workers(helpers);
        // SAFETY: only the lifetime changes; the job is withdrawn and every worker has left it before this returns.
        let body_ptr: *const (dyn Fn(usize) + Sync + 'static) =
            unsafe { std::mem::transmute(std::ptr::from_ref(body)) };
        *lock(&self.job) = Some(Job { body: body_ptr, tasks, helpers });
        self.next_task.store(0, SeqCst);
        self.open.store(ticket, SeqCst);
        if *lock(&self.sleeping) > 0 {
            self.wake.notify_all();
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| self.work(body, tasks)));
        if outcome.is_err() {
            self.next_task.store(tasks, SeqCst);
        }
        self.open.store(0, SeqCst);
        let mut spins = 0u32;
        while self.active.load(SeqCst) != 0 {
            relax(&mut spins);
        }
        *lock(&self.job) = None;
        let worker_panicked = self.panicked.swap(false, SeqCst);
        self.turn.pass();
        if let Err(payload) = outcome {
            resume_unwind(payload);
        }
        assert!(!worker_panicked, "a task panicked on a pool thread");
    }

    fn work(&self, body: &(dyn Fn(usize) + Sync), tasks: usize) {
        let _inside = InTask::enter();
        loop {
            let task = self.next_task.fetch_add(1, SeqCst);
            if task >= tasks {
                return;
            }
            body(task);
        }
    }

    fn ensure_workers(&'static self, wanted: usize) {
        let mut workers = lock(&self.workers);
        while *workers < wanted {
            let index = *workers;
            let spawned =
                std::thread::Builder::new().name(format!("sango-kernels-{index}")).spawn(move || self.worker(index));
            if spawned.is_err() {
                return; // The calling thread does all the work then.
            }
            *workers += 1;
        }
    }

    fn worker(&'static self, index: usize) -> ! {
        let _flush = FlushDenormals::new();
        let mut seen = 0;
        loop {
            let ticket = self.wait_for_job(seen);
            seen = ticket;
            // Announce first, look again second: the caller withdraws the job first and counts second, so either it
            // sees this worker or this worker sees that the job is gone.
            self.active.fetch_add(1, SeqCst);
            if self.open.load(SeqCst) == ticket {
                let job = *lock(&self.job);
                if let Some(job) = job.filter(|job| index < job.helpers) {
                    // SAFETY: the caller waits for `active` to return to 0 before `body` goes away.
                    let body = unsafe { &*job.body };
                    if catch_unwind(AssertUnwindSafe(|| self.work(body, job.tasks))).is_err() {
                        self.next_task.store(job.tasks, SeqCst);
                        self.panicked.store(true, SeqCst);
                    }
                }
            }
            self.active.fetch_sub(1, SeqCst);
        }
    }

    fn wait_for_job(&self, seen: u64) -> u64 {
        let fresh = || Some(self.open.load(SeqCst)).filter(|&ticket| ticket > seen);
        for _ in 0..SPINS {
            if let Some(ticket) = fresh() {
                return ticket;
            }
            std::hint::spin_loop();
        }
        let mut sleeping = lock(&self.sleeping);
        *sleeping += 1;
        loop {
            if let Some(ticket) = fresh() {
                *sleeping -= 1;
                return ticket;
            }
            sleeping = self.wake.wait(sleeping).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Lets one caller at a time use the pool.
///
/// A strict queue would make two busy callers switch after every job, which costs far more than the jobs when the machine
/// has other work too; so whoever comes first takes the pool, until somebody has waited for [`PATIENCE`].
#[derive(Default)]
struct Turn {
    state: Mutex<TurnState>,
    changed: Condvar,
}

#[derive(Default)]
struct TurnState {
    busy: bool,
    /// Jobs so far.
    jobs: u64,
    /// Who waits, longest first: a number of its own and since when.
    waiting: VecDeque<(u64, Instant)>,
    arrivals: u64,
}

impl TurnState {
    /// Takes the pool for the caller with this place in the queue, if it may. Returns the number of its job.
    fn try_take(&mut self, place: Option<u64>) -> Option<u64> {
        let first = self.waiting.front();
        let first_is_patient = first.is_none_or(|(first, since)| place == Some(*first) || since.elapsed() < PATIENCE);
        if self.busy || !first_is_patient {
            return None;
        }
        self.waiting.retain(|(waiting, _)| Some(*waiting) != place);
        self.busy = true;
        self.jobs += 1;
        Some(self.jobs)
    }
}

impl Turn {
    /// Waits for the pool and returns the number of the job, from 1 on.
    fn take(&self) -> u64 {
        let mut state = lock(&self.state);
        if let Some(job) = state.try_take(None) {
            return job;
        }
        state.arrivals += 1;
        let place = state.arrivals;
        state.waiting.push_back((place, Instant::now()));
        loop {
            if let Some(job) = state.try_take(Some(place)) {
                return job;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn pass(&self) {
        let mut state = lock(&self.state);
        state.busy = false;
        if !state.waiting.is_empty() {
            self.changed.notify_all();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn relax(spins: &mut u32) {
    *spins += 1;
    if *spins < SPINS {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

struct InTask(bool);

impl InTask {
    fn enter() -> Self {
        Self(IN_TASK.replace(true))
    }
}

impl Drop for InTask {
    fn drop(&mut self) {
        IN_TASK.set(self.0);
    }
}

/// Physical cores among those this process may run on: two hyper-threads share one core's multipliers.
fn default_threads() -> usize {
    if let Some(threads) =
        std::env::var("SANGO_NUM_THREADS").ok().and_then(|v| v.parse().ok()).filter(|&n: &usize| n > 0)
    {
        return threads;
    }
    let logical = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut cores = std::collections::HashSet::new();
    for cpu in 0.. {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        match std::fs::read_to_string(path) {
            Ok(siblings) => cores.insert(siblings),
            Err(_) => break,
        };
    }
    if cores.is_empty() { logical } else { logical.min(cores.len()) }
}

/// Treats denormals as zero for as long as it lives, then restores what the thread had.
///
/// AMX and `vdpbf16ps` always do and f32 arithmetic on denormals is up to a hundred times slower, so every path does the
/// same. The bits are flush-to-zero and denormals-are-zero of MXCSR, or FZ of FPCR on aarch64.
struct FlushDenormals {
    saved: u64,
}

impl FlushDenormals {
    #[cfg(target_arch = "x86_64")]
    const BITS: u64 = 1 << 15 | 1 << 6;
    #[cfg(target_arch = "aarch64")]
    const BITS: u64 = 1 << 24;
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    const BITS: u64 = 0;

    fn new() -> Self {
        let saved = Self::read();
        Self::write(saved | Self::BITS);
        Self { saved }
    }

    #[cfg(target_arch = "x86_64")]
    fn read() -> u64 {
        let mut mxcsr = 0u32;
        // SAFETY: stmxcsr stores four bytes at the address given.
        unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &mut mxcsr, options(nostack, preserves_flags)) };
        mxcsr.into()
    }

    #[cfg(target_arch = "x86_64")]
    fn write(control: u64) {
        let mxcsr = control as u32;
        // SAFETY: only the denormal bits differ from a value the thread was running with.
        unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &mxcsr, options(nostack, preserves_flags)) };
    }

    #[cfg(target_arch = "aarch64")]
    fn read() -> u64 {
        let fpcr;
        // SAFETY: reading the control register has no effect.
        unsafe { std::arch::asm!("mrs {}, fpcr", out(reg) fpcr, options(nostack, nomem, preserves_flags)) };
        fpcr
    }

    #[cfg(target_arch = "aarch64")]
    fn write(control: u64) {
        // SAFETY: only the denormal bit differs from a value the thread was running with.
        unsafe { std::arch::asm!("msr fpcr, {}", in(reg) control, options(nostack, preserves_flags)) };
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn read() -> u64 {
        0
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn write(_: u64) {}
}

impl Drop for FlushDenormals {
    fn drop(&mut self) {
        Self::write(self.saved);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;

    #[test]
    fn every_task_runs_once_from_several_callers_and_nested() {
        set_num_threads(3);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..200 {
                        let counts: Vec<AtomicUsize> = (0..round % 17).map(|_| AtomicUsize::new(0)).collect();
                        parallel_for(counts.len(), &|i| {
                            parallel_for(3, &|_| {
                                counts[i].fetch_add(1, SeqCst);
                            });
                        });
                        assert!(counts.iter().all(|c| c.load(SeqCst) == 3));
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_survives() {
        set_num_threads(3);
        for bad in 0..8 {
            let result = catch_unwind(|| parallel_for(8, &|i| assert_ne!(i, bad, "task {i}")));
            assert!(result.is_err());
        }
        let sum = AtomicUsize::new(0);
        parallel_for(100, &|i| {
            sum.fetch_add(i, SeqCst);
        });
        assert_eq!(sum.load(SeqCst), 4950);
    }

    #[test]
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn denormals_flush_inside_and_not_outside() {
        let halve = || black_box(black_box(f32::MIN_POSITIVE) * black_box(0.5));
        let nonzero = AtomicUsize::new(0);
        parallel_for(64, &|_| {
            nonzero.fetch_add(usize::from(halve() != 0.0), SeqCst);
        });
        assert_eq!(nonzero.load(SeqCst), 0);
        assert!(halve() > 0.0);
    }
}
