"""Writes tests/ltx_video/: small models of diffusers and transformers with what they compute, and token ids.

    python crates/train/tests/ltx_video.py FOLDER

FOLDER is any folder written by `sango-train ltx-video export`; only its configs and tokenizer are read.
"""

import json
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKLLTXVideo, LTXVideoTransformer3DModel
from safetensors.torch import save_file
from transformers import T5Config, T5EncoderModel, T5Tokenizer

folder = Path(sys.argv[1])
out = Path(__file__).parent / "ltx_video"
out.mkdir(exist_ok=True)
torch.manual_seed(5)


def config(part, **changes):
    values = json.loads((folder / part / "config.json").read_text())
    return {k: v for k, v in values.items() if not k.startswith("_")} | changes


def save(name, model, config, **tensors):
    for parameter in model.parameters():
        if parameter.dim() < 2:  # norms and biases would hide mistakes at ones and zeros
            torch.nn.init.normal_(parameter, parameter.mean().item(), 0.2)
    with torch.no_grad():
        tensors = tensors.pop("run")(model.eval())
    tensors |= {f"model.{k}": v for k, v in model.state_dict().items()}
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, out / f"{name}.safetensors")
    (out / f"{name}.json").write_text(json.dumps(config) + "\n")


vae = config("vae", latent_channels=4, block_out_channels=[8, 8, 8], decoder_block_out_channels=[8, 16])


def run_vae(model):
    clip = torch.randn(1, 3, 9, 32, 32)
    latents = torch.randn(1, 4, 2, 2, 2)
    posterior = model.encode(clip).latent_dist
    video = model.decode(latents).sample
    return {"clip": clip, "mean": posterior.mean, "logvar": posterior.logvar, "latents": latents, "video": video}


save("vae", AutoencoderKLLTXVideo(**vae), vae, run=run_vae)

sizes = dict(in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, cross_attention_dim=32)
transformer = config("transformer", num_layers=2, caption_channels=8, **sizes)


def run_transformer(model):
    grid, scale = (3, 2, 2), (0.5, 16.0, 16.0)
    latents = torch.randn(2, 12, 4)
    caption, mask = torch.randn(2, 5, 8), torch.tensor([[1.0] * 5, [1.0] * 3 + [0.0] * 2])
    timestep = torch.tensor([870.0, 312.5])
    given = torch.cat([torch.zeros(2, 4), timestep[:, None].expand(2, 8)], 1)

    def velocity(timestep):
        names = dict(zip(("num_frames", "height", "width"), grid), rope_interpolation_scale=scale)
        return model(latents, caption, timestep, mask, **names).sample

    return {
        "latents": latents, "caption": caption, "mask": mask, "timestep": timestep,
        "velocity": velocity(timestep), "velocity_given": velocity(given),
    }


save("transformer", LTXVideoTransformer3DModel(**transformer), transformer, run=run_transformer)

text = config("text_encoder", vocab_size=40, d_model=16, d_kv=8, d_ff=24, num_heads=2)


def run_text(model):
    ids = torch.randint(0, 40, (2, 128))
    return {"ids": ids, "hidden": model(ids).last_hidden_state}


model = T5EncoderModel(T5Config(**text))
torch.nn.init.normal_(model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight)
save("text_encoder", model, text, run=run_text)

tokenizer = T5Tokenizer.from_pretrained(folder / "tokenizer")
prompts = [
    "",
    "a small green star moves left over a white background",
    "large  RED ring, spins,gray background",
    "A cross's 42nd triangle\tgrows.",
    "Ein grünes Dreieck — 三角",
    "star " * 140,
]
ids = {p: tokenizer(p, padding="max_length", max_length=128, truncation=True).input_ids for p in prompts}
(out / "ids.json").write_text(json.dumps(ids, ensure_ascii=False, separators=(",", ":")) + "\n")
