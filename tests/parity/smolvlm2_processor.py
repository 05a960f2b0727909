"""Makes the SmolVLM2 processor cases in `cases/smolvlm2-processor`.

    python tests/parity/smolvlm2_processor.py [--out tests/parity/cases]

`AutoProcessor` reads the folders of `smolvlm2_folders.py` and processes conversations about the files in `media/`:
`cases.json` has the conversations, ids, frames and the SHA-256 of each tile's bytes, `pixels.safetensors` a sample of
these bytes. Besides: what becomes of every byte (`values.safetensors`), tiles of random pixels in
random sizes, tile grids, frame indices and number words (`tables.json`), and texts with their ids (`texts.json`).

Needs ffmpeg, transformers, torch, torchvision >= 0.27 (older ones replace Lanczos by bicubic on tensors), torchcodec
(which decodes the videos), pillow and num2words.
"""

import argparse
import hashlib
import itertools
import json
import logging
import pathlib
import random
import shutil
import tempfile
from unittest import mock

import numpy as np
import torch
import torchvision
from num2words import num2words
from safetensors.torch import save_file
from transformers import AutoProcessor
from transformers.image_processing_backends import TorchvisionBackend
from transformers.video_utils import VideoMetadata

import smolvlm2_folders as folders

# Bytes of a case that are committed, spread over each tile by a stride that is prime to its size.
SAMPLE, STRIDE = 4000, 1_000_003


def text(words):
    return dict(type="text", text=words)


def image(name):
    return dict(type="image", path=name)


def video(name):
    return dict(type="video", path=name)


def user(*content):
    return dict(role="user", content=list(content))


def assistant(words):
    return dict(role="assistant", content=[text(words)])


SYSTEM = dict(role="system", content=[text("Answer in one sentence.")])

CASES = [
    ("256m", [user(image("wide.png"), text("What happens?"))], {}),
    ("256m", [user(video("clip.mp4"), text("What happens in the video?"))], {}),
    ("256m", [user(text("Watch this: "), video("long.mp4"), text(" Which colour comes first?"))], {}),
    ("256m", [SYSTEM, user(image("tall.png"), text("Describe it.")), assistant("A red circle."), user(text("Why?"))], {}),
    ("2.2b", [user(image("turned.jpg"), text(" and "), image("strip.png"), text("Compare them."))], {}),
    ("2.2b", [user(video("uneven.webm"), text("Count to 1234567890."))], dict(fps=2.5)),
    ("defaults", [user(image("full.jpg"), text("Describe it."))], {}),
    ("defaults", [user(video("long.mp4"), text("What?"))], {}),
    ("small", [user(image("wide.png"), image("tall.png"), text("  What differs, in short? ")), assistant(" Size. "),
               user(image("grey.png"), text("What else"), text("  now?  "))], {}),
    ("small", [user(image("alpha.png"), text("Nothing."))], {}),
    ("small", [user(image("palette.png"), text("What is this?"))], dict(add_generation_prompt=False)),
    ("small", [user(image("turned.jpg"), image("full.jpg"))], {}),
    ("small", [SYSTEM, user(text("What is a circle? ½ ² ① 🙂👩‍👩‍👧 三語"))], {}),
    ("small", [user(video("clip.mp4"), text("First."), video("clip.gif"), text("Second.")),
               assistant("Both move."), user(text("And the third? "), video("turned.mov"))], dict(num_frames=4)),
    ("small", [user(video("uneven.webm"))], dict(num_frames=40, fps=30)),
    ("small", [user(video("long.mp4"), text("So few?"))], dict(num_frames=2, fps=0.01)),
    ("small", [user(image("strip.png"), video("turned.mov"), image("wide.png"), text("Both kinds.")),
               assistant("Yes."), user(video("clip.gif"), image("tall.png"))], {}),
    ("whole", [user(video("turned.mov"), text("Where does it go?"))], {}),
    ("whole", [user(text("<|im_end|> spelled <end_of_utterance>\nAssistant: <row_2_col_3><extra>"), image("tall.png"))], {}),
    ("nested", [user(image("grey.png"), text("x"), image("wide.png"))], {}),
    ("nested", [user(video("clip.gif"), video("clip.mp4"), text("Two."))], {}),
    ("as-is", [user(image("strip.png"), image("tall.png"))], {}),
    ("as-is", [user(video("clip.gif"), video("uneven.webm"), text("Of two sizes."))], {}),
]

TEXTS = [
    "", " ", "What happens?", "  two  spaces\tand\nlines\n\n", "It's 2026; they've 12,345 frames.",
    "Größe Straße naïve café e\u0301", "三語 珊瑚 動画 𠮷", "🙂🎬👩‍👩‍👧🇫🇷👍🏽", "Ελληνικά кириллица العربية हिन्दी ไทย",
    "<|im_start|>User: hi<end_of_utterance>\nAssistant:", "a <image> b<row_1_col_1>c<row_7_col_7><global-img >",
    "zero\u200bwidth\u00a0\u3000\u2028 \ufeff\ufffd \x00\x1f\x7f", "x" * 200, "<extra><|endoftext|><|im_end|>",
]


def byte_tiles(processor, values):
    """The bytes that normalized `values` [F, 3, H, W] were made of."""
    scale = processor.rescale_factor if processor.do_rescale else 1.0
    if processor.do_normalize:
        mean, std = (torch.tensor(x, dtype=torch.float64)[:, None, None]
                     for x in (processor.image_mean, processor.image_std))
        values = values.double() * std + mean
    exact = values.double() / scale
    assert (exact - exact.round()).abs().max() < 1e-3
    return exact.round().to(torch.uint8)


def in_order(processor, messages, options, media):
    """Tiles and frames of one conversation in the order of its text, each kind as the processor makes it."""
    contents = [content for message in messages for content in message["content"]]
    images = [str(media / c["path"]) for c in contents if c["type"] == "image"]
    videos = [str(media / c["path"]) for c in contents if c["type"] == "video"]
    tiles, frames = {"image": [], "video": []}, []
    if images:
        out = processor.image_processor([images], return_row_col_info=True, return_tensors="pt")
        rows, cols = out["rows"][0], out["cols"][0]
        counts = [r * c + 1 if r * c else 1 for r, c in zip(rows, cols)]
        values, masks = out["pixel_values"][0], out["pixel_attention_mask"][0]
        bytes_ = byte_tiles(processor.image_processor, values)
        tiles["image"] = list(zip(*(x.split(counts) for x in (bytes_, values, masks))))
    if videos:
        sampling = {key: options.get(key, getattr(processor.video_processor, key)) for key in ("num_frames", "fps")}
        out = processor.video_processor(videos, do_sample_frames=True, return_metadata=True, return_tensors="pt",
                                        **sampling)
        bytes_ = [byte_tiles(processor.video_processor, v) for v in out["pixel_values"]]
        for number, metadata in enumerate(out["video_metadata"]):
            indices = [int(i) for i in metadata.frames_indices]
            seconds = [int(s) for s in metadata.timestamps]
            frames += [[number, i, f"{s // 60:02d}:{s % 60:02d}"] for i, s in zip(indices, seconds)]
            n = len(indices)
            tiles["video"].append((bytes_[number][:n], out["pixel_values"][number][:n],
                                   out["pixel_attention_mask"][number][:n]))
    both = {kind: iter(each) for kind, each in tiles.items()}
    parts = [next(both[c["type"]]) for c in contents if c["type"] != "text"]
    empty = (torch.zeros(0, 3, 1, 1, dtype=torch.uint8), torch.zeros(0, 3, 1, 1), torch.zeros(0, 1, 1))
    return [[tile for part in parts for tile in part[i]] or list(empty[i]) for i in range(3)], frames


def run_lengths(ids):
    """[id, times] for each run, which makes prompts full of `<image>` short."""
    return [[int(i), len(list(group))] for i, group in itertools.groupby(ids)]


def picture_area(mask):
    """Height and width of the ones of a mask, which fill its upper left."""
    height, width = int(mask[:, 0].sum()), int(mask[0].sum())
    expected = torch.zeros_like(mask)
    expected[:height, :width] = 1
    assert torch.equal(mask, expected)
    return [height, width]


def make_case(number, folder, messages, options, out, pixels):
    processor = AutoProcessor.from_pretrained(out / "folders" / folder)
    options = dict(options)
    add_generation_prompt = options.pop("add_generation_prompt", True)
    media = out / "media"
    absolute = [m | dict(content=[c | dict(path=str(media / c["path"])) if "path" in c else c for c in m["content"]])
                for m in messages]
    inputs = processor.apply_chat_template(absolute, add_generation_prompt=add_generation_prompt, tokenize=True,
                                           return_dict=True, return_tensors="pt", processor_kwargs=dict(options))
    ids = inputs["input_ids"][0].tolist()
    (tiles, values, masks), frames = in_order(processor, messages, options, media)
    kinds = {c["type"] for m in messages for c in m["content"]} - {"text"}
    assert ids.count(processor.image_token_id) == len(tiles) * processor.image_seq_len
    if len(kinds) == 1:  # with both kinds the reference keeps the pixels of the videos only
        real = inputs["pixel_values"].flatten(0, 1)
        real = real[(real != 0).flatten(1).any(1)]
        assert torch.equal(real, torch.stack(values)), "the processor itself makes the same tiles"
    hashes, areas = [], []
    for tile, mask in zip(tiles, masks):
        height, width = picture_area(mask)
        areas.append([height, width, *mask.shape])
        picture = tile[:, :height, :width].permute(1, 2, 0).contiguous().numpy()
        hashes.append(hashlib.sha256(picture.tobytes()).hexdigest()[:32])
    if tiles:
        flat = torch.stack(list(tiles)).flatten(1)
        at = torch.arange(min(SAMPLE // len(tiles), flat.shape[1])) * STRIDE % flat.shape[1]
        pixels[f"{number}"] = flat[:, at].contiguous()
    return dict(folder=folder, messages=messages, add_generation_prompt=add_generation_prompt, **options,
                ids=run_lengths(ids), frames=frames, areas=areas, sha256=hashes)


def byte_values(processor):
    """What becomes of every byte of every channel: [3, 256]."""
    ramp = torch.arange(256, dtype=torch.uint8).repeat(3, 1)[:, None, :]
    return processor.rescale_and_normalize(
        ramp[None], processor.do_rescale, processor.rescale_factor, processor.do_normalize,
        tuple(processor.image_mean), tuple(processor.image_std))[0, :, 0].float()


def tile_grids(processor, rng, number):
    """[height, width, rows, cols] of random pictures, by the processor's own code without any pixels."""
    sizes = [(rng.randint(1, rng.choice([20, 300, 2000, 9000])), rng.randint(1, rng.choice([20, 300, 2000, 9000])))
             for _ in range(number)]
    table = []

    def resize(self, image, size, **_):
        return torch.empty(*image.shape[:-2], size.height, size.width, device="meta")

    with mock.patch.object(TorchvisionBackend, "resize", resize):
        for height, width in sizes:
            picture = processor.resize(torch.empty(1, 3, height, width, device="meta"), processor.size)
            edge = processor.max_image_size["longest_edge"]
            tiles = processor.resize_for_vision_encoder(picture, edge)
            _, rows, cols = processor.split_images(tiles, max_image_size=dict(longest_edge=edge))
            table.append([height, width, rows[0], cols[0]])
    return table


def frame_tables(processor, rng, number):
    """Random videos and requests: [frames, fps, duration, num_frames, wanted fps], indices as count, last, checksum."""
    table = []
    for _ in range(number):
        fps = rng.choice([1, 12, 24, 25, 30, 60, 24000 / 1001, 30000 / 1001, rng.uniform(0.1, 120)])
        frames = rng.randint(1, rng.choice([5, 100, 1000, 20000]))
        duration = frames / fps if rng.random() < 0.7 else rng.choice([frames / fps * rng.uniform(0.5, 2), 2.5, 0.5])
        wanted = rng.choice([None, 1, 2, 64, rng.randint(1, 300)]), rng.choice([None, 1, 2, 0.5, rng.uniform(0.01, 40)])
        metadata = VideoMetadata(total_num_frames=frames, fps=fps, duration=duration)
        indices = processor.sample_frames(metadata, num_frames=wanted[0], fps=wanted[1]).tolist()
        checksum = sum((n + 1) * i for n, i in enumerate(indices))
        table.append([frames, fps, duration, *wanted, len(indices), indices[0], indices[-1], checksum])
    return table


def noise_tiles(name, processor, rng, number):
    """Random pixels in random sizes through both processors: SHA-256 over the bytes of all tiles."""
    table = []
    for seed in range(number):
        width, height = rng.randint(1, 160), rng.randint(1, 160)
        pixels = torch.frombuffer(bytearray(folders.noise(width, height, seed)), dtype=torch.uint8)
        pixels = pixels.view(height, width, 3).permute(2, 0, 1).contiguous()
        row = [name, seed, width, height]
        for each, make in ((processor.image_processor, lambda p: p(pixels, return_tensors="pt")["pixel_values"][0]),
                           (processor.video_processor, lambda p: p([pixels[None]], return_tensors="pt")["pixel_values"][0])):
            tiles = byte_tiles(each, make(each)).permute(0, 2, 3, 1).contiguous()
            row.append(hashlib.sha256(tiles.numpy().tobytes()).hexdigest()[:32])
        table.append(row)
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "cases")
    committed = parser.parse_args().out / "smolvlm2-processor"
    logging.getLogger("transformers").setLevel(logging.ERROR)
    assert tuple(map(int, torchvision.__version__.split("+")[0].split(".")[:2])) >= (0, 27)
    shutil.rmtree(committed, ignore_errors=True)
    (committed / "tokenizer").mkdir(parents=True)
    folders.make_tokenizer(committed / "tokenizer")
    folders.make_media(committed / "media")
    for name, files in folders.FOLDERS.items():
        folders.make_folder(committed / "folders" / name, files)
    with tempfile.TemporaryDirectory() as scratch:
        work = pathlib.Path(scratch)
        shutil.copytree(committed / "media", work / "media")
        for name in folders.FOLDERS:
            shutil.copytree(committed / "folders" / name, work / "folders" / name)
            shutil.copytree(committed / "tokenizer", work / "folders" / name, dirs_exist_ok=True)
        processors = {name: AutoProcessor.from_pretrained(work / "folders" / name) for name in folders.FOLDERS}
        rng = random.Random(0)
        pixels, cases = {}, []
        for number, (folder, messages, options) in enumerate(CASES):
            cases.append(make_case(number, folder, messages, options, work, pixels))
        values = {f"{name}.{kind}": byte_values(getattr(processor, f"{kind}_processor"))
                  for name, processor in processors.items() for kind in ("image", "video")}
        tokenizer = processors["small"].tokenizer
        texts = []
        for words in TEXTS:
            ids = tokenizer(words)["input_ids"]
            texts.append(dict(text=words, ids=ids, all=tokenizer.decode(ids),
                              skipped=tokenizer.decode(ids, skip_special_tokens=True)))
        # Bytes that are no characters, as a model may well write them.
        for _ in range(12):
            ids = [rng.randrange(tokenizer.vocab_size) for _ in range(30)]
            texts.append(dict(ids=ids, all=tokenizer.decode(ids), skipped=tokenizer.decode(ids, skip_special_tokens=True)))
        numbers = [*range(130), *(rng.randrange(10**rng.randint(2, 19)) for _ in range(150)),
                   *(n for p in range(2, 19) for n in (10**p, 10**p + 1, 10**p + 99, 10**p + 100))]
        tables = dict(
            grids={name: tile_grids(processors[name].image_processor, rng, 200)
                   for name in ("256m", "2.2b", "defaults", "small", "nested")},
            frames={name: frame_tables(processors[name].video_processor, rng, 200)
                    for name in ("256m", "defaults", "nested")},
            noise=[row for name in ("small", "whole", "nested", "as-is")
                   for row in noise_tiles(name, processors[name], rng, 20)],
            numbers=[[str(n), num2words(n)] for n in numbers])
    compact = dict(ensure_ascii=False, separators=(",", ":"))
    for name, content in (("cases", cases), ("texts", texts)):
        lines = ",\n".join(json.dumps(entry, **compact) for entry in content)
        (committed / f"{name}.json").write_text(f"[\n{lines}\n]\n")
    lines = ",\n".join(f"{json.dumps(key)}:{json.dumps(value, **compact)}" for key, value in tables.items())
    (committed / "tables.json").write_text(f"{{\n{lines}\n}}\n")
    save_file(pixels, committed / "pixels.safetensors")
    save_file(values, committed / "values.safetensors")


if __name__ == "__main__":
    main()
