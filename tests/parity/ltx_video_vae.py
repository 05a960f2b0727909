"""Makes the parity cases of AutoencoderKLLTXVideo under `cases/ltx-video-vae/`.

    python tests/parity/ltx_video_vae.py [--out tests/parity/cases/ltx-video-vae] [CASE ...]
    python tests/parity/ltx_video_vae.py --out DIR --random 40 [--seed 7]   # random configurations of every generation
    python tests/parity/ltx_video_vae.py --out DIR --real                   # the published configurations, random weights

Each case is a folder with `config.json`, the weights, `runs.json` and `runs.safetensors`. A run encodes a video or decodes
latents, with or without tiles; `NAME.input` and `NAME.output` are its tensors (encoding gives the mean and the log
variance, one after the other), `NAME.noise.N` what the injected noise was. `runs.json` has the reference's own bf16 error.
Folders made elsewhere are tested with `SANGO_LTX_VIDEO_VAE_CASES=DIR cargo test --release --test parity_ltx_video_vae`.
"""

import argparse
import json
import pathlib
import random
import shutil
from unittest import mock

import torch
from diffusers import AutoencoderKLLTXVideo
from diffusers.utils import logging
from safetensors.torch import save_file

import reference

# The published configurations, by generation.
REAL = {
    "0.9.0": dict(
        block_out_channels=(128, 256, 512, 512), decoder_block_out_channels=(128, 256, 512, 512),
        layers_per_block=(4, 3, 3, 3, 4), decoder_layers_per_block=(4, 3, 3, 3, 4),
        spatio_temporal_scaling=(True, True, True, False), decoder_spatio_temporal_scaling=(True, True, True, False),
        decoder_inject_noise=(False,) * 5, upsample_residual=(False,) * 4, upsample_factor=(1, 1, 1, 1),
        timestep_conditioning=False),
    "0.9.1": dict(
        block_out_channels=(128, 256, 512, 512), decoder_block_out_channels=(256, 512, 1024),
        layers_per_block=(4, 3, 3, 3, 4), decoder_layers_per_block=(5, 6, 7, 8),
        spatio_temporal_scaling=(True, True, True, False), decoder_spatio_temporal_scaling=(True, True, True),
        decoder_inject_noise=(True, True, True, False), upsample_residual=(True, True, True),
        upsample_factor=(2, 2, 2), timestep_conditioning=True),
    "0.9.5": dict(
        block_out_channels=(128, 256, 512, 1024, 2048), decoder_block_out_channels=(256, 512, 1024),
        down_block_types=("LTXVideo095DownBlock3D",) * 4,
        layers_per_block=(4, 6, 6, 2, 2), decoder_layers_per_block=(5, 5, 5, 5),
        spatio_temporal_scaling=(True,) * 4, decoder_spatio_temporal_scaling=(True, True, True),
        decoder_inject_noise=(False,) * 4,
        downsample_type=("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
        upsample_residual=(True, True, True), upsample_factor=(2, 2, 2), timestep_conditioning=True,
        spatial_compression_ratio=32, temporal_compression_ratio=8),
}  # fmt: skip

# Generations in small, and every option that the published ones do not use.
CASES = {
    "0.9.0": dict(
        config=dict(latent_channels=6, block_out_channels=(4, 5, 6, 6), decoder_block_out_channels=(4, 5, 6, 6),
                    layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1, 1), patch_size=2),
        encode=[(9, 16, 32), (1, 16, 16)], decode=[(2, 2, 1), (1, 1, 1)]),
    "0.9.0-causal-decoder": dict(
        config=dict(latent_channels=5, block_out_channels=(4, 7), decoder_block_out_channels=(5, 3),
                    down_block_types=("LTXVideoDownBlock3D",) * 2, layers_per_block=(2, 1, 1),
                    decoder_layers_per_block=(1, 2, 1), spatio_temporal_scaling=(True, False),
                    decoder_spatio_temporal_scaling=(True, False), decoder_inject_noise=(False,) * 3,
                    upsample_residual=(False,) * 2, upsample_factor=(1, 1), patch_size=1, resnet_norm_eps=1e-3,
                    encoder_causal=False, decoder_causal=True, scaling_factor=0.6),
        encode=[(5, 7, 6), (4, 8, 5)], decode=[(3, 3, 5)], batch=2),
    "0.9.0-no-scaling": dict(
        config=dict(latent_channels=4, block_out_channels=(8,), decoder_block_out_channels=(8, 4),
                    down_block_types=("LTXVideoDownBlock3D",), layers_per_block=(1, 0),
                    decoder_layers_per_block=(0, 1, 2), spatio_temporal_scaling=(False,),
                    decoder_spatio_temporal_scaling=(False, True), decoder_inject_noise=(False, True, True),
                    upsample_residual=(False, False), upsample_factor=(1, 1), patch_size=3),
        encode=[(3, 9, 12)], decode=[(2, 4, 3)], noise=True),
    "0.9.1": dict(
        config=dict(latent_channels=6, block_out_channels=(4, 6, 6), decoder_block_out_channels=(8, 16),
                    down_block_types=("LTXVideoDownBlock3D",) * 3, layers_per_block=(1, 1, 1, 1),
                    decoder_layers_per_block=(1, 1, 1), spatio_temporal_scaling=(True, True, False),
                    decoder_spatio_temporal_scaling=(True, True), decoder_inject_noise=(True, True, False),
                    upsample_residual=(True, True), upsample_factor=(2, 2), timestep_conditioning=True, patch_size=2),
        encode=[(9, 24, 16)], decode=[(2, 2, 3), (1, 3, 1)], noise=True, timestep=0.05, batch=2),
    "0.9.1-no-noise": dict(
        config=dict(latent_channels=4, block_out_channels=(4, 6), decoder_block_out_channels=(8, 8),
                    down_block_types=("LTXVideoDownBlock3D",) * 2, layers_per_block=(0, 1, 1),
                    decoder_layers_per_block=(1, 1, 2), spatio_temporal_scaling=(True, False),
                    decoder_spatio_temporal_scaling=(True, True), decoder_inject_noise=(False,) * 3,
                    upsample_residual=(False, True), upsample_factor=(1, 1), timestep_conditioning=True, patch_size=2,
                    decoder_causal=True),
        encode=[(17, 12, 20)], decode=[(3, 2, 2)], timestep=0.9),
    "0.9.5": dict(
        config=dict(latent_channels=6, block_out_channels=(4, 8, 8, 8, 16), decoder_block_out_channels=(8, 8),
                    down_block_types=("LTXVideo095DownBlock3D",) * 4, layers_per_block=(1, 1, 0, 1, 1),
                    decoder_layers_per_block=(1, 1, 1), spatio_temporal_scaling=(True,) * 4,
                    decoder_spatio_temporal_scaling=(True, True), decoder_inject_noise=(False,) * 3,
                    downsample_type=("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
                    upsample_residual=(True, True), upsample_factor=(1, 1), timestep_conditioning=True, patch_size=2,
                    spatial_compression_ratio=16, temporal_compression_ratio=8),
        encode=[(9, 16, 32), (17, 16, 16)], decode=[(2, 3, 2)], timestep=0.05),
    "0.9.5-conv": dict(
        config=dict(latent_channels=4, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8,),
                    down_block_types=("LTXVideo095DownBlock3D",) * 3, layers_per_block=(1, 1, 1, 1),
                    decoder_layers_per_block=(2, 1), spatio_temporal_scaling=(True, False, True),
                    decoder_spatio_temporal_scaling=(True,), decoder_inject_noise=(False, True),
                    downsample_type=("conv", "spatial", "temporal"), upsample_residual=(True,),
                    upsample_factor=(2,), patch_size=1, encoder_causal=False),
        encode=[(5, 6, 10), (1, 4, 5)], decode=[(3, 3, 4)], noise=True),
    # Tiles: `(tile, stride)` in height, width and frames of the video, as `enable_tiling` takes them.
    "tiles": dict(
        config=dict(latent_channels=3, block_out_channels=(4, 4), decoder_block_out_channels=(4, 4),
                    down_block_types=("LTXVideoDownBlock3D",) * 2, layers_per_block=(0, 1, 0),
                    decoder_layers_per_block=(0, 1, 0), spatio_temporal_scaling=(True, False),
                    decoder_spatio_temporal_scaling=(True, False), decoder_inject_noise=(False,) * 3,
                    upsample_residual=(False, False), upsample_factor=(1, 1), patch_size=1),
        tiles=[
            dict(decode=(2, 7, 5), height=(8, 6), width=(6, 4)),
            dict(decode=(1, 4, 9), height=(16, 16), width=(8, 6)),
            dict(decode=(5, 3, 3), height=(8, 6), width=(8, 6), frames=(4, 2)),
            dict(decode=(7, 6, 5), height=(6, 4), width=(8, 4), frames=(6, 4)),
            dict(decode=(6, 4, 4), frames=(6, 2)),
            dict(encode=(5, 14, 10), height=(8, 6), width=(6, 4)),
            dict(encode=(9, 6, 6), height=(8, 6), width=(8, 6), frames=(4, 2)),
            dict(encode=(11, 12, 10), height=(6, 4), width=(8, 4), frames=(6, 4)),
        ]),
    "tiles-noise": dict(
        config=dict(latent_channels=3, block_out_channels=(4, 4), decoder_block_out_channels=(8,),
                    down_block_types=("LTXVideoDownBlock3D",) * 2, layers_per_block=(0, 1, 0),
                    decoder_layers_per_block=(1, 1), spatio_temporal_scaling=(True, False),
                    decoder_spatio_temporal_scaling=(True,), decoder_inject_noise=(True, True),
                    upsample_residual=(True,), upsample_factor=(2,), timestep_conditioning=True, patch_size=2),
        tiles=[dict(decode=(5, 5, 6), height=(12, 8), width=(16, 12), frames=(4, 2))],
        noise=True, timestep=0.3, batch=2),
}  # fmt: skip


@torch.no_grad()
def randomise(model, generator, weights):
    """Random values everywhere (defaults leave many parameters at 0 or 1), representable in `weights`."""
    for name, parameter in [*model.named_parameters(), *model.named_buffers()]:
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("timestep_scale_multiplier"):
            noise = torch.tensor(1000.0)
        elif name.endswith("latents_std"):
            noise = 1 + 0.5 * noise.abs()
        elif name.endswith(("scale_shift_table", "per_channel_scale1", "per_channel_scale2", "latents_mean")):
            noise *= 0.3
        elif parameter.ndim == 1:
            noise = 0.15 * noise + name.endswith("norm3.weight")
        else:
            noise *= parameter[0].numel() ** -0.5
        parameter.copy_(noise.to(weights).float())
    return model.eval()


class Noise:
    """Stands in for `torch.randn` while a decoder runs: draws from a generator and remembers, or gives again."""

    def __init__(self, generator, given=None):
        self.generator, self.given, self.drawn = generator, given, []
        self.randn = torch.randn

    def __call__(self, shape, dtype=torch.float32, **kwargs):
        if self.given is None:
            noise = self.randn(shape, generator=self.generator)
        else:
            noise = self.given[len(self.drawn)]
        self.drawn.append(noise)
        return noise.to(dtype)


def set_tiles(vae, tiles):
    """`enable_tiling` and what has no method of its own."""
    vae.use_tiling = vae.use_framewise_decoding = False
    if tiles is None:
        return
    numbers = {}
    for side in ("height", "width", "frames"):
        if side in tiles:
            name = "num_frames" if side == "frames" else side
            numbers[f"tile_sample_min_{name}"], numbers[f"tile_sample_stride_{name}"] = tiles[side]
    vae.enable_tiling(**numbers)
    vae.use_tiling = "height" in tiles
    vae.use_framewise_decoding = "frames" in tiles


@torch.no_grad()
def run(vae, kind, tensor, timestep, tiles, noise):
    set_tiles(vae, tiles)
    tensor = tensor.to(vae.dtype)
    if kind == "encode":
        posterior = vae.encode(tensor).latent_dist
        return torch.cat([posterior.mean, posterior.logvar], dim=1).float()
    temb = None if timestep is None else torch.full((tensor.shape[0],), timestep, dtype=vae.dtype)
    with mock.patch.object(torch, "randn", noise):
        return vae.decode(tensor, temb).sample.float()


def make_case(name, case, out, weights=torch.bfloat16, with_half=True):
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    generator = torch.Generator().manual_seed(sum(name.encode()))
    vae = randomise(AutoencoderKLLTXVideo(**case["config"]), generator, weights)
    vae.to(weights).save_pretrained(folder)
    vae = AutoencoderKLLTXVideo.from_pretrained(folder).float().eval()
    half = AutoencoderKLLTXVideo.from_pretrained(folder, torch_dtype=torch.bfloat16).eval() if with_half else None
    batch, timestep = case.get("batch", 1), case.get("timestep")
    todo = [("encode", size, None) for size in case.get("encode", [])]
    todo += [("decode", size, None) for size in case.get("decode", [])]
    for tiles in case.get("tiles", []):
        kind = "encode" if "encode" in tiles else "decode"
        todo.append((kind, tiles[kind], {k: v for k, v in tiles.items() if k != kind}))
    runs, tensors = [], {}
    for number, (kind, size, tiles) in enumerate(todo):
        label = f"{kind}-{number}"
        channels = vae.config.in_channels if kind == "encode" else vae.config.latent_channels
        tensor = torch.randn((batch, channels, *size), generator=generator)
        noise = Noise(generator)
        output = run(vae, kind, tensor, timestep, tiles, noise)
        assert output.isfinite().all()
        assert bool(noise.drawn) == (case.get("noise", False) and kind == "decode"), "noise where none was meant"
        tensors |= {f"{label}.input": tensor, f"{label}.output": output.contiguous()}
        tensors |= {f"{label}.noise.{n}": x for n, x in enumerate(noise.drawn)}
        bar = None
        if half is not None:
            rounded = run(half, kind, tensor, timestep, tiles, Noise(None, noise.drawn))
            bar = reference.relative_l2(rounded, output)
        runs.append(dict(name=label, kind=kind, timestep=timestep, tiles=tiles, noise=len(noise.drawn), bf16=bar))
        print(f"{name} {label} {list(tensor.shape)} -> {list(output.shape)} bf16 {bar}", flush=True)
    save_file(tensors, folder / "runs.safetensors")
    (folder / "runs.json").write_text(json.dumps(runs, indent=1) + "\n")


def random_case(rng):
    """A configuration that the reference can build and run, and sizes for it."""
    generation = rng.choice(list(REAL))
    pick = rng.choice
    flags = lambda n: tuple(pick((True, False)) for _ in range(n))
    channels = lambda: pick((4, 5, 6, 8, 12))
    blocks = rng.randint(1, 4)
    patch = pick((1, 2, 4)) if blocks < 4 else pick((1, 2))
    config = dict(latent_channels=rng.randint(2, 9), patch_size=patch, resnet_norm_eps=pick((1e-6, 1e-3)),
                  encoder_causal=pick((True, True, False)), decoder_causal=pick((True, False)))  # fmt: skip
    spatial, temporal = patch, 1
    if generation == "0.9.5":
        types, widths, scaling = [], [channels()], []
        for n in range(blocks):
            kind = pick(("conv", "spatial", "temporal", "spatiotemporal", "none"))
            steps = {"spatial": 4, "temporal": 2, "spatiotemporal": 8}.get(kind)
            if steps:
                # The mean over groups needs whole groups, and the convolution whole channels per step.
                last = widths[-1]
                fits = [c for c in (8, 16, 24) if c % steps == 0 and last * steps % c == 0]
                if not fits:
                    kind = "none"
                else:
                    widths.append(pick(fits))
            if kind in ("conv", "none"):
                widths.append(widths[-1])
            types.append("conv" if kind == "none" else kind)
            scaling.append(kind != "none")
            spatial *= 2 if kind in ("conv", "spatial", "spatiotemporal") else 1
            temporal *= 2 if kind in ("conv", "temporal", "spatiotemporal") else 1
        config |= dict(block_out_channels=tuple(widths), down_block_types=("LTXVideo095DownBlock3D",) * blocks,
                       downsample_type=tuple(types), spatio_temporal_scaling=tuple(scaling),
                       spatial_compression_ratio=pick((None, spatial)), temporal_compression_ratio=pick((None, temporal)))  # fmt: skip
    else:
        scaling = flags(blocks)
        config |= dict(block_out_channels=tuple(channels() for _ in range(blocks)),
                       down_block_types=("LTXVideoDownBlock3D",) * blocks, spatio_temporal_scaling=scaling)  # fmt: skip
        spatial, temporal = patch * 2 ** sum(scaling), 2 ** sum(scaling)
    config["layers_per_block"] = tuple(rng.randint(0, 2) for _ in range(blocks + 1))
    up = rng.randint(1, 3)
    timestep = generation != "0.9.0" and pick((True, True, False))
    # From the last block (which the reference lists first) to the first: what each may be follows from the one before.
    widths, factors, residual, scales = [], [], [], []
    width = pick((8, 16)) if timestep else pick((6, 8, 12, 16))
    for n in range(up):
        scale, kind = pick((True, True, False)), pick((False, True))
        factor = 2 if scale and width % 2 == 0 and n > 0 and pick((True, False)) else 1
        if n > 0 and factor == 1 and not timestep and pick((True, False)):
            width = pick((4, 6, 8))
        if kind and width % 8:
            kind = False
        widths.append(width), factors.append(factor), residual.append(kind), scales.append(scale)
        width //= factor
    inject = flags(up + 1)
    # A block that changes the number of channels can neither inject noise nor be told the time.
    inject = (inject[0],) + tuple(
        flag and (n == 0 or widths[n] == widths[n - 1] // factors[n - 1]) for n, flag in enumerate(inject[1:]))  # fmt: skip
    layers = [rng.randint(0, 2) for _ in range(up + 1)]
    backwards = lambda values: tuple(reversed(values))
    config |= dict(decoder_block_out_channels=backwards(widths), upsample_factor=backwards(factors),
                   upsample_residual=backwards(residual), decoder_spatio_temporal_scaling=backwards(scales),
                   decoder_inject_noise=backwards(inject), decoder_layers_per_block=backwards(layers),
                   timestep_conditioning=timestep)  # fmt: skip
    noise = any(flag and (count or (n > 0 and widths[n - 1] != (widths[n - 2] // factors[n - 2] if n > 1 else widths[0])))
                for n, (flag, count) in enumerate(zip(inject, layers)))  # fmt: skip
    odd = 0 if generation == "0.9.5" else patch
    side = lambda: spatial * rng.randint(1, 3)
    encode = [(pick((1, 2, 5, 9)) if generation != "0.9.5" else 1 + temporal * rng.randint(0, 2),
               side() + pick((0, odd)), side())]  # fmt: skip
    decode = [(rng.randint(1, 4), rng.randint(1, 4), rng.randint(1, 4))]
    return dict(config=config, encode=encode, decode=decode, noise=noise, batch=pick((1, 1, 2)),
                timestep=rng.random() if timestep else None)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = pathlib.Path(__file__).parent / "cases/ltx-video-vae"
    parser.add_argument("--out", type=pathlib.Path, default=default)
    parser.add_argument("--random", type=int, default=0, help="make this many random cases instead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", action="store_true", help="make the published configurations instead")
    parser.add_argument("cases", nargs="*")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    if args.random:
        for number in range(args.random):
            case = random_case(random.Random(1000 * args.seed + number))
            make_case(f"random-{args.seed}-{number}", case, args.out)
    elif args.real:
        for name in args.cases or REAL:
            case = dict(config=REAL[name], encode=[(9, 64, 96)], decode=[(2, 2, 3)], noise=name == "0.9.1")
            case["timestep"] = 0.05 if REAL[name]["timestep_conditioning"] else None
            make_case(f"real-{name}", case, args.out)
    else:
        for name in args.cases or CASES:
            make_case(name, CASES[name], args.out)


if __name__ == "__main__":
    main()
