"""A small CLIP tokenizer (vocab.json + merges.txt) for the parity cases, and strings that exercise its clean-up."""

import json
import pathlib

from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = "a an the large small red green blue circle square on over background photo of dog cat and".split()

STRINGS = [
    "",
    " ",
    "a large red circle on a blue background",
    "A  LARGE\tRED\ncircle",
    "it's they're we'd I'LL don't",
    "3 dogs, 42 cats & 1,000 birds!!! #hash @at",
    "naïve café — ÉCOLE straße İstanbul ǅ",
    "e\u0301 (decomposed) \u00e9 (composed) \u212b \ufb01",
    "日本語のプロンプト 三語 珊瑚 𠮷",
    "emoji 🐶👩‍👩‍👧 flag 🇫🇷 tone 👍🏽",
    "zero\u200bwidth non\u00a0breaking\u3000ideographic\u2028line",
    "Ελληνικά ΣΊΣΥΦΟΣ кириллица العربية हिन्दी ไทย",
    "<|startoftext|> in the middle <|endoftext|> and after",
    "<|endoftext|>",
    " <|EndOfText|> ",
    "½ ² ① ٣ Ⅷ 1a2b",
    "under_score-dash/slash\\back 'quoted' \"double\" `tick`",
    "control \x00\x01\x1f\x7f\x85 chars \ufffd \ufeffbom",
    "a" * 300,
    "red circle " * 60,
    "!" * 120,
    "x\u0327\u0323\u0301 stacked \u1e69",
]


def byte_symbols():
    """GPT-2's printable stand-in for each byte, in vocabulary order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + n) for n in range(len(rest))]


def learn_merges():
    """Merges that build each of `WORDS` from the left, in the order of the list."""
    merges = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        for pair in merges:
            joined = []
            for piece in pieces:
                if joined and (joined[-1], piece) == pair:
                    joined[-1] += piece
                else:
                    joined.append(piece)
            pieces = joined
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
    return merges


def write(folder, pad_token=END, model_max_length=77):
    """Writes the tokenizer files and returns the size of the vocabulary."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    merges = learn_merges()
    symbols = byte_symbols()
    entries = [*symbols, *(s + "</w>" for s in symbols), *(a + b for a, b in merges)]
    vocab = {token: n for n, token in enumerate(dict.fromkeys([*entries, START, END]))}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad_token}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2))
    config = {**special, "add_prefix_space": False, "do_lower_case": True, "errors": "replace"}
    config |= {"model_max_length": model_max_length, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    return len(vocab)


def ids(folder, texts, max_length=None):
    """Ids as the pipelines ask for them: padded and truncated to the tokenizer's length."""
    tokenizer = CLIPTokenizer.from_pretrained(str(folder))
    length = max_length or tokenizer.model_max_length
    return tokenizer(texts, padding="max_length", truncation=True, max_length=length).input_ids
