//! Lets the binary and the tests find libtorch at run time, wherever `LIBTORCH` pointed at build time.

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    if let Some(libtorch) = std::env::var_os("LIBTORCH") {
        let lib = std::path::Path::new(&libtorch).join("lib");
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
        // Kept as DT_RPATH: it also serves the libraries that libtorch itself needs.
        println!("cargo:rustc-link-arg=-Wl,--disable-new-dtags");
    }
}
