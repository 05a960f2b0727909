//! One vocabulary for vectors of f32, so that everything that is not a matrix product is written once.
//!
//! A kernel is a [`Kernel`] whose `run` is generic over [`Simd`] and marked `#[inline(always)]`; [`dispatch`] compiles it
//! for each instruction set and calls the one in use.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod math;

use half::bf16;

#[cfg(target_arch = "x86_64")]
pub(crate) use {avx2::Avx2, avx512::Avx512};

use crate::Isa;

/// A vector of f32 and what can be done with it.
///
/// # Safety
/// Every method may only be called where the CPU has the implementation's instructions, which is so inside
/// [`Kernel::run`]. Pointers need no alignment.
pub(crate) trait Simd: Copy {
    /// Values in a vector.
    const LANES: usize;
    /// The vector.
    type V: Copy;

    unsafe fn splat(value: f32) -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    unsafe fn store(to: *mut f32, v: Self::V);
    unsafe fn load_bf16(from: *const bf16) -> Self::V;
    /// Twice as many numbers as a vector has: those at even and those at odd places.
    unsafe fn load_bf16_pairs(from: *const bf16) -> [Self::V; 2];
    unsafe fn load_i8(from: *const i8) -> Self::V;
    /// Stores pairs of numbers that bf16 holds exactly: `even[0]`, `odd[0]`, `even[1]`, ….
    unsafe fn store_bf16_pairs(to: *mut [bf16; 2], even: Self::V, odd: Self::V);
    /// Rounds to nearest even; NaN stays NaN.
    unsafe fn store_bf16(to: *mut bf16, v: Self::V);

    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a · b + c`, rounded once.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger value; `b` when either is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The smaller value; `b` when either is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn abs(a: Self::V) -> Self::V;
    /// To the nearest integer, ties to even.
    unsafe fn round(a: Self::V) -> Self::V;
    /// `a · 2^n` for integral `n` in −300 ..= 300, with overflow to infinity.
    unsafe fn scale(a: Self::V, n: Self::V) -> Self::V;
    /// `yes` where `a < b`, else `no`.
    unsafe fn select_lt(a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// Turns neighbours against each other, `a₀ cos₀ − a₁ sin₀`, `a₁ cos₀ + a₀ sin₀`, …; not where a vector is one value.
    unsafe fn turn_pairs(a: Self::V, cos: *const f32, sin: *const f32) -> Self::V;
    unsafe fn sum(a: Self::V) -> f32;
    /// The sums of four vectors.
    #[inline(always)]
    unsafe fn sums(a: [Self::V; 4]) -> [f32; 4] {
        // SAFETY: passed on from the caller.
        a.map(|a| unsafe { Self::sum(a) })
    }
    /// The largest value; unspecified when one is NaN.
    unsafe fn largest(a: Self::V) -> f32;
}

/// Plain Rust: one value at a time.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

impl Simd for Scalar {
    const LANES: usize = 1;
    type V = f32;

    #[inline(always)]
    unsafe fn splat(value: f32) -> f32 {
        value
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> f32 {
        // SAFETY: passed on from the caller.
        unsafe { from.read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: f32) {
        // SAFETY: passed on from the caller.
        unsafe { to.write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> f32 {
        // SAFETY: passed on from the caller.
        unsafe { from.read_unaligned() }.to_f32()
    }
    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const bf16) -> [f32; 2] {
        // SAFETY: passed on from the caller.
        unsafe { [Self::load_bf16(from), Self::load_bf16(from.add(1))] }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> f32 {
        // SAFETY: passed on from the caller.
        f32::from(unsafe { *from })
    }
    #[inline(always)]
    unsafe fn store_bf16_pairs(to: *mut [bf16; 2], even: f32, odd: f32) {
        // SAFETY: passed on from the caller.
        unsafe { to.write([bf16::from_f32(even), bf16::from_f32(odd)]) }
    }
    #[inline(always)]
    unsafe fn store_bf16(to: *mut bf16, v: f32) {
        // SAFETY: passed on from the caller.
        unsafe { to.write_unaligned(bf16::from_f32(v)) }
    }
    #[inline(always)]
    unsafe fn add(a: f32, b: f32) -> f32 {
        a + b
    }
    #[inline(always)]
    unsafe fn sub(a: f32, b: f32) -> f32 {
        a - b
    }
    #[inline(always)]
    unsafe fn mul(a: f32, b: f32) -> f32 {
        a * b
    }
    #[inline(always)]
    unsafe fn div(a: f32, b: f32) -> f32 {
        a / b
    }
    #[inline(always)]
    unsafe fn fma(a: f32, b: f32, c: f32) -> f32 {
        // `mul_add` without an FMA instruction is a slow library call; the reference rounds twice instead.
        a * b + c
    }
    #[inline(always)]
    unsafe fn max(a: f32, b: f32) -> f32 {
        if a > b { a } else { b }
    }
    #[inline(always)]
    unsafe fn min(a: f32, b: f32) -> f32 {
        if a < b { a } else { b }
    }
    #[inline(always)]
    unsafe fn abs(a: f32) -> f32 {
        a.abs()
    }
    #[inline(always)]
    unsafe fn round(a: f32) -> f32 {
        a.round_ties_even()
    }
    #[inline(always)]
    unsafe fn scale(a: f32, n: f32) -> f32 {
        // In two steps, because 2^n alone may not be a number.
        let half = (n * 0.5).round_ties_even();
        let power = |n: f32| f32::from_bits(((n as i32 + 127) as u32) << 23);
        a * power(half) * power(n - half)
    }
    #[inline(always)]
    unsafe fn select_lt(a: f32, b: f32, yes: f32, no: f32) -> f32 {
        if a < b { yes } else { no }
    }
    #[inline(always)]
    unsafe fn turn_pairs(_: f32, _: *const f32, _: *const f32) -> f32 {
        unreachable!("there are no pairs in one value")
    }
    #[inline(always)]
    unsafe fn sum(a: f32) -> f32 {
        a
    }
    #[inline(always)]
    unsafe fn largest(a: f32) -> f32 {
        a
    }
}

/// Asks for a cache line that will soon be read. The address need not exist.
#[inline(always)]
pub(crate) fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch has no effect but on caches, and SSE is part of the architecture.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// [`prefetch`] into the L2 cache only.
#[inline(always)]
pub(crate) fn prefetch_l2<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as in `prefetch`.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Work that can be done with any instruction set.
pub(crate) trait Kernel {
    type Output;
    /// Mark the implementation `#[inline(always)]`, and every generic function it calls.
    ///
    /// # Safety
    /// The CPU has the instructions of `S`.
    unsafe fn run<S: Simd>(self) -> Self::Output;
}

/// Runs a kernel with the instructions of `isa`, which must be available.
pub(crate) fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    debug_assert!(isa.is_available());
    // SAFETY: the instruction set is available.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => with_avx512(kernel),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => with_avx2(kernel),
            _ => kernel.run::<Scalar>(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn with_avx2<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function has the features.
    unsafe { kernel.run::<avx2::Avx2>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
fn with_avx512<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function has the features.
    unsafe { kernel.run::<avx512::Avx512>() }
}
