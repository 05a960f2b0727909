//! Reading checkpoints, whole, sharded and hostile.

mod common;

use std::collections::HashMap;
use std::path::Path;

use common::tensor;
use proptest::prelude::*;
use sango_tensor::{DType, Tensor, TensorError, Weights, nn, save};

/// A safetensors file from a hand-written header and data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

fn parse(bytes: Vec<u8>) -> Result<Weights, TensorError> {
    Weights::from_bytes(bytes, "hostile.safetensors")
}

/// The bytes of a small, healthy file.
fn healthy(dir: &Path) -> Vec<u8> {
    let path = dir.join("healthy.safetensors");
    let (a, b) = (tensor(&[4, 6], 1), Tensor::arange(0, 5));
    save(&path, &[("layer.weight", &a), ("ids", &b)], None).unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn what_was_saved_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let a = tensor(&[3, 4], 1);
    let all = [
        ("f32", a.clone()),
        ("f16", a.to_dtype(DType::F16)),
        ("bf16", a.to_dtype(DType::BF16)),
        ("i64", Tensor::arange(-3, 9).reshape(&[3, 4]).unwrap()),
        ("u8", a.abs().unwrap().to_dtype(DType::U8)),
        // A view is saved as what it shows.
        ("rows", a.narrow(0, 1, 2).unwrap()),
        ("empty", Tensor::zeros(&[0, 7]).unwrap()),
    ];
    let refs: Vec<(&str, &Tensor)> = all.iter().map(|(n, t)| (*n, t)).collect();
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    save(&path, &refs, Some(metadata)).unwrap();
    let weights = Weights::open(dir.path(), "model").unwrap();
    for (name, t) in &all {
        let read = weights.get(name, t.shape()).unwrap();
        assert_eq!(read.dtype(), t.dtype(), "{name}");
        assert_eq!(read.to_dtype(DType::F32).as_f32().unwrap(), t.to_dtype(DType::F32).as_f32().unwrap(), "{name}");
    }
    assert_eq!(weights.metadata("format"), Some("pt"));
    assert_eq!(weights.metadata("nothing"), None);
    assert_eq!(weights.parameter_count(), 5 * 12 + 8);
    // Reading twice gives the same: the pages given back after the first time come from the file again.
    assert_eq!(weights.get("f32", &[3, 4]).unwrap().as_f32().unwrap(), a.as_f32().unwrap());
    assert!(matches!(save(&path, &[("a", &a), ("a", &a)], None), Err(TensorError::Encode { .. })));
    assert!(matches!(save(dir.path().join("no/such/folder.safetensors"), &refs, None), Err(TensorError::Io { .. })));
}

#[test]
fn names_are_found_where_one_descends() {
    let dir = tempfile::tempdir().unwrap();
    let t = tensor(&[2], 1);
    save(
        dir.path().join("m.safetensors"),
        &[("blocks.0.norm.weight", &t), ("blocks.0.norm.bias", &t), ("blocks.01", &t), ("head", &t)],
        None,
    )
    .unwrap();
    let weights = Weights::open(dir.path(), "m").unwrap();
    let norm = weights.pp("blocks").pp(0).pp("norm");
    assert!(norm.contains("weight") && !norm.contains("head") && !weights.pp("blocks.0").contains("1"));
    assert_eq!(norm.names().collect::<Vec<_>>(), ["bias", "weight"]);
    assert_eq!(norm.shape("bias").unwrap(), [2]);
    norm.get("weight", &[2]).unwrap();
    assert_eq!(weights.unused(), ["blocks.01", "head"]);
    norm.check_all_used(|_| false).unwrap();
    let error = weights.check_all_used(|name| name == "blocks.01").unwrap_err();
    assert!(matches!(&error, TensorError::UnusedTensors { count: 1, first, .. } if first == "head"), "{error}");
}

#[test]
fn variants_are_tried_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, value: f32| save(dir.path().join(name), &[("x", &Tensor::scalar(value))], None).unwrap();
    let error = Weights::open(dir.path(), "model").err().unwrap();
    assert!(
        matches!(&error, TensorError::NoWeights { .. }) && error.to_string().contains("model.safetensors.index.json"),
        "{error}"
    );
    write("model.fp16.safetensors", 16.0);
    assert_eq!(Weights::open(dir.path(), "model").unwrap().get("x", &[]).unwrap().item().unwrap(), 16.0);
    write("model.safetensors", 32.0);
    assert_eq!(Weights::open(dir.path(), "model").unwrap().get("x", &[]).unwrap().item().unwrap(), 32.0);
}

#[test]
fn wrong_names_shapes_and_types_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("model.safetensors"), healthy(dir.path())).unwrap();
    let weights = Weights::open(dir.path(), "model").unwrap();
    let error = weights.pp("layer").get("wieght", &[4, 6]).unwrap_err();
    assert!(
        matches!(&error, TensorError::MissingTensor { key, suggestion: Some(s), .. } if key == "layer.wieght" && s == "layer.weight"),
        "{error}"
    );
    assert!(error.to_string().contains("model.safetensors"), "{error}");
    let error = weights.get("completely.different", &[1]).unwrap_err();
    assert!(matches!(&error, TensorError::MissingTensor { suggestion: None, .. }), "{error}");
    let error = weights.get("layer.weight", &[6, 4]).unwrap_err();
    assert!(
        matches!(&error, TensorError::WeightShape { expected, found, .. } if expected == &[6, 4] && found == &[4, 6]),
        "{error}"
    );
    let error = weights.get_f32("ids", &[5]).unwrap_err();
    assert!(matches!(&error, TensorError::WeightDType { found, .. } if found == "i64"), "{error}");
    let double = parse(file(r#"{"x":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}"#, &[0; 8])).unwrap();
    assert!(matches!(double.get("x", &[1]), Err(TensorError::WeightDType { .. })));
    assert!(matches!(
        nn::Linear::load(
            &parse(file(r#"{"weight":{"dtype":"I64","shape":[1,1],"data_offsets":[0,8]}}"#, &[0; 8])).unwrap(),
            1,
            1,
            false
        ),
        Err(TensorError::WeightDType { .. })
    ));
}

#[test]
fn integers_and_booleans_of_other_widths() {
    let data = [1i32.to_le_bytes(), (-2i32).to_le_bytes()].concat();
    let header = r#"{"a":{"dtype":"I32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"BOOL","shape":[2],"data_offsets":[8,10]}}"#;
    let weights = parse(file(header, &[data.as_slice(), &[1, 0]].concat())).unwrap();
    assert_eq!(weights.get("a", &[2]).unwrap().as_i64().unwrap(), [1, -2]);
    assert_eq!(weights.get("b", &[2]).unwrap().as_u8().unwrap(), [1, 0]);
}

#[test]
fn elements_need_not_be_aligned() {
    // One byte before the floats, and a header of odd length.
    let data: Vec<u8> = [vec![7], 1.5f32.to_le_bytes().to_vec(), (-2.0f32).to_le_bytes().to_vec()].concat();
    for pad in 0..8 {
        let header = format!(
            r#"{{"a":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}},"w":{{"dtype":"F32","shape":[1,2],"data_offsets":[1,9]}}}}{}"#,
            " ".repeat(pad)
        );
        let weights = parse(file(&header, &data)).unwrap();
        assert_eq!(weights.get("w", &[1, 2]).unwrap().as_f32().unwrap(), [1.5, -2.0]);
        assert_eq!(weights.get_f32("w", &[1, 2]).unwrap().as_f32().unwrap(), [1.5, -2.0]);
    }
}

#[test]
fn truncated_files() {
    let dir = tempfile::tempdir().unwrap();
    let whole = healthy(dir.path());
    let path = dir.path().join("cut.safetensors");
    for len in (0..whole.len()).step_by(3) {
        assert!(matches!(parse(whole[..len].to_vec()), Err(TensorError::Header { .. })), "{len} bytes");
        std::fs::write(&path, &whole[..len]).unwrap();
        let error = Weights::open_file(&path).err().unwrap();
        assert!(matches!(&error, TensorError::Header { .. }), "{len} bytes: {error}");
        assert!(error.to_string().contains("cut.safetensors") && error.to_string().contains("truncated"), "{error}");
    }
    let longer = [whole.as_slice(), &[0; 3]].concat();
    assert!(matches!(parse(longer), Err(TensorError::Header { .. })));
}

#[test]
fn headers_that_lie() {
    let entry = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"x":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let huge = u64::MAX;
    let lies = [
        // Beyond the file, before its start, backwards, too short, too long.
        entry("F32", "[2]", "[0,800]"),
        entry("F32", "[2]", "[8,16]"),
        entry("F32", "[2]", "[-8,0]"),
        entry("F32", "[2]", "[8,0]"),
        entry("F32", "[2]", "[0,4]"),
        entry("F32", "[1]", "[0,8]"),
        // Sizes whose product or sum overflows.
        entry("F32", &format!("[{huge},{huge}]"), "[0,8]"),
        entry("F32", &format!("[{}]", huge / 2), "[0,8]"),
        entry("U8", &format!("[{}]", huge - 100), &format!("[0,{}]", huge - 100)),
        entry("U8", &format!("[{huge}]"), &format!("[0,{huge}]")),
        // Not what the format allows.
        entry("F999", "[2]", "[0,8]"),
        entry("F32", "2", "[0,8]"),
        entry("F32", "[2]", "[0]"),
        entry("F32", "[2.5]", "[0,8]"),
        r#"{"x":{"dtype":"F32","shape":[2]}}"#.to_owned(),
        r#"{"x":[1,2]}"#.to_owned(),
        r#"{"__metadata__":{"a":1},"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#.to_owned(),
        "[]".to_owned(),
        "".to_owned(),
        "{".to_owned(),
        "[".repeat(100_000),
        "\u{0}\u{1}".to_owned(),
        // Two tensors over the same bytes, and a gap between two.
        r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"y":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#.to_owned(),
        r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"y":{"dtype":"U8","shape":[1],"data_offsets":[7,8]}}"#.to_owned(),
    ];
    for header in lies {
        let result = parse(file(&header, &[0; 8]));
        assert!(matches!(result, Err(TensorError::Header { .. })), "{}", &header[..header.len().min(200)]);
    }
    // Offsets chosen so that they wrap around to the right length.
    for slack in 0..200u64 {
        let header = entry("U8", &format!("[{}]", huge - slack), &format!("[0,{}]", huge - slack));
        assert!(matches!(parse(file(&header, &[0; 8])), Err(TensorError::Header { .. })), "{header}");
    }
    assert!(matches!(parse(file("\u{fffd}", &[]).iter().map(|b| b | 0x80).collect()), Err(TensorError::Header { .. })));
}

#[test]
fn giant_header_lengths() {
    for len in [9, 1000, 100_000_001, u64::from(u32::MAX), u64::MAX / 2, u64::MAX - 7, u64::MAX] {
        let bytes = [&len.to_le_bytes()[..], b"{}      "].concat();
        let error = parse(bytes).err().unwrap();
        assert!(matches!(&error, TensorError::Header { detail, .. } if detail.contains(&len.to_string())), "{error}");
    }
}

proptest! {
    /// Whatever bit is flipped, the answer is an error or a readable checkpoint; never a panic or a wrong length.
    #[test]
    fn flipped_bits(flips in prop::collection::vec((0usize..200, 0u8..8), 1..4)) {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = healthy(dir.path());
        for (at, bit) in flips {
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
        }
        if let Ok(weights) = parse(bytes) {
            let names: Vec<String> = weights.names().map(str::to_owned).collect();
            for name in names {
                let shape = weights.shape(&name).unwrap();
                if let Ok(t) = weights.get(&name, &shape) {
                    prop_assert_eq!(t.shape(), shape);
                }
            }
        }
    }

    #[test]
    fn noise_is_not_a_checkpoint(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(parse(bytes).is_err());
    }
}

/// A folder with two shards and the given index.
fn sharded(index: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("model");
    std::fs::create_dir(&inside).unwrap();
    save(inside.join("a.safetensors"), &[("x", &Tensor::scalar(1.0)), ("y", &Tensor::scalar(2.0))], None).unwrap();
    save(inside.join("b.safetensors"), &[("z", &Tensor::scalar(3.0))], None).unwrap();
    save(dir.path().join("secret.safetensors"), &[("x", &Tensor::scalar(9.0))], None).unwrap();
    std::fs::write(inside.join("model.safetensors.index.json"), index).unwrap();
    dir
}

#[test]
fn sharded_checkpoints() {
    let dir = sharded(
        r#"{"metadata":{"total_size":12},"weight_map":{"x":"a.safetensors","y":"a.safetensors","z":"b.safetensors"}}"#,
    );
    let weights = Weights::open(dir.path().join("model"), "model").unwrap();
    for (name, value) in [("x", 1.0), ("y", 2.0), ("z", 3.0)] {
        assert_eq!(weights.get(name, &[]).unwrap().item().unwrap(), value);
    }
    assert_eq!(weights.parameter_count(), 3);
    // Errors about one tensor name the shard it is in; a missing one names the index.
    assert!(weights.get("z", &[1]).unwrap_err().to_string().contains("b.safetensors"));
    assert!(weights.get("w", &[]).unwrap_err().to_string().contains("index.json"));
}

#[test]
fn indexes_that_lie() {
    let open = |index: &str| {
        let dir = sharded(index);
        Weights::open(dir.path().join("model"), "model").err().unwrap()
    };
    let absolute = std::env::temp_dir().join("secret.safetensors");
    for name in [
        "../secret.safetensors",
        "./../secret.safetensors",
        "a/../../secret.safetensors",
        "..",
        ".",
        "",
        "..\\\\secret.safetensors",
        "./a.safetensors",
        "a.safetensors/",
        &absolute.display().to_string(),
    ] {
        let error = open(&format!(r#"{{"weight_map":{{"x":"{name}"}}}}"#));
        assert!(matches!(&error, TensorError::WeightIndex { .. }), "{name}: {error}");
    }
    let error = open(r#"{"weight_map":{"x":"missing.safetensors"}}"#);
    assert!(matches!(&error, TensorError::Io { path, .. } if path.ends_with("missing.safetensors")), "{error}");
    for index in [
        "",
        "[]",
        "{}",
        r#"{"weight_map":[]}"#,
        r#"{"weight_map":{"x":1}}"#,
        r#"{"weight_map":{"nowhere":"a.safetensors"}}"#,
        &"[".repeat(100_000),
    ] {
        let error = open(index);
        assert!(matches!(&error, TensorError::WeightIndex { .. }), "{}: {error}", &index[..index.len().min(80)]);
    }
}
