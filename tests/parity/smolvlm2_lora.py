"""Makes the LoRA cases under `cases/smolvlm2-lora`: adapters of models in `cases/smolvlm2-*`, saved by PEFT.

    python tests/parity/smolvlm2_lora.py [--cases tests/parity/cases]

Each case holds the adapter, `inputs.safetensors`, `expected.safetensors` (the parity contract, computed by PEFT with the
adapter not merged) and `case.json` (the model it belongs to, the reference's own bf16 error). Needs torch, transformers
and peft.
"""

import argparse
import json
import pathlib
import shutil

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

import smolvlm2_reference as reference

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]

CASES = {
    # What most adapters are: the decoder's linear layers, one rank.
    "decoder": ("smolvlm2-plain", "padded-frames",
                dict(r=4, lora_alpha=16, target_modules=r".*text_model.*\.(q|k|v|o|gate|up|down)_proj")),
    # Both halves by bare names, other ranks and scales for some, a scale by the root of the rank, the connector.
    "patterns": ("smolvlm2-plain", "video",
                 dict(r=3, lora_alpha=4, use_rslora=True, target_modules=[*ATTENTION, "fc1", "proj", "down_proj"],
                      rank_pattern={"q_proj": 2, r"vision_model\..*\.fc1": 5}, alpha_pattern={"down_proj": 9})),
    # The first convolution, the token table, a head trained whole that is tied to the table otherwise.
    "tables": ("smolvlm2-tied", "odd-size",
               dict(r=2, lora_alpha=6, target_modules=["patch_embedding", "embed_tokens", "v_proj"],
                    modules_to_save=["lm_head"])),
    # A tied head with an adapter of its own, biases trained along.
    "head": ("smolvlm2-tied", "batch",
             dict(r=2, lora_alpha=8, target_modules=["lm_head", "q_proj"], bias="lora_only")),
}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=pathlib.Path, default=pathlib.Path(__file__).parent / "cases")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name, (base, run, config) in CASES.items():
        folder = args.cases / "smolvlm2-lora" / name
        shutil.rmtree(folder, ignore_errors=True)
        inputs = load_file(args.cases / base / run / "inputs.safetensors")
        for seed in range(100):
            torch.manual_seed(seed)
            model = get_peft_model(reference.load(args.cases / base / "model"), LoraConfig(**config))
            with torch.no_grad():
                for key, parameter in model.named_parameters():
                    if "lora_" in key or "modules_to_save" in key or (config.get("bias") and key.endswith("bias")):
                        noise = torch.randn_like(parameter)
                        parameter.copy_(noise * (0.12 if "lora_" in key else 0.3))
            model.save_pretrained(folder)
            # Through the file, as it will be used.
            loaded = PeftModel.from_pretrained(reference.load(args.cases / base / "model"), folder).eval()
            expected, margin = reference.run(None, inputs, model=loaded.base_model.model)
            if margin > 1e-3:
                break
        half = PeftModel.from_pretrained(reference.load(args.cases / base / "model", torch.bfloat16), folder).eval()
        half, _ = reference.run(None, inputs, model=half.base_model.model)
        bars = {k: reference.relative_l2(half[k], v) for k, v in expected.items() if k != "generated_ids"}
        plain, _ = reference.run(args.cases / base / "model", inputs)
        moved = reference.relative_l2(plain["logits"], expected["logits"])
        for extra in ("README.md",):
            (folder / extra).unlink(missing_ok=True)
        save_file(inputs, folder / "inputs.safetensors")
        save_file(expected, folder / "expected.safetensors")
        case = {"base": base, "bf16": bars, "margin": margin}
        (folder / "case.json").write_text(json.dumps(case, indent=2) + "\n")
        text = (folder / "adapter_config.json").read_text()
        config = json.loads(text) | {"base_model_name_or_path": None}
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
        print(f"{name}: seed {seed}, margin {margin:.1e}, logits moved by {moved:.2f}, bf16 {bars}")


if __name__ == "__main__":
    main()
