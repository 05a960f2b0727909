//! Keeps the library in memory once it is loaded.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        // The compute threads never end, and others may still be ending: their code must stay where it is when the BEAM
        // purges the module.
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}
