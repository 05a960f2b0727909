"""Runs `SmolVLMForConditionalGeneration` on the inputs of the parity contract."""

import json
import pathlib

import torch
from transformers import SmolVLMForConditionalGeneration


def load(model_dir, dtype=torch.float32):
    return SmolVLMForConditionalGeneration.from_pretrained(model_dir, dtype=dtype).eval()


@torch.no_grad()
def run(model_dir, inputs, dtype=torch.float32, model=None):
    """The tensors of the contract as f32 and i64, and the smallest distance between the two best logits of a greedy
    step (of a row that had not ended), as a part of the largest logit."""
    model = model or load(model_dir, dtype)
    given = {k: v for k, v in inputs.items() if k in ("pixel_values", "pixel_attention_mask")}
    ids = inputs["input_ids"]
    outputs = {"logits": model(input_ids=ids, **given).logits.float().contiguous()}
    if given:
        features = model.get_image_features(**given).pooler_output
        # One entry per row, of all tokens of its frames: back to one block per frame that is not blank.
        images = int(max(1, (given["pixel_values"].flatten(2) != 0).any(-1).sum()))
        features = torch.cat(features, dim=0)
        outputs["image_features"] = features.reshape(images, -1, features.shape[-1]).float().contiguous()
    made = model.generate(input_ids=ids, **given, max_new_tokens=int(inputs["max_new_tokens"]), do_sample=False,
                          output_logits=True, output_scores=True, return_dict_in_generate=True)  # fmt: skip
    new = made.sequences[:, ids.shape[1] :].contiguous()
    outputs["generated_ids"] = new
    stops = stop_ids(model)
    margin, open_rows = float("inf"), torch.ones(len(ids), dtype=torch.bool)
    for step, scores in enumerate(made.scores):
        best = scores.float().topk(2, dim=-1).values[open_rows]
        margin = min(margin, float(((best[:, 0] - best[:, 1]) / scores[scores.isfinite()].abs().max()).min()))
        open_rows &= torch.tensor([int(t) not in stops for t in new[:, step]])
    return outputs, margin


def stop_ids(model):
    eos = model.generation_config.eos_token_id
    return set() if eos is None else set(eos if isinstance(eos, list) else [eos])


def stopped_early(model_dir, generated, limit):
    """Whether some row ended before the last of `limit` steps."""
    folder = pathlib.Path(model_dir)
    path = folder / "generation_config.json"
    config = json.loads(path.read_text()) if path.exists() else json.loads((folder / "config.json").read_text())["text_config"]
    eos = config["eos_token_id"]
    stops = torch.tensor(eos if isinstance(eos, list) else [eos])
    return generated.shape[1] < limit or bool(torch.isin(generated[:, :-1], stops).any())


def relative_l2(value, reference):
    """‖value − reference‖₂ / ‖reference‖₂."""
    return float((value.double() - reference.double()).norm() / reference.double().norm().clamp(1e-30))


def max_relative(value, reference):
    """max |value − reference| / max |reference|."""
    return float((value.double() - reference.double()).abs().max() / reference.double().abs().max().clamp(1e-30))
