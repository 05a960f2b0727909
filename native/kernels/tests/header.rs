//! The header and the exported functions say the same thing: names, arguments, types, structures and codes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use sango_kernels::{Activation, KernelError, Precision, TimePadding};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn header() -> String {
    let text = read("include/sango_kernels.h");
    let mut bare = String::new();
    let mut rest = text.as_str();
    while let Some(start) = rest.find("/*") {
        bare += &rest[..start];
        rest = &rest[start..][rest[start..].find("*/").expect("comments end") + 2..];
    }
    bare + rest
}

fn rust() -> String {
    ["mod", "gemm", "conv2d", "conv3d", "attention", "norm"].map(|name| read(&format!("src/ffi/{name}.rs"))).join("\n")
}

fn words(text: &str) -> String {
    text.replace('*', " * ").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `name -> "result (type name, …)"` of every prototype in the header.
fn prototypes(header: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for statement in header.split(';') {
        let statement = statement.rsplit(['{', '}', '\n', '#']).next().map_or(statement, |_| statement);
        let Some((head, tail)) = statement.split_once('(') else {
            continue;
        };
        let head = words(head.rsplit('\n').find(|line| !line.trim().is_empty()).unwrap_or(head));
        let (result, name) = head.rsplit_once(' ').expect("a result and a name");
        let arguments = words(tail.trim_end().trim_end_matches(')'));
        let arguments = if arguments == "void" { String::new() } else { arguments };
        found.insert(name.to_owned(), format!("{result} ({arguments})"));
    }
    found
}

/// The same for every exported Rust function.
fn exports(rust: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for function in rust.split("#[unsafe(no_mangle)]").skip(1) {
        let (_, signature) = function.split_once("extern \"C\" fn ").expect("exported functions are extern \"C\"");
        let (name, rest) = signature.split_once('(').unwrap();
        let (arguments, rest) = rest.split_once(')').unwrap();
        let result = rest.split_once('{').unwrap().0.trim();
        let result = result.strip_prefix("->").map_or("void".to_owned(), |r| c_type(r.trim()));
        let arguments = arguments.split(',').map(str::trim).filter(|a| !a.is_empty()).map(|argument| {
            let (name, kind) = argument.split_once(':').unwrap();
            format!("{} {}", c_type(kind.trim()), name.trim().trim_end_matches("_kind"))
        });
        let arguments = arguments.collect::<Vec<_>>().join(", ");
        found.insert(name.to_owned(), format!("{result} ({arguments})"));
    }
    found
}

fn c_type(rust: &str) -> String {
    if let Some(inner) = rust.strip_prefix("*const ") {
        return format!("const {} *", c_type(inner));
    }
    if let Some(inner) = rust.strip_prefix("*mut ") {
        return format!("{} *", c_type(inner));
    }
    match rust {
        "usize" => "size_t",
        "i32" => "int32_t",
        "f32" => "float",
        "bf16" => "sango_bf16",
        "bool" => "bool",
        "c_char" => "char",
        "std::ffi::c_void" => "void",
        "sango_status" => "sango_status",
        "PackedWeights" => "sango_weights",
        "PackedConv2d" => "sango_conv2d_weights",
        "PackedConv3d" => "sango_conv3d_weights",
        "SangoConv3dShape" => "sango_conv3d_shape",
        "SangoEpilogue" => "sango_epilogue",
        "SangoConv2dShape" => "sango_conv2d_shape",
        "SangoAttentionShape" => "sango_attention_shape",
        "SangoStrides" => "sango_strides",
        other => panic!("no C type is known for {other}"),
    }
    .to_owned()
}

#[test]
fn prototypes_match_the_exported_functions() {
    // A mask's kind is called `mask_kind` on both sides; Rust's `activation_kind` only avoids a function's name.
    let header: BTreeMap<_, _> =
        prototypes(&header()).into_iter().map(|(name, p)| (name, p.replace("mask_kind", "mask"))).collect();
    let exports = exports(&rust());
    assert!(exports.len() >= 20, "only {} exported functions found", exports.len());
    assert_eq!(header.keys().collect::<Vec<_>>(), exports.keys().collect::<Vec<_>>());
    for (name, prototype) in &header {
        assert_eq!(prototype, &exports[name], "{name}");
    }
}

/// `type field` pairs of a C structure, declarators with several names taken apart.
fn c_fields(header: &str, name: &str) -> Vec<String> {
    let body = header.split_once(&format!("typedef struct {name} {{")).unwrap().1.split_once('}').unwrap().0;
    let mut fields = Vec::new();
    for declaration in body.split(';').map(words).filter(|d| !d.is_empty()) {
        let (first, others) = declaration.split_once(',').map_or((declaration.as_str(), ""), |(a, b)| (a, b));
        let (kind, field) = first.rsplit_once(' ').unwrap();
        fields.extend([field].into_iter().chain(others.split(',')).map(str::trim).filter(|f| !f.is_empty()).map(|f| {
            let (f, array) = f.split_once('[').map_or((f, String::new()), |(f, n)| (f, format!("[{n}")));
            format!("{kind}{array} {f}")
        }));
    }
    fields
}

fn rust_fields(rust: &str, name: &str) -> Vec<String> {
    let (before, body) = rust.split_once(&format!("pub struct {name} {{")).unwrap();
    assert!(before.ends_with("#[repr(C)]\n#[derive(Debug, Clone, Copy)]\n"), "{name} is not repr(C)");
    let body = body.split_once('}').unwrap().0;
    let fields = body.lines().filter_map(|line| line.trim().strip_prefix("pub "));
    fields
        .map(|field| {
            let (name, kind) = field.trim_end_matches(',').split_once(": ").unwrap();
            match kind.strip_prefix('[').and_then(|k| k.strip_suffix(']')?.split_once("; ")) {
                Some((kind, len)) => format!("{}[{len}] {name}", c_type(kind)),
                None => format!("{} {name}", c_type(kind)),
            }
        })
        .collect()
}

#[test]
fn structures_match() {
    let (header, rust) = (header(), rust());
    for (c, name) in [
        ("sango_epilogue", "SangoEpilogue"),
        ("sango_conv2d_shape", "SangoConv2dShape"),
        ("sango_conv3d_shape", "SangoConv3dShape"),
        ("sango_strides", "SangoStrides"),
        ("sango_attention_shape", "SangoAttentionShape"),
    ] {
        assert_eq!(c_fields(&header, c), rust_fields(&rust, name), "{c}");
    }
}

#[test]
fn codes_match() {
    let header = words(&header());
    let has = |name: &str, value: i32| assert!(header.contains(&format!("{name} = {value}")), "{name} = {value}");
    has("SANGO_NULL_POINTER", KernelError::NullPointer("a").status());
    has("SANGO_INVALID_SHAPE", KernelError::InvalidShape { what: "a", reason: String::new() }.status());
    has("SANGO_INVALID_SHAPE", KernelError::Length { what: "a", expected: 1, found: 2 }.status());
    has("SANGO_OVERFLOW", KernelError::Overflow("a").status());
    has("SANGO_OUT_OF_MEMORY", KernelError::OutOfMemory(1).status());
    has("SANGO_INVALID_ENUM", KernelError::InvalidEnum { what: "a", value: 9 }.status());
    has("SANGO_ISA_UNAVAILABLE", "mmx".parse::<sango_kernels::Isa>().unwrap_err().status());
    has("SANGO_TIME_NONE", TimePadding::None as i32);
    has("SANGO_TIME_CAUSAL", TimePadding::Causal as i32);
    has("SANGO_TIME_SYMMETRIC", TimePadding::Symmetric as i32);
    has("SANGO_PRECISION_F32", Precision::F32 as i32);
    has("SANGO_PRECISION_BF16", Precision::Bf16 as i32);
    has("SANGO_PRECISION_INT8", Precision::Int8 as i32);
    for (name, activation) in [
        ("NONE", Activation::None),
        ("GELU", Activation::Gelu),
        ("GELU_TANH", Activation::GeluTanh),
        ("QUICK_GELU", Activation::QuickGelu),
        ("SILU", Activation::Silu),
    ] {
        has(&format!("SANGO_ACTIVATION_{name}"), activation as i32);
    }
}
