"""Makes the SmolVLM2 parity cases under `cases/smolvlm2-*`.

    python tests/parity/smolvlm2.py [--out tests/parity/cases] [CASE ...]

Each case is a `SmolVLMForConditionalGeneration` folder (`model/`, random weights) with, per run, `inputs.safetensors`,
`expected.safetensors` (the parity contract of docs) and `bars.json` (the reference's own bf16 error, and by how much
the closest greedy choice was decided). `smolvlm2-buckets.json` holds the position ids that the vision tower gives the
patches along a side, and `smolvlm2-sampling` scores before and after the logits processors of `generate`.
Needs torch and transformers.
"""

import argparse
import json
import pathlib
import shutil

import torch
from safetensors.torch import save_file
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

import smolvlm2_reference as reference

# The closest greedy choice, as a part of the largest logit: far above what rounding in f32 moves.
SMALLEST_MARGIN = 1e-3

CASES = {
    # The published configuration in small and in its old form (`rope_theta`, keys of other models): three heads share
    # a key head, untied head, scale 4, one stop token that only generation_config.json names.
    "smolvlm2-plain": {
        "text": dict(vocab_size=96, hidden_size=48, intermediate_size=64, num_hidden_layers=3, num_attention_heads=3,
                     num_key_value_heads=1, rms_norm_eps=1e-5, rope_theta=100000.0, pad_token_id=2, eos_token_id=2,
                     max_position_embeddings=512),
        "vision": dict(hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=2,
                       image_size=32, patch_size=4),
        "scale_factor": 4, "published_keys": True, "weights": torch.bfloat16,
        "generation": dict(bos_token_id=1, eos_token_id=[5, 17, 40, 61], pad_token_id=2),
        "runs": {"video": dict(frames=[3], new=12),
                 "padded-frames": dict(frames=[2], new=8, regions=[(20, 32), (12, 9)]),
                 "batch": dict(frames=[3, 1], new=10, stops=True),
                 "blank": dict(frames=[2], new=4, blank=True),
                 "text": dict(frames=[], new=16, stops=True)},
    },
    # Tied head, every head has its own keys, explicit head size, biases everywhere, llama3 frequencies, a picture that
    # is no multiple of the patch, stop tokens from config.json alone.
    "smolvlm2-tied": {
        "text": dict(vocab_size=80, hidden_size=40, intermediate_size=72, num_hidden_layers=2, num_attention_heads=2,
                     num_key_value_heads=2, head_dim=24, attention_bias=True, mlp_bias=True, hidden_act="gelu",
                     eos_token_id=[9, 30, 44], pad_token_id=None, max_position_embeddings=256,
                     rope_parameters=dict(rope_type="llama3", rope_theta=5000.0, factor=8.0, low_freq_factor=1.0,
                                          high_freq_factor=4.0, original_max_position_embeddings=32)),
        "vision": dict(hidden_size=36, intermediate_size=40, num_hidden_layers=1, num_attention_heads=3,
                       image_size=20, patch_size=5, hidden_act="gelu", layer_norm_eps=1e-5),
        "scale_factor": 2, "tie": True, "weights": torch.bfloat16, "generation": None,
        "runs": {"odd-size": dict(frames=[2], new=9, size=(23, 21)),
                 "batch": dict(frames=[1, 2, 0], new=12, stops=True, regions=[(20, 20), (20, 7), (3, 20)])},
    },
    # Scale 3, yarn, key heads left to the default, shards of f32, several stop tokens.
    "smolvlm2-yarn": {
        "text": dict(vocab_size=72, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
                     rope_parameters=dict(rope_type="yarn", rope_theta=300.0, factor=4.0, beta_fast=8.0,
                                          original_max_position_embeddings=16, mscale=0.8, mscale_all_dim=0.5),
                     max_position_embeddings=64, hidden_act="gelu_pytorch_tanh", pad_token_id=3),
        "vision": dict(hidden_size=24, intermediate_size=30, num_hidden_layers=2, num_attention_heads=1,
                       image_size=27, patch_size=3, hidden_act="quick_gelu"),
        "scale_factor": 3, "weights": torch.float32, "shard": "30KB",
        "generation": dict(eos_token_id=[11, 12, 13, 20], pad_token_id=3),
        "runs": {"video": dict(frames=[2], new=10, size=(29, 28)),
                 "left-padded": dict(frames=[1, 1], new=12, left_pad=[0, 7], stops=True)},
    },
    # No shuffle, the oldest form of scaling, pictures larger than the tower was made for and not square, f16.
    "smolvlm2-linear": {
        "text": dict(vocab_size=64, hidden_size=30, intermediate_size=44, num_hidden_layers=1, num_attention_heads=5,
                     num_key_value_heads=5, rope_scaling=dict(type="linear", factor=2.5), rope_theta=2000.0,
                     hidden_act="gelu_new", rms_norm_eps=1e-6, pad_token_id=4, eos_token_id=4),
        "vision": dict(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
                       image_size=18, patch_size=6, hidden_act="gelu_new"),
        "scale_factor": 1, "weights": torch.float16, "generation": dict(eos_token_id=4, pad_token_id=4),
        "runs": {"wide": dict(frames=[1], new=8, size=(12, 48)),
                 "large": dict(frames=[2], new=8, size=(30, 30), regions=[(30, 13), (25, 30)])},
    },
    # Frequencies that depend on the length, which prompt and answer exceed; 25 patches a side, where the reference's
    # rounding gives two neighbours one position; a penalty for repetition that the folder asks for.
    "smolvlm2-dynamic": {
        "text": dict(vocab_size=90, hidden_size=64, intermediate_size=50, num_hidden_layers=2, num_attention_heads=4,
                     num_key_value_heads=2, rope_parameters=dict(rope_type="dynamic", rope_theta=10000.0, factor=3.0),
                     max_position_embeddings=48, pad_token_id=0),
        "vision": dict(hidden_size=12, intermediate_size=20, num_hidden_layers=1, num_attention_heads=1,
                       image_size=50, patch_size=2),
        "scale_factor": 5, "weights": torch.bfloat16,
        "generation": dict(eos_token_id=2, pad_token_id=0, repetition_penalty=1.3),
        "runs": {"long": dict(frames=[2], new=10),
                 "short": dict(frames=[], new=8, text=30),
                 "crossing": dict(frames=[1], new=8, text=20)},
    },
    # Two sets of frequencies, chosen by length; eight query heads on one key head, head size 4.
    "smolvlm2-longrope": {
        "text": dict(vocab_size=50, hidden_size=32, intermediate_size=36, num_hidden_layers=2, num_attention_heads=8,
                     num_key_value_heads=1, max_position_embeddings=96, pad_token_id=0,
                     rope_parameters=dict(rope_type="longrope", rope_theta=1000.0, factor=3.0,
                                          original_max_position_embeddings=32,
                                          short_factor=[1.0, 1.5], long_factor=[2.0, 4.0])),
        "vision": dict(hidden_size=20, intermediate_size=28, num_hidden_layers=1, num_attention_heads=5,
                       image_size=16, patch_size=4),
        "scale_factor": 2, "weights": torch.bfloat16,
        "generation": dict(eos_token_id=2, pad_token_id=0, min_new_tokens=4, no_repeat_ngram_size=3,
                           suppress_tokens=[7, 8]),
        "runs": {"short": dict(frames=[1], new=6, text=12), "long": dict(frames=[2], new=6, text=30)},
    },
}  # fmt: skip

# Keys of the published configuration that say nothing about the computation.
PUBLISHED_TEXT = {"_flash_attn_2_enabled": True, "is_llama_config": True, "neftune_noise_alpha": 0.0,
                  "pixel_shuffle_factor": 4, "qk_layer_norms_perceiver": False, "use_resampler": False,
                  "rope_interleaved": False, "rope_scaling": None, "transformers.js_config": {"dtype": "fp16"}}  # fmt: skip
PUBLISHED_TOP = {"image_token_id": None, "pad_token_id": 128002, "torch_dtype": "bfloat16", "use_reentrant_checkpointing": False,
                 "transformers_version": "4.47.1", "vocab_size": 96}  # fmt: skip


@torch.no_grad()
def randomise(model, generator, weights):
    """Random values everywhere (defaults leave many parameters at 0 or 1), representable in `weights`."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "embed_tokens" in name or "position_embedding" in name:
            # A tied head would only ever repeat its input if the table were large.
            noise *= 0.15 if model.config.tie_word_embeddings else 0.6
        elif parameter.ndim == 1:
            noise *= 0.15
            if name.endswith("weight"):
                noise += 1
        else:
            noise *= parameter[0].numel() ** -0.5
        parameter.copy_(noise.to(weights).float())
    return model.eval()


def make_config(case):
    text = {"model_type": "llama", **case["text"]}
    return SmolVLMConfig(text_config=text, vision_config=dict(case["vision"]), scale_factor=case["scale_factor"],
                         image_token_id=text["vocab_size"] - 1, tie_word_embeddings=case.get("tie", False))  # fmt: skip


def make_model(case, folder, generator):
    config = make_config(case)
    model = randomise(SmolVLMForConditionalGeneration(config), generator, case["weights"])
    if case["generation"] is not None:
        model.generation_config = GenerationConfig(**case["generation"])
    save = {"max_shard_size": case["shard"]} if "shard" in case else {}
    model.to(case["weights"]).save_pretrained(folder, **save)
    if case["generation"] is None:
        (folder / "generation_config.json").unlink()
    if case.get("published_keys"):
        # What 4.x wrote: no derived keys, `rope_theta` beside the sizes.
        text = {"architectures": ["VLlama3ForCausalLM"], "model_type": "llama", **case["text"], **PUBLISHED_TEXT}
        vision = {"model_type": "smolvlm_vision", "max_image_size": {"longest_edge": 32}, "use_base_siglip": False,
                  "size": {"longest_edge": 2048}, **case["vision"]}  # fmt: skip
        top = {"architectures": ["SmolVLMForConditionalGeneration"], "model_type": "smolvlm", **PUBLISHED_TOP,
               "image_token_id": case["text"]["vocab_size"] - 1, "scale_factor": case["scale_factor"],
               "text_config": text, "vision_config": vision, "tie_word_embeddings": False}  # fmt: skip
        (folder / "config.json").write_text(json.dumps(top, indent=2) + "\n")
    elif "rope_scaling" in case["text"]:
        path = folder / "config.json"
        config = json.loads(path.read_text())
        del config["text_config"]["rope_parameters"]
        for key in ("rope_scaling", "rope_theta"):
            config["text_config"][key] = case["text"][key]
        path.write_text(json.dumps(config, indent=2) + "\n")


def make_inputs(case, run, generator):
    """The input tensors of one run: text with the placeholders of every row's frames in it."""
    vision, vocab = case["vision"], case["text"]["vocab_size"]
    side = vision["image_size"]
    height, width = run.get("size", (side, side))
    patch = vision["patch_size"]
    tokens = (height // patch) * (width // patch) // case["scale_factor"] ** 2
    rows = run["frames"] or [0]
    real = [1 if run.get("blank") and frames else frames for frames in rows]
    pads = run.get("left_pad", [0] * len(rows))
    special = {vocab - 1, *(case["generation"] or {}).get("suppress_tokens", [])}
    for ids in (case["text"].get("pad_token_id"), (case["generation"] or {}).get("pad_token_id")):
        special.add(ids)
    words = torch.tensor([n for n in range(vocab) if n not in special])
    pick = lambda count: words[torch.randint(len(words), (count,), generator=generator)].tolist()
    length = run.get("text", 6) + max(r * (tokens + 1) + p for r, p in zip(real, pads))
    ids = []
    for frames, pad in zip(real, pads):
        row = [case["text"].get("pad_token_id")] * pad + pick(2)
        for _ in range(frames):
            row += pick(1) + [vocab - 1] * tokens
        ids.append(row + pick(length - len(row)))
    inputs = {"input_ids": torch.tensor(ids), "max_new_tokens": torch.tensor([run["new"]])}
    if not any(rows):
        return inputs
    pixels = torch.zeros(len(rows), max(rows), 3, height, width)
    mask = torch.zeros(len(rows), max(rows), height, width, dtype=torch.bool)
    regions = iter(run.get("regions", []))
    for row, frames in enumerate(rows):
        for frame in range(frames):
            h, w = next(regions, (height, width))
            if not run.get("blank"):
                pixels[row, frame, :, :h, :w] = torch.rand((3, h, w), generator=generator) * 2 - 1
            mask[row, frame, :h, :w] = True
    inputs["pixel_values"] = pixels
    if "regions" in run:
        inputs["pixel_attention_mask"] = mask
    return inputs


def make_case(name, case, out):
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    generator = torch.Generator().manual_seed(sum(name.encode()))
    make_model(case, folder / "model", generator)
    for run_name, run in case["runs"].items():
        for attempt in range(300):
            inputs = make_inputs(case, run, generator)
            expected, margin = reference.run(folder / "model", inputs)
            longest = expected["generated_ids"].shape[1] == run["new"]
            stopped = reference.stopped_early(folder / "model", expected["generated_ids"], run["new"])
            if margin > SMALLEST_MARGIN and (not run.get("stops") or stopped) and (longest or len(inputs["input_ids"]) == 1):
                break
        else:
            raise SystemExit(f"{name}/{run_name}: no inputs found whose choices are clear of rounding")
        half, _ = reference.run(folder / "model", inputs, torch.bfloat16)
        bars = {k: reference.relative_l2(half[k], v) for k, v in expected.items() if k != "generated_ids"}
        (folder / run_name).mkdir()
        save_file(inputs, folder / run_name / "inputs.safetensors")
        save_file(expected, folder / run_name / "expected.safetensors")
        (folder / run_name / "bars.json").write_text(json.dumps({"bf16": bars, "margin": margin}, indent=2) + "\n")
        print(f"{name}/{run_name}: attempt {attempt}, margin {margin:.1e}, bf16 {bars}, {expected['generated_ids'].tolist()}")


def make_buckets(out):
    """Positions of `count` patches along a side of a tower made for `per_side`."""
    rows = []
    for per_side in (1, 2, 3, 7, 8, 14, 16, 19, 24, 25, 27, 29, 32, 37, 40, 64):
        for count in sorted({1, 2, 3, per_side - 1, per_side, per_side + 1, 2 * per_side, 3 * per_side // 5} - {0}):
            boundaries = torch.arange(1 / per_side, 1.0, 1 / per_side)
            step = 1.0 / torch.ones(1, count, dtype=torch.bool).sum(dim=1)
            fractions = torch.clamp(torch.arange(count, dtype=torch.float32)[None, :] * step[:, None], max=1.0 - 1e-6)
            rows.append([per_side, count, torch.bucketize(fractions, boundaries, right=True)[0].tolist()])
    text = ",\n".join(json.dumps(row) for row in rows)
    (out / "smolvlm2-buckets.json").write_text(f"[\n{text}\n]\n")


def make_sampling(out):
    """Scores of a step, the ids before it, and the probabilities from which `generate` draws."""
    folder = out / "smolvlm2-sampling"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    generator = torch.Generator().manual_seed(7)
    settings = [
        {}, {"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.1}, {"repetition_penalty": 1.2},
        {"temperature": 1.5, "top_k": 20, "top_p": 0.9}, {"temperature": 0.2, "min_p": 0.3, "repetition_penalty": 1.1},
        {"temperature": 0.8, "top_k": 12, "top_p": 0.6, "min_p": 0.05, "repetition_penalty": 1.5}, {"top_p": 0.0},
        {"top_k": 1000}, {"repetition_penalty": 0.7, "top_k": 3},
    ]  # fmt: skip
    tensors = {}
    for n, setting in enumerate(settings):
        vocab = 60 + 17 * n
        scores = torch.randn((1, vocab), generator=generator) * 3
        ids = torch.randint(vocab, (1, 25), generator=generator)
        processors = LogitsProcessorList()
        if "repetition_penalty" in setting:
            processors.append(RepetitionPenaltyLogitsProcessor(setting["repetition_penalty"]))
        if "temperature" in setting:
            processors.append(TemperatureLogitsWarper(setting["temperature"]))
        if "top_k" in setting:
            processors.append(TopKLogitsWarper(setting["top_k"]))
        if "top_p" in setting:
            processors.append(TopPLogitsWarper(setting["top_p"]))
        if "min_p" in setting:
            processors.append(MinPLogitsWarper(setting["min_p"]))
        tensors[f"{n}.scores"], tensors[f"{n}.ids"] = scores.clone(), ids
        tensors[f"{n}.probs"] = torch.softmax(processors(ids, scores.clone()), dim=-1)
    save_file(tensors, folder / "sampling.safetensors")
    (folder / "settings.json").write_text(json.dumps(settings, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "cases")
    parser.add_argument("cases", nargs="*", default=[*CASES, "buckets", "sampling"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.cases:
        if name == "buckets":
            make_buckets(args.out)
        elif name == "sampling":
            make_sampling(args.out)
        else:
            make_case(name, CASES[name], args.out)


if __name__ == "__main__":
    main()
