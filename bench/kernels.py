"""torch's GFLOP/s over the shapes that `cargo run --release -p sango-kernels --example bench` measures, best of several.

Usage: kernels.py [--threads 2] [filter]
"""

import argparse
import time

import torch
import torch.nn.functional as F

ROUNDS = 7
GEMMS = [
    (256, 1024, 1024), (512, 1024, 1024), (512, 1024, 5632), (512, 2816, 1024), (256, 768, 8192), (77, 768, 3072),
    (1, 1024, 4096), (2, 1024, 4096), (4, 1024, 4096),
]  # fmt: skip
CONVOLUTIONS = [
    (16, 768, 768, 3), (16, 768, 768, 1), (32, 512, 512, 3), (64, 256, 256, 3), (128, 128, 128, 3), (256, 128, 128, 3),
]  # fmt: skip
# LTX-Video's decoder at 256×256 and 25 frames: frames, side, channels. torch is given the repeated frames for nothing.
CONVOLUTIONS_3D = [
    (4, 8, 512, 512), (4, 8, 512, 4096), (7, 16, 512, 512), (7, 16, 256, 2048), (13, 32, 256, 256), (13, 32, 128, 1024),
    (25, 64, 128, 128), (25, 64, 128, 48),
]  # fmt: skip
ATTENTIONS = [
    (2, 16, 256, 256, 64), (2, 16, 256, 77, 64), (1, 12, 1024, 1024, 64), (2, 32, 256, 256, 64), (2, 32, 256, 128, 64),
    (1, 32, 2048, 128, 64), (1, 32, 1024, 1024, 64), (1, 32, 2048, 2048, 64), (1, 32, 4096, 4096, 64),
    (1, 32, 2048, 2048, 128),
]  # fmt: skip


def measure(name: str, flops: int, run) -> None:
    if only not in name:
        return
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - began)
    print(f"{name:40} {best * 1e3:9.3f} ms {flops / best / 1e9:8.1f} GFLOP/s")


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("filter", nargs="?", default="")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    global only
    only = options.filter
    for dtype in (torch.float32, torch.bfloat16):
        label = "F32" if dtype == torch.float32 else "Bf16"
        for m, k, n in GEMMS:
            a, w = torch.randn(m, k, dtype=dtype), torch.randn(n, k, dtype=dtype)
            measure(f"gemm {label} {m}x{k}x{n}", 2 * m * n * k, lambda: F.linear(a, w))
        for size, c_in, c_out, kernel in CONVOLUTIONS:
            x = torch.randn(1, c_in, size, size, dtype=dtype).to(memory_format=torch.channels_last)
            w = torch.randn(c_out, c_in, kernel, kernel, dtype=dtype).to(memory_format=torch.channels_last)
            flops = 2 * size * size * c_in * c_out * kernel * kernel
            name = f"conv {label} {size}x{size}x{c_in}->{c_out} k{kernel} up1"
            measure(name, flops, lambda: F.conv2d(x, w, padding=kernel // 2))
        for frames, size, c_in, c_out in CONVOLUTIONS_3D:
            x = torch.randn(1, c_in, frames + 2, size, size, dtype=dtype)
            w = torch.randn(c_out, c_in, 3, 3, 3, dtype=dtype)
            flops = 2 * 27 * frames * size * size * c_in * c_out
            name = f"conv3d {label} {frames}x{size}x{size}x{c_in}->{c_out}"
            measure(name, flops, lambda: F.conv3d(x, w, padding=(0, 1, 1)))
        for batch, heads, queries, keys, width in ATTENTIONS:
            q = torch.randn(batch, heads, queries, width, dtype=dtype)
            k, v = (torch.randn(batch, heads, keys, width, dtype=dtype) for _ in range(2))
            flops = 4 * batch * heads * queries * keys * width
            name = f"attention {label} {batch}x{heads} {queries}x{keys}x{width}"
            measure(name, flops, lambda: F.scaled_dot_product_attention(q, k, v))


if __name__ == "__main__":
    main()
