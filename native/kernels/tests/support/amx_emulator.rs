//! Runs AMX code on CPUs that lack AMX: catches the illegal instruction, does what it would have done, and goes on.
//!
//! Only what the kernels use is here: `ldtilecfg`, `tilerelease`, `tilezero`, `tileloadd`, `tileloaddt1`, `tilestored` and
//! `tdpbf16ps`, as the Intel Software Developer's Manual defines them. Anything else that is illegal stays fatal.

use std::cell::UnsafeCell;
use std::sync::Once;

use sango_kernels::Isa;

const ROWS: usize = 16;
const ROW_BYTES: usize = 64;

/// The tile state of one thread.
struct Tiles {
    configured: bool,
    rows: [u8; 8],
    row_bytes: [u16; 8],
    data: [[[u8; ROW_BYTES]; ROWS]; 8],
}

const NOTHING: Tiles = Tiles { configured: false, rows: [0; 8], row_bytes: [0; 8], data: [[[0; ROW_BYTES]; ROWS]; 8] };

thread_local! {
    static TILES: UnsafeCell<Tiles> = const { UnsafeCell::new(NOTHING) };
}

/// Makes `Isa::Amx` usable in this process, natively if the CPU has it. Returns whether it is emulated, or `None` where
/// the CPU lacks even the AVX-512 instructions that the AMX path uses as well.
pub fn enable() -> Option<bool> {
    static INSTALL: Once = Once::new();
    if native() {
        return Some(false);
    }
    if !Isa::Avx512Bf16.is_available() {
        return None;
    }
    INSTALL.call_once(|| {
        // SAFETY: a zeroed sigaction is a valid one to fill in; the handler below only touches thread-local state.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_illegal_instruction as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
            assert_eq!(libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut()), 0, "SIGILL can be handled");
            Isa::Amx.assume_available();
        }
    });
    Some(true)
}

/// Whether the machine itself runs AMX, whatever this module has made the library believe.
fn native() -> bool {
    static NATIVE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *NATIVE.get_or_init(|| Isa::Amx.is_available())
}

extern "C" fn on_illegal_instruction(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes the interrupted thread's context, which nothing else uses now.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let rip = registers[libc::REG_RIP as usize];
    // SAFETY: the code that was about to run is readable, well past one instruction.
    let code = unsafe { std::slice::from_raw_parts(rip as *const u8, 15) };
    // SAFETY: the thread's own tiles, and the thread is stopped here.
    let done = TILES.with(|tiles| unsafe { emulate(&mut *tiles.get(), code, registers) });
    match done {
        Some(length) => registers[libc::REG_RIP as usize] = rip + length as i64,
        None => {
            // SAFETY: with the default action restored, the instruction faults again and ends the process.
            unsafe { libc::signal(libc::SIGILL, libc::SIG_DFL) };
        }
    }
}

/// The general registers in encoding order.
const REGISTERS: [libc::c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// A decoded memory operand.
struct Memory {
    address: usize,
    /// The index register, which tile loads and stores use as the distance between rows.
    stride: usize,
    length: usize,
}

/// Decodes ModRM, SIB and displacement; `x` and `b` are the extension bits.
fn memory(code: &[u8], x: usize, b: usize, registers: &[i64; 23]) -> Option<Memory> {
    let register = |index: usize| registers[REGISTERS[index] as usize] as usize;
    let (mode, rm) = (code[0] >> 6, usize::from(code[0] & 7));
    let mut length = 1;
    let (mut address, mut stride) = (0usize, 0usize);
    let mut no_base = false;
    if rm == 4 {
        let sib = code[1];
        length = 2;
        let (index, base) = (usize::from(sib >> 3 & 7) | x << 3, usize::from(sib & 7));
        if index != 4 {
            stride = register(index) << (sib >> 6);
        }
        no_base = base == 5 && mode == 0;
        if !no_base {
            address = register(base | b << 3);
        }
    } else if rm == 5 && mode == 0 {
        return None; // RIP-relative: the kernels do not use it.
    } else {
        address = register(rm | b << 3);
    }
    let displacement = match mode {
        0 if no_base => 4,
        0 => 0,
        1 => 1,
        2 => 4,
        _ => return None,
    };
    let bytes = &code[length..length + displacement];
    address = address.wrapping_add(match displacement {
        1 => bytes[0] as i8 as usize,
        4 => i32::from_le_bytes(bytes.try_into().ok()?) as usize,
        _ => 0,
    });
    Some(Memory { address, stride, length: length + displacement })
}

/// Executes one instruction; `None` if it is not one of ours. Returns its length.
///
/// # Safety
/// Memory operands are what the instruction would have accessed.
unsafe fn emulate(tiles: &mut Tiles, code: &[u8], registers: &[i64; 23]) -> Option<usize> {
    // Three-byte VEX, map 0F 38, W = 0, L = 0.
    let &[0xc4, p1, p2, opcode, modrm, ..] = code else { return None };
    if p1 & 0x1f != 2 || p2 & 0x84 != 0 {
        return None;
    }
    let (x, b) = (usize::from(!p1 >> 6 & 1), usize::from(!p1 >> 5 & 1));
    let (prefix, vvvv) = (p2 & 3, usize::from(!p2 >> 3 & 15));
    let (direct, reg, rm) = (modrm >> 6 == 3, usize::from(modrm >> 3 & 7), usize::from(modrm & 7));
    let operand = || memory(&code[4..], x, b, registers);
    if !(tiles.configured || opcode == 0x49 && prefix == 0) {
        return None; // Unconfigured tiles fault on real hardware too.
    }
    match (opcode, prefix, direct) {
        (0x49, 0, false) => {
            let memory = operand()?;
            // SAFETY: the configuration has 64 bytes.
            let config = unsafe { &*(memory.address as *const [u8; 64]) };
            *tiles = NOTHING;
            tiles.configured = config[0] == 1;
            for tile in 0..8 {
                tiles.row_bytes[tile] = u16::from_le_bytes([config[16 + 2 * tile], config[17 + 2 * tile]]);
                tiles.rows[tile] = config[48 + tile];
                assert!(tiles.row_bytes[tile] <= 64 && tiles.rows[tile] <= 16, "a valid tile configuration");
            }
            Some(4 + memory.length)
        }
        (0x49, 0, true) if modrm == 0xc0 => {
            *tiles = NOTHING;
            Some(5)
        }
        (0x49, 3, true) if rm == 0 => {
            tiles.data[reg] = [[0; ROW_BYTES]; ROWS];
            Some(5)
        }
        (0x4b, 1 | 3, false) | (0x4b, 2, false) => {
            let memory = operand()?;
            let bytes = usize::from(tiles.row_bytes[reg]);
            if prefix != 2 {
                tiles.data[reg] = [[0; ROW_BYTES]; ROWS];
            }
            for row in 0..usize::from(tiles.rows[reg]) {
                let address = memory.address.wrapping_add(row.wrapping_mul(memory.stride));
                let tile = tiles.data[reg][row].as_mut_ptr();
                // SAFETY: the instruction would have accessed these bytes.
                unsafe {
                    match prefix {
                        2 => std::ptr::copy_nonoverlapping(tile, address as *mut u8, bytes),
                        _ => std::ptr::copy_nonoverlapping(address as *const u8, tile, bytes),
                    }
                }
            }
            Some(4 + memory.length)
        }
        (0x5c, 2, true) => {
            tdpbf16ps(tiles, reg, rm, vvvv);
            Some(5)
        }
        _ => None,
    }
}

/// `tiles[sum] += tiles[a] · tiles[b]`, pairs of bf16, even and odd halves summed apart, denormals as zero.
fn tdpbf16ps(tiles: &mut Tiles, sum: usize, a: usize, b: usize) {
    let bf16 = |row: &[u8; ROW_BYTES], i: usize| {
        let bits = u32::from(u16::from_le_bytes([row[2 * i], row[2 * i + 1]])) << 16;
        flush(f32::from_bits(bits))
    };
    for m in 0..usize::from(tiles.rows[sum]) {
        for n in 0..usize::from(tiles.row_bytes[sum]) / 4 {
            let (mut even, mut odd) = (0.0f32, 0.0f32);
            for k in 0..usize::from(tiles.row_bytes[a]) / 4 {
                let (left, right) = (&tiles.data[a][m], &tiles.data[b][k]);
                even = flush(bf16(left, 2 * k).mul_add(bf16(right, 2 * n), even));
                odd = flush(bf16(left, 2 * k + 1).mul_add(bf16(right, 2 * n + 1), odd));
            }
            let slot = &mut tiles.data[sum][m][4 * n..4 * n + 4];
            let before = flush(f32::from_le_bytes([slot[0], slot[1], slot[2], slot[3]]));
            slot.copy_from_slice(&flush(before + flush(even + odd)).to_le_bytes());
        }
    }
}

fn flush(value: f32) -> f32 {
    if value.is_subnormal() { 0.0 } else { value }
}
