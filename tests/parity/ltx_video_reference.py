"""Runs the diffusers LTX pipelines with every random draw given as a tensor.

`run` takes the inputs of the parity contract and returns its outputs. Beyond the contract it knows these inputs, which Sango
understands as well:

* `image_noise` [1,C,1,h,w]: draws the picture's latents from the encoder's distribution (else its mode is taken);
* `sigmas` or `timesteps` [steps] in place of `steps`;
* `condition.N.frames` [1,3,T,H,W] in -1..1 with `condition.N.frame_index` i64 [1], `condition.N.strength` [1] and, where
  its tokens are appended, `condition.N.noise`; `image_cond_noise_scale` [1] with `image_cond_noise` [steps,tokens,C]:
  `LTXConditionPipeline`;
* `stg_scale` [1], `stg_blocks` i64 [n], `stg_mode` i64 [1] (an index into STG_MODES): spatio-temporal guidance.
"""

import contextlib
from unittest import mock

import numpy
import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTXConditionPipeline,
    LTXImageToVideoPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)
from diffusers.models.transformers import transformer_ltx
from diffusers.pipelines.ltx import pipeline_ltx, pipeline_ltx_condition
from diffusers.pipelines.ltx.pipeline_ltx import rescale_noise_cfg
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition, linear_quadratic_schedule
from transformers import T5EncoderModel

STG_MODES = ["attention_values", "attention_skip", "residual", "transformer_block"]


def components(model_dir, dtype):
    """The parts of a pipeline folder, the tokenizer left out (ids are inputs)."""
    load = {"torch_dtype": dtype}
    return {
        "tokenizer": None,
        "text_encoder": T5EncoderModel.from_pretrained(f"{model_dir}/text_encoder", dtype=dtype).eval(),
        "transformer": LTXVideoTransformer3DModel.from_pretrained(f"{model_dir}/transformer", **load).eval(),
        "vae": AutoencoderKLLTXVideo.from_pretrained(f"{model_dir}/vae", **load).eval(),
        "scheduler": FlowMatchEulerDiscreteScheduler.from_pretrained(f"{model_dir}/scheduler"),
    }


@contextlib.contextmanager
def perturbed(transformer, blocks, mode):
    """The transformer with `blocks` disturbed for the last row of a batch, as Lightricks' `SkipLayerStrategy` does it."""
    with contextlib.ExitStack() as stack:
        for index in blocks:
            block = transformer.transformer_blocks[index]
            forward = block.forward
            if mode == "transformer_block":

                def skip(hidden_states, *args, forward=forward, **kwargs):
                    out = forward(hidden_states, *args, **kwargs)
                    return torch.cat([out[:-1], hidden_states[-1:]])

                stack.enter_context(mock.patch.object(block, "forward", skip))
            elif mode == "residual":

                def no_residual(hidden_states, *args, block=block, forward=forward, **kwargs):
                    # What comes after the self-attention adds to its output alone: taking the input away there is adding
                    # its negative to what the gated output projection gives.
                    attn1, temb = block.attn1.forward, kwargs["temb"]
                    gate = (block.scale_shift_table[None, None] + temb.unflatten(2, (6, -1)))[:, :, 2]

                    def without(hidden_states=None, original=hidden_states, **kwargs):
                        out = attn1(hidden_states=hidden_states, **kwargs)
                        return torch.cat([out[:-1], out[-1:] - original[-1:] / gate[-1:]])

                    with mock.patch.object(block.attn1, "forward", without):
                        return forward(hidden_states, *args, **kwargs)

                stack.enter_context(mock.patch.object(block, "forward", no_residual))
            else:

                def processor(attn, hidden_states, *args, mode=mode, **kwargs):
                    to_out = attn.to_out[0].forward
                    other = attn.to_v(hidden_states) if mode == "attention_values" else hidden_states

                    def replaced(mixed):
                        return to_out(torch.cat([mixed[:-1], other[-1:]]))

                    with mock.patch.object(attn.to_out[0], "forward", replaced):
                        return transformer_ltx.LTXVideoAttnProcessor()(attn, hidden_states, *args, **kwargs)

                class Processor:
                    def __init__(self, call):
                        self.call = call

                    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None,
                                 image_rotary_emb=None):  # fmt: skip
                        return self.call(attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)

                stack.enter_context(mock.patch.object(block.attn1, "processor", Processor(processor)))
        yield


def number(inputs, name, default=None):
    return round(float(inputs[name]), 6) if name in inputs else default


def conditions(inputs):
    """The conditions of `LTXConditionPipeline`, with the frames still as tensors."""
    found, n = [], 0
    while f"condition.{n}.frames" in inputs:
        found.append({
            "frames": inputs[f"condition.{n}.frames"].float(),
            "frame_index": int(inputs.get(f"condition.{n}.frame_index", 0)),
            "strength": number(inputs, f"condition.{n}.strength", 1.0),
            "noise": inputs.get(f"condition.{n}.noise"),
        })  # fmt: skip
        n += 1
    return found


def encode_image(vae, image, noise, dtype):
    """Normalised latents of the picture, as `LTXImageToVideoPipeline.prepare_latents` has them."""
    distribution = vae.encode(image.to(dtype).unsqueeze(2)).latent_dist
    latents = distribution.mode() if noise is None else distribution.mean + distribution.std * noise.to(dtype)
    return LTXPipeline._normalize_latents(latents.float(), vae.latents_mean, vae.latents_std)


@torch.no_grad()
def run(model_dir, inputs, dtype=torch.float32):
    """Runs the pipeline that `inputs` ask for and returns the tensors of the parity contract as f32."""
    parts = components(model_dir, dtype)
    vae, transformer, scheduler = parts["vae"], parts["transformer"], parts["scheduler"]
    _, channels, frames, height, width = inputs["latents"].shape
    guidance = number(inputs, "guidance_scale", 3.0)
    wanted = conditions(inputs)
    conditioned = bool(wanted) or "image_cond_noise_scale" in inputs

    def encode(name):
        mask = inputs[f"{name}_mask"].bool()
        # `LTXPipeline` lets the text encoder see the padding, `LTXConditionPipeline` does not.
        seen = {"attention_mask": mask} if conditioned else {}
        return parts["text_encoder"](inputs[f"{name}_ids"], **seen)[0], mask

    prompt_embeds, prompt_mask = encode("prompt")
    negative_embeds, negative_mask = encode("negative_prompt")
    kwargs = dict(
        prompt_embeds=prompt_embeds, prompt_attention_mask=prompt_mask, negative_prompt_embeds=negative_embeds,
        negative_prompt_attention_mask=negative_mask, guidance_scale=guidance,
        guidance_rescale=number(inputs, "guidance_rescale", 0.0), frame_rate=number(inputs, "frame_rate", 25),
        height=height * vae.spatial_compression_ratio, width=width * vae.spatial_compression_ratio,
        num_frames=(frames - 1) * vae.temporal_compression_ratio + 1, output_type="latent",
        num_inference_steps=int(inputs["steps"]) if "steps" in inputs else 50,
    )  # fmt: skip
    recorded = []
    noise = LTXPipeline._pack_latents(inputs["latents"])
    unpack = lambda latents: LTXPipeline._unpack_latents(latents, frames, height, width)  # noqa: E731
    with contextlib.ExitStack() as stack:
        patch = lambda *args: stack.enter_context(mock.patch.object(*args))  # noqa: E731
        if "stg_scale" in inputs:
            latents = with_stg(parts, inputs, kwargs, noise, recorded)
        elif conditioned:
            latents = condition_pipeline(parts, inputs, kwargs, wanted, recorded, patch)
        elif "image" in inputs:
            pipe = LTXImageToVideoPipeline(**parts)
            pipe.set_progress_bar_config(disable=True)
            first = encode_image(vae, inputs["image"], inputs.get("image_noise"), dtype)
            start = torch.cat([first, inputs["latents"][:, :, 1:]], dim=2)
            unpacked = pipe._unpack_latents
            patch(pipe, "_unpack_latents", lambda *a: recorded.append(unpacked(*a)) or recorded[-1])
            latents = unpack(pipe(latents=LTXPipeline._pack_latents(start), **kwargs).frames)
        else:
            pipe = LTXPipeline(**parts)
            pipe.set_progress_bar_config(disable=True)
            step = scheduler.step
            patch(scheduler, "step", lambda v, *a, **k: recorded.append(unpack(v)) or step(v, *a, **k))
            if "timesteps" in inputs or "sigmas" in inputs:
                patch(pipeline_ltx, "retrieve_timesteps", custom_timesteps(inputs))
            latents = unpack(pipe(latents=noise, **kwargs).frames)
    return {
        "prompt_embeds": prompt_embeds.float().contiguous(),
        "velocity": recorded[0].float().contiguous(),
        "latents": latents.float().contiguous(),
        "video": decode(vae, latents, inputs, dtype).float().contiguous(),
    }


def custom_timesteps(inputs):
    """`retrieve_timesteps` with timesteps or sigmas of one's own in place of the pipeline's."""
    own = {name: inputs[name].tolist() for name in ("timesteps", "sigmas") if name in inputs}

    def retrieve(scheduler, steps, device, timesteps=None, sigmas=None, mu=None):
        scheduler.set_timesteps(device=device, mu=mu, **own)
        return scheduler.timesteps, len(scheduler.timesteps)

    return retrieve


def condition_pipeline(parts, inputs, kwargs, wanted, recorded, patch):
    """`LTXConditionPipeline`; its random draws are the inputs."""
    pipe = LTXConditionPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    scale = number(inputs, "image_cond_noise_scale", 0.15) if wanted else 0.0
    draws = [inputs["latents"]] + [c["noise"] for c in wanted if c["noise"] is not None]
    draws += [n[None] for n in inputs["image_cond_noise"]] if scale > 0 else []
    patch(pipeline_ltx_condition, "randn_tensor", lambda shape, **k: draws.pop(0).reshape(shape).clone())
    patch(pipeline_ltx_condition, "retrieve_latents", lambda out, **k: out.latent_dist.mode())
    given = [LTXVideoCondition(image=None, video=c["frames"], frame_index=c["frame_index"], strength=c["strength"])
             for c in wanted]  # fmt: skip
    patch(pipe.video_processor, "preprocess_video", lambda frames, *a: frames)
    scheduler = parts["scheduler"]
    step, extra = scheduler.step, []

    def recording(velocity, *args, **kwargs):
        own = inputs["latents"][0, 0].numel()
        extra.append(velocity.shape[1] - own)
        recorded.append(LTXPipeline._unpack_latents(-velocity[:, extra[-1]:], *inputs["latents"].shape[2:]))
        return step(velocity, *args, **kwargs)

    patch(scheduler, "step", recording)
    if scheduler.config.use_dynamic_shifting:
        raise SystemExit("LTXConditionPipeline has no schedule for dynamic shifting")
    if "timesteps" in inputs:
        kwargs["timesteps"] = inputs["timesteps"].tolist()
    latents = pipe(conditions=given or None, image_cond_noise_scale=scale, **kwargs).frames
    assert not draws, f"{len(draws)} draws were not made"
    return latents


def with_stg(parts, inputs, kwargs, latents, recorded):
    """`LTXPipeline`'s loop with a third row in the batch that is disturbed, and Lightricks' formula."""
    transformer, scheduler, vae = parts["transformer"], parts["scheduler"], parts["vae"]
    _, channels, frames, height, width = inputs["latents"].shape
    guided = kwargs["guidance_scale"] > 1
    embeds = [kwargs["negative_prompt_embeds"]] * guided + [kwargs["prompt_embeds"]] * 2
    masks = [kwargs["negative_prompt_attention_mask"]] * guided + [kwargs["prompt_attention_mask"]] * 2
    mu = pipeline_ltx.calculate_shift(
        latents.shape[1], scheduler.config.base_image_seq_len, scheduler.config.max_image_seq_len,
        scheduler.config.base_shift, scheduler.config.max_shift)  # fmt: skip
    steps = kwargs["num_inference_steps"]
    scheduler.set_timesteps(sigmas=numpy.linspace(1.0, 1 / steps, steps), mu=mu)
    blocks, mode = inputs["stg_blocks"].tolist(), STG_MODES[int(inputs["stg_mode"])]
    ratio = vae.spatial_compression_ratio
    with perturbed(transformer, blocks, mode):
        for t in scheduler.timesteps:
            batch = torch.cat([latents] * len(embeds)).to(embeds[0].dtype)
            out = transformer(
                hidden_states=batch, encoder_hidden_states=torch.cat(embeds), timestep=t.expand(len(embeds)),
                encoder_attention_mask=torch.cat(masks), num_frames=frames, height=height, width=width,
                rope_interpolation_scale=(vae.temporal_compression_ratio / kwargs["frame_rate"], ratio, ratio),
                return_dict=False)[0].float()  # fmt: skip
            text, disturbed = out[-2:-1], out[-1:]
            velocity = out[:1] + kwargs["guidance_scale"] * (text - out[:1]) if guided else text
            velocity = velocity + number(inputs, "stg_scale") * (text - disturbed)
            if kwargs["guidance_rescale"] > 0:
                velocity = rescale_noise_cfg(velocity, text, kwargs["guidance_rescale"])
            recorded.append(LTXPipeline._unpack_latents(velocity, frames, height, width))
            latents = scheduler.step(velocity, t, latents, return_dict=False)[0]
    return LTXPipeline._unpack_latents(latents, frames, height, width)


def decode(vae, latents, inputs, dtype):
    """The end of the pipelines, with the decoder's noise given (and none injected: that draw has no name)."""
    latents = LTXPipeline._denormalize_latents(latents, vae.latents_mean, vae.latents_std, vae.config.scaling_factor)
    latents, timestep = latents.to(dtype), None
    if vae.config.timestep_conditioning:
        decode_timestep = number(inputs, "decode_timestep", 0.0)
        scale = torch.tensor(number(inputs, "decode_noise_scale", decode_timestep), dtype=dtype)
        timestep = torch.tensor([decode_timestep], dtype=dtype)
        latents = (1 - scale) * latents + scale * inputs["decode_noise"].to(dtype)
    zeros = lambda *shape, generator=None, **kwargs: torch.zeros(*shape, **kwargs)  # noqa: E731
    with mock.patch.object(torch, "randn", zeros):
        return vae.decode(latents.to(vae.dtype), timestep, return_dict=False)[0]


def linear_quadratic(steps):
    return linear_quadratic_schedule(steps).tolist()
