//! Joining the results of tiles as the reference does, without keeping more of them than the next ones are blended with.

use sango_tensor::Tensor;

use super::tiling::{Axis, Tiles};
use crate::error::{ModelError, Result};

/// A part of the input: begin and end in time, height and width.
pub(super) type Part = [(usize, usize); 3];

/// Which frame of a tile is left out, but for the first tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shared {
    /// The first: encoding, where every tile begins with a frame of its own.
    First,
    /// The last: decoding.
    Last,
}

/// Runs the model on all tiles of an input `[frames, height, width]` and joins what comes out, `[B, C, *out]`.
pub(super) fn run_tiles(
    tiles: &Tiles,
    [frames, height, width]: [usize; 3],
    out: [usize; 3],
    shared: Shared,
    run: &mut dyn FnMut(Part) -> Result<Tensor>,
) -> Result<Tensor> {
    let mut frame = |time: (usize, usize)| -> Result<Tensor> {
        match tiles.space {
            Some(axes) => run_frame(axes, time, [height, width], [out[1], out[2]], run),
            None => run([time, (0, height), (0, width)]),
        }
    };
    let Some(axis) = tiles.time else { return frame((0, frames)) };
    let mut whole: Option<Canvas> = None;
    let mut before: Option<Block> = None;
    let mut at = 0;
    for (n, (start, end)) in axis.tiles_in_time(frames).enumerate() {
        // One frame is the one that is left out.
        if n > 0 && end - start == 1 {
            continue;
        }
        let mut block = Block::new(frame((start, end))?)?;
        if n > 0 {
            let frames = block.size[1] - 1;
            block = block.part(1, usize::from(shared == Shared::First), frames);
        }
        if let Some(before) = &before {
            block.blend(before, 1, axis.blend);
        }
        let canvas = whole.get_or_insert_with(|| Canvas::new(&block, out));
        let kept = axis.keep + usize::from(n == 0);
        at += canvas.place(&block, [at, 0, 0], [kept, usize::MAX, usize::MAX]);
        before = Some(block.end(1, axis.blend));
    }
    finish(whole, at, out[0])
}

/// The tiles of a stretch of time.
fn run_frame(
    [rows, columns]: [Axis; 2],
    time: (usize, usize),
    [height, width]: [usize; 2],
    out: [usize; 2],
    run: &mut dyn FnMut(Part) -> Result<Tensor>,
) -> Result<Tensor> {
    let mut whole: Option<Canvas> = None;
    let mut above: Vec<Block> = Vec::new();
    let (mut top, mut covered) = (0, 0);
    for (i, row) in rows.tiles(height).enumerate() {
        let mut left: Option<Block> = None;
        let (mut at, mut advance) = (0, 0);
        for (j, column) in columns.tiles(width).enumerate() {
            let mut block = Block::new(run([time, row, column])?)?;
            if i > 0 {
                block.blend(&above[j], 2, rows.blend);
            }
            if let Some(left) = &left {
                block.blend(left, 3, columns.blend);
            }
            let canvas = whole.get_or_insert_with(|| Canvas::new(&block, [block.size[1], out[0], out[1]]));
            canvas.place(&block, [0, top, at], [usize::MAX, rows.keep, columns.keep]);
            advance = block.size[2].min(rows.keep);
            at += block.size[3].min(columns.keep);
            left = Some(block.end(3, columns.blend));
            let end = block.end(2, rows.blend);
            match above.get_mut(j) {
                Some(above) => *above = end,
                None => above.push(end),
            }
        }
        covered = at;
        top += advance;
    }
    if covered < out[1] {
        return Err(gap());
    }
    finish(whole, top, out[0])
}

fn finish(whole: Option<Canvas>, covered: usize, needed: usize) -> Result<Tensor> {
    match whole {
        Some(canvas) if covered >= needed => canvas.into_tensor(),
        _ => Err(gap()),
    }
}

fn gap() -> ModelError {
    ModelError::request(
        "tiling",
        "leaves parts of the video out; sizes and strides must be multiples of a latent's size",
    )
}

/// The result of a tile: `[B · C, T, H, W]`, with the batch kept aside.
struct Block {
    batch: usize,
    size: [usize; 4],
    values: Vec<f32>,
}

impl Block {
    fn new(tensor: Tensor) -> Result<Self> {
        let [batch, channels, frames, height, width] = tensor.dims()?;
        Ok(Self { batch, size: [batch * channels, frames, height, width], values: tensor.into_f32_vec()? })
    }

    /// Rows of `width · (what comes after dim)` values: how many before `dim`, how long one entry of it is.
    fn spans(&self, dim: usize) -> (usize, usize) {
        (self.size[..dim].iter().product(), self.size[dim + 1..].iter().product())
    }

    /// The entries `start .. start + len` of `dim`.
    fn part(&self, dim: usize, start: usize, len: usize) -> Self {
        let (outer, inner) = self.spans(dim);
        let row = self.size[dim] * inner;
        let mut values = Vec::with_capacity(outer * len * inner);
        for row in self.values.chunks_exact(row.max(1)).take(outer) {
            values.extend_from_slice(&row[start * inner..(start + len) * inner]);
        }
        let mut size = self.size;
        size[dim] = len;
        Self { batch: self.batch, size, values }
    }

    /// The last `len` entries of `dim`, or all where it is shorter.
    fn end(&self, dim: usize, len: usize) -> Self {
        let len = len.min(self.size[dim]);
        self.part(dim, self.size[dim] - len, len)
    }

    /// Fades from the end of `before` to the beginning of this one along `dim`.
    fn blend(&mut self, before: &Self, dim: usize, extent: usize) {
        let extent = extent.min(before.size[dim]).min(self.size[dim]);
        let (outer, inner) = self.spans(dim);
        let (row, row_before) = (self.size[dim] * inner, before.size[dim] * inner);
        for n in 0..outer {
            let to = &mut self.values[n * row..][..extent * inner];
            let from = &before.values[(n + 1) * row_before - extent * inner..][..extent * inner];
            for (x, (to, from)) in to.chunks_exact_mut(inner).zip(from.chunks_exact(inner)).enumerate() {
                let new = x as f64 / extent as f64;
                let (old, new) = ((1.0 - new) as f32, new as f32);
                to.iter_mut().zip(from).for_each(|(to, from)| *to = from * old + *to * new);
            }
        }
    }
}

/// The whole result while tiles are placed in it.
struct Canvas {
    batch: usize,
    size: [usize; 4],
    values: Vec<f32>,
}

impl Canvas {
    fn new(like: &Block, [frames, height, width]: [usize; 3]) -> Self {
        let size = [like.size[0], frames, height, width];
        Self { batch: like.batch, size, values: vec![0.0; size.iter().product()] }
    }

    /// Copies as much of `block` as is kept and fits; returns how many frames it has of that.
    fn place(&mut self, block: &Block, at: [usize; 3], keep: [usize; 3]) -> usize {
        let len = |n: usize| block.size[n + 1].min(keep[n]).min(self.size[n + 1].saturating_sub(at[n]));
        let (frames, height, width) = (len(0), len(1), len(2));
        for channel in 0..block.size[0] {
            for frame in 0..frames {
                for row in 0..height {
                    let from = ((channel * block.size[1] + frame) * block.size[2] + row) * block.size[3];
                    let line = (channel * self.size[1] + at[0] + frame) * self.size[2] + at[1] + row;
                    let to = line * self.size[3] + at[2];
                    self.values[to..to + width].copy_from_slice(&block.values[from..from + width]);
                }
            }
        }
        block.size[1].min(keep[0])
    }

    fn into_tensor(self) -> Result<Tensor> {
        let [channels, frames, height, width] = self.size;
        let shape = [self.batch, channels / self.batch.max(1), frames, height, width];
        Ok(Tensor::from_vec(self.values, &shape)?)
    }
}
