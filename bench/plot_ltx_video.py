"""How LTX-Video's step grows with tokens and its decoder with pixels: measures sango and diffusers, and draws an SVG.

Usage: plot_ltx_video.py --model DIR --sango PROGRAM --svg OUT.svg [--data FILE.json] [--threads 2] [--only NAME ...]
What is in FILE already is not measured again.
"""

import argparse
import json
import math
import sys
from pathlib import Path

from rounds import run_json

# Width, height, frames.
SIZES = [(256, 256, 9), (256, 256, 25), (256, 256, 49), (256, 256, 97), (512, 512, 25), (512, 512, 49)]
COLOURS = {"diffusers f32": "#9aa0a6", "diffusers bf16": "#5f6368", "sango bf16": "#d9480f"}


def measure(args: argparse.Namespace, name: str, width: int, height: int, frames: int) -> dict:
    common = ["--model", args.model, "--threads", str(args.threads), "--size", f"{width}x{height}"]
    common += ["--frames", str(frames), "--steps", "2"]
    who, dtype = name.split()
    if who == "sango":
        command = [args.sango, "bench", "video", *common, "--json", "--runs", "1", "--dtype", dtype]
    else:
        script = str(Path(__file__).with_name("ltx_video.py"))
        command = [sys.executable, script, *common, "--reference", {"f32": "float32", "bf16": "bfloat16"}[dtype]]
    return run_json(command, args.threads)


def panel(x0: float, title: str, label: str, series: dict[str, list[tuple[float, float]]]) -> list[str]:
    """One plot with logarithmic axes, 340 by 240, its left edge at x0."""
    points = [point for line in series.values() for point in line]
    (left, right), (low, high) = ((min(v) * 0.85, max(v) * 1.18) for v in zip(*points))

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            x0 + 340 * math.log(x / left) / math.log(right / left),
            300 - 240 * math.log(y / low) / math.log(high / low),
        )

    out = [f'<text x="{x0}" y="40" class="title">{title}</text>']
    out.append(f'<text x="{x0 + 170}" y="338" text-anchor="middle">{label}</text>')
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        for digit in (1, 2, 5):
            value = digit * 10.0**power
            if low <= value <= high:
                _, y = at(left, value)
                out.append(f'<path d="M{x0} {y:.1f}h340" class="grid"/>')
                out.append(f'<text x="{x0 - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g} s</text>')
    for x in sorted({x for x, _ in points}):
        px, _ = at(x, low)
        out.append(f'<path d="M{px:.1f} 300v4" class="axis"/>')
    for x in (min(x for x, _ in points), max(x for x, _ in points)):
        px, _ = at(x, low)
        out.append(f'<text x="{px:.1f}" y="318" text-anchor="middle">{x:.4g}</text>')
    out.append(f'<path d="M{x0} 60v240h340" class="axis"/>')
    for name, line in series.items():
        path = "L".join(f"{px:.1f} {py:.1f}" for px, py in (at(x, y) for x, y in sorted(line)))
        out.append(f'<path d="M{path}" fill="none" stroke="{COLOURS[name]}" stroke-width="2"/>')
        out += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{COLOURS[name]}"/>' for px, py in (at(*p) for p in line)]
    return out


def draw(data: dict[str, dict[str, dict]]) -> str:
    steps, decodes = {}, {}
    for name, sizes in data.items():
        for size, figures in sizes.items():
            width, height, frames = map(int, size.split("x"))
            tokens = ((frames - 1) // 8 + 1) * (height // 32) * (width // 32)
            steps.setdefault(name, []).append((tokens, figures["step_ms"] / 1e3))
            decodes.setdefault(name, []).append((frames * width * height / 1e6, figures["decode_ms"] / 1e3))
    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="860" height="385" viewBox="0 0 860 385">']
    out.append(
        "<style>text{font:12px sans-serif;fill:#333}.title{font-weight:bold}.grid{stroke:#ddd}.axis{stroke:#333;fill:none}"
        "</style><rect width='860' height='385' fill='white'/>"
    )
    out += panel(60, "One step, with guidance", "tokens (two rows of so many)", steps)
    out += panel(490, "Decoding", "millions of pixels", decodes)
    for i, name in enumerate(steps):
        out.append(f'<rect x="{60 + 160 * i}" y="358" width="14" height="4" fill="{COLOURS[name]}"/>')
        out.append(f'<text x="{80 + 160 * i}" y="364">{name}</text>')
    return "\n".join([*out, "</svg>\n"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--sango", default="target/release/sango")
    parser.add_argument("--svg", required=True)
    parser.add_argument("--data", default=".cache/ltx_video_growth.json")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=["diffusers bf16", "sango bf16"])
    args = parser.parse_args()
    file = Path(args.data)
    data = json.loads(file.read_text()) if file.exists() else {}
    for name in args.only:
        for size in SIZES:
            key = "x".join(map(str, size))
            if key not in data.setdefault(name, {}):
                data[name][key] = measure(args, name, *size)
                print(f"{name} {key}: {json.dumps(data[name][key])}", file=sys.stderr)
                file.write_text(json.dumps(data, indent=1))
    Path(args.svg).write_text(draw(data))


if __name__ == "__main__":
    main()
