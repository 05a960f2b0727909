"""SmolVLM2-256M, a question about eight frames to 64 tokens, sango against transformers: interleaved rounds, medians.

Usage: smolvlm2.py --model DIR --sango PROGRAM [--rounds 3] [--threads 2] [--out results.json]
Each round runs every contender once, in its own process: one answer to warm up, one timed. Both get random pixels and ids
of the same shapes and start the clock when these are in memory; the first token's time is when it has been chosen.
"""

import argparse
import json
import resource
import statistics
import sys
import time

from rounds import of, print_header, print_medians, run_rounds

FRAMES, FRAME_TOKENS, SIDE, PROMPT_TOKENS, NEW_TOKENS = 8, 64, 512, 100, 64


class Clock:
    """A streamer that notes when each token came."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.prompt_seen = False

    def put(self, _tokens) -> None:
        if self.prompt_seen:
            self.times.append(time.perf_counter())
        self.prompt_seen = True

    def end(self) -> None:
        pass


def reference(model: str, dtype: str, threads: int) -> None:
    """One contender of the reference: prints its figures as JSON."""
    import torch
    from transformers import SmolVLMForConditionalGeneration

    torch.set_num_threads(threads)
    began = time.perf_counter()
    dtype = getattr(torch, dtype)
    model = SmolVLMForConditionalGeneration.from_pretrained(model, dtype=dtype, attn_implementation="sdpa").eval()
    load_ms = (time.perf_counter() - began) * 1e3
    torch.manual_seed(0)
    words = torch.randint(2, 49000, (PROMPT_TOKENS,))
    asked = PROMPT_TOKENS // 4
    image = torch.full((FRAMES * FRAME_TOKENS,), model.config.image_token_id)
    ids = torch.cat([words[:-asked], image, words[-asked:]])[None]
    pixels = torch.rand(1, FRAMES, 3, SIDE, SIDE, dtype=dtype) * 2 - 1

    def answer(new_tokens: int) -> tuple[float, float, float]:
        clock = Clock()
        began = time.perf_counter()
        model.generate(
            input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids), do_sample=False,
            max_new_tokens=new_tokens, min_new_tokens=new_tokens, streamer=clock,
        )  # fmt: skip
        ended = time.perf_counter()
        assert len(clock.times) == new_tokens
        return clock.times[0] - began, clock.times[-1] - clock.times[0], ended - began

    with torch.inference_mode():
        answer(3)
        first, rest, total = answer(NEW_TOKENS)
    figures = {
        "load_ms": load_ms,
        "first_token_ms": first * 1e3,
        "decode_tokens_per_s": (NEW_TOKENS - 1) / rest,
        "total_ms": total * 1e3,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--sango", default="target/release/sango")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out")
    parser.add_argument("--reference", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.reference:
        return reference(args.model, args.reference, args.threads)

    common = ["--model", args.model, "--threads", str(args.threads)]
    ours = [args.sango, "bench", "understand", *common, "--json", "--runs", "1", "--frames", str(FRAMES)]
    ours += ["--prompt-tokens", str(PROMPT_TOKENS), "--new-tokens", str(NEW_TOKENS)]
    contenders = {
        f"transformers {name}": [sys.executable, __file__, *common, "--reference", dtype]
        for name, dtype in (("f32", "float32"), ("bf16", "bfloat16"))
    } | {f"sango {dtype}": [*ours, "--dtype", dtype] for dtype in ("f32", "bf16", "int8")}
    rounds = run_rounds(contenders, args.rounds, args.threads, args.out)
    columns = ["first_token_ms", "decode_tokens_per_s", "total_ms", "second_first_token_ms", "load_ms", "peak_rss_mb"]
    print_medians(rounds, columns)
    print("\nhow many times better than transformers f32 / bf16")
    compared = ["first_token_ms", "decode_tokens_per_s", "total_ms", "peak_rss_mb"]
    print_header(compared)
    for name in ("sango f32", "sango bf16", "sango int8"):
        cells = []
        for column in compared:
            value = statistics.median(of(rounds, name, column))
            others = [statistics.median(of(rounds, f"transformers {dtype}", column)) for dtype in ("f32", "bf16")]
            ratios = [value / other if column == "decode_tokens_per_s" else other / value for other in others]
            cells.append(" / ".join(f"{ratio:.2f}" for ratio in ratios))
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
