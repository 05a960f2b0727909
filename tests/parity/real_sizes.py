"""Compares `sango parity` with diffusers at the published sizes (amused-256, amused-512) with random weights.

    python tests/parity/real_sizes.py --sango target/release/sango --work DIR [--sizes 256 512] [--steps 12] [RUN ...]

Makes the model folders and inputs under DIR (3.5 GB per size; kept and used again), runs both, and prints for every
tensor of the contract the f32 error (max |Δ| / max |reference|, bar 1e-4) and the bf16 error (relative L2, bar 2e-2 or
1.5 times the reference's own). Exits with 1 when a bar is missed. Takes minutes and 8 GB of memory.
"""

import argparse
import gc
import pathlib
import subprocess
import sys

import torch
from safetensors.torch import load_file, save_file

import amused
import reference
import tokenizer

RUNS = ("text-to-image", "image-to-image", "inpainting")


def real_case(size, steps):
    """The published configuration as a case of `amused.py`."""
    half = size == 512
    return {
        "transformer": dict(downsample=half, upsample=half, codebook_size=8192, sample_size=size // 16),
        "vqvae": dict(block_out_channels=[128, 256, 256, 512, 768], layers_per_block=2, latent_channels=64,
                      num_vq_embeddings=8192, mid_block_add_attention=False),
        "text": dict(vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                     num_attention_heads=12, hidden_act="quick_gelu", projection_dim=768, eos_token_id="end"),
        "scheduler": dict(mask_token_id=8255),
        "pad_token": tokenizer.END, "weights": torch.float32,
        "runs": {"text-to-image": dict(steps=steps, guidance=4.0),
                 "image-to-image": dict(steps=steps, guidance=4.0, image=True, strength=0.5),
                 "inpainting": dict(steps=steps, guidance=4.0, image=True, mask=True, strength=0.75)},
    }  # fmt: skip


def compare(name, ours, expected, half, dtype):
    """Prints a line per tensor; returns whether all are within their bars."""
    passed = True
    for key, wanted in expected.items():
        if key == "tokens":
            same = float((ours[key] == wanted).float().mean())
            good = same == 1.0 or dtype == "bf16"
            text = f"{same:8.2%} equal (reference's bf16: {float((half[key] == wanted).float().mean()):.2%})"
        elif dtype == "f32":
            error = reference.max_relative(ours[key], wanted)
            good, text = error <= 1e-4, f"{error:8.1e} of 1.0e-04"
        else:
            error = reference.relative_l2(ours[key], wanted)
            bar = max(2e-2, 1.5 * reference.relative_l2(half[key], wanted))
            # Other tokens make another picture, so pictures are only held to the bar when the tokens agree.
            agree = bool((ours["tokens"] == expected["tokens"]).all())
            good = error <= bar or (key == "image" and not agree)
            text = f"{error:8.1e} of {bar:.1e}" + ("" if agree or key != "image" else " (other tokens)")
        passed &= good
        print(f"{name:22} {dtype:5} {key:14} {text} {'' if good else 'MISSED'}", flush=True)
    return passed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sango", required=True, help="the sango program")
    parser.add_argument("--work", required=True, type=pathlib.Path, help="folder for models, inputs and outputs")
    parser.add_argument("--sizes", nargs="*", type=int, default=[256, 512])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("runs", nargs="*", default=RUNS)
    args = parser.parse_args()
    passed = True
    for size in args.sizes:
        case = real_case(size, args.steps)
        folder = args.work / f"amused-{size}"
        generator = torch.Generator().manual_seed(size)
        if not (folder / "model/model_index.json").exists():
            amused.make_model(case, folder / "model", generator)
            gc.collect()
        for run in args.runs:
            at = folder / f"{run}-{args.steps}"
            at.mkdir(exist_ok=True)
            inputs = amused.make_inputs(case, case["runs"][run], folder / "model", generator)
            save_file(inputs, at / "inputs.safetensors")
            margins = reference.Margins()
            expected = reference.run(folder / "model", inputs, margins=margins)
            gc.collect()
            half = reference.run(folder / "model", inputs, torch.bfloat16)
            gc.collect()
            print(f"{size} {run}: the closest choice was decided by {margins.smallest:.1e}", flush=True)
            for dtype in ("f32", "bf16"):
                outputs = at / f"{dtype}.safetensors"
                command = [args.sango, "parity", "--model", folder / "model", "--inputs", at / "inputs.safetensors"]
                subprocess.run([*command, "--outputs", outputs, "--dtype", dtype], check=True)
                passed &= compare(f"{size} {run}", load_file(outputs), expected, half, dtype)
    sys.exit(not passed)


if __name__ == "__main__":
    main()
