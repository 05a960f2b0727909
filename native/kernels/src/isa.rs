//! Which instructions to use: found once, forced by `SANGO_ISA`, overridden per thread by tests and benchmarks.

use std::cell::Cell;
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::KernelError;

/// An instruction set the kernels have code for, from the plainest to the fastest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// Plain Rust; the reference every other path is tested against. What aarch64 uses.
    Scalar,
    /// AVX2 with FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// [`Isa::Avx512`] with `vdpbf16ps` for bf16 weights.
    Avx512Bf16,
    /// [`Isa::Avx512Bf16`] with AMX bf16 tiles for bf16 weights.
    Amx,
}

impl Isa {
    /// Every instruction set, plainest first.
    pub const ALL: [Isa; 5] = [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16, Isa::Amx];

    /// The name `SANGO_ISA` and the status reports use.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Bf16 => "avx512bf16",
            Isa::Amx => "amx",
        }
    }

    /// Whether this CPU and operating system can run it.
    pub fn is_available(self) -> bool {
        detected() & (1 << self as u32) != 0 || ASSUMED.load(Ordering::Relaxed) & (1 << self as u32) != 0
    }

    /// The instruction set in use on this thread: an enclosing [`Isa::run`], else `SANGO_ISA`, else the fastest.
    ///
    /// A `SANGO_ISA` that this machine cannot honour is reported once on stderr and ignored; [`Isa::from_env`] lets a
    /// program refuse it instead.
    pub fn active() -> Isa {
        static CHOSEN: OnceLock<Isa> = OnceLock::new();
        if let Some(isa) = FORCED.get() {
            return isa;
        }
        *CHOSEN.get_or_init(|| match Isa::from_env() {
            Ok(isa) => isa,
            Err(error) => {
                eprintln!("sango-kernels: SANGO_ISA ignored: {error}");
                Isa::best()
            }
        })
    }

    /// What `SANGO_ISA` asks for, or the fastest when it is not set.
    ///
    /// # Errors
    /// [`KernelError::IsaUnavailable`] when the name is unknown or the machine lacks it.
    pub fn from_env() -> Result<Isa, KernelError> {
        match std::env::var("SANGO_ISA") {
            Ok(name) if !name.is_empty() => name.parse::<Isa>()?.check(),
            _ => Ok(Isa::best()),
        }
    }

    /// The fastest instruction set of this machine.
    pub fn best() -> Isa {
        Isa::ALL.into_iter().rev().find(|isa| detected() & (1 << *isa as u32) != 0).unwrap_or(Isa::Scalar)
    }

    /// Runs `f` with this instruction set on the calling thread (the pool's threads follow for the kernels it calls).
    ///
    /// # Errors
    /// [`KernelError::IsaUnavailable`] when the machine lacks it.
    pub fn run<R>(self, f: impl FnOnce() -> R) -> Result<R, KernelError> {
        struct Restore(Option<Isa>);
        impl Drop for Restore {
            fn drop(&mut self) {
                FORCED.set(self.0);
            }
        }
        self.check()?;
        let _restore = Restore(FORCED.replace(Some(self)));
        Ok(f())
    }

    /// Makes [`Isa::is_available`] answer yes from now on, for a test that emulates the instructions.
    ///
    /// # Safety
    /// The process must survive executing these instructions on any thread.
    #[doc(hidden)]
    pub unsafe fn assume_available(self) {
        ASSUMED.fetch_or(1 << self as u32, Ordering::Relaxed);
    }

    fn check(self) -> Result<Isa, KernelError> {
        if self.is_available() { Ok(self) } else { Err(unavailable(self.name())) }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Isa, KernelError> {
        Isa::ALL.into_iter().find(|isa| isa.name().eq_ignore_ascii_case(name)).ok_or_else(|| unavailable(name))
    }
}

thread_local! {
    static FORCED: Cell<Option<Isa>> = const { Cell::new(None) };
}
static ASSUMED: AtomicU32 = AtomicU32::new(0);

fn unavailable(wanted: &str) -> KernelError {
    let names: Vec<_> = Isa::ALL.into_iter().filter(|isa| isa.is_available()).map(Isa::name).collect();
    KernelError::IsaUnavailable { wanted: wanted.to_owned(), available: names.join(", ") }
}

/// One bit per [`Isa`] the machine has.
fn detected() -> u32 {
    static DETECTED: OnceLock<u32> = OnceLock::new();
    *DETECTED.get_or_init(|| {
        present().into_iter().filter(|(_, present)| *present).fold(0, |bits, (isa, _)| bits | 1 << isa as u32)
    })
}

#[cfg(target_arch = "x86_64")]
fn present() -> [(Isa, bool); 5] {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx512 = avx2
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    let bf16 = avx512 && is_x86_feature_detected!("avx512bf16");
    [
        (Isa::Scalar, true),
        (Isa::Avx2, avx2),
        (Isa::Avx512, avx512),
        (Isa::Avx512Bf16, bf16),
        (Isa::Amx, bf16 && amx_permitted()),
    ]
}

#[cfg(not(target_arch = "x86_64"))]
fn present() -> [(Isa, bool); 1] {
    [(Isa::Scalar, true)]
}

/// Whether the CPU has AMX bf16 tiles and Linux lets this process use them.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn amx_permitted() -> bool {
    use std::arch::x86_64::__cpuid_count;
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;

    let features = __cpuid_count(7, 0).edx;
    if features & AMX_BF16 == 0 || features & AMX_TILE == 0 {
        return false;
    }
    let result: i64;
    // SAFETY: arch_prctl(ARCH_REQ_XCOMP_PERM) reads no memory; it grants the process the tile state or fails.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn amx_permitted() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_unknown_names_say_what_there_is() {
        for isa in Isa::ALL {
            assert_eq!(isa.name().to_uppercase().parse::<Isa>(), Ok(isa));
        }
        let error = "sse9".parse::<Isa>().unwrap_err().to_string();
        assert!(error.contains("sse9") && error.contains("scalar"), "{error}");
    }

    #[test]
    fn run_forces_the_instruction_set_on_this_thread_only() {
        let outside = Isa::active();
        Isa::Scalar
            .run(|| {
                assert_eq!(Isa::active(), Isa::Scalar);
                std::thread::spawn(move || assert_eq!(Isa::active(), outside)).join().unwrap();
            })
            .unwrap();
        assert_eq!(Isa::active(), outside);
    }
}
