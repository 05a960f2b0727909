"""LTX-Video 2B, prompt embeddings to frames, sango against diffusers: interleaved rounds, medians, step and decode apart.

Usage: ltx_video.py --model DIR --sango PROGRAM [--rounds 3] [--threads 2] [--size 256x256] [--frames 25] [--steps 8]
                    [--only NAME ...] [--out results.json]
Each round runs every contender once, in its own process: two steps and a decode to warm up, then a whole video with
guidance, whose steps and decode are timed. Peak memory is that of the process.
"""

import argparse
import json
import resource
import statistics
import sys
import time

from rounds import of, print_header, print_medians, run_rounds


def reference(args: argparse.Namespace) -> None:
    """One contender of the reference: prints its figures as JSON."""
    import torch
    from diffusers import LTXPipeline

    torch.set_num_threads(args.threads)
    began = time.perf_counter()
    dtype = getattr(torch, args.reference)
    pipeline = LTXPipeline.from_pretrained(args.model, torch_dtype=dtype, text_encoder=None, tokenizer=None)
    pipeline.set_progress_bar_config(disable=True)
    load_ms = (time.perf_counter() - began) * 1e3
    width, height = map(int, args.size.split("x"))
    torch.manual_seed(0)
    embeds = torch.randn(2, 1, 128, pipeline.transformer.config.caption_channels, dtype=dtype)
    mask = torch.ones(1, 128, dtype=torch.int64)

    def make(steps: int) -> tuple[list[float], float]:
        times = [time.perf_counter()]

        def note(_pipeline, _step, _timestep, kwargs):
            times.append(time.perf_counter())
            return kwargs

        latents = pipeline(
            prompt_embeds=embeds[0], prompt_attention_mask=mask, negative_prompt_embeds=embeds[1],
            negative_prompt_attention_mask=mask, width=width, height=height, num_frames=args.frames,
            num_inference_steps=steps, guidance_scale=args.guidance, output_type="latent", callback_on_step_end=note,
        ).frames  # fmt: skip
        latents = pipeline._unpack_latents(
            latents, (args.frames - 1) // pipeline.vae_temporal_compression_ratio + 1,
            height // pipeline.vae_spatial_compression_ratio, width // pipeline.vae_spatial_compression_ratio,
        )  # fmt: skip
        latents = pipeline._denormalize_latents(
            latents, pipeline.vae.latents_mean, pipeline.vae.latents_std, pipeline.vae.config.scaling_factor
        )
        began = time.perf_counter()
        pipeline.vae.decode(latents.to(dtype), None, return_dict=False)
        return [b - a for a, b in zip(times, times[1:])], time.perf_counter() - began

    with torch.inference_mode():
        make(2)
        steps, decode = make(args.steps)
    figures = {
        "load_ms": load_ms,
        "step_ms": statistics.median(steps) * 1e3,
        "decode_ms": decode * 1e3,
        "total_ms": (sum(steps) + decode) * 1e3,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--sango", default="target/release/sango")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", default="256x256")
    parser.add_argument("--frames", type=int, default=25)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--only", nargs="*", help="contenders, such as 'sango bf16'")
    parser.add_argument("--out")
    parser.add_argument("--reference", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.reference:
        return reference(args)

    common = ["--model", args.model, "--threads", str(args.threads), "--size", args.size]
    common += ["--frames", str(args.frames), "--steps", str(args.steps), "--guidance", str(args.guidance)]
    contenders = {
        f"diffusers {name}": [sys.executable, __file__, *common, "--reference", dtype]
        for name, dtype in (("f32", "float32"), ("bf16", "bfloat16"))
    } | {
        f"sango {dtype}": [args.sango, "bench", "video", *common, "--json", "--runs", "1", "--dtype", dtype]
        for dtype in ("f32", "bf16")
    }
    contenders = {name: command for name, command in contenders.items() if not args.only or name in args.only}
    rounds = run_rounds(contenders, args.rounds, args.threads, args.out)
    report(rounds)


def report(rounds: dict[str, list[dict]]) -> None:
    """Two tables: what was measured, and how the contenders compare."""

    print_medians(rounds, ["step_ms", "decode_ms", "total_ms", "load_ms", "peak_rss_mb"])
    others = [name for name in ("diffusers f32", "diffusers bf16") if name in rounds]
    compared = ["step_ms", "decode_ms", "total_ms", "peak_rss_mb"]
    print(f"\nhow many times less than {' / '.join(others)}")
    print_header(compared)
    for name in (name for name in rounds if name.startswith("sango")):
        medians = {column: statistics.median(of(rounds, name, column)) for column in compared}
        cells = [
            " / ".join(f"{statistics.median(of(rounds, other, column)) / medians[column]:.2f}" for other in others)
            for column in compared
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
