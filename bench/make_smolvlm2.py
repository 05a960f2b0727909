"""A folder with the published SmolVLM2-256M configuration and random weights, in bf16 as it is published.

Speed does not depend on what the weights are, so a benchmark needs no download.
Usage: make_smolvlm2.py DIR
"""

import sys
from pathlib import Path

import torch
from transformers import GenerationConfig, SmolVLMConfig, SmolVLMForConditionalGeneration


def config() -> SmolVLMConfig:
    return SmolVLMConfig(
        image_token_id=49190, pad_token_id=2, scale_factor=4, tie_word_embeddings=False,
        text_config=dict(
            model_type="llama", vocab_size=49280, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
            num_attention_heads=9, num_key_value_heads=3, head_dim=64, rms_norm_eps=1e-5, rope_theta=100000.0,
            max_position_embeddings=8192, bos_token_id=1, eos_token_id=49279, pad_token_id=2,
            tie_word_embeddings=False,
        ),
        vision_config=dict(
            hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, image_size=512,
            patch_size=16, layer_norm_eps=1e-6, hidden_act="gelu_pytorch_tanh",
        ),
    )  # fmt: skip


def main() -> None:
    out = Path(sys.argv[1])
    torch.manual_seed(0)
    model = SmolVLMForConditionalGeneration(config()).to(torch.bfloat16)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=49279, pad_token_id=2)
    model.save_pretrained(out)


if __name__ == "__main__":
    main()
