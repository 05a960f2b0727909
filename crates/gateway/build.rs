//! Copies the studio page to where it is embedded from, so that the crate builds with and without a built page.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// What is served when `web/` has not been built.
const PLACEHOLDER: &str = r#"<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Sango</title>
<body style="font: 1.1rem/1.5 system-ui; max-width: 36rem; margin: 15vh auto; padding: 0 1rem">
<h1>Sango is running</h1>
<p>The studio page is not in this binary. Build it and then Sango again:</p>
<pre>make web &amp;&amp; cargo build --release -p sango</pre>
<p>The HTTP interface works without it: see <a href="/openapi.json">/openapi.json</a>.</p>
</body></html>
"#;

fn main() -> io::Result<()> {
    let from = Path::new("../../web/dist");
    // A path that does not exist yet counts as changed, so the page is found by the first build after `make web`.
    println!("cargo::rerun-if-changed={}", from.display());
    let to = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?).join("studio");
    if to.exists() {
        fs::remove_dir_all(&to)?;
    }
    if from.join("index.html").is_file() {
        copy(from, &to)
    } else {
        fs::create_dir_all(&to)?;
        fs::write(to.join("index.html"), PLACEHOLDER)
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}
