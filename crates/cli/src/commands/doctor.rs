//! `sango doctor`: what this machine can do, and what is missing for what.

use crate::args::ModelsDir;
use crate::{model_dir, report};
use sango_models::ModelFolder;
use serde::Serialize;
use std::process::{Command, Stdio};

#[derive(Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    detail: String,
}

/// Runs every check; a failed one is reported, never an error of the command.
pub fn run(args: &ModelsDir, json: bool) -> anyhow::Result<()> {
    let checks = [
        Check {
            name: "compute",
            ok: true,
            detail: format!(
                "{} on {} threads",
                sango_kernels::Isa::active().name(),
                sango_kernels::pool::num_threads()
            ),
        },
        memory(),
        models(args),
        program("ffmpeg", "-version", "needed for video; install the package ffmpeg"),
    ];
    report::result(json, &checks, || {
        let line = |check: &Check| {
            format!("{} {:<8} {}", if check.ok { "ok     " } else { "missing" }, check.name, check.detail)
        };
        checks.iter().map(line).collect::<Vec<_>>().join("\n")
    })
}

fn memory() -> Check {
    let available = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
        line.split_whitespace().nth(1)?.parse::<f64>().ok()
    });
    match available {
        Some(kib) => {
            Check { name: "memory", ok: kib > 1e6, detail: format!("{:.1} GiB available", kib / 1024.0 / 1024.0) }
        }
        None => Check { name: "memory", ok: true, detail: "unknown on this system".into() },
    }
}

fn models(args: &ModelsDir) -> Check {
    let found = model_dir::models_dir(args.models.as_deref()).and_then(|root| Ok((ModelFolder::list(&root)?, root)));
    match found {
        Ok((models, root)) => {
            let names: Vec<String> = models.iter().map(|found| format!("{} ({})", found.name, found.kind)).collect();
            let detail =
                format!("{}: {}", root.display(), if names.is_empty() { "none".into() } else { names.join(", ") });
            Check { name: "models", ok: !models.is_empty(), detail }
        }
        Err(error) => Check { name: "models", ok: false, detail: error.to_string() },
    }
}

fn program(name: &'static str, argument: &str, hint: &str) -> Check {
    let output = Command::new(name).arg(argument).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            Check { name, ok: true, detail: text.lines().next().unwrap_or_default().to_string() }
        }
        _ => Check { name, ok: false, detail: hint.into() },
    }
}
