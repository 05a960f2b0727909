//! What the planner says that encoding and decoding take, against what the operating system counts.

#![cfg(target_os = "linux")]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;

use sango_models::DType;
use sango_models::ltx_video::vae::{DecodeOptions, Tiling};
use sango_tensor::Tensor;
use sango_tests::load_vae;

/// Names the work of a process of its own, which the test starts so that nothing else counts.
const WORK: &str = "SANGO_VAE_MEMORY";
/// Names the folder of another autoencoder.
const VAE: &str = "SANGO_VAE_FOLDER";
/// What a plan may be above what is counted: it must not refuse what would fit.
const CAUTION: f64 = 1.6;

fn resident(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the status of this process");
    let line = status.lines().find(|line| line.starts_with(field)).expect("its memory");
    line.split_whitespace().nth(1).expect("a figure").parse::<f64>().expect("a number") / 1024.0
}

/// Does the work that [`WORK`] names, and says the plan's MiB and the counted ones.
#[test]
fn work() {
    let Ok(named) = std::env::var(WORK) else { return };
    let mut words = named.split(' ');
    let (half, dtype) = (words.next().expect("a half"), words.next().expect("a type"));
    let size: Vec<usize> = words.map(|word| word.parse().expect("a size")).collect();
    let &[frames, height, width, budget] = &size[..] else { panic!("{named}: four numbers are needed") };
    let shipped = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/shapes/ltx_video/vae");
    let folder = std::env::var_os(VAE).map_or_else(shipped, PathBuf::from);
    let vae = load_vae(&folder, if dtype == "f32" { DType::F32 } else { DType::BF16 });
    let budget = (budget as u64) << 20;
    let run = |frames: usize, height: usize, width: usize, tiling: Tiling| {
        let carry_on = &mut |_: usize, _: usize| ControlFlow::Continue(());
        let filled = |channels: usize, [t, h, w]: [usize; 3]| {
            let values = (0..channels * t * h * w).map(|n| (n % 7) as f32 / 7.0 - 0.5).collect();
            Tensor::from_vec(values, &[1, channels, t, h, w]).expect("an input")
        };
        let input = if half == "encode" {
            filled(3, [frames, height, width])
        } else {
            let (space, time) = (vae.spatial_compression_ratio(), vae.temporal_compression_ratio());
            filled(vae.config().latent_channels, [(frames - 1) / time + 1, height / space, width / space])
        };
        // From here on the largest size is counted anew.
        std::fs::write("/proc/self/clear_refs", "5").expect("the peak can be reset");
        let before = resident("VmRSS:");
        if half == "encode" {
            vae.encode(&input, &tiling, carry_on).expect("it encodes");
        } else {
            let timestep = vae.timestep_conditioning().then_some(0.05);
            let options = DecodeOptions { tiling, ..DecodeOptions::default() };
            vae.decode(&input, timestep, &options, carry_on).expect("it decodes");
        }
        resident("VmHWM:") - before
    };
    // Weights are read when they are first used.
    run(vae.temporal_compression_ratio() + 1, 64, 64, Tiling::Never);
    let plan = match half {
        "encode" => vae.plan_encode(frames, height, width, budget),
        _ => vae.plan(frames, height, width, budget),
    };
    let plan = plan.expect("a plan");
    let counted = run(frames, height, width, plan.tiling);
    println!("in {} tiles: {} {counted}", plan.tiles, plan.peak_bytes as f64 / f64::from(1 << 20));
}

#[test]
fn plans_say_what_the_system_counts() {
    if std::env::var_os(WORK).is_some() {
        return;
    }
    for work in [
        "encode f32 33 384 512 100000",
        "encode bf16 33 384 512 100000",
        "encode bf16 97 384 384 100000",
        "encode bf16 1 1536 2048 100000",
        "encode bf16 97 384 384 500",
        "decode f32 33 384 512 100000",
        "decode bf16 33 384 512 100000",
        "decode bf16 97 384 384 100000",
        "decode bf16 97 384 384 500",
    ] {
        let test = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "work", "--nocapture"])
            .env(WORK, work)
            .output()
            .expect("a process of its own");
        let said = String::from_utf8_lossy(&test.stdout).into_owned();
        assert!(test.status.success(), "{work}: {said}{}", String::from_utf8_lossy(&test.stderr));
        let line = said.lines().find(|line| line.contains(" tiles: ")).expect("figures");
        let figures: Vec<f64> = line.split(' ').rev().take(2).map(|word| word.parse().expect("MiB")).collect();
        let (counted, planned) = (figures[0], figures[1]);
        println!("{work}: planned {planned:.0} MiB, counted {counted:.0} MiB, {:.2} times", planned / counted);
        assert!(counted <= planned, "{work}: takes {counted:.0} MiB, more than the {planned:.0} planned");
        assert!(planned <= CAUTION * counted, "{work}: takes {counted:.0} MiB, far less than the {planned:.0} planned");
    }
}
