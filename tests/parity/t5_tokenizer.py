"""Makes small T5 tokenizers and the parity cases of T5's tokenization under `cases/t5-tokenizer/`.

    python tests/parity/t5_tokenizer.py [--out tests/parity/cases]

Every case is a tokenizer folder, in one of the forms that published ones have, with `cases.json`: strings with the ids and
masks that transformers' `T5Tokenizer` gives them. Needs transformers, sentencepiece and protobuf.
"""

import argparse
import io
import json
import pathlib
import shutil

COLOURS = ["red", "green", "blue", "yellow", "purple", "orange", "white", "black"]
SHAPES = ["circle", "square", "triangle", "star", "cross", "ring"]
WORDS = """The quick brown fox jumps over the lazy dog. A woman with long brown hair smiles at another woman; the camera
is a close-up, focused on her face, and the lighting is warm and natural. Worst quality, inconsistent motion, blurry, jittery
and distorted. Ein Mädchen läuft über die Straße. Où est la forêt près de la mer? Привет мир 東京 の 映画 ½ ﬁlm 12345 67890
'quoted' "double" (parentheses) [brackets] under_score hash#tag at@sign 50% & more + less = equal / slash * star""".split("\n")

STRINGS = [
    "", " ", "a", "a small green star moves left over a white background", "A SMALL Green sTaR",
    "  leading and trailing   spaces  ", "tabs\tand\nnew\r\nlines", "worst quality, inconsistent motion, blurry, jittery",
    "Ein Mädchen läuft über die Straße", "e\u0301 decomposed and é composed", "ﬁlm ½ № ™ ㎏ ﷺ", "東京の映画を見る",
    "full width ＡＢＣ １２３", "emoji 🎬🎥 👩‍👩‍👧 🏳️‍🌈", "zero\u200bwidth\u200djoiner\ufeffbom", "no\u00a0break\u2003space\u3000wide",
    "control \u0000 \u0001 \u0007 \u001f \u007f characters", "surrogates \U0001F600 and private \ue000 \U0010FFFD",
    "</s>", "a </s> b", "<pad> <unk> </s>", "text<extra_id_0>more <extra_id_99> end", "<extra_id_100> <extra_id_-1>",
    " <extra_id_1> spaced  <extra_id_2> ", "▁ lower one eighth ▁block", "▁▁▁", "don't can't it's", "12345 67890 3.14159 1,000,000",
    "under_score hash#tag at@sign 50% & more + less = equal / slash * star", "مرحبا بالعالم שלום עולם", "नमस्ते दुनिया ไทย 한국어",
    "a" * 300, "word " * 80, "\u0301\u0302 lone marks", "İstanbul ı ẞ ŉ", "x\u0300\u0301\u0302\u0303\u0304\u0305y", "\r\n", "½½½½ ﬁﬁ", "\u0001lead", "\u200babc", "\u0000", "</s>\u0001x",
    "x<extra_id_5>\u200b", "\ufeff \u0001",
]  # fmt: skip


def model(vocab_size, rule, extra=()):
    """A sentencepiece model like T5's: pad 0, end 1, unknown 2, no start."""
    corpus = [
        f"a {size} {colour} {shape} {move} over a {ground} background"
        for size in ("small", "large")
        for colour in COLOURS
        for shape in SHAPES
        for move in ("moves left", "moves right", "moves up", "moves down", "turns", "grows")
        for ground in ("white", "black", "grey", "blue")
    ]
    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus[::7] + WORDS * 5), model_writer=out, vocab_size=vocab_size, model_type="unigram",
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, normalization_rule_name=rule, user_defined_symbols=list(extra),
        minloglevel=2, hard_vocab_limit=False, num_threads=1,
    )  # fmt: skip
    return out.getvalue()


def write(folder, vocab_size=220, rule="identity", extra=(), config=None):
    """A tokenizer folder with `spiece.model`; returns the size of its vocabulary with T5's 100 extra ids."""
    folder.mkdir(parents=True, exist_ok=True)
    data = model(vocab_size, rule, extra)
    (folder / "spiece.model").write_bytes(data)
    settings = {"tokenizer_class": "T5Tokenizer", "model_max_length": 128, "extra_ids": 100} | (config or {})
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    return len(load(folder))


def load(folder):
    from transformers import T5Tokenizer

    return T5Tokenizer.from_pretrained(folder)


def encode(folder, strings, length):
    """Ids and masks as the LTX pipelines ask for them."""
    return load(folder)(strings, padding="max_length", max_length=length, truncation=True, add_special_tokens=True)


def make_case(folder, length):
    out = encode(folder, STRINGS, length)
    rows = zip(STRINGS, out.input_ids, out.attention_mask)
    # The padding says nothing: what comes before it, and how long it is, does.
    cases = [{"text": text, "ids": ids[: sum(mask)], "length": len(ids), "pad": ids[-1]} for text, ids, mask in rows]
    for case, mask in zip(cases, out.attention_mask):
        assert mask == sorted(mask, reverse=True)
    text = ",\n".join(json.dumps(case) for case in cases)
    (folder / "cases.json").write_text(f"[\n{text}\n]\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "cases")
    args = parser.parse_args()
    out = args.out / "t5-tokenizer"
    shutil.rmtree(out, ignore_errors=True)
    # T5's own normalisation (NFKC with extras), as published.
    write(out / "nfkc", 500, "nmt_nfkc")
    make_case(out / "nfkc", 64)
    # No normalisation, few extra ids, symbols of a user.
    write(out / "identity", 240, extra=("#tag", "@sign"), config={"extra_ids": 3})
    make_case(out / "identity", 24)
    # As T5 repositories have it: the extra ids listed with flags that swallow the spaces around them.
    plain = out / "listed"
    size = write(plain, 260)
    listed = {
        str(i): {"content": content, "lstrip": strip, "normalized": False, "rstrip": strip, "single_word": False,
                 "special": True}
        for i, content, strip in [(0, "<pad>", False), (1, "</s>", False), (2, "<unk>", False)]
        + [(size - 1 - n, f"<extra_id_{n}>", True) for n in range(100)]
    }  # fmt: skip
    config = {"added_tokens_decoder": listed, "additional_special_tokens": [f"<extra_id_{n}>" for n in range(100)]}
    settings = json.loads((plain / "tokenizer_config.json").read_text()) | config
    (plain / "tokenizer_config.json").write_text(json.dumps(settings) + "\n")
    make_case(plain, 48)
    # Only tokenizer.json, as newer transformers save it.
    saved = out / "json"
    load(plain).save_pretrained(saved)
    (saved / "spiece.model").unlink(missing_ok=True)
    make_case(saved, 48)


if __name__ == "__main__":
    main()
