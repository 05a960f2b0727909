//! A C program, compiled by the system's compiler against the header, links the static library and uses it.

use std::path::{Path, PathBuf};
use std::process::Command;

use sango_kernels::Isa;

/// Where cargo left the static library that this test program was built beside.
fn static_library() -> PathBuf {
    let program = std::env::current_exe().expect("the test program has a path");
    let deps = program.parent().expect("test programs are in a folder");
    let found = [deps.to_owned(), deps.parent().expect("deps is in a folder").to_owned()]
        .map(|folder| folder.join("libsango_kernels.a"))
        .into_iter()
        .find(|path| path.exists());
    found.unwrap_or_else(|| panic!("no libsango_kernels.a beside {}", program.display()))
}

#[test]
fn a_c_program_uses_the_library() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("use_kernels");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let compiled = Command::new(&compiler)
        .args(["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O1", "-I"])
        .arg(root.join("include"))
        .arg(root.join("tests/c/use_kernels.c"))
        .arg(static_library())
        .args(["-lpthread", "-ldl", "-lm", "-o"])
        .arg(&program)
        .output()
        .unwrap_or_else(|error| panic!("the C compiler {compiler} does not start: {error}"));
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));

    let best = Isa::best().name();
    let unknown = "instruction set sse9 is not available here";
    for (forced, used, complaint) in [("", best, ""), ("scalar", "scalar", ""), ("sse9", best, unknown)] {
        let run = Command::new(&program).env("SANGO_ISA", forced).output().expect("the program starts");
        let (said, complained) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
        assert!(run.status.success() && said == format!("ok {used}\n"), "SANGO_ISA={forced}: {said}");
        assert!(complained.contains(complaint) && complained.is_empty() == complaint.is_empty(), "{complained}");
    }
}
