//! How the library is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    match std::env::var("CARGO_CFG_TARGET_OS").as_deref() {
        // The compute threads never end, and others may still be ending: their code must stay where it is when the BEAM
        // purges the module.
        Ok("linux") => println!("cargo::rustc-link-arg-cdylib=-Wl,-z,nodelete"),
        // The BEAM has the `enif_` functions.
        Ok("macos") => println!("cargo::rustc-link-arg-cdylib=-Wl,-undefined,dynamic_lookup"),
        _ => {}
    }
}
