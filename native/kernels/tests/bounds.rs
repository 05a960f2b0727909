//! No path touches memory beyond its operands: every operand here ends where an inaccessible page begins.

#![cfg(target_os = "linux")]

mod support;

use half::bf16;
use sango_kernels::{Activation, Conv2dShape, Epilogue, PackedConv2d, PackedWeights, Precision, conv2d, gemm};
use support::{isas, noise};

/// Values whose last byte is the last of a page, before a page that cannot be touched.
struct Guarded<T: Copy> {
    map: *mut libc::c_void,
    map_len: usize,
    values: *mut T,
    len: usize,
}

impl<T: Copy> Guarded<T> {
    fn new(values: &[T]) -> Self {
        let page = 4096;
        let bytes = size_of_val(values);
        let room = bytes.next_multiple_of(page);
        let map_len = room + page;
        // SAFETY: a fresh mapping, of which the last page is closed and the rest is written within bounds.
        unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let map = libc::mmap(std::ptr::null_mut(), map_len, protection, flags, -1, 0);
            assert_ne!(map, libc::MAP_FAILED, "memory can be mapped");
            assert_eq!(libc::mprotect(map.add(room), page, libc::PROT_NONE), 0, "a page can be closed");
            let start = map.add(room - bytes).cast::<T>();
            start.copy_from_nonoverlapping(values.as_ptr(), values.len());
            Self { map, map_len, values: start, len: values.len() }
        }
    }

    fn get(&self) -> &[T] {
        // SAFETY: written in `new`, and writable only through `get_mut`.
        unsafe { std::slice::from_raw_parts(self.values, self.len) }
    }

    fn get_mut(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.values, self.len) }
    }
}

impl<T: Copy> Drop for Guarded<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`.
        unsafe { libc::munmap(self.map, self.map_len) };
    }
}

#[test]
fn gemm_stays_inside() {
    for (m, n, k) in [(1, 1, 1), (3, 17, 5), (8, 32, 32), (13, 33, 65), (33, 50, 31), (40, 16, 100)] {
        for precision in Precision::ALL {
            let a = Guarded::new(&noise(m * k, 1));
            let w = Guarded::new(&noise(n * k, 2));
            let narrow: Vec<bf16> = w.get().iter().map(|&v| bf16::from_f32(v)).collect();
            let narrow = Guarded::new(&narrow);
            let (bias, residual) = (Guarded::new(&noise(n, 3)), Guarded::new(&noise(m * n, 4)));
            let epilogue = Epilogue {
                bias: Some(bias.get()),
                activation: Activation::Gelu,
                residual: Some(residual.get()),
                ..Epilogue::default()
            };
            for packed in [
                PackedWeights::from_f32(w.get(), n, k, precision).unwrap(),
                PackedWeights::from_bf16(narrow.get(), n, k, precision).unwrap(),
            ] {
                for isa in isas() {
                    let mut out = Guarded::new(&vec![0.0; m * n]);
                    isa.run(|| gemm(a.get(), m, &packed, &epilogue, out.get_mut())).unwrap().unwrap();
                }
            }
        }
    }
}

#[test]
fn conv2d_stays_inside() {
    let shapes = [
        (Conv2dShape::new(1, 5, 7, 1), 3, 5, 1),
        (Conv2dShape { stride: 2, pad: [0, 1, 1, 0], ..Conv2dShape::new(2, 6, 5, 0) }, 33, 18, 1),
        (Conv2dShape { upsample: 2, ..Conv2dShape::new(1, 4, 3, 1) }, 20, 40, 1),
        (Conv2dShape::new(1, 57, 58, 1), 35, 33, 1),
        (Conv2dShape::new(1, 6, 6, 1), 19, 19, 19),
    ];
    for (shape, c_in, c_out, groups) in shapes {
        let (out_h, out_w) = shape.output(3, 3).unwrap();
        let x = Guarded::new(&noise(shape.n * shape.h * shape.w * c_in, 1));
        let w = Guarded::new(&noise(c_out * (c_in / groups) * 9, 2));
        let bias = Guarded::new(&noise(c_out, 3));
        let epilogue = Epilogue { bias: Some(bias.get()), ..Epilogue::default() };
        for precision in Precision::ALL {
            let packed = PackedConv2d::from_f32(w.get(), (c_out, c_in, 3, 3), groups, precision).unwrap();
            for isa in isas() {
                let mut out = Guarded::new(&vec![0.0; shape.n * out_h * out_w * c_out]);
                isa.run(|| conv2d(x.get(), &shape, &packed, &epilogue, out.get_mut())).unwrap().unwrap();
            }
        }
    }
}
