"""Makes the parity cases of LTX-Video under `cases/ltx-video-*`.

    python tests/parity/ltx_video.py [--out tests/parity/cases] [CASE ...]
    python tests/parity/ltx_video.py --out DIR --random 20 [--seed 7]      # random configurations

Each case is a pipeline folder (`model/`, diffusers layout, random weights) with, per run, `inputs.safetensors`,
`expected.safetensors` (the parity contract, and what `ltx_video_reference.py` adds to it; of the video, the pixels that `sampled` takes) and `bars.json` (the reference's own
bf16 error), plus `components.safetensors`: the text encoder with a mask, and the transformer for a batch with a timestep for
every token and with coordinates of its own. `ltx-video-schedule.json` holds what the scheduler makes of many configurations.
Needs torch, diffusers, transformers, sentencepiece, protobuf and scipy.
Folders made elsewhere are tested with `SANGO_LTX_VIDEO_CASES=DIR cargo test --release --test parity_ltx_video`.
"""

import argparse
import json
import pathlib
import random
import shutil

import numpy
import torch
from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler, LTXVideoTransformer3DModel
from diffusers.utils import logging
from safetensors.torch import save_file
from transformers import T5Config, T5EncoderModel

import ltx_video_reference as ltx
import reference
import t5_tokenizer

# Small autoencoders of the three generations. All compress time 8-fold and, because the pipelines insist on it, sides 32-fold.
VAE = {
    "0.9.0": dict(block_out_channels=(4, 5, 6, 6), decoder_block_out_channels=(4, 5, 6, 6), layers_per_block=(1, 0, 0, 0, 1),
                  decoder_layers_per_block=(1, 0, 0, 0, 1), patch_size=4, scaling_factor=0.8),
    "0.9.1": dict(block_out_channels=(4, 6, 6, 6), decoder_block_out_channels=(8, 16, 32), layers_per_block=(1, 0, 0, 0, 0),
                  decoder_layers_per_block=(1, 0, 0, 1), spatio_temporal_scaling=(True, True, True, False),
                  decoder_spatio_temporal_scaling=(True, True, True), decoder_inject_noise=(True, True, True, False),
                  upsample_residual=(True, True, True), upsample_factor=(2, 2, 2), timestep_conditioning=True,
                  patch_size=4),
    "0.9.5": dict(block_out_channels=(4, 8, 8, 8, 16), decoder_block_out_channels=(8, 16, 32),
                  down_block_types=("LTXVideo095DownBlock3D",) * 4, layers_per_block=(1, 0, 0, 0, 1),
                  decoder_layers_per_block=(1, 0, 0, 1), spatio_temporal_scaling=(True,) * 4,
                  decoder_spatio_temporal_scaling=(True, True, True), decoder_inject_noise=(False,) * 4,
                  downsample_type=("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
                  upsample_residual=(True, True, True), upsample_factor=(2, 2, 2), timestep_conditioning=True,
                  patch_size=4, spatial_compression_ratio=32, temporal_compression_ratio=8),
}  # fmt: skip
DEV = dict(use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024, max_image_seq_len=4096,
           shift_terminal=0.1)  # fmt: skip

CASES = {
    # The published layout in small.
    "ltx-video-plain": {
        "vae": "0.9.0", "latent": 8, "text": dict(d_model=24, d_kv=8, d_ff=40, num_layers=2, num_heads=3),
        "transformer": dict(num_attention_heads=4, attention_head_dim=8, num_layers=3), "scheduler": DEV,
        "weights": torch.bfloat16, "frames": 2, "size": (2, 3),
        "runs": {"text-to-video": dict(steps=6, guidance=3.0), "image-to-video": dict(steps=5, guidance=3.0, image=True),
                 "rescaled": dict(steps=3, guidance=7.5, rescale=0.7, frame_rate=8.0),
                 "unguided": dict(steps=2, guidance=1.0, frames=3, size=(1, 1))},
    },
    # 0.9.1: a decoder that is told the time; affine norms, no biases, T5 1.0, linear shift, shards of f32.
    "ltx-video-affine": {
        "vae": "0.9.1", "latent": 6, "text": dict(d_model=20, d_kv=6, d_ff=32, num_layers=3, num_heads=2,
                                                  feed_forward_proj="relu", relative_attention_num_buckets=12,
                                                  relative_attention_max_distance=20),
        "transformer": dict(num_attention_heads=3, attention_head_dim=10, num_layers=2, norm_elementwise_affine=True,
                            attention_bias=False, attention_out_bias=False, norm_eps=1e-5),
        "scheduler": dict(use_dynamic_shifting=True, time_shift_type="linear", shift_terminal=None, base_shift=0.7),
        "weights": torch.float32, "shard": "150KB", "frames": 2, "size": (1, 2),
        "runs": {"text-to-video": dict(steps=4, guidance=3.0, decode=(0.05, 0.025)),
                 "image-to-video": dict(steps=3, guidance=2.0, image=True, image_noise=True, decode=(0.05, None)),
                 "own-sigmas": dict(sigmas=[1.0, 0.9, 0.5, 0.3], guidance=2.0, rescale=1.0),
                 "stg-values": dict(steps=3, guidance=3.0, rescale=0.7, stg=(1.0, [1], 0), decode=(0.1, 0.0)),
                 "stg-unguided": dict(steps=2, guidance=1.0, stg=(2.0, [0], 1))},
    },
    # 0.9.5: no dynamic shift; conditions, one frame, heads that are no power of two.
    "ltx-video-conditions": {
        "vae": "0.9.5", "latent": 8, "text": dict(d_model=32, d_kv=4, d_ff=24, num_layers=1, num_heads=4),
        "transformer": dict(num_attention_heads=2, attention_head_dim=22, num_layers=3, activation_fn="gelu"),
        "scheduler": dict(shift=1.0), "weights": torch.bfloat16, "frames": 3, "size": (1, 2),
        "runs": {"text-to-video": dict(steps=4, guidance=3.0, decode=(0.05, 0.025)),
                 "image-to-video": dict(steps=4, guidance=3.0, image=True, decode=(0.05, 0.025)),
                 "keyframes": dict(steps=5, guidance=3.0, decode=(0.05, 0.025), noise_scale=0.15,
                                   conditions=[(1, 0, 1.0), (1, 8, 0.6)]),
                 "extension": dict(steps=4, guidance=2.0, noise_scale=0.0, conditions=[(9, 0, 0.9)], rescale=0.5),
                 "inserted": dict(steps=4, guidance=3.0, noise_scale=0.2, frames=5, size=(1, 1),
                                  conditions=[(17, 8, 0.8), (1, 0, 0.5)]),
                 "text-by-conditions": dict(steps=6, guidance=3.0, noise_scale=0.0, conditions=[]),
                 "distilled": dict(timesteps=[1000.0, 993.7, 987.5, 909.4, 725.0], guidance=1.0, noise_scale=0.0,
                                   conditions=[(1, 0, 1.0)]),
                 "one-frame": dict(steps=2, guidance=3.0, frames=1),
                 "stg-skip": dict(steps=3, guidance=3.0, stg=(1.5, [0, 2], 1)),
                 "stg-residual": dict(steps=3, guidance=3.0, stg=(0.5, [1], 2)),
                 "stg-block": dict(steps=3, guidance=3.0, rescale=0.7, stg=(1.0, [1, 2], 3))},
    },
    # Other sigmas, gated T5 with another activation, one layer, static shift.
    "ltx-video-karras": {
        "vae": "0.9.0", "latent": 4, "text": dict(d_model=16, d_kv=8, d_ff=20, num_layers=2, num_heads=2,
                                                  feed_forward_proj="gated-silu", layer_norm_epsilon=1e-5),
        "transformer": dict(num_attention_heads=1, attention_head_dim=14, num_layers=1),
        "scheduler": dict(shift=3.0, use_karras_sigmas=True), "weights": torch.float16, "frames": 2, "size": (1, 1),
        "runs": {"text-to-video": dict(steps=5, guidance=5.0), "one-step": dict(steps=1, guidance=2.5)},
    },
}  # fmt: skip


@torch.no_grad()
def randomise(model, generator, weights):
    """Random values everywhere (defaults leave many parameters at 0 or 1), representable in `weights`."""
    for name, parameter in model.named_parameters():
        # A factor of 1000 that the reference keeps as a parameter.
        if parameter.ndim == 0:
            continue
        noise = torch.randn(parameter.shape, generator=generator)
        if "shared" in name or "embed_tokens" in name:
            noise *= 1.0
        elif "scale_shift_table" in name:
            noise *= 0.2
        elif "relative_attention_bias" in name:
            noise *= 0.5
        elif parameter.ndim == 1:
            noise *= 0.15
            if name.endswith("weight"):
                noise += 1
        else:
            noise *= parameter[0].numel() ** -0.5
        if name.endswith("SelfAttention.q.weight"):
            noise *= 0.4
        parameter.copy_(noise.to(weights).float())
    return model.eval()


def make_model(case, folder, generator):
    """Builds and saves the pipeline folder."""
    vocab = t5_tokenizer.write(folder / "tokenizer")
    text = dict(vocab_size=vocab + 5, feed_forward_proj="gated-gelu", tie_word_embeddings=False) | case["text"]
    vae = {"latent_channels": case["latent"]} | (VAE[case["vae"]] if isinstance(case["vae"], str) else case["vae"])
    shape = case["transformer"]
    inner = shape["num_attention_heads"] * shape["attention_head_dim"]
    transformer = dict(in_channels=case["latent"], out_channels=case["latent"], cross_attention_dim=inner,
                       caption_channels=text["d_model"], **shape)  # fmt: skip
    parts = {
        "text_encoder": T5EncoderModel(T5Config(**text)),
        "transformer": LTXVideoTransformer3DModel(**transformer),
        "vae": AutoencoderKLLTXVideo(**vae),
    }
    for name, part in parts.items():
        # The largest part is kept small in the file.
        weights = torch.bfloat16 if name == "vae" else case["weights"]
        randomise(part, generator, weights)
        if name == "vae":
            part.latents_mean.copy_(torch.randn(case["latent"], generator=generator) * 0.3)
            part.latents_std.copy_(torch.rand(case["latent"], generator=generator) + 0.5)
        save = {"max_shard_size": case["shard"]} if "shard" in case else {}
        part.to(weights).save_pretrained(folder / name, **save)
    FlowMatchEulerDiscreteScheduler(**case["scheduler"]).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "LTXPipeline",
        "_diffusers_version": "0.42.1",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", "LTXVideoTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLLTXVideo"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


PROMPTS = ["a small green star moves left over a white background", "worst quality, jittery"]


def make_inputs(case, run, folder, generator):
    """The input tensors of one run."""
    vae = json.loads((folder / "vae/config.json").read_text())
    ratio = vae.get("temporal_compression_ratio") or vae["patch_size_t"] * 2 ** sum(vae["spatio_temporal_scaling"])
    height, width = run.get("size", case["size"])
    frames, channels = run.get("frames", case["frames"]), case["latent"]
    randn = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    video = lambda t: torch.rand((1, 3, t, height * 32, width * 32), generator=generator) * 2 - 1  # noqa: E731
    ids = t5_tokenizer.encode(folder / "tokenizer", PROMPTS, run.get("tokens", 24))
    inputs = {
        "prompt_ids": torch.tensor(ids.input_ids[:1]),
        "prompt_mask": torch.tensor(ids.attention_mask[:1]),
        "negative_prompt_ids": torch.tensor(ids.input_ids[1:]),
        "negative_prompt_mask": torch.tensor(ids.attention_mask[1:]),
        "latents": randn(1, channels, frames, height, width),
        "guidance_scale": torch.tensor([run["guidance"]]),
        "guidance_rescale": torch.tensor([run.get("rescale", 0.0)]),
        "frame_rate": torch.tensor([run.get("frame_rate", 25.0)]),
        "decode_noise": randn(1, channels, frames, height, width),
    }
    if "steps" in run:
        inputs["steps"] = torch.tensor([run["steps"]])
    for name in ("sigmas", "timesteps"):
        if name in run:
            inputs[name] = torch.tensor(run[name])
    for name, value in zip(("decode_timestep", "decode_noise_scale"), run.get("decode", ())):
        if value is not None:
            inputs[name] = torch.tensor([value])
    if run.get("image"):
        inputs["image"] = video(1)[:, :, 0].contiguous()
        if run.get("image_noise"):
            inputs["image_noise"] = randn(1, channels, 1, height, width)
    if "stg" in run:
        scale, blocks, mode = run["stg"]
        inputs |= {"stg_scale": torch.tensor([scale]), "stg_blocks": torch.tensor(blocks), "stg_mode": torch.tensor([mode])}
    if "conditions" in run:
        tokens = frames * height * width
        for n, (length, index, strength) in enumerate(run["conditions"]):
            inputs[f"condition.{n}.frames"] = video(length).bfloat16()
            inputs[f"condition.{n}.frame_index"] = torch.tensor([index])
            inputs[f"condition.{n}.strength"] = torch.tensor([strength])
            if index:
                latent_frames = min((length - 1) // ratio + 1, 2)
                inputs[f"condition.{n}.noise"] = randn(1, channels, latent_frames, height, width)
                tokens += latent_frames * height * width
        inputs["image_cond_noise_scale"] = torch.tensor([run["noise_scale"]])
        if run["noise_scale"] > 0:
            inputs["image_cond_noise"] = randn(run["steps"], tokens, channels)
    return inputs


@torch.no_grad()
def make_components(case, folder, generator):
    """The text encoder with a mask, and the transformer with a timestep for every token and given coordinates."""
    parts = ltx.components(folder, torch.float32)
    encoder, transformer = parts["text_encoder"], parts["transformer"]
    config = transformer.config
    frames, height, width = 2, 3, 2
    tokens = frames * height * width
    rand = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    mask = torch.ones(2, 17, dtype=torch.long)
    mask[0, 9:], mask[1, 3:5] = 0, 0
    out = {
        "input_ids": torch.randint(0, encoder.config.vocab_size, (2, 17), generator=generator),
        "attention_mask": mask,
        "hidden_states": rand(2, tokens, config.in_channels),
        "encoder_hidden_states": rand(2, 17, config.caption_channels),
        "timestep": torch.tensor([300.0, 925.5])[:, None].repeat(1, tokens).contiguous(),
        "video_coords": torch.rand((2, 3, tokens), generator=generator) * 40,
        "long_ids": torch.randint(0, encoder.config.vocab_size, (1, 200), generator=generator),
    }
    out["timestep"][0, :5], out["timestep"][1, 3] = 0.0, 17.25
    out["embeds"] = encoder(out["input_ids"], attention_mask=mask)[0]
    out["long_embeds"] = encoder(out["long_ids"])[0]
    call = lambda timestep, **kwargs: transformer(  # noqa: E731
        out["hidden_states"], out["encoder_hidden_states"], timestep, mask.bool(), return_dict=False, **kwargs)[0]
    out["by_grid"] = call(out["timestep"][:, -1], num_frames=frames, height=height, width=width,
                          rope_interpolation_scale=(8 / 25, 32, 32))  # fmt: skip
    out["by_coords"] = call(out["timestep"], video_coords=out["video_coords"])
    return {name: value.contiguous() for name, value in out.items()}


def sampled(video):
    """Some of the pixels, at all places of a patch: cases stay small."""
    return video[..., ::5, ::3].contiguous()


def make_case(name, case, out):
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    generator = torch.Generator().manual_seed(sum(name.encode()))
    make_model(case, folder / "model", generator)
    save_file(make_components(case, folder / "model", generator), folder / "components.safetensors")
    for run_name, run in case["runs"].items():
        inputs = make_inputs(case, run, folder / "model", generator)
        expected = ltx.run(folder / "model", inputs)
        half = ltx.run(folder / "model", inputs, torch.bfloat16)
        bars = {k: reference.relative_l2(half[k], v) for k, v in expected.items()}
        expected["video"] = sampled(expected["video"])
        (folder / run_name).mkdir()
        save_file({k: v.contiguous() for k, v in inputs.items()}, folder / run_name / "inputs.safetensors")
        save_file(expected, folder / run_name / "expected.safetensors")
        (folder / run_name / "bars.json").write_text(json.dumps({"bf16": bars}, indent=2) + "\n")
        assert all(v.isfinite().all() for v in expected.values())
        spread = {k: f"{float(v.std()):.2g}" for k, v in expected.items()}
        print(f"{name}/{run_name}: deviations {spread}, bf16 {({k: f'{v:.1e}' for k, v in bars.items()})}")


def make_schedule(out):
    """What `FlowMatchEulerDiscreteScheduler.set_timesteps` makes of many configurations, and single steps of it."""
    configs = [
        dict(), DEV, dict(shift=3.0), dict(shift=0.5, shift_terminal=0.05), DEV | dict(time_shift_type="linear"),
        DEV | dict(shift_terminal=None), dict(shift=3.0, use_karras_sigmas=True), dict(use_exponential_sigmas=True),
        dict(shift=2.0, use_beta_sigmas=True), DEV | dict(use_karras_sigmas=True), dict(num_train_timesteps=500, shift=1.5),
        DEV | dict(use_beta_sigmas=True), DEV | dict(base_shift=0.5, max_shift=1.15, base_image_seq_len=256),
    ]  # fmt: skip
    rows = []
    for config in configs:
        for tokens in (6, 6144):
            scheduler = FlowMatchEulerDiscreteScheduler(**config)
            mu = ltx.pipeline_ltx.calculate_shift(
                tokens, scheduler.config.base_image_seq_len, scheduler.config.max_image_seq_len,
                scheduler.config.base_shift, scheduler.config.max_shift)  # fmt: skip
            asked = [{"steps": n} for n in (1, 2, 7, 20)]
            asked += [{"sigmas": [1.0, 0.9937, 0.975, 0.9094, 0.725, 0.4219]}, {"timesteps": [1000.0, 909.4, 725.0, 421.9]}]
            for ask in asked:
                own = {k: v for k, v in ask.items() if k != "steps"}
                steps = ask.get("steps")
                # One step ends at a noise level of 1, which no terminal can stretch: the reference divides by zero.
                if steps == 1 and scheduler.config.shift_terminal:
                    continue
                sigmas = numpy.linspace(1.0, 1 / steps, steps) if steps else None
                scheduler.set_timesteps(mu=mu, **(own or {"sigmas": sigmas}))
                if not scheduler.sigmas.isfinite().all():
                    continue
                rows.append({"config": config, "tokens": tokens, "ask": ask, "sigmas": scheduler.sigmas.tolist(),
                             "timesteps": scheduler.timesteps.tolist()})  # fmt: skip
    quadratic = [[n, ltx.linear_quadratic(n)] for n in (1, 2, 3, 7, 8, 20, 50)]
    text = ",\n".join(json.dumps(row) for row in rows)
    text = f'{{"linear_quadratic": {json.dumps(quadratic)},\n"rows": [\n{text}\n]}}\n'
    (out / "ltx-video-schedule.json").write_text(text)


def random_case(rng):
    """A configuration that nobody thought of."""
    choose = rng.choice
    heads, head_dim = choose([1, 2, 3, 4, 5]), choose([6, 8, 10, 12, 14, 16, 24, 32])
    generation = choose(list(VAE))
    dynamic = choose([True, False])
    scheduler = dict(use_dynamic_shifting=dynamic, shift=choose([1.0, 1.5, 3.0]), base_shift=choose([0.5, 0.95]),
                     max_shift=choose([1.15, 2.05]), time_shift_type=choose(["exponential", "linear"]),
                     shift_terminal=choose([None, 0.1, 0.05]))  # fmt: skip
    special = choose([None, None, "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"])
    if special:
        scheduler[special] = True
    runs = {}
    for n in range(2):
        run = dict(steps=choose([2, 3, 5]), guidance=choose([1.0, 2.0, 3.0, 7.0]), rescale=choose([0.0, 0.0, 0.7]),
                   frame_rate=choose([8.0, 24.0, 25.0, 30.0]), image=choose([True, False]), tokens=choose([5, 16, 33]),
                   decode=choose([(), (0.05,), (0.05, 0.025)]))  # fmt: skip
        runs[f"run-{n}"] = run
    blocks = choose([1, 2, 3])
    if not run["image"]:
        runs["stg"] = dict(run, stg=(choose([0.5, 1.0]), [rng.randrange(blocks)], rng.randrange(4)))
    return {
        "vae": generation, "latent": choose([3, 4, 8]),
        "text": dict(d_model=choose([8, 20, 32]), d_kv=choose([4, 6, 16]), d_ff=choose([12, 40]), num_layers=choose([1, 2]),
                     num_heads=choose([1, 2, 5]), feed_forward_proj=choose(["relu", "gated-gelu", "gated-silu", "gelu_new"]),
                     relative_attention_num_buckets=choose([8, 32]), relative_attention_max_distance=choose([16, 128])),
        "transformer": dict(num_attention_heads=heads, attention_head_dim=head_dim, num_layers=blocks,
                            norm_elementwise_affine=choose([True, False]), attention_bias=choose([True, False]),
                            attention_out_bias=choose([True, False]), norm_eps=choose([1e-6, 1e-4]),
                            activation_fn=choose(["gelu-approximate", "gelu", "geglu", "swiglu", "linear-silu"])),
        "scheduler": scheduler, "weights": choose([torch.bfloat16, torch.float16, torch.float32]),
        "frames": choose([1, 2, 4]), "size": (choose([1, 2]), choose([1, 3])), "runs": runs,
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "cases")
    parser.add_argument("--random", type=int, default=0, help="make so many random cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("cases", nargs="*", default=[*CASES, "schedule"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.random:
        rng = random.Random(args.seed)
        for n in range(args.random):
            make_case(f"ltx-video-random-{args.seed}-{n}", random_case(rng), args.out)
        return
    for name in args.cases:
        if name == "schedule":
            make_schedule(args.out)
        else:
            make_case(name, CASES[name], args.out)


if __name__ == "__main__":
    main()
