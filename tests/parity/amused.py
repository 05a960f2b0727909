"""Makes the aMUSEd parity cases under `cases/amused-*`.

    python tests/parity/amused.py [--out tests/parity/cases] [CASE ...]

Each case is a pipeline folder (`model/`, diffusers layout, random weights) with, per run, `inputs.safetensors`,
`expected.safetensors` (the parity contract of docs) and `bars.json` (the reference's own bf16 error), plus
`components.safetensors` (transformer logits for a batch, VQ latents and tokens). `amused-schedule.json` holds the
scheduler's mask lengths and `amused-tokenizer` strings with their ids. Needs torch, diffusers and transformers.
"""

import argparse
import json
import math
import pathlib
import shutil

import torch
from diffusers import AmusedScheduler, UVit2DModel, VQModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

import reference
import tokenizer

SMALLEST_MARGIN = 3e-4

CASES = {
    # The published layout in small: no bias, cosine schedule, hidden size and block channels differ (kv_mapper).
    "amused-plain": {
        "transformer": dict(hidden_size=64, cond_embed_dim=40, micro_cond_encode_dim=16, micro_cond_embed_dim=80,
                            encoder_hidden_size=48, vocab_size=52, codebook_size=48, in_channels=32,
                            block_out_channels=32, num_res_blocks=3, block_num_heads=2, num_hidden_layers=3,
                            num_attention_heads=4, intermediate_size=112, sample_size=8),
        "vqvae": dict(block_out_channels=[8, 16], layers_per_block=2, latent_channels=12, norm_num_groups=8,
                      num_vq_embeddings=48, mid_block_add_attention=False, act_fn="silu"),
        "text": dict(hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=3,
                     hidden_act="quick_gelu", projection_dim=40, eos_token_id="end"),
        "scheduler": dict(mask_token_id=51, masking_schedule="cosine"),
        "pad_token": tokenizer.END, "weights": torch.bfloat16,
        "runs": {"text-to-image": dict(steps=12, guidance=4.0),
                 "image-to-image": dict(steps=12, guidance=3.0, image=True, strength=0.7),
                 "inpainting": dict(steps=12, guidance=4.0, image=True, mask=True)},
    },
    # 512's down and up sampling, biases, no norm weights, linear schedule, mid attention, a non-square picture.
    "amused-resampled": {
        "transformer": dict(hidden_size=48, use_bias=True, cond_embed_dim=24, micro_cond_encode_dim=12,
                            micro_cond_embed_dim=60, encoder_hidden_size=32, vocab_size=56, codebook_size=48,
                            in_channels=40, block_out_channels=48, num_res_blocks=2, downsample=True, upsample=True,
                            block_num_heads=2, num_hidden_layers=2, num_attention_heads=6, intermediate_size=72,
                            layer_norm_eps=1e-5, ln_elementwise_affine=False, sample_size=8),
        "vqvae": dict(block_out_channels=[8, 16, 24], layers_per_block=1, latent_channels=6, norm_num_groups=4,
                      num_vq_embeddings=48, mid_block_add_attention=True, act_fn="gelu", force_upcast=True),
        "text": dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                     hidden_act="gelu", projection_dim=24, eos_token_id=2),
        "scheduler": dict(mask_token_id=55, masking_schedule="linear"),
        "pad_token": "!", "weights": torch.float16,
        "runs": {"text-to-image": dict(steps=9, guidance=6.0, size=(48, 32), temperature=(1.5, 0.1)),
                 "image-to-image": dict(steps=10, guidance=2.0, image=True, strength=0.5, size=(32, 48)),
                 "inpainting": dict(steps=8, guidance=2.0, image=True, mask=True, strength=0.6, size=(48, 32))},
    },
    # Wide and odd heads, one block, VQ code width unlike its latents, another activation, f32 weights in shards.
    "amused-wide-heads": {
        "transformer": dict(hidden_size=72, use_bias=True, cond_embed_dim=20, micro_cond_encode_dim=11,
                            micro_cond_embed_dim=55, encoder_hidden_size=40, vocab_size=48, codebook_size=40,
                            in_channels=24, block_out_channels=36, num_res_blocks=1, block_num_heads=1,
                            num_hidden_layers=1, num_attention_heads=1, intermediate_size=64, sample_size=6),
        "vqvae": dict(block_out_channels=[9], layers_per_block=3, latent_channels=8, norm_num_groups=3,
                      num_vq_embeddings=40, vq_embed_dim=5, mid_block_add_attention=True, act_fn="relu"),
        "text": dict(hidden_size=40, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
                     hidden_act="quick_gelu", projection_dim=20, eos_token_id="end", layer_norm_eps=1e-6),
        "scheduler": dict(mask_token_id=47, masking_schedule="cosine"),
        "pad_token": tokenizer.END, "weights": torch.float32, "shard": "60KB",
        "runs": {"text-to-image": dict(steps=5, guidance=1.0),
                 "full-strength": dict(steps=4, guidance=3.0, image=True, strength=1.0, size=(6, 8))},
    },
    # No up/down sampling at an odd grid, head size not a power of two, mish, one step.
    "amused-odd-grid": {
        "transformer": dict(hidden_size=60, cond_embed_dim=32, micro_cond_encode_dim=8, micro_cond_embed_dim=40,
                            encoder_hidden_size=24, vocab_size=34, codebook_size=32, in_channels=20,
                            block_out_channels=60, num_res_blocks=1, block_num_heads=5, num_hidden_layers=2,
                            num_attention_heads=3, intermediate_size=50, layer_norm_eps=1e-5, sample_size=5),
        "vqvae": dict(block_out_channels=[8, 8], layers_per_block=1, latent_channels=4, norm_num_groups=2,
                      num_vq_embeddings=32, mid_block_add_attention=False, act_fn="mish"),
        "text": dict(hidden_size=24, intermediate_size=40, num_hidden_layers=4, num_attention_heads=2,
                     hidden_act="gelu", projection_dim=32, eos_token_id="end"),
        "scheduler": dict(mask_token_id=33, masking_schedule="cosine"),
        "pad_token": tokenizer.END, "weights": torch.bfloat16,
        "runs": {"text-to-image": dict(steps=7, guidance=10.0, size=(14, 10)),
                 "one-step": dict(steps=1, guidance=2.5)},
    },
}


@torch.no_grad()
def randomise(model, generator, weights):
    """Random values everywhere (defaults leave many parameters at 0 or 1), representable in `weights`."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "embedding" in name:
            noise *= 0.7
        elif name.endswith(("gamma", "beta")):
            noise *= 0.3
        elif parameter.ndim == 1:
            noise *= 0.15
            if name.endswith("weight"):
                noise += 1
        else:
            noise *= parameter[0].numel() ** -0.5
        if name.endswith("mlm_layer.conv2.weight"):
            noise *= 1.5
        parameter.copy_(noise.to(weights).float())
    return model.eval()


def make_model(case, folder, generator):
    """Builds and saves the pipeline folder; returns it loaded back in f32 through the saved files."""
    vocab = tokenizer.write(folder / "tokenizer", case["pad_token"])
    text = dict(case["text"])
    text["eos_token_id"] = vocab - 1 if text["eos_token_id"] == "end" else text["eos_token_id"]
    text = dict(vocab_size=vocab, max_position_embeddings=77, bos_token_id=vocab - 2, pad_token_id=1) | text
    blocks = len(case["vqvae"]["block_out_channels"])
    vqvae = dict(down_block_types=["DownEncoderBlock2D"] * blocks, up_block_types=["UpDecoderBlock2D"] * blocks,
                 lookup_from_codebook=True, sample_size=32, **case["vqvae"])
    parts = {
        "text_encoder": CLIPTextModelWithProjection(CLIPTextConfig(**text)),
        "transformer": UVit2DModel(**case["transformer"]),
        "vqvae": VQModel(**vqvae),
    }
    for name, part in parts.items():
        randomise(part, generator, case["weights"])
        save = {"max_shard_size": case["shard"]} if "shard" in case else {}
        part.to(case["weights"]).save_pretrained(folder / name, **save)
    AmusedScheduler(**case["scheduler"]).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "AmusedPipeline",
        "_diffusers_version": "0.33.1",
        "scheduler": ["diffusers", "AmusedScheduler"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "transformer": ["diffusers", "UVit2DModel"],
        "vqvae": ["diffusers", "VQModel"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def make_inputs(case, run, folder, generator):
    """The input tensors of one run."""
    scale = 2 ** (len(case["vqvae"]["block_out_channels"]) - 1)
    side = case["transformer"]["sample_size"] * scale
    width, height = run.get("size", (side, side))
    tokens = (width // scale) * (height // scale)
    steps = run["steps"]
    ids = tokenizer.ids(folder / "tokenizer", ["a large red circle on a blue background, 4k", "small cat"])
    inputs = {
        "prompt_ids": torch.tensor(ids[:1]),
        "negative_prompt_ids": torch.tensor(ids[1:]),
        "micro_conds": torch.tensor([[width, height, 3, 1, 6]], dtype=torch.float32),
        "steps": torch.tensor([steps]),
        "guidance_scale": torch.tensor([run["guidance"]]),
        "temperature": torch.tensor(run.get("temperature", (2.0, 0.0))),
        "gumbel_sample": reference.gumbel(generator, steps, tokens, case["transformer"]["codebook_size"]),
        "gumbel_mask": reference.gumbel(generator, steps, tokens),
    }
    if run.get("image"):
        inputs["image"] = torch.rand((1, 3, height, width), generator=generator)
        if "strength" in run:
            inputs["strength"] = torch.tensor([run["strength"]])
        if run.get("mask"):
            mask = torch.zeros(1, 1, height, width)
            mask[..., height // 4 :, : 2 * width // 3] = 1
            inputs["mask"] = mask
        else:
            inputs["mask_noise"] = torch.rand(tokens, generator=generator)
    return inputs


@torch.no_grad()
def make_components(case, folder, generator):
    """Parts on their own: transformer logits for a batch of two, VQ encode, quantise and decode."""
    parts = reference.components(folder, torch.float32)
    config = parts["transformer"].config
    side = config.sample_size
    out = {
        "input_ids": torch.randint(0, config.vocab_size, (2, side, side), generator=generator),
        "encoder_hidden_states": torch.randn(2, 9, config.encoder_hidden_size, generator=generator),
        "pooled_text_emb": torch.randn(2, config.cond_embed_dim, generator=generator),
        "micro_conds": torch.tensor([[256.0, 192.0, 8.0, 0.0, 6.0], [64.0, 32.0, 0.0, 5.5, 4.0]]),
    }
    logits = parts["transformer"](*(out[k] for k in ("input_ids", "encoder_hidden_states", "pooled_text_emb",
                                                     "micro_conds")))
    out["logits"] = logits.permute(0, 2, 3, 1).contiguous()
    scale = 2 ** (len(case["vqvae"]["block_out_channels"]) - 1)
    out["vq_image"] = torch.rand((2, 3, 5 * scale, 7 * scale), generator=generator)
    out["vq_latents"] = parts["vqvae"].encode(out["vq_image"]).latents
    out["vq_tokens"] = parts["vqvae"].quantize(out["vq_latents"])[2][2].reshape(2, 5, 7)
    distances = torch.cdist(out["vq_latents"].permute(0, 2, 3, 1).flatten(0, 2).double(),
                            parts["vqvae"].quantize.embedding.weight.double()).topk(2, largest=False).values
    assert (distances[:, 1] - distances[:, 0]).min() > 1e-4, "a VQ code is decided by rounding; change the seed"
    out["vq_decoded"] = parts["vqvae"].decode(out["vq_tokens"], force_not_quantize=True,
                                              shape=(2, 5, 7, parts["vqvae"].quantize.vq_embed_dim)).sample
    return {name: value.contiguous() for name, value in out.items()}


def make_case(name, case, out):
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    generator = torch.Generator().manual_seed(sum(name.encode()))
    make_model(case, folder / "model", generator)
    save_file(make_components(case, folder / "model", generator), folder / "components.safetensors")
    for run_name, run in case["runs"].items():
        for attempt in range(200):
            inputs = make_inputs(case, run, folder / "model", generator)
            margins = reference.Margins()
            expected = reference.run(folder / "model", inputs, margins=margins)
            if margins.smallest > SMALLEST_MARGIN:
                break
        else:
            raise SystemExit(f"{name}/{run_name}: no noise found whose choices are clear of rounding")
        half = reference.run(folder / "model", inputs, torch.bfloat16)
        bars = {k: reference.relative_l2(half[k], v) for k, v in expected.items() if k != "tokens"}
        bars["tokens_equal"] = float((half["tokens"] == expected["tokens"]).float().mean())
        margin = margins.smallest if math.isfinite(margins.smallest) else None
        (folder / run_name).mkdir()
        save_file(inputs, folder / run_name / "inputs.safetensors")
        save_file(expected, folder / run_name / "expected.safetensors")
        (folder / run_name / "bars.json").write_text(json.dumps({"bf16": bars, "margin": margin}, indent=2) + "\n")
        print(f"{name}/{run_name}: attempt {attempt}, margin {margin}, bf16 {bars}")


def make_schedule(out):
    """Mask lengths and masking ratios of the reference scheduler for many step counts."""
    rows = []
    for schedule in ("cosine", "linear"):
        for steps in (1, 2, 3, 7, 8, 10, 12, 16, 25, 50, 100):
            for tokens in (64, 256, 1000, 1024):
                for start in (1.0, 0.3):
                    scheduler = AmusedScheduler(mask_token_id=9, masking_schedule=schedule)
                    scheduler.set_timesteps(steps, (2, 0))
                    sample, lengths = torch.full((1, tokens), 9), []
                    for timestep in scheduler.timesteps:
                        sample = scheduler.step(torch.zeros(1, tokens, 8), timestep, sample,
                                                torch.tensor(start), torch.Generator().manual_seed(0)).prev_sample
                        lengths.append(int((sample == 9).sum()))
                    rows.append([schedule, steps, tokens, start, lengths])
    text = ",\n".join(json.dumps(row) for row in rows)
    (out / "amused-schedule.json").write_text(f"[\n{text}\n]\n")


def make_tokenizer(out):
    """Strings and their ids under two padding conventions."""
    for name, pad in (("pad-end", tokenizer.END), ("pad-bang", "!")):
        folder = out / "amused-tokenizer" / name
        shutil.rmtree(folder, ignore_errors=True)
        tokenizer.write(folder, pad)
        cases = [{"text": t, "ids": i} for t, i in zip(tokenizer.STRINGS, tokenizer.ids(folder, tokenizer.STRINGS))]
        text = ",\n".join(json.dumps(case) for case in cases)
        (folder / "cases.json").write_text(f"[\n{text}\n]\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "cases")
    parser.add_argument("cases", nargs="*", default=[*CASES, "schedule", "tokenizer"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.cases:
        if name == "schedule":
            make_schedule(args.out)
        elif name == "tokenizer":
            make_tokenizer(args.out)
        else:
            make_case(name, CASES[name], args.out)


if __name__ == "__main__":
    main()
