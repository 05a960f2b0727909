//! Ops against slow references that index element by element.

mod common;

use common::{any_shape, assert_close, at, indices, numbers, tensor};
use proptest::prelude::*;
use sango_tensor::{DType, Tensor, TensorError};

type Op = (fn(&Tensor, &Tensor) -> sango_tensor::Result<Tensor>, fn(f64, f64) -> f64);
const BINARY: [Op; 4] = [
    (Tensor::add, |a, b| a + b),
    (Tensor::sub, |a, b| a - b),
    (Tensor::mul, |a, b| a * b),
    (Tensor::div, |a, b| a / b),
];

proptest! {
    #[test]
    fn binary_ops_broadcast(shape in any_shape(), ones in prop::collection::vec(0u8..4, 4), lead in 0usize..3, op in 0usize..4, swap: bool) {
        // `b` is `shape` with some dimensions made 1 and some leading ones dropped; `a` with others made 1.
        let thin = |which: u8, s: &[usize]| s.iter().zip(&ones).map(|(&d, &o)| if o == which { 1 } else { d }).collect::<Vec<_>>();
        let a_shape = thin(1, &shape);
        let b_shape = thin(2, &shape)[lead.min(shape.len())..].to_vec();
        let (a, b) = (tensor(&a_shape, 1), tensor(&b_shape, 2));
        let (a, b) = if swap { (b, a) } else { (a, b) };
        let rank = a.rank().max(b.rank());
        let size = |t: &Tensor, i: usize| if i + t.rank() < rank { 1 } else { t.shape()[i + t.rank() - rank] };
        let out_shape: Vec<usize> = (0..rank).map(|i| size(&a, i).max(size(&b, i))).collect();
        let (run, reference) = BINARY[op];
        let expected: Vec<f64> = indices(&out_shape)
            .iter()
            .map(|i| reference(at(a.as_f32().unwrap(), a.shape(), i), at(b.as_f32().unwrap(), b.shape(), i)))
            .collect();
        assert_close(&run(&a, &b).unwrap(), &out_shape, &expected, 1e-6);
    }

    #[test]
    fn permute_moves_every_element(shape in any_shape(), keys in prop::collection::vec(any::<u32>(), 4)) {
        let x = tensor(&shape, 3);
        let mut dims: Vec<usize> = (0..shape.len()).collect();
        dims.sort_by_key(|&d| keys[d]);
        let out_shape: Vec<usize> = dims.iter().map(|&d| shape[d]).collect();
        let expected: Vec<f64> = indices(&out_shape)
            .iter()
            .map(|out| {
                let mut index = vec![0; shape.len()];
                dims.iter().zip(out).for_each(|(&d, &i)| index[d] = i);
                at(x.as_f32().unwrap(), &shape, &index)
            })
            .collect();
        assert_close(&x.permute(&dims).unwrap(), &out_shape, &expected, 0.0);
        // Every element type takes the same path.
        for dtype in [DType::F16, DType::BF16, DType::I64, DType::U8] {
            let (x, moved) = (x.abs().unwrap().to_dtype(dtype), x.abs().unwrap().permute(&dims).unwrap().to_dtype(dtype));
            let found = x.permute(&dims).unwrap();
            prop_assert_eq!(found.dtype(), dtype);
            let (found, moved) = (found.to_dtype(DType::F32), moved.to_dtype(DType::F32));
            prop_assert_eq!(found.as_f32().unwrap(), moved.as_f32().unwrap());
        }
    }

    #[test]
    fn narrow_then_cat_is_the_identity(shape in any_shape().prop_filter("has a dimension", |s| !s.is_empty()), dim in 0usize..4, cut in 0usize..7) {
        let x = tensor(&shape, 4);
        let dim = dim % shape.len();
        let cut = cut % (shape[dim] + 1);
        let (head, tail) = (x.narrow(dim as isize, 0, cut).unwrap(), x.narrow(dim as isize, cut, shape[dim] - cut).unwrap());
        let expected: Vec<f64> = indices(head.shape()).iter().map(|i| at(x.as_f32().unwrap(), &shape, i)).collect();
        assert_close(&head, head.shape(), &expected, 0.0);
        let joined = Tensor::cat(&[&head, &tail], dim as isize).unwrap();
        prop_assert_eq!(joined.shape(), x.shape());
        prop_assert_eq!(joined.as_f32().unwrap(), x.as_f32().unwrap());
        // Views of leading rows are as good as copies in every other op.
        let (sum, double) = (tail.add(&tail).unwrap(), tail.mul_scalar(2.0).unwrap());
        prop_assert_eq!(sum.as_f32().unwrap(), double.as_f32().unwrap());
    }

    #[test]
    fn reductions_and_softmax(shape in any_shape().prop_filter("has a dimension", |s| !s.is_empty()), dim in 0usize..4) {
        let x = tensor(&shape, 5);
        let dim = dim % shape.len();
        let mut out_shape = shape.clone();
        let n = out_shape.remove(dim);
        let lines: Vec<Vec<f64>> = indices(&out_shape)
            .iter()
            .map(|i| (0..n).map(|k| { let mut j = i.clone(); j.insert(dim, k); at(x.as_f32().unwrap(), &shape, &j) }).collect())
            .collect();
        let dim = dim as isize;
        let sums: Vec<f64> = lines.iter().map(|l| l.iter().sum()).collect();
        assert_close(&x.sum(dim).unwrap(), &out_shape, &sums, 1e-6);
        let means: Vec<f64> = sums.iter().map(|s| s / n as f64).collect();
        assert_close(&x.mean(dim - shape.len() as isize).unwrap(), &out_shape, &means, 1e-6);
        let argmax: Vec<i64> = lines.iter().map(|l| (0..n).fold(0, |best, k| if l[k] > l[best] { k } else { best }) as i64).collect();
        let found = x.argmax(dim).unwrap();
        prop_assert_eq!(found.as_i64().unwrap(), argmax);
        // Softmax of the line, put back where it came from.
        let soft = x.softmax(dim).unwrap();
        let log_soft = x.log_softmax(dim).unwrap();
        for (i, line) in indices(&out_shape).iter().zip(&lines) {
            let total: f64 = line.iter().map(|v| v.exp()).sum();
            for (k, v) in line.iter().enumerate() {
                let mut j = i.clone();
                j.insert(dim as usize, k);
                let p = v.exp() / total;
                prop_assert!((at(soft.as_f32().unwrap(), &shape, &j) - p).abs() < 1e-6);
                prop_assert!((at(log_soft.as_f32().unwrap(), &shape, &j) - p.ln()).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn matmul_of_batches((m, k, n) in (1usize..20, 1usize..20, 1usize..20), lead in prop::collection::vec(1usize..4, 0..3), thin: bool) {
        let a_shape = [lead.as_slice(), &[m, k]].concat();
        let b_lead = if thin { vec![1; lead.len().min(1)] } else { lead.clone() };
        let b_shape = [b_lead.as_slice(), &[k, n]].concat();
        let (a, b) = (tensor(&a_shape, 6), tensor(&b_shape, 7));
        let out_shape = [lead.as_slice(), &[m, n]].concat();
        let expected: Vec<f64> = indices(&out_shape)
            .iter()
            .map(|i| {
                let (lead, [row, column]) = i.split_at(i.len() - 2) else { unreachable!() };
                (0..k)
                    .map(|x| {
                        let (ai, bi) = ([lead, &[*row, x]].concat(), [lead, &[x, *column]].concat());
                        at(a.as_f32().unwrap(), &a_shape, &ai) * at(b.as_f32().unwrap(), &b_shape, &bi)
                    })
                    .sum()
            })
            .collect();
        assert_close(&a.matmul(&b).unwrap(), &out_shape, &expected, 1e-5);
    }
}

#[test]
fn long_tensors_take_the_parallel_path_and_agree() {
    // Longer than the threshold of every op, with lengths that do not divide evenly.
    let x = tensor(&[37, 41, 67], 8);
    let data = x.as_f32().unwrap();
    let rows = tensor(&[41, 1], 9);
    let out = x.mul(&rows).unwrap();
    for (i, index) in indices(x.shape()).iter().enumerate() {
        assert_eq!(
            out.as_f32().unwrap()[i],
            (at(data, x.shape(), index) * at(rows.as_f32().unwrap(), &[41, 1], index)) as f32
        );
    }
    let moved = x.permute(&[2, 0, 1]).unwrap().permute(&[1, 2, 0]).unwrap();
    assert_eq!(moved.as_f32().unwrap(), data);
    assert_eq!(x.transpose(0, 1).unwrap().transpose(0, 1).unwrap().as_f32().unwrap(), data);
    assert_eq!(Tensor::cat(&x.chunk(37, 0).unwrap().iter().collect::<Vec<_>>(), 0).unwrap().as_f32().unwrap(), data);
    let sums: Vec<f64> = data.chunks(67).map(|r| r.iter().map(|&v| f64::from(v)).sum()).collect();
    assert_close(&x.sum(-1).unwrap(), &[37, 41], &sums, 1e-6);
    let soft = x.softmax(-1).unwrap();
    assert!(soft.sum(-1).unwrap().as_f32().unwrap().iter().all(|s| (s - 1.0).abs() < 1e-5));
}

#[test]
fn unary_ops_are_the_functions_they_are_named_after() {
    let x = Tensor::from_vec(vec![-1.5, -0.0, 0.25, 3.0], &[2, 2]).unwrap();
    type Case = (fn(&Tensor) -> sango_tensor::Result<Tensor>, fn(f64) -> f64);
    let erf = |x: f64| {
        // Enough terms of the series for |x| ≤ 3.
        let mut term = x;
        let mut sum = x;
        for n in 1..80 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    };
    let cases: [Case; 15] = [
        (Tensor::exp, f64::exp),
        (Tensor::log, f64::ln),
        (Tensor::cos, f64::cos),
        (Tensor::sin, f64::sin),
        (Tensor::sqrt, f64::sqrt),
        (Tensor::square, |x| x * x),
        (Tensor::neg, |x| -x),
        (Tensor::abs, f64::abs),
        (Tensor::tanh, f64::tanh),
        (Tensor::sigmoid, |x| 1.0 / (1.0 + (-x).exp())),
        (Tensor::silu, |x| x / (1.0 + (-x).exp())),
        (Tensor::quick_gelu, |x| x / (1.0 + (-1.702 * x).exp())),
        (Tensor::gelu_tanh, |x| 0.5 * x * (1.0 + (0.797_884_560_802_865_4 * (x + 0.044_715 * x.powi(3))).tanh())),
        (|x| x.clamp(-1.0, 1.0), |x| x.clamp(-1.0, 1.0)),
        (|x| x.add_scalar(0.5)?.mul_scalar(-2.0), |x| (x + 0.5) * -2.0),
    ];
    for (i, (run, reference)) in cases.into_iter().enumerate() {
        let expected: Vec<f64> = x.as_f32().unwrap().iter().map(|&v| reference(f64::from(v))).collect();
        let found = run(&x).unwrap();
        for (f, e) in found.as_f32().unwrap().iter().zip(&expected) {
            let same = (f64::from(*f) - e).abs() < 1e-5 || (f.is_nan() && e.is_nan()) || f64::from(*f) == *e;
            assert!(same, "case {i}: {f}, expected {e}");
        }
    }
    let expected: Vec<f64> =
        x.as_f32().unwrap().iter().map(|&v| f64::from(v)).map(|v| 0.5 * v * (1.0 + erf(v / 2f64.sqrt()))).collect();
    assert_close(&x.gelu().unwrap(), &[2, 2], &expected, 1e-6);
}

#[test]
fn softmax_of_extreme_rows() {
    let inf = f32::INFINITY;
    let x = Tensor::from_vec(vec![1000.0, 1000.0, -inf, -1000.0, -2000.0, -inf], &[2, 3]).unwrap();
    assert_close(&x.softmax(-1).unwrap(), &[2, 3], &[0.5, 0.5, 0.0, 1.0, 0.0, 0.0], 1e-6);
    let log = x.log_softmax(-1).unwrap();
    assert_eq!(log.as_f32().unwrap()[2..5], [-inf, 0.0, -1000.0]);
    let hidden = Tensor::full(&[1, 2], -inf).unwrap();
    assert!(hidden.softmax(-1).unwrap().as_f32().unwrap().iter().all(|v| v.is_nan()));
}

#[test]
fn argmax_prefers_the_first_and_nan() {
    let x = Tensor::from_vec(vec![1.0, 3.0, 3.0, 0.0, f32::NAN, 9.0], &[2, 3]).unwrap();
    assert_eq!(x.argmax(1).unwrap().as_i64().unwrap(), [1, 1]);
    assert!(Tensor::zeros(&[2, 0]).unwrap().argmax(1).is_err());
}

#[test]
fn selecting_by_id() {
    let table = Tensor::from_vec((0..12).map(|i| i as f32).collect(), &[4, 3]).unwrap();
    let ids = Tensor::from_i64(vec![3, 0], &[1, 2]).unwrap();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let out = table.to_dtype(dtype).embedding(&ids).unwrap();
        assert_close(&out, &[1, 2, 3], &[9.0, 10.0, 11.0, 0.0, 1.0, 2.0], 0.0);
    }
    // A table that is itself a view.
    let tail = table.narrow(0, 2, 2).unwrap();
    assert_close(&tail.embedding(&Tensor::arange(1, 2)).unwrap(), &[1, 3], &[9.0, 10.0, 11.0], 0.0);
    let columns = table.index_select(1, &Tensor::from_i64(vec![2, 2], &[2]).unwrap()).unwrap();
    assert_close(&columns, &[4, 2], &[2.0, 2.0, 5.0, 5.0, 8.0, 8.0, 11.0, 11.0], 0.0);
    let picked = table.gather_last(&Tensor::from_i64(vec![0, 1, 2, 0], &[4]).unwrap()).unwrap();
    assert_close(&picked, &[4], &[0.0, 4.0, 8.0, 9.0], 0.0);
    for bad in [-1, 4] {
        let ids = Tensor::from_i64(vec![bad], &[1]).unwrap();
        assert!(matches!(table.embedding(&ids), Err(TensorError::Index { index, len: 4, .. }) if index == bad));
    }
    assert!(matches!(table.embedding(&table), Err(TensorError::DType { .. })));
    assert!(matches!(ids.embedding(&ids), Err(TensorError::DType { .. } | TensorError::Index { .. })));
}

#[test]
fn shape_ops() {
    let x = tensor(&[2, 1, 3, 4], 10);
    assert_eq!(x.squeeze(1).unwrap().shape(), [2, 3, 4]);
    assert!(x.squeeze(0).is_err());
    assert_eq!(x.unsqueeze(-1).unwrap().shape(), [2, 1, 3, 4, 1]);
    assert!(x.unsqueeze(5).is_err());
    assert_eq!(x.flatten(1, -2).unwrap().shape(), [2, 3, 4]);
    assert!(x.flatten(2, 1).is_err());
    assert!(x.reshape(&[5, 5]).is_err());
    assert!(x.permute(&[0, 0, 1, 2]).is_err() && x.permute(&[0, 1]).is_err());
    assert!(x.chunk(3, -1).is_err() && x.chunk(0, -1).is_err());
    assert!(x.narrow(-1, 2, usize::MAX).is_err());
    assert!(Tensor::cat(&[], 0).is_err());
    assert!(Tensor::cat(&[&x, &x.squeeze(1).unwrap()], 0).is_err());
    assert!(Tensor::cat(&[&x, &x.to_dtype(DType::BF16)], 0).is_err());
    let wide = x.broadcast_to(&[2, 2, 2, 3, 4]).unwrap();
    let (data, index) = (wide.as_f32().unwrap(), indices(&[2, 2, 2, 3, 4]));
    assert!(index.iter().zip(data).all(|(i, &v)| f64::from(v) == at(x.as_f32().unwrap(), x.shape(), i)));
    assert!(x.broadcast_to(&[2, 1, 3, 1]).is_err());
    let stacked = Tensor::stack(&[&x, &x], -1).unwrap();
    assert_eq!(stacked.shape(), [2, 1, 3, 4, 2]);
    assert_eq!(stacked.narrow(-1, 1, 1).unwrap().as_f32().unwrap(), x.as_f32().unwrap());
}

#[test]
fn empty_tensors_pass_through() {
    let empty = Tensor::zeros(&[2, 0, 3]).unwrap();
    assert_eq!(empty.add(&Tensor::zeros(&[1, 1, 3]).unwrap()).unwrap().shape(), [2, 0, 3]);
    assert_eq!(empty.permute(&[2, 1, 0]).unwrap().shape(), [3, 0, 2]);
    assert_eq!(empty.sum(1).unwrap().as_f32().unwrap(), [0.0; 6]);
    assert_eq!(empty.softmax(-1).unwrap().numel(), 0);
    assert_eq!(empty.matmul(&Tensor::zeros(&[3, 5]).unwrap()).unwrap().shape(), [2, 0, 5]);
    assert_eq!(
        Tensor::zeros(&[4, 0]).unwrap().matmul(&Tensor::zeros(&[0, 2]).unwrap()).unwrap().as_f32().unwrap(),
        [0.0; 8]
    );
    assert_eq!(empty.unsqueeze(0).unwrap().upsample_nearest2d(2).unwrap().shape(), [1, 4, 0, 3]);
}

#[test]
fn upsampling_repeats_pixels() {
    let x = Tensor::from_vec(numbers(2 * 2 * 3 * 2, 11), &[2, 2, 3, 2]).unwrap();
    let up = x.upsample_nearest2d(2).unwrap();
    assert_eq!(up.shape(), [2, 4, 6, 2]);
    for i in indices(&[2, 4, 6, 2]) {
        let from = [i[0], i[1] / 2, i[2] / 2, i[3]];
        assert_eq!(at(up.as_f32().unwrap(), up.shape(), &i), at(x.as_f32().unwrap(), x.shape(), &from));
    }
    assert!(x.upsample_nearest2d(0).is_err());
    assert!(x.flatten(0, 1).unwrap().upsample_nearest2d(2).is_err());
}
