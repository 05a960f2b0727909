"""Makes Lightricks' single files of small configurations under `cases/ltx-video-single-file/`.

    python tests/parity/ltx_video_single_file.py [--out tests/parity/cases/ltx-video-single-file] [CASE ...]

Published weights cannot be had here, so the names of a small diffusers model are turned into Lightricks', and the functions
with which diffusers opens such files (`loaders/single_file_utils.py`) turn them back: that the state dict is then the same
is what makes a case one. Each case is `NAME.safetensors` with `metadata["config"]`, and a folder `NAME/` with the
configurations of diffusers (`config.json`) and sums over every tensor by its name there (`tensors.json`). diffusers itself finds a generation by sizes of the published models; for small ones it is told.
"""

import argparse
import json
import pathlib

import torch
from diffusers import AutoencoderKLLTXVideo, LTXVideoTransformer3DModel
from diffusers.loaders import single_file_utils
from diffusers.utils import logging
from safetensors.torch import save_file

import ltx_video_vae

TRANSFORMER = dict(in_channels=6, out_channels=6, num_attention_heads=4, attention_head_dim=6, cross_attention_dim=24,
                   num_layers=2, caption_channels=10)  # fmt: skip
# As many heads as all published models have, which is what a file without metadata is taken to have.
HEADS = dict(num_attention_heads=32, attention_head_dim=2, cross_attention_dim=64, num_layers=1)
OURS_TRANSFORMER = {
    "_class_name": "Transformer3DModel", "_diffusers_version": "0.25.1", "activation_fn": "gelu-approximate",
    "attention_bias": True, "attention_head_dim": 6, "attention_type": "default", "caption_channels": 10,
    "cross_attention_dim": 24, "double_self_attention": False, "dropout": 0.0, "in_channels": 6,
    "norm_elementwise_affine": False, "norm_eps": 1e-06, "norm_num_groups": 32, "num_attention_heads": 4,
    "num_embeds_ada_norm": 1000, "num_layers": 2, "num_vector_embeds": None, "only_cross_attention": False,
    "out_channels": 6, "project_to_2d_pos": True, "upcast_attention": False, "use_linear_projection": False,
    "qk_norm": "rms_norm", "standardization_norm": "rms_norm", "positional_embedding_type": "rope",
    "positional_embedding_theta": 10000.0, "positional_embedding_max_pos": [20, 2048, 2048],
    "timestep_scale_multiplier": 1000,
}  # fmt: skip
OURS_VAE = {"_class_name": "CausalVideoAutoencoder", "dims": 3, "in_channels": 3, "out_channels": 3, "latent_channels": 6,
            "scaling_factor": 1.0, "norm_layer": "pixel_norm", "patch_size": 2, "latent_log_var": "uniform",
            "use_quant_conv": False, "causal_decoder": False}  # fmt: skip
SHIFTED = {"_class_name": "RectifiedFlowScheduler", "_diffusers_version": "0.25.1", "num_train_timesteps": 1000,
           "shifting": "SD3", "base_resolution": None, "target_shift_terminal": 0.1}  # fmt: skip
QUADRATIC = {"_class_name": "RectifiedFlowScheduler", "_diffusers_version": "0.25.1", "num_train_timesteps": 1000,
             "shifting": None, "base_resolution": None, "sampler": "LinearQuadratic"}  # fmt: skip
STEPS = [1.0, 0.9937, 0.9875, 0.9812, 0.975, 0.9094, 0.725, 0.4219]

CASES = {
    "ltx-video-2b-v0.9": {
        "vae": dict(latent_channels=6, patch_size=2, block_out_channels=(2, 4, 8, 8),
                    decoder_block_out_channels=(2, 4, 8, 8), layers_per_block=(2, 1, 1, 1, 2),
                    decoder_layers_per_block=(2, 1, 1, 1, 2)),
        "ours": dict(blocks=[["res_x", 2], ["compress_all", 1], ["res_x_y", 1], ["res_x", 1], ["compress_all", 1],
                             ["res_x_y", 1], ["res_x", 1], ["compress_all", 1], ["res_x", 1], ["res_x", 2]],
                     encoder_base_channels=2, decoder_base_channels=2),
        "scheduler": SHIFTED,
        "transformer": HEADS,
    },
    "ltx-video-2b-v0.9.1": {
        "vae": dict(latent_channels=6, patch_size=2, block_out_channels=(2, 4, 8, 8),
                    decoder_block_out_channels=(8, 8, 16), layers_per_block=(1, 1, 2, 1, 1),
                    decoder_layers_per_block=(1, 2, 1, 1), decoder_spatio_temporal_scaling=(True,) * 3,
                    decoder_inject_noise=(True, True, True, False), upsample_residual=(True,) * 3,
                    upsample_factor=(2, 1, 2), timestep_conditioning=True),
        "ours": dict(
            encoder_blocks=[["res_x", {"num_layers": 1}], ["compress_all", {}], ["res_x_y", 1],
                            ["res_x", {"num_layers": 1}], ["compress_all", {}], ["res_x_y", 1],
                            ["res_x", {"num_layers": 2}], ["compress_all", {}], ["res_x", {"num_layers": 1}],
                            ["res_x", {"num_layers": 1}]],
            decoder_blocks=[["res_x", {"num_layers": 1, "inject_noise": True}],
                            ["compress_all", {"residual": True, "multiplier": 2}],
                            ["res_x", {"num_layers": 2, "inject_noise": True}],
                            ["compress_all", {"residual": True}],
                            ["res_x", {"num_layers": 1, "inject_noise": True}],
                            ["compress_all", {"residual": True, "multiplier": 2}],
                            ["res_x", {"num_layers": 1, "inject_noise": False}]],
            encoder_base_channels=2, decoder_base_channels=4, timestep_conditioning=True),
        "scheduler": SHIFTED,
    },
    "ltxv-2b-0.9.6-distilled-04-25": {
        "vae": dict(latent_channels=6, patch_size=2, block_out_channels=(2, 4, 8, 8, 16),
                    down_block_types=("LTXVideo095DownBlock3D",) * 4, decoder_block_out_channels=(8, 8, 8),
                    layers_per_block=(1, 2, 1, 1, 1), decoder_layers_per_block=(1, 1, 2, 1),
                    spatio_temporal_scaling=(True,) * 4, decoder_spatio_temporal_scaling=(True,) * 3,
                    downsample_type=("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
                    decoder_inject_noise=(False,) * 4, upsample_residual=(True,) * 3, upsample_factor=(2, 1, 1),
                    timestep_conditioning=True, spatial_compression_ratio=16, temporal_compression_ratio=8),
        "ours": dict(
            encoder_blocks=[["res_x", {"num_layers": 1}], ["compress_space_res", {"multiplier": 2}],
                            ["res_x", {"num_layers": 2}], ["compress_time_res", {"multiplier": 2}],
                            ["res_x", {"num_layers": 1}], ["compress_all_res", {"multiplier": 1}],
                            ["res_x", {"num_layers": 1}], ["compress_all_res", {"multiplier": 2}],
                            ["res_x", {"num_layers": 1}]],
            decoder_blocks=[["res_x", {"num_layers": 1, "inject_noise": False}],
                            ["compress_all", {"residual": True, "multiplier": 2}],
                            ["res_x", {"num_layers": 1, "inject_noise": False}],
                            ["compress_all", {"residual": True, "multiplier": 1}],
                            ["res_x", {"num_layers": 2, "inject_noise": False}],
                            ["compress_all", {"residual": True, "multiplier": 1}],
                            ["res_x", {"num_layers": 1, "inject_noise": False}]],
            encoder_base_channels=2, decoder_base_channels=4, timestep_conditioning=True),
        "scheduler": QUADRATIC,
        "transformer": HEADS | dict(causal_temporal_positioning=True),
        "steps": STEPS,
    },
}  # fmt: skip


def to_lightricks(vae, transformer):
    """The tensors under Lightricks' names: the mapping of the reference, read backwards, checked by reading it forwards."""
    tensors = {}
    for name, tensor in transformer.items():
        for new, old in (("proj_in", "patchify_proj"), ("time_embed", "adaln_single"), ("norm_q", "q_norm"),
                         ("norm_k", "k_norm")):  # fmt: skip
            name = ".".join(old if part == new else part for part in name.split("."))
        tensors["model.diffusion_model." + name] = tensor
    for name, tensor in vae.items():
        name = name.replace("latents_mean", "per_channel_statistics.mean-of-means")
        name = name.replace("latents_std", "per_channel_statistics.std-of-means")
        name = name.replace("resnets", "res_blocks").replace("conv_shortcut.conv", "conv_shortcut")
        name = name.replace("norm3.", "norm3.norm.")
        if name.startswith(("decoder.time_embedder", "decoder.scale_shift_table")):
            name = name.replace("decoder.", "decoder.last_")
        tensors["vae." + name] = tensor
    return tensors


def convert_back(tensors, is_095):
    """What the reference makes of a file. It looks at one size to tell 0.9.5, which is given here."""
    tensors = dict(tensors)
    marked = tensors["vae.encoder.conv_out.conv.weight"]
    if is_095:
        tensors["vae.encoder.conv_out.conv.weight"] = torch.empty(marked.shape[0], 2048)
    # It takes the autoencoder's tensors out of the dictionary and leaves the rest.
    vae = single_file_utils.convert_ltx_vae_checkpoint_to_diffusers(tensors)
    vae["encoder.conv_out.conv.weight"] = marked
    transformer = single_file_utils.convert_ltx_transformer_checkpoint_to_diffusers(tensors)
    return vae, transformer


def rename_blocks(tensors, ours, is_095):
    """Finds for every name of a diffusers block the number that the reference turns into it."""
    places = {}
    for half, blocks, list_name in (("encoder", ours.get("encoder_blocks", ours.get("blocks")), "down_blocks"),
                                    ("decoder", ours.get("decoder_blocks", ours.get("blocks")), "up_blocks")):  # fmt: skip
        for number in range(len(blocks)):
            probe = f"vae.{half}.{list_name}.{number}.probe"
            marks = {probe: torch.zeros(1), "vae.encoder.conv_out.conv.weight": torch.zeros(1, 2048 if is_095 else 1)}
            if ours.get("timestep_conditioning"):
                marks["vae.decoder.last_time_embedder.timestep_embedder.linear_1.weight"] = torch.zeros(1)
            made = single_file_utils.convert_ltx_vae_checkpoint_to_diffusers(marks)
            place = next(name for name in made if name.endswith(".probe")).removesuffix(".probe")
            places[place] = probe.removesuffix(".probe")
    renamed = {}
    for name, tensor in tensors.items():
        if name.startswith("vae."):
            plain = name.removeprefix("vae.")
            # The longest place first: `up_blocks.2.upsamplers.0` before `up_blocks.2`.
            for place in sorted(places, key=len, reverse=True):
                if plain.startswith(place + "."):
                    name = places[place] + plain.removeprefix(place)
                    break
        renamed[name] = tensor
    return renamed


def make_case(name, case, out):
    generator = torch.Generator().manual_seed(sum(name.encode()))
    vae = ltx_video_vae.randomise(AutoencoderKLLTXVideo(**case["vae"]), generator, torch.bfloat16)
    sizes = {key: value for key, value in case.get("transformer", {}).items() if key != "causal_temporal_positioning"}
    transformer = LTXVideoTransformer3DModel(**TRANSFORMER | sizes)
    ltx_video_vae.randomise(transformer, generator, torch.bfloat16)
    halves = [{key: value.to(torch.bfloat16) for key, value in part.state_dict().items()} for part in (vae, transformer)]
    is_095 = "downsample_type" in case["vae"]
    tensors = to_lightricks(*halves)
    tensors = rename_blocks(tensors, case["ours"], is_095)
    for statistic in ("channel", "mean-of-stds", "mean-of-stds_over_std-of-means"):
        tensors[f"vae.per_channel_statistics.{statistic}"] = torch.zeros(6, dtype=torch.bfloat16)
    for made, wanted in zip(convert_back(tensors, is_095), halves):
        assert set(made) == set(wanted), set(made) ^ set(wanted)
        assert all(torch.equal(made[key], wanted[key]) for key in wanted)
    config = {"transformer": OURS_TRANSFORMER | case.get("transformer", {}), "vae": OURS_VAE | case["ours"],
              "scheduler": case["scheduler"]}  # fmt: skip
    if "steps" in case:
        config["allowed_inference_steps"] = case["steps"]
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / f"{name}.safetensors", {"config": json.dumps(config)})
    sums = {part: {key: [list(value.shape), value.double().sum().item(), value.double().square().sum().item()]
                   for key, value in state.items()} for part, state in zip(("vae", "transformer"), halves)}  # fmt: skip
    (folder / "tensors.json").write_text(json.dumps(sums) + "\n")
    configs = {"vae": dict(vae.config), "transformer": dict(transformer.config)}
    (folder / "config.json").write_text(json.dumps(configs, indent=1) + "\n")
    print(f"{name}: {len(tensors)} tensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = pathlib.Path(__file__).parent / "cases/ltx-video-single-file"
    parser.add_argument("--out", type=pathlib.Path, default=default)
    parser.add_argument("cases", nargs="*", default=[*CASES])
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    for name in args.cases:
        make_case(name, CASES[name], args.out)


if __name__ == "__main__":
    main()
