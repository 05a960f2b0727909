"""Compares `sango parity` with transformers at the published sizes of SmolVLM2 with random weights.

    python tests/parity/smolvlm2_real.py --sango target/release/sango --work DIR [--sizes 256m 500m 2.2b]

Makes the model folders and inputs under DIR (kept and used again; 0.5, 1 and 4.5 GB), runs both, and prints for every
tensor of the contract the f32 error (max |Δ| / max |reference|, bar 1e-4), the bf16 error (relative L2, bar 2e-2 or 1.5
times the reference's own) and the int8 error (relative L2, bar 6e-2). Exits with 1 when a bar is missed.
"""

import argparse
import gc
import pathlib
import subprocess
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig, SmolVLMConfig, SmolVLMForConditionalGeneration

import smolvlm2
import smolvlm2_reference as reference

SIGLIP_B = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, image_size=512,
                patch_size=16)  # fmt: skip
SIGLIP_SO400M = dict(hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16,
                     image_size=384, patch_size=14)  # fmt: skip
TEXT = dict(model_type="llama", vocab_size=49280, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=49279, pad_token_id=2)

SIZES = {
    "256m": (4, SIGLIP_B, TEXT | dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, head_dim=64,
                                      num_attention_heads=9, num_key_value_heads=3, rope_theta=100000.0,
                                      max_position_embeddings=8192)),
    "500m": (4, SIGLIP_B, TEXT | dict(hidden_size=960, intermediate_size=2560, num_hidden_layers=32, head_dim=64,
                                      num_attention_heads=15, num_key_value_heads=5, rope_theta=100000.0,
                                      max_position_embeddings=8192)),
    "2.2b": (3, SIGLIP_SO400M, TEXT | dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=24,
                                           num_attention_heads=32, num_key_value_heads=32, rope_theta=130000.0,
                                           max_position_embeddings=16384)),
}  # fmt: skip
FRAMES, WORDS, NEW_TOKENS = 2, 40, 8


def make_model(size, folder, generator):
    scale, vision, text = SIZES[size]
    config = SmolVLMConfig(text_config=text, vision_config=vision, scale_factor=scale, image_token_id=49190)
    model = smolvlm2.randomise(SmolVLMForConditionalGeneration(config), generator, torch.bfloat16)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=49279, pad_token_id=2)
    model.to(torch.bfloat16).save_pretrained(folder)


def make_inputs(size, generator):
    scale, vision, text = SIZES[size]
    side = vision["image_size"]
    tokens = (side // vision["patch_size"] // scale) ** 2
    words = torch.randint(3, 49000, (WORDS,), generator=generator).tolist()
    ids = words[: WORDS // 2] + [49190] * (FRAMES * tokens) + words[WORDS // 2 :]
    pixels = torch.rand((1, FRAMES, 3, side, side), generator=generator) * 2 - 1
    return {"input_ids": torch.tensor([ids]), "pixel_values": pixels, "max_new_tokens": torch.tensor([NEW_TOKENS])}


def compare(what, ours, expected, half, dtype):
    """Prints a line per tensor; returns whether all are within their bars."""
    passed = True
    for key, wanted in expected.items():
        if key == "generated_ids":
            same = torch.equal(ours[key], wanted)
            good, text = same or dtype != "f32", "equal" if same else f"{ours[key].tolist()} for {wanted.tolist()}"
        else:
            error = (reference.max_relative if dtype == "f32" else reference.relative_l2)(ours[key], wanted)
            bar = {"f32": 1e-4, "bf16": max(2e-2, 1.5 * reference.relative_l2(half[key], wanted)), "int8": 6e-2}[dtype]
            good, text = error <= bar, f"{error:8.1e} of {bar:.1e}"
        passed &= good
        print(f"{what:6} {dtype:5} {key:14} {text} {'' if good else 'MISSED'}", flush=True)
    return passed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sango", required=True, help="the sango program")
    parser.add_argument("--work", required=True, type=pathlib.Path, help="folder for models, inputs and outputs")
    parser.add_argument("--sizes", nargs="*", default=["256m"], choices=SIZES)
    parser.add_argument("--dtypes", nargs="*", default=["f32", "bf16", "int8"])
    args = parser.parse_args()
    passed = True
    for size in args.sizes:
        folder = args.work / f"smolvlm2-{size}"
        generator = torch.Generator().manual_seed(len(size))
        if not (folder / "model/config.json").exists():
            make_model(size, folder / "model", generator)
            gc.collect()
        for _ in range(20):
            inputs = make_inputs(size, generator)
            expected, margin = reference.run(folder / "model", inputs)
            gc.collect()
            if margin > 1e-4:
                break
        print(f"{size}: the closest choice was decided by {margin:.1e} of the largest logit", flush=True)
        half, _ = reference.run(folder / "model", inputs, torch.bfloat16)
        gc.collect()
        save_file(inputs, folder / "inputs.safetensors")
        for dtype in args.dtypes:
            outputs = folder / f"{dtype}.safetensors"
            command = [args.sango, "parity", "--model", folder / "model", "--inputs", folder / "inputs.safetensors"]
            subprocess.run([*command, "--outputs", outputs, "--dtype", dtype], check=True)
            passed &= compare(size, load_file(outputs), expected, half, dtype)
    sys.exit(not passed)


if __name__ == "__main__":
    main()
