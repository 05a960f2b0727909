"""Runs the diffusers aMUSEd pipelines with every random draw given as a tensor.

`sango parity` takes its randomness as inputs, so the reference has to as well. Inside `given_noise` the three random
calls that the pipelines make are replaced:

* `torch.multinomial(probs, 1)`: argmax(log probs + gumbel_sample[k]), k counting the steps that ran;
* `gumbel_noise(probs)`: gumbel_mask[k];
* `torch.rand` (only `AmusedScheduler.add_noise` calls it): mask_noise.
"""

import contextlib
from unittest import mock

import torch
from diffusers import AmusedImg2ImgPipeline, AmusedInpaintPipeline, AmusedPipeline
from diffusers.schedulers import scheduling_amused


def gumbel(generator, *shape):
    """Standard Gumbel noise, as `scheduling_amused.gumbel_noise` makes it."""
    noise = torch.zeros(shape).uniform_(0, 1, generator=generator)
    return -torch.log((-torch.log(noise.clamp(1e-20))).clamp(1e-20))


class Margins:
    """The smallest distance by which a discrete choice was decided; a tiny one makes a case depend on rounding."""

    def __init__(self):
        self.smallest = float("inf")

    def note(self, value):
        self.smallest = min(self.smallest, float(value))


@contextlib.contextmanager
def given_noise(inputs, margins):
    """Makes the aMUSEd scheduler draw from `inputs` instead of a generator."""
    calls = {"sample": 0, "mask": 0}
    unknown_rows = {}

    def multinomial(probs, num_samples, generator=None):
        k = calls["sample"]
        calls["sample"] += 1
        scores = probs.log() + inputs["gumbel_sample"][k]
        top = scores.topk(2, dim=-1).values
        gaps = top[:, 0] - top[:, 1]
        rows = unknown_rows.get("rows")
        if rows is not None and rows.any():
            margins.note(gaps[rows].min())
        return scores.argmax(dim=-1, keepdim=True)

    def gumbel_noise(t, generator=None):
        k = calls["mask"]
        calls["mask"] += 1
        return inputs["gumbel_mask"][k][None].to(t.dtype)

    def by_random_topk(mask_len, probs, temperature=1.0, generator=None):
        confidence = torch.log(probs.clamp(1e-20)) + temperature * gumbel_noise(probs)
        ordered = torch.sort(confidence, dim=-1).values
        cut_off = torch.gather(ordered, 1, mask_len.long())
        at = int(mask_len[0, 0])
        margins.note(ordered[0, at] - ordered[0, at - 1])
        return confidence < cut_off

    step = scheduling_amused.AmusedScheduler.step

    def noted_step(self, model_output, timestep, sample, *args, **kwargs):
        unknown_rows["rows"] = (sample == self.config.mask_token_id).reshape(-1)
        return step(self, model_output, timestep, sample, *args, **kwargs)

    def rand(shape, **kwargs):
        return inputs["mask_noise"].reshape(shape)

    with (
        mock.patch.object(torch, "multinomial", multinomial),
        mock.patch.object(torch, "rand", rand),
        mock.patch.object(scheduling_amused, "mask_by_random_topk", by_random_topk),
        mock.patch.object(scheduling_amused.AmusedScheduler, "step", noted_step),
    ):
        yield


def components(model_dir, dtype):
    """The five parts of a pipeline folder, the tokenizer left out (ids are inputs)."""
    from diffusers import AmusedScheduler, UVit2DModel, VQModel
    from transformers import CLIPTextModelWithProjection

    load = {"torch_dtype": dtype}
    return {
        "tokenizer": None,
        "text_encoder": CLIPTextModelWithProjection.from_pretrained(f"{model_dir}/text_encoder", **load).eval(),
        "transformer": UVit2DModel.from_pretrained(f"{model_dir}/transformer", **load).eval(),
        "vqvae": VQModel.from_pretrained(f"{model_dir}/vqvae", **load).eval(),
        "scheduler": AmusedScheduler.from_pretrained(f"{model_dir}/scheduler"),
    }


@torch.no_grad()
def run(model_dir, inputs, dtype=torch.float32, margins=None):
    """Runs the pipeline that `inputs` ask for and returns the tensors of the parity contract as f32/i64."""
    margins = margins or Margins()
    parts = components(model_dir, dtype)
    # The pipelines give `decode` codes of `latent_channels`; a codebook of another width needs its own width there.
    lookup = parts["vqvae"].quantize.get_codebook_entry
    code_width = parts["vqvae"].quantize.vq_embed_dim
    parts["vqvae"].quantize.get_codebook_entry = lambda ids, shape: lookup(ids, (*shape[:3], code_width))
    if "mask" in inputs:
        pipeline, extra = AmusedInpaintPipeline, {"image": inputs["image"], "mask_image": inputs["mask"].clone()}
    elif "image" in inputs:
        pipeline, extra = AmusedImg2ImgPipeline, {"image": inputs["image"]}
    else:
        width, height = (int(x) for x in inputs["micro_conds"][0, :2])
        pipeline, extra = AmusedPipeline, {"width": width, "height": height}
    if "strength" in inputs:
        extra["strength"] = round(float(inputs["strength"]), 6)
    pipe = pipeline(**parts)
    pipe.set_progress_bar_config(disable=True)

    def encode(ids):
        out = parts["text_encoder"](ids, return_dict=True, output_hidden_states=True)
        return out.hidden_states[-2], out.text_embeds

    hidden, pooled = encode(inputs["prompt_ids"])
    negative_hidden, negative_pooled = encode(inputs["negative_prompt_ids"])
    guidance = float(inputs["guidance_scale"])
    logits = []
    record = scheduling_amused.AmusedScheduler.step

    def recorded_step(self, model_output, *args, **kwargs):
        logits.append(model_output.flatten(2).transpose(1, 2))
        return record(self, model_output, *args, **kwargs)

    tokens = []
    with given_noise(inputs, margins), mock.patch.object(scheduling_amused.AmusedScheduler, "step", recorded_step):
        image = pipe(
            prompt_embeds=pooled,
            encoder_hidden_states=hidden,
            negative_prompt_embeds=negative_pooled,
            negative_encoder_hidden_states=negative_hidden,
            num_inference_steps=int(inputs["steps"]),
            guidance_scale=guidance,
            temperature=tuple(inputs["temperature"].tolist()),
            micro_conditioning_crop_coord=tuple(int(x) for x in inputs["micro_conds"][0, 2:4]),
            micro_conditioning_aesthetic_score=int(inputs["micro_conds"][0, 4]),
            callback=lambda step, timestep, latents: tokens.append(latents.flatten().clone()),
            output_type="pt",
            **extra,
        ).images
    return {
        "prompt_embeds": hidden.float(),
        "pooled_embeds": pooled.float(),
        "logits": logits[0].float().contiguous(),
        "tokens": torch.stack(tokens).contiguous(),
        "image": image.float().contiguous(),
    }


def relative_l2(value, reference):
    """‖value − reference‖₂ / ‖reference‖₂."""
    return float((value.double() - reference.double()).norm() / reference.double().norm().clamp(1e-30))


def max_relative(value, reference):
    """max |value − reference| / max |reference|."""
    return float((value.double() - reference.double()).abs().max() / reference.double().abs().max().clamp(1e-30))
