"""aMUSEd-256, prompt to PNG, sango against diffusers: interleaved rounds on one machine, medians.

Usage: amused.py --model DIR --sango PROGRAM [--rounds 3] [--threads 2] [--out results.json]
Each round runs every contender once, in its own process: one picture to warm up, one timed. The first picture's first
step, counted from the process's start, is the cold start.
"""

import argparse
import json
import resource
import statistics
import sys
import time

from rounds import run_json

PROMPT, STEPS, GUIDANCE = "a large red circle on a blue background", 12, 4.0
START = time.time()


def reference(model: str, dtype: str, threads: int, out: str) -> None:
    """One contender of the reference: prints its figures as JSON."""
    import torch
    from diffusers import AmusedPipeline

    torch.set_num_threads(threads)
    began = time.time()
    pipe = AmusedPipeline.from_pretrained(model, torch_dtype=getattr(torch, dtype), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    load_ms = (time.time() - began) * 1e3
    figures = {}
    for run in ("cold", "warm"):
        steps: list[float] = []
        began = time.time()
        image = pipe(
            PROMPT, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=torch.manual_seed(0),
            callback=lambda *_: steps.append(time.time()),
        ).images[0]  # fmt: skip
        decoded = time.time()
        image.save(out)
        ended = time.time()
        if run == "cold":
            figures["cold_start_ms"] = (steps[0] - START) * 1e3
        figures |= {
            "load_ms": load_ms,
            "step_ms": statistics.median(b - a for a, b in zip(steps, steps[1:])) * 1e3,
            "decode_ms": (decoded - steps[-1]) * 1e3,
            "total_ms": (ended - began) * 1e3,
        }
    figures["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(figures))


def sango(program: str, model: str, dtype: str, threads: int, out: str) -> dict:
    """One contender of ours: a warmed-up picture, and a cold start in a process of its own."""
    common = ["--model", model, "--dtype", dtype, "--threads", str(threads), "--json", "--steps", str(STEPS)]
    common += ["--guidance", str(GUIDANCE)]
    figures = run_json([program, "bench", "image", "--runs", "1", *common], threads)
    cold = run_json([program, "image", "--prompt", PROMPT, "--seed", "0", "-o", out, *common], threads)
    return figures | {"cold_start_ms": cold["cold_start_ms"]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--sango", default="target/release/sango")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--png", help=argparse.SUPPRESS)
    parser.add_argument("--out")
    parser.add_argument("--reference", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.reference:
        return reference(args.model, args.reference, args.threads, args.png)

    png = f"{args.model}/bench.png"
    python = [sys.executable, __file__, "--model", args.model, "--threads", str(args.threads), "--png", png]
    contenders = {
        "diffusers f32": lambda: run_json([*python, "--reference", "float32"], args.threads),
        "diffusers bf16": lambda: run_json([*python, "--reference", "bfloat16"], args.threads),
        "sango f32": lambda: sango(args.sango, args.model, "f32", args.threads, png),
        "sango bf16": lambda: sango(args.sango, args.model, "bf16", args.threads, png),
    }
    rounds: dict[str, list[dict]] = {name: [] for name in contenders}
    for number in range(args.rounds):
        for name, contender in contenders.items():
            rounds[name].append(contender())
            print(f"round {number + 1}: {name}: {rounds[name][-1]['total_ms'] / 1e3:.2f} s", file=sys.stderr)

    columns = ["total_ms", "step_ms", "decode_ms", "load_ms", "cold_start_ms", "peak_rss_mb"]
    medians = {n: {c: statistics.median(r[c] for r in rs) for c in columns} for n, rs in rounds.items()}
    print("| | " + " | ".join(columns) + " | × diffusers f32 | × diffusers bf16 |")
    print("|---" * (len(columns) + 3) + "|")
    for name, figures in medians.items():
        cells = [f"{figures[c]:,.0f}" for c in columns]
        cells += [f"{medians[base]['total_ms'] / figures['total_ms']:.2f}" for base in ("diffusers f32", "diffusers bf16")]
        print(f"| {name} | " + " | ".join(cells) + " |")
    if args.out:
        with open(args.out, "w") as file:
            json.dump(rounds, file, indent=1)


if __name__ == "__main__":
    main()
