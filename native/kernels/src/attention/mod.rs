//! Scaled dot-product attention with grouped queries: `softmax(scale · q kᵀ + mask) v`.

#[cfg(target_arch = "x86_64")]
mod amx;
mod blocked;
mod few;
mod scalar;
mod transpose;

use half::bf16;

use crate::convert::{narrow, widen};
use crate::error::elements;
use crate::scratch::Shared;
use crate::{Isa, KernelError};

/// The largest head size.
pub const MAX_HEAD_DIM: usize = 256;

/// Fewer queries than this are attended to one by one: tiles of them would mostly hold padding.
const FEW_QUERIES: usize = 16;

/// Distances in elements between batches, heads and positions; the elements of a head lie side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strides {
    /// From one batch to the next.
    pub batch: usize,
    /// From one head to the next.
    pub head: usize,
    /// From one position to the next.
    pub position: usize,
}

impl Strides {
    /// Where a row starts.
    fn at(&self, batch: usize, head: usize, position: usize) -> usize {
        batch * self.batch + head * self.head + position * self.position
    }

    /// `[batch, heads, positions, head_dim]`, as PyTorch's `scaled_dot_product_attention` takes it.
    pub fn heads_first(heads: usize, positions: usize, head_dim: usize) -> Self {
        Self { batch: heads * positions * head_dim, head: positions * head_dim, position: head_dim }
    }

    /// `[batch, positions, heads, head_dim]`, what a linear projection writes.
    pub fn positions_first(heads: usize, positions: usize, head_dim: usize) -> Self {
        Self { batch: heads * positions * head_dim, head: head_dim, position: heads * head_dim }
    }
}

/// The shape of an attention call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Batches.
    pub batch: usize,
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Query positions.
    pub q_len: usize,
    /// Key and value positions.
    pub kv_len: usize,
    /// Elements per head, at most 256.
    pub head_dim: usize,
    /// Layout of `q`.
    pub q: Strides,
    /// Layout of `k`.
    pub k: Strides,
    /// Layout of `v`.
    pub v: Strides,
    /// Layout of `out`.
    pub out: Strides,
}

/// Which keys a query sees.
#[derive(Debug, Clone, Copy)]
pub enum AttentionMask<'a> {
    /// All of them.
    None,
    /// Query `i` sees keys `0 ..= i + kv_len - q_len`: the last query sees everything, so a key-value cache just works.
    Causal,
    /// A number is added to every score; negative infinity hides a key.
    Additive {
        /// The numbers; row `i` of batch `b`, head `h` starts at `b · strides.batch + h · strides.head + i · strides.position`.
        mask: &'a [f32],
        /// Distances between those rows, 0 to broadcast.
        strides: Strides,
    },
}

/// Attention over f32 tensors. A query that sees no key yields zeros.
///
/// # Errors
/// When heads are not a multiple of `kv_heads`, the head size is above 256, a causal call has more queries than keys, or a
/// slice is shorter than its shape and strides reach.
pub fn attention(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    shape: &AttentionShape,
    scale: f32,
    mask: AttentionMask<'_>,
    out: &mut [f32],
) -> Result<(), KernelError> {
    if check(q, k, v, shape, &mask, out)? == 0 {
        return Ok(());
    }
    let call = Call { q, k, v, shape: *shape, scale, mask, out: Shared::new(out.as_mut_ptr()) };
    // SAFETY: every slice reaches far enough.
    unsafe {
        match Isa::active() {
            Isa::Scalar => scalar::run(&call),
            isa if shape.q_len < FEW_QUERIES => few::run(&call, isa)?,
            isa => blocked::run(&call, isa)?,
        }
    }
    Ok(())
}

/// Whether [`attention_bf16`] is quicker here than [`attention`]: elsewhere it makes wider copies and calls that.
pub fn attends_in_bf16() -> bool {
    Isa::active() == Isa::Amx
}

/// [`attention`] over bf16 tensors. On AMX the weights are rounded to bf16 as well (unless there are just a few queries);
/// sums are f32 everywhere.
///
/// # Errors
/// As [`attention`], and when memory for a wider copy is short.
pub fn attention_bf16(
    q: &[bf16],
    k: &[bf16],
    v: &[bf16],
    shape: &AttentionShape,
    scale: f32,
    mask: AttentionMask<'_>,
    out: &mut [bf16],
) -> Result<(), KernelError> {
    if check(q, k, v, shape, &mask, out)? == 0 {
        return Ok(());
    }
    let call = Call { q, k, v, shape: *shape, scale, mask, out: Shared::new(out.as_mut_ptr()) };
    let isa = Isa::active();
    // Tiles pay from fewer queries on than vectors do.
    let few = if isa == Isa::Amx { FEW_QUERIES / 2 } else { FEW_QUERIES };
    if shape.q_len < few && isa != Isa::Scalar {
        // SAFETY: every slice reaches far enough, and the instruction set is there.
        return unsafe { few::run(&call, isa) };
    }
    #[cfg(target_arch = "x86_64")]
    if attends_in_bf16() {
        // SAFETY: every slice reaches far enough, and the machine has AMX.
        return unsafe { amx::run(&call) };
    }
    // Gaps between the output's rows keep what they hold.
    let mut wide = widen(out)?;
    attention(&widen(q)?, &widen(k)?, &widen(v)?, shape, scale, mask, &mut wide)?;
    narrow(&wide, out);
    Ok(())
}

/// Checks that shapes make sense and every slice reaches as far as its strides; gives back the elements of the output.
fn check<T>(
    q: &[T],
    k: &[T],
    v: &[T],
    shape: &AttentionShape,
    mask: &AttentionMask<'_>,
    out: &[T],
) -> Result<usize, KernelError> {
    let AttentionShape { batch, heads, kv_heads, q_len, kv_len, head_dim, .. } = *shape;
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        return Err(KernelError::shape("heads", format!("{heads} is not a multiple of kv_heads ({kv_heads})")));
    }
    if head_dim > MAX_HEAD_DIM {
        return Err(KernelError::shape("head_dim", format!("{head_dim} is above {MAX_HEAD_DIM}")));
    }
    if matches!(mask, AttentionMask::Causal) && q_len > kv_len {
        return Err(KernelError::shape("q_len", format!("causal attention of {q_len} queries over {kv_len} keys")));
    }
    elements("scores", &[batch, heads, q_len, kv_len])?;
    reach("q", q.len(), shape.q, (batch, heads, q_len, head_dim))?;
    reach("k", k.len(), shape.k, (batch, kv_heads, kv_len, head_dim))?;
    reach("v", v.len(), shape.v, (batch, kv_heads, kv_len, head_dim))?;
    reach("out", out.len(), shape.out, (batch, heads, q_len, head_dim))?;
    if let AttentionMask::Additive { mask, strides } = mask {
        reach("mask", mask.len(), *strides, (batch, heads, q_len, kv_len))?;
    }
    elements("out", &[batch, heads, q_len, head_dim])
}

/// A call whose slices were checked against its shape. Where the output's strides overlap, rows hold either value.
struct Call<'a, T = f32> {
    q: &'a [T],
    k: &'a [T],
    v: &'a [T],
    shape: AttentionShape,
    scale: f32,
    mask: AttentionMask<'a>,
    out: Shared<T>,
}

/// Checks that the last element that shape and strides reach lies in the slice.
fn reach(
    what: &'static str,
    len: usize,
    strides: Strides,
    (batch, heads, positions, width): (usize, usize, usize, usize),
) -> Result<(), KernelError> {
    if elements(what, &[batch, heads, positions, width])? == 0 {
        return Ok(());
    }
    let end = [(batch, strides.batch), (heads, strides.head), (positions, strides.position)]
        .into_iter()
        .try_fold(width, |end, (count, stride)| end.checked_add((count - 1).checked_mul(stride)?))
        .ok_or(KernelError::Overflow(what))?;
    if end <= len { Ok(()) } else { Err(KernelError::Length { what, expected: end, found: len }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(q_len: usize, kv_len: usize) -> AttentionShape {
        AttentionShape {
            batch: 1,
            heads: 2,
            kv_heads: 1,
            q_len,
            kv_len,
            head_dim: 1,
            q: Strides::heads_first(2, q_len, 1),
            k: Strides::heads_first(1, kv_len, 1),
            v: Strides::heads_first(1, kv_len, 1),
            out: Strides::positions_first(2, q_len, 1),
        }
    }

    #[test]
    fn grouped_causal_and_masked() {
        let (q, k, v) = ([0.0, 0.0, 1.0, 1.0], [0.0, 3.0f32.ln()], [1.0, 5.0]);
        let mut out = [0.0; 4];
        attention(&q, &k, &v, &shape(2, 2), 1.0, AttentionMask::None, &mut out).unwrap();
        assert_eq!(out.map(|x| (x * 1e4).round() / 1e4), [3.0, 4.0, 3.0, 4.0]);
        attention(&q, &k, &v, &shape(2, 2), 1.0, AttentionMask::Causal, &mut out).unwrap();
        assert_eq!(out.map(|x| (x * 1e4).round() / 1e4), [1.0, 1.0, 3.0, 4.0]);
        let mask = [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY, f32::NEG_INFINITY];
        let strides = Strides { batch: 0, head: 0, position: 2 };
        attention(&q, &k, &v, &shape(2, 2), 1.0, AttentionMask::Additive { mask: &mask, strides }, &mut out).unwrap();
        assert_eq!(out, [5.0, 5.0, 0.0, 0.0]);
    }

    /// The scores of 8192 positions would take 256 MiB a head; what is borrowed grows with the positions alone.
    #[test]
    fn long_sequences_take_little_memory() {
        let (heads, length, head_dim) = (2, 8192, 64);
        let strides = Strides::positions_first(heads, length, head_dim);
        let [q, k, v, out] = [strides; 4];
        let shape =
            AttentionShape { batch: 1, heads, kv_heads: heads, q_len: length, kv_len: length, head_dim, q, k, v, out };
        let x: Vec<f32> = (0..heads * length * head_dim).map(|i| (i * 7919 % 1000) as f32 / 1000.0 - 0.5).collect();
        let hidden: Vec<f32> = (0..length).map(|j| if j % 3 == 0 { f32::NEG_INFINITY } else { 0.0 }).collect();
        let one = Strides { batch: 0, head: 0, position: 0 };
        let keys_and_values = 2 * x.len() * size_of::<f32>();
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available() && *isa != Isa::Scalar) {
            for mask in [AttentionMask::None, AttentionMask::Additive { mask: &hidden, strides: one }] {
                crate::scratch::lent::most();
                let mut out = vec![0.0; x.len()];
                isa.run(|| attention(&x, &x, &x, &shape, 0.125, mask, &mut out)).unwrap().unwrap();
                assert!(crate::scratch::lent::most() < keys_and_values, "{isa} in f32");
                let (narrow_x, mut narrow_out) =
                    (x.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>(), vec![bf16::ZERO; x.len()]);
                isa.run(|| attention_bf16(&narrow_x, &narrow_x, &narrow_x, &shape, 0.125, mask, &mut narrow_out))
                    .unwrap()
                    .unwrap();
                assert!(crate::scratch::lent::most() < keys_and_values, "{isa} in bf16");
                let worst = out.iter().zip(&narrow_out).fold(0.0f32, |worst, (a, b)| worst.max((a - b.to_f32()).abs()));
                assert!(worst < 1e-2, "{isa}: bf16 differs by {worst}");
            }
        }
    }

    #[test]
    fn bad_shapes_are_errors() {
        let data = [0.0; 4];
        let call = |shape: &AttentionShape, mask| attention(&data, &data, &data, shape, 1.0, mask, &mut [0.0; 4]);
        assert!(call(&AttentionShape { kv_heads: 0, ..shape(2, 2) }, AttentionMask::None).is_err());
        assert!(call(&AttentionShape { head_dim: 257, ..shape(2, 2) }, AttentionMask::None).is_err());
        assert!(call(&AttentionShape { batch: 2, ..shape(2, 2) }, AttentionMask::None).is_err());
        assert!(call(&shape(2, 1), AttentionMask::Causal).is_err());
        assert_eq!(
            call(&AttentionShape { batch: usize::MAX, ..shape(2, 2) }, AttentionMask::None),
            Err(KernelError::Overflow("scores"))
        );
    }
}
