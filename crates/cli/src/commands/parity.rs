//! `sango parity`: tensors in, tensors out, nothing random.

use sango_models::LoadOptions;

use crate::args::{ParityArgs, WeightDtype};
use crate::report;
use std::time::Instant;

/// Runs the model named on the inputs and writes the outputs of its contract.
pub fn run(args: &ParityArgs, json: bool) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut options = LoadOptions::new(args.dtype.into());
    (options.int8, options.lora) = (args.dtype == WeightDtype::Int8, args.lora.clone());
    sango_models::parity::run_with(&args.model, &args.inputs, &args.outputs, &options)?;
    let total_ms = started.elapsed().as_secs_f64() * 1e3;
    let value = serde_json::json!({ "outputs": args.outputs, "dtype": args.dtype.name(), "total_ms": total_ms });
    report::result(json, &value, || format!("wrote {} ({:.1} s)", args.outputs.display(), total_ms / 1e3))
}
