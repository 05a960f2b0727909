"""Writes reference.json: what diffusers and transformers expect of an exported folder.

    python crates/train/tests/reference.py FOLDER > crates/train/tests/reference.json

FOLDER is any folder written by `sango-train amused export`; only its configs and tokenizer are read.
"""

import json
import sys
from pathlib import Path

from diffusers import UVit2DModel, VQModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

folder = Path(sys.argv[1])


def shapes(model):
    return {name: list(tensor.shape) for name, tensor in sorted(model.state_dict().items())}


vqvae = VQModel.from_config(VQModel.load_config(folder / "vqvae"))
transformer = UVit2DModel.from_config(UVit2DModel.load_config(folder / "transformer"))
text = CLIPTextModelWithProjection(CLIPTextConfig.from_pretrained(folder / "text_encoder"))
tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
prompts = [
    "",
    "a large red circle on a blue background",
    "small  CYAN star, bottom right,gray background",
    "a cross's 42nd ring\tat the top left!",
    "Ein grünes Dreieck — 三角",
    "a small green star moves left over a white background",
]
print(
    json.dumps(
        {
            "keys": {"vqvae": shapes(vqvae), "transformer": shapes(transformer), "text_encoder": shapes(text)},
            "ids": {p: tokenizer(p, padding="max_length", truncation=True).input_ids for p in prompts},
        },
        ensure_ascii=False,
        separators=(",", ":"),
    )
)
