//! Packed weights: the one layout that every gemm, gemv and convolution path reads.
//!
//! The output columns are cut into panels of 32. A panel holds, for each tap (1 for a matrix, `kh · kw` for a
//! convolution) and each input channel, its 32 weights side by side. In bf16 two successive channels are interleaved (the
//! "VNNI" order of `vdpbf16ps` and `tdpbf16ps`) and every tap is padded with zeros to a multiple of 32 channels, so that a
//! panel is a whole number of AMX tiles. int8 is laid out as f32 is, a byte per weight, with a scale per column beside the
//! panels. For gated weights a panel holds 16 value columns and then their 16 gates.

use half::bf16;

use crate::error::{elements, expect_len};
use crate::memory::AlignedBytes;
use crate::pool::parallel_for;
use crate::scratch::Shared;
use crate::{Isa, KernelError};

/// Channels that are packed for one column after the other, so that the lines the columns share are still in L1.
const BLOCK: usize = 64;

/// Columns in a panel.
pub(crate) const PANEL: usize = 32;

/// The number format of packed weights, and with it how a product is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Precision {
    /// f32 weights and arithmetic.
    F32 = 0,
    /// bf16 weights; activations are rounded to bf16 and products accumulated in f32.
    Bf16 = 1,
    /// int8 weights with one f32 scale per weight row, which maps the row's largest magnitude to 127. Otherwise as
    /// [`Precision::Bf16`]: only the weights are quantised.
    Int8 = 2,
}

impl Precision {
    /// Every number format, in the order of their C values.
    pub const ALL: [Precision; 3] = [Self::F32, Self::Bf16, Self::Int8];
}

/// A weight matrix (or convolution kernel) in the order the kernels read it.
pub struct PackedWeights {
    pub(crate) n: usize,
    pub(crate) taps: usize,
    pub(crate) channels: usize,
    pub(crate) precision: Precision,
    pub(crate) gated: bool,
    data: AlignedBytes,
    /// For int8: the factor of every column of every panel, f32. Else empty.
    scales: AlignedBytes,
}

/// Where element `(row n, tap, channel)` of the source lies, in elements.
#[derive(Clone, Copy)]
pub(crate) struct Layout {
    pub n_stride: usize,
    pub tap_stride: usize,
    pub channel_stride: usize,
}

/// A source element type.
pub(crate) trait Element: Copy + Sync {
    fn f32(self) -> f32;
    fn bf16(self) -> bf16;
}

impl Element for f32 {
    fn f32(self) -> f32 {
        self
    }
    fn bf16(self) -> bf16 {
        // To nearest even. Unlike `bf16::from_f32` without a branch, so that a loop over it becomes vector code.
        let bits = self.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
        let quiet = bits | 0x0040_0000;
        bf16::from_bits((if self.is_nan() { quiet } else { rounded } >> 16) as u16)
    }
}

impl Element for bf16 {
    fn f32(self) -> f32 {
        // Unlike `bf16::to_f32` without a branch.
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    fn bf16(self) -> bf16 {
        self
    }
}

impl PackedWeights {
    /// Packs a row-major `[n, k]` matrix (the weight of a PyTorch `Linear(k, n)`).
    ///
    /// # Errors
    /// When `w` does not hold `n · k` elements, or memory is short.
    pub fn from_f32(w: &[f32], n: usize, k: usize, precision: Precision) -> Result<Self, KernelError> {
        Self::from_matrix(w, n, k, precision, false)
    }

    /// [`PackedWeights::from_f32`] for bf16 weights.
    ///
    /// # Errors
    /// As [`PackedWeights::from_f32`].
    pub fn from_bf16(w: &[bf16], n: usize, k: usize, precision: Precision) -> Result<Self, KernelError> {
        Self::from_matrix(w, n, k, precision, false)
    }

    /// Packs the weight of a gated linear layer: rows `0 .. n/2` make the values and rows `n/2 .. n` their gates, and
    /// [`gemm`](crate::gemm) returns the `n/2` columns `value · activation(gate)` (GEGLU with
    /// [`Activation::Gelu`](crate::Activation::Gelu), SwiGLU with [`Activation::Silu`](crate::Activation::Silu)).
    ///
    /// # Errors
    /// As [`PackedWeights::from_f32`], and when `n` is odd.
    pub fn from_f32_gated(w: &[f32], n: usize, k: usize, precision: Precision) -> Result<Self, KernelError> {
        Self::from_matrix(w, n, k, precision, true)
    }

    /// [`PackedWeights::from_f32_gated`] for bf16 weights.
    ///
    /// # Errors
    /// As [`PackedWeights::from_f32_gated`].
    pub fn from_bf16_gated(w: &[bf16], n: usize, k: usize, precision: Precision) -> Result<Self, KernelError> {
        Self::from_matrix(w, n, k, precision, true)
    }

    fn from_matrix<T: Element>(
        w: &[T],
        n: usize,
        k: usize,
        precision: Precision,
        gated: bool,
    ) -> Result<Self, KernelError> {
        expect_len("w", w.len(), &[n, k])?;
        let layout = Layout { n_stride: k, tap_stride: 0, channel_stride: 1 };
        // SAFETY: the slice holds n rows of k elements.
        unsafe { Self::pack(w.as_ptr(), layout, (n, 1, k), precision, gated) }
    }

    /// Packs `n · taps · channels` elements found through `layout`.
    ///
    /// # Safety
    /// Every element that `layout` names must be readable from `w`.
    pub(crate) unsafe fn pack<T: Element>(
        w: *const T,
        layout: Layout,
        sizes: (usize, usize, usize),
        precision: Precision,
        gated: bool,
    ) -> Result<Self, KernelError> {
        // SAFETY: passed on from the caller.
        unsafe { Self::pack_into(AlignedBytes::zeroed_to_stay, w, layout, sizes, precision, gated) }
    }

    /// [`Self::pack`] into memory from `allocate`.
    ///
    /// # Safety
    /// As [`Self::pack`].
    pub(crate) unsafe fn pack_into<T: Element>(
        allocate: fn(usize) -> Result<AlignedBytes, KernelError>,
        w: *const T,
        layout: Layout,
        (n, taps, channels): (usize, usize, usize),
        precision: Precision,
        gated: bool,
    ) -> Result<Self, KernelError> {
        if gated && !n.is_multiple_of(2) {
            return Err(KernelError::shape("n", format!("gated weights need an even number of rows, not {n}")));
        }
        // Leave room for the padding of both dimensions.
        elements("w", &[n.saturating_add(2 * PANEL), taps, channels.saturating_add(PANEL)])?;
        let nothing = || AlignedBytes::zeroed(0);
        let mut packed = Self { n, taps, channels, precision, gated, data: nothing()?, scales: nothing()? };
        packed.data = allocate(packed.panels() * packed.panel_bytes())?;
        if precision == Precision::Int8 {
            packed.scales = allocate(packed.panels() * PANEL * size_of::<f32>())?;
        }
        let (src, dst) = (Shared::new(w.cast_mut()), Shared::new(packed.data.as_mut_ptr::<u8>()));
        let scales = Shared::new(packed.scales.as_mut_ptr::<f32>());
        let this = &packed;
        parallel_for(this.panels(), &|panel| {
            // SAFETY: panel < panels; the caller vouches for the source; int8 weights have scales.
            unsafe {
                let mut factors = [0.0; PANEL];
                if precision == Precision::Int8 {
                    factors = std::array::from_fn(|column| this.scale(src.add(0), layout, panel, column));
                    scales.add(panel * PANEL).cast::<[f32; PANEL]>().write(factors);
                }
                this.pack_panel(src.add(0), layout, panel, &factors, dst.add(panel * this.panel_bytes()));
            }
        });
        Ok(packed)
    }

    /// What the integers of a column are to be multiplied by: NaN where a weight is not finite, so that what it takes part
    /// in is not, either.
    ///
    /// # Safety
    /// As [`Self::pack`].
    unsafe fn scale<T: Element>(&self, w: *const T, layout: Layout, panel: usize, column: usize) -> f32 {
        let Some(row) = self.source_row(panel, column) else { return 0.0 };
        // As integers magnitudes keep their order, and infinity and NaN come last.
        let mut largest = 0;
        for tap in 0..self.taps {
            // SAFETY: the row, tap and channels exist in the source.
            let src = unsafe { w.add(row * layout.n_stride + tap * layout.tap_stride) };
            for channel in 0..self.channels {
                // SAFETY: as above.
                let value = unsafe { *src.add(channel * layout.channel_stride) }.f32();
                largest = largest.max(value.abs().to_bits());
            }
        }
        let largest = f32::from_bits(largest);
        if largest.is_finite() { largest / 127.0 } else { f32::NAN }
    }

    /// # Safety
    /// As [`Self::pack`]; `dst` has [`Self::panel_bytes`] zeroed bytes.
    unsafe fn pack_panel<T: Element>(
        &self,
        w: *const T,
        layout: Layout,
        panel: usize,
        factors: &[f32; PANEL],
        dst: *mut u8,
    ) {
        for tap in 0..self.taps {
            for first in (0..self.channels).step_by(BLOCK) {
                let channels = first..(first + BLOCK).min(self.channels);
                for (column, &factor) in factors.iter().enumerate() {
                    let Some(row) = self.source_row(panel, column) else { continue };
                    // SAFETY: row, tap and channels exist in the source; the destination index stays in the panel.
                    unsafe {
                        let src = w.add(row * layout.n_stride + tap * layout.tap_stride);
                        let dst = dst.add(tap * self.tap_bytes());
                        self.pack_column(src, layout.channel_stride, channels.clone(), column, factor, dst);
                    }
                }
            }
        }
    }

    /// At most [`BLOCK`] channels of one column of one tap, from an even channel on.
    ///
    /// # Safety
    /// The channels exist in the source; `dst` has [`Self::tap_bytes`].
    #[inline(always)]
    unsafe fn pack_column<T: Element>(
        &self,
        src: *const T,
        stride: usize,
        channels: std::ops::Range<usize>,
        column: usize,
        factor: f32,
        dst: *mut u8,
    ) {
        // SAFETY: passed on from the caller.
        unsafe {
            match self.precision {
                Precision::Int8 => {
                    let dst = dst.cast::<i8>().add(column);
                    // Adding 1.5 · 2^23 leaves the nearest integer in the lowest bits; of NaN those are 0.
                    let integer = |value: f32| (value / factor + 12_582_912.0).to_bits() as i8;
                    channels.for_each(|c| *dst.add(c * PANEL) = integer((*src.add(c * stride)).f32()));
                }
                Precision::F32 => {
                    let dst = dst.cast::<f32>().add(column);
                    channels.for_each(|c| *dst.add(c * PANEL) = (*src.add(c * stride)).f32());
                }
                Precision::Bf16 => {
                    let mut rounded = [bf16::ZERO; BLOCK];
                    let src = src.add(channels.start * stride);
                    if stride == 1 {
                        for (i, rounded) in rounded[..channels.len()].iter_mut().enumerate() {
                            *rounded = (*src.add(i)).bf16();
                        }
                    } else {
                        for (i, rounded) in rounded[..channels.len()].iter_mut().enumerate() {
                            *rounded = (*src.add(i * stride)).bf16();
                        }
                    }
                    let dst = dst.cast::<[bf16; 2]>().add(channels.start / 2 * PANEL + column);
                    for (i, pair) in rounded[..channels.len().next_multiple_of(2)].chunks_exact(2).enumerate() {
                        *dst.add(i * PANEL) = [pair[0], pair[1]];
                    }
                }
            }
        }
    }

    /// The weight row that a panel's column holds; `None` for padding.
    fn source_row(&self, panel: usize, column: usize) -> Option<usize> {
        if !self.gated {
            return Some(panel * PANEL + column).filter(|&row| row < self.n);
        }
        let (half, lane) = (PANEL / 2, column % (PANEL / 2));
        let row = Some(panel * half + lane).filter(|&row| row < self.n / 2)?;
        Some(if column < half { row } else { self.n / 2 + row })
    }

    /// Rows of the weight matrix: the columns of the product, before any gating.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Columns of the weight matrix: the length of the dot products.
    pub fn k(&self) -> usize {
        self.taps * self.channels
    }

    /// Columns of the output: `n`, or `n / 2` for gated weights.
    pub fn out_columns(&self) -> usize {
        if self.gated { self.n / 2 } else { self.n }
    }

    /// The number format.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Whether [`gemm`](crate::gemm) multiplies values by activated gates.
    pub fn is_gated(&self) -> bool {
        self.gated
    }

    /// Memory held, in bytes.
    pub fn bytes(&self) -> usize {
        self.data.len() + self.scales.len()
    }

    /// The factors of a panel's columns, for int8.
    pub(crate) fn scales(&self, panel: usize) -> Option<*const f32> {
        debug_assert!(panel < self.panels());
        // SAFETY: there are as many scales as panels have columns.
        (self.precision == Precision::Int8).then(|| unsafe { self.scales.as_ptr::<f32>().add(panel * PANEL) })
    }

    /// Output columns that one panel yields.
    pub(crate) fn panel_columns(&self) -> usize {
        if self.gated { PANEL / 2 } else { PANEL }
    }

    pub(crate) fn panels(&self) -> usize {
        self.out_columns().div_ceil(self.panel_columns())
    }

    /// Bytes of one channel of one panel.
    pub(crate) fn row_bytes(&self) -> usize {
        match self.precision {
            Precision::F32 => PANEL * 4,
            Precision::Bf16 => PANEL * 2,
            Precision::Int8 => PANEL,
        }
    }

    /// Bytes of one tap of one panel.
    pub(crate) fn tap_bytes(&self) -> usize {
        match self.precision {
            Precision::F32 => self.channels * self.row_bytes(),
            Precision::Bf16 | Precision::Int8 => self.channels.next_multiple_of(PANEL) * self.row_bytes(),
        }
    }

    pub(crate) fn panel_bytes(&self) -> usize {
        self.taps * self.tap_bytes()
    }

    pub(crate) fn panel(&self, panel: usize) -> *const u8 {
        debug_assert!(panel < self.panels());
        // SAFETY: the buffer holds that many panels.
        unsafe { self.data.as_ptr::<u8>().add(panel * self.panel_bytes()) }
    }
}

impl std::fmt::Debug for PackedWeights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackedWeights")
            .field("n", &self.n)
            .field("taps", &self.taps)
            .field("channels", &self.channels)
            .field("precision", &self.precision)
            .field("gated", &self.gated)
            .finish_non_exhaustive()
    }
}

/// The format the micro-kernels of `isa` want activations in for weights of this precision.
pub(crate) fn row_format(isa: Isa, precision: Precision) -> super::RowFormat {
    use super::RowFormat;
    match (precision, isa) {
        (Precision::F32, _) => RowFormat::F32,
        (_, Isa::Avx512Bf16 | Isa::Amx) => RowFormat::Bf16,
        _ => RowFormat::RoundedF32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_as_documented() {
        let w: Vec<f32> = (0..34 * 3).map(|i| i as f32).collect();
        let packed = PackedWeights::from_f32(&w, 34, 3, Precision::F32).unwrap();
        assert_eq!((packed.panels(), packed.bytes()), (2, 2 * 3 * 32 * 4));
        // SAFETY: panel 1 has 3 · 32 floats.
        let panel = unsafe { std::slice::from_raw_parts(packed.panel(1).cast::<f32>(), 96) };
        assert_eq!((panel[0], panel[1], panel[2]), (96.0, 99.0, 0.0));
        assert_eq!((panel[32], panel[33], panel[34]), (97.0, 100.0, 0.0));

        let packed = PackedWeights::from_f32_gated(&w, 34, 3, Precision::Bf16).unwrap();
        assert_eq!((packed.out_columns(), packed.panels(), packed.bytes()), (17, 2, 2 * 32 * 32 * 2));
        // SAFETY: panel 1 has 32 · 32 values.
        let panel = unsafe { std::slice::from_raw_parts(packed.panel(1).cast::<bf16>(), 1024) };
        // Column 0 is value row 16, column 16 its gate, row 17 + 16; pairs of channels side by side.
        let at = |c: usize, column: usize| panel[(c / 2) * 64 + column * 2 + c % 2].to_f32();
        assert_eq!((at(0, 0), at(1, 0), at(2, 0), at(3, 0)), (48.0, 49.0, 50.0, 0.0));
        assert_eq!((at(0, 16), at(0, 1), at(0, 17)), (99.0, 0.0, 0.0));
    }

    #[test]
    fn int8_keeps_the_largest_of_a_row_and_marks_what_it_cannot_hold() {
        let w = [1.0, -2.54, 0.0, 0.011, 0.0, 0.0, f32::NAN, 3.0];
        let packed = PackedWeights::from_f32(&w, 4, 2, Precision::Int8).unwrap();
        assert_eq!((packed.panels(), packed.bytes()), (1, 32 * 32 + 32 * 4));
        // SAFETY: the panel has 32 · 32 integers and 32 scales.
        let (panel, scales) = unsafe {
            let scales = std::slice::from_raw_parts(packed.scales(0).unwrap(), 32);
            (std::slice::from_raw_parts(packed.panel(0).cast::<i8>(), 1024), scales)
        };
        assert_eq!((panel[0], panel[32]), (50, -127));
        assert_eq!((panel[1], panel[33]), (0, 127));
        assert_eq!((panel[2], panel[34], panel[4], panel[64]), (0, 0, 0, 0));
        assert_eq!((scales[0], scales[2], scales[4]), (0.02, 0.0, 0.0));
        assert!(scales[3].is_nan());
    }

    #[test]
    fn rounding_is_that_of_half() {
        for high in 0..=u32::from(u16::MAX) {
            for low in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let value = f32::from_bits(high << 16 | low);
                let (ours, theirs) = (Element::bf16(value), bf16::from_f32(value));
                assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(), "{value} {ours}");
            }
        }
    }

    #[test]
    fn bad_sizes_are_errors() {
        assert!(matches!(PackedWeights::from_f32(&[0.0; 5], 2, 3, Precision::F32), Err(KernelError::Length { .. })));
        assert!(matches!(PackedWeights::from_f32(&[], usize::MAX, 2, Precision::F32), Err(KernelError::Overflow(_))));
        assert!(PackedWeights::from_f32_gated(&[0.0; 3], 3, 1, Precision::F32).is_err());
        assert_eq!(PackedWeights::from_f32(&[], 0, 3, Precision::F32).unwrap().panels(), 0);
    }
}
