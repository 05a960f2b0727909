"""Compares Sango with diffusers at LTX-Video's published sizes, with random weights and few tokens, and the shipped model.

    python tests/parity/ltx_video_real.py --sango target/release/sango --work DIR [2b] [shipped] [xxl]

`2b` is a pipeline with the 2B transformer and the autoencoder of 0.9.1 in their published sizes and a text encoder as wide as
T5-XXL with one layer; it needs about 12 GB of memory and 5 GB of disk. `shipped` is the model of shapes with its trained
weights, from words and from a picture. `xxl` is all of T5-XXL's encoder (4.7 billion parameters, 10 GB of disk), run by Sango
alone: that it runs within the memory it says, and how long that takes.
"""

import argparse
import gc
import json
import pathlib
import resource
import shutil
import subprocess
import sys

import torch
from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler, LTXVideoTransformer3DModel
from diffusers.utils import logging
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5EncoderModel

import ltx_video
import ltx_video_reference as ltx
import ltx_video_vae
import reference
import t5_tokenizer

XXL = dict(d_model=4096, d_kv=64, d_ff=10240, num_heads=64, feed_forward_proj="gated-gelu", tie_word_embeddings=False)


def save(make, folder, generator):
    """A model made and filled in bf16, the size of which is half of f32's."""
    torch.set_default_dtype(torch.bfloat16)
    model = make()
    torch.set_default_dtype(torch.float32)
    ltx_video.randomise(model, generator, torch.bfloat16)
    model.save_pretrained(folder)
    del model
    gc.collect()


def make_model(folder, generator, layers):
    # A committed tokenizer: training one needs a library that nothing else here does.
    shutil.copytree(pathlib.Path(__file__).parent / "cases/t5-tokenizer/json", folder / "tokenizer", dirs_exist_ok=True)
    vocab = len(t5_tokenizer.load(folder / "tokenizer"))
    save(lambda: T5EncoderModel(T5Config(vocab_size=vocab, num_layers=layers, **XXL)), folder / "text_encoder", generator)
    save(LTXVideoTransformer3DModel, folder / "transformer", generator)
    save(lambda: AutoencoderKLLTXVideo(**ltx_video_vae.REAL["0.9.1"]), folder / "vae", generator)
    FlowMatchEulerDiscreteScheduler(**ltx_video.DEV).save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "LTXPipeline"}))


def compare(name, ours, expected, half, dtype):
    passed = True
    for key, wanted in expected.items():
        if dtype == "f32":
            error, bar = reference.max_relative(ours[key], wanted), 1e-4
        else:
            error, bar = reference.relative_l2(ours[key], wanted), max(2e-2, 1.5 * half[key])
        passed &= error <= bar
        print(f"{name} {dtype:5} {key:14} {error:8.1e} of {bar:.1e} {'' if error <= bar else 'MISSED'}", flush=True)
    return passed


def run_2b(args):
    folder = args.work / "ltx-video-2b"
    generator = torch.Generator().manual_seed(2)
    if not (folder / "model/model_index.json").exists():
        make_model(folder / "model", generator, 1)
    case = {"latent": 128, "frames": 2, "size": (2, 3)}
    run = dict(steps=2, guidance=3.0, rescale=0.7, decode=(0.05, 0.025), tokens=32)
    inputs = ltx_video.make_inputs(case, run, folder / "model", generator)
    return run_and_compare(args, "2b", folder / "model", inputs, folder)


def run_and_compare(args, name, model, inputs, folder):
    save_file(inputs, folder / "inputs.safetensors")
    expected = ltx.run(model, inputs)
    gc.collect()
    half = {k: reference.relative_l2(v, expected[k]) for k, v in ltx.run(model, inputs, torch.bfloat16).items()}
    gc.collect()
    passed = True
    for dtype in ("f32", "bf16"):
        outputs = folder / f"{dtype}.safetensors"
        command = [args.sango, "parity", "--model", model, "--inputs", folder / "inputs.safetensors"]
        subprocess.run([*command, "--outputs", outputs, "--dtype", dtype], check=True)
        passed &= compare(name, load_file(outputs), expected, half, dtype)
    return passed


def run_shipped(args):
    """Trained weights, which answer to what random ones do not: small differences in the rotations, above all."""
    model = pathlib.Path(__file__).parents[2] / "models/shapes/ltx_video"
    folder = args.work / "ltx-video-shapes"
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(5)
    passed = True
    for name, start in (("words", {}), ("picture", {"image": True})):
        case = {"latent": 24, "frames": 5, "size": (2, 2)}
        run = dict(steps=16, guidance=2.5, frame_rate=8.0, tokens=24, **start)
        inputs = ltx_video.make_inputs(case, run, model, generator)
        # A latent of this model is 16 pixels wide, half of what the published ones are.
        inputs |= {key: torch.randn((1, 24, 5, 4, 4), generator=generator) for key in ("latents", "decode_noise")}
        passed &= run_and_compare(args, f"shipped, {name}:", model, inputs, folder)
    return passed


def run_xxl(args):
    """The largest text encoder beside a small transformer that takes its states."""
    folder = args.work / "ltx-video-xxl"
    generator = torch.Generator().manual_seed(3)
    if not (folder / "model/model_index.json").exists():
        small = dict(num_attention_heads=2, attention_head_dim=16, num_layers=1)
        case = {"vae": "0.9.0", "latent": 4, "text": dict(d_model=4096, num_layers=1), "transformer": small,
                "scheduler": ltx_video.DEV, "weights": torch.bfloat16}  # fmt: skip
        ltx_video.make_model(case, folder / "model", generator)
        save(lambda: T5EncoderModel(T5Config(num_layers=24, **XXL)), folder / "model/text_encoder", generator)
    command = [args.sango, "video", "--model", folder / "model", "--prompt", "a small green star", "--size", "32x32",
               "--frames", "9", "--steps", "1", "-o", folder / "out.mp4"]  # fmt: skip
    subprocess.run(command, check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    print(f"xxl: a video with T5-XXL's encoder took at most {peak:.1f} GB", flush=True)
    return peak < 12


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sango", required=True, help="the sango program")
    parser.add_argument("--work", required=True, type=pathlib.Path, help="folder for models, inputs and outputs")
    parser.add_argument("runs", nargs="*", default=["2b", "shipped"])
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    args.work.mkdir(parents=True, exist_ok=True)
    passed = all([{"2b": run_2b, "shipped": run_shipped, "xxl": run_xxl}[run](args) for run in args.runs])
    sys.exit(not passed)


if __name__ == "__main__":
    main()
