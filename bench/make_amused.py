"""A folder with the published aMUSEd configuration, random weights and a toy tokenizer, in diffusers layout.

Speed does not depend on what the weights are, so a benchmark needs no download.
Usage: make_amused.py 256|512 DIR
"""

import json
import sys
from pathlib import Path

import torch
from diffusers import AmusedPipeline, AmusedScheduler, UVit2DModel, VQModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer


def tokenizer(folder: Path) -> CLIPTokenizer:
    """Bytes only, no merges; the two special tokens at the ids that the text encoder expects."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(ByteLevel.alphabet())
    vocab = {piece: i for i, piece in enumerate(alphabet + [c + "</w>" for c in alphabet])}
    vocab |= {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)


def main() -> None:
    size, out = int(sys.argv[1]), Path(sys.argv[2])
    torch.manual_seed(0)
    large = size == 512
    transformer = UVit2DModel(
        hidden_size=1024, use_bias=False, hidden_dropout=0.0, cond_embed_dim=768, micro_cond_encode_dim=256,
        micro_cond_embed_dim=1280, encoder_hidden_size=768, vocab_size=8256, codebook_size=8192, in_channels=768,
        block_out_channels=768, num_res_blocks=3, downsample=large, upsample=large, block_num_heads=12,
        num_hidden_layers=22, num_attention_heads=16, attention_dropout=0.0, intermediate_size=2816,
        layer_norm_eps=1e-6, ln_elementwise_affine=True, sample_size=size // 16,
    )  # fmt: skip
    vqvae = VQModel(
        act_fn="silu", block_out_channels=[128, 256, 256, 512, 768], in_channels=3, out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * 5, up_block_types=["UpDecoderBlock2D"] * 5, latent_channels=64,
        layers_per_block=2, norm_num_groups=32, num_vq_embeddings=8192, sample_size=32,
        mid_block_add_attention=False, lookup_from_codebook=True,
    )  # fmt: skip
    text_encoder = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
            max_position_embeddings=77, hidden_act="quick_gelu", projection_dim=768, bos_token_id=49406,
            eos_token_id=49407, pad_token_id=1,
        )
    )  # fmt: skip
    AmusedPipeline(
        vqvae=vqvae, tokenizer=tokenizer(out / "tokenizer"), text_encoder=text_encoder, transformer=transformer,
        scheduler=AmusedScheduler(mask_token_id=8255),
    ).save_pretrained(out)  # fmt: skip


if __name__ == "__main__":
    main()
