"""A folder with the published LTX-Video 2B (0.9.0) configuration and random weights, in bf16 as it is published.

Speed does not depend on what the weights are, so a benchmark needs no download. There is no text encoder: prompt embeddings
are given.
Usage: make_ltx_video.py DIR
"""

import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler, LTXPipeline, LTXVideoTransformer3DModel


def main() -> None:
    out = Path(sys.argv[1])
    torch.manual_seed(0)
    # The classes' own defaults are the published sizes: 28 layers of 32 × 64, and the VAE of (128, 256, 512, 512).
    torch.set_default_dtype(torch.bfloat16)
    transformer, vae = LTXVideoTransformer3DModel(), AutoencoderKLLTXVideo()
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024, max_image_seq_len=4096,
        shift_terminal=0.1,
    )  # fmt: skip
    LTXPipeline(scheduler, vae, None, None, transformer).save_pretrained(out)


if __name__ == "__main__":
    main()
