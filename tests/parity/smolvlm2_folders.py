"""The folders and files that the SmolVLM2 processor cases are made of: a tokenizer, settings, pictures, videos."""

import json
import subprocess

from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

# What the small vocabulary is learned from: prompts as they come, and letters that take several bytes.
CORPUS = [
    "You are provided the following series of sixty-four frames from a 0:01:23 [H:MM:SS] video.",
    "Frame from 00:00: Frame from 01:23: Frame from 00:59: User: Assistant: System:",
    "What happens in the video? Describe the picture in one sentence. Which colour is the circle?",
    "A large red circle moves right over a blue background, and a small green square turns.",
    "Was passiert in diesem Video? Größe, Straße, Übung. Que voit-on ? Déjà vu, naïve café.",
    "三語 珊瑚 動画で何が起きていますか 日本語 🙂🎬 👩‍👩‍👧 Ελληνικά кириллица",
] * 4

PROMPT_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PICTURE_TOKENS = (["<global-img>"] + [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
                  + ["<fake_token_around_image>", "<image>"])

# As published: it has a branch for pictures but none for videos.
TEMPLATE = ("<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
            "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
            "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
            "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
            "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}")

# What templates on the hub do besides: blocks on lines of their own, Python's methods, namespaces, loop variables.
LONG_TEMPLATE = """{%- set state = namespace(pictures=0) %}
{%- for message in messages %}
    {%- if loop.first and message.role != 'system' %}
{{ bos_token }}Be brief.
    {% endif %}
    {%- for line in message['content'] if line['type'] != 'video' %}
        {%- if line['type'] == 'image' %}
            {%- set state.pictures = state.pictures + 1 %}
Picture {{ state.pictures }}: <image>
        {%- else %}
{{ ' ' + line['text'].strip() | trim }}
            {%- if line.text.startswith('What') and not loop.last %} ({{ line.text.split(' ') | length }} words){% endif %}
        {%- endif %}
    {%- endfor %}
<end_of_utterance>
{% endfor %}
{%- if add_generation_prompt -%}
    Assistant{{ ':' if state.pictures is odd else '!' }}
{%- endif %}
"""

PUBLISHED = dict(do_convert_rgb=True, do_image_splitting=True, do_normalize=True, do_pad=True, do_rescale=True,
                 do_resize=True, image_mean=[0.5, 0.5, 0.5], image_processor_type="SmolVLMImageProcessor",
                 image_std=[0.5, 0.5, 0.5], processor_class="SmolVLMProcessor", resample=1,
                 rescale_factor=0.00392156862745098)
IMAGENET = dict(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])

# Per folder the JSON files, and the template with the name of its file.
FOLDERS = {
    # As the 256M and 500M checkpoints: `size` stands beside `video_sampling` and outweighs its `video_size`.
    "256m": {
        "preprocessor_config.json": PUBLISHED | dict(
            max_image_size=dict(longest_edge=512), size=dict(longest_edge=2048),
            video_sampling=dict(fps=1, max_frames=64, video_size=dict(longest_edge=512))),
        "processor_config.json": dict(image_seq_len=64, processor_class="SmolVLMProcessor"),
        "chat_template.json": dict(chat_template=TEMPLATE),
    },
    # As the 2.2B checkpoint.
    "2.2b": {
        "preprocessor_config.json": PUBLISHED | dict(
            max_image_size=dict(longest_edge=384), size=dict(longest_edge=1536),
            video_sampling=dict(fps=1, max_frames=50, video_size=dict(longest_edge=384))),
        "processor_config.json": dict(image_seq_len=81, processor_class="SmolVLMProcessor"),
        "chat_template.jinja": TEMPLATE + "\n",
    },
    # Every default of the classes.
    "defaults": {
        "preprocessor_config.json": dict(image_processor_type="SmolVLMImageProcessor",
                                         video_sampling=dict(fps=0.5, max_frames=8,
                                                             video_size=dict(longest_edge=364))),
        "chat_template.jinja": TEMPLATE,
    },
    # Small tiles, so that whole pictures can be committed.
    "small": {
        "preprocessor_config.json": PUBLISHED | dict(
            max_image_size=dict(longest_edge=32), size=dict(longest_edge=96),
            video_sampling=dict(fps=2, max_frames=6, video_size=dict(longest_edge=48))),
        "processor_config.json": dict(image_seq_len=4, processor_class="SmolVLMProcessor"),
        "chat_template.jinja": LONG_TEMPLATE,
    },
    # `video_size` alone, which needs a folder without `size`; no splitting; bicubic; other mean and deviation.
    "whole": {
        "preprocessor_config.json": {key: value for key, value in PUBLISHED.items() if key != "rescale_factor"} | dict(
            IMAGENET, max_image_size=dict(longest_edge=48), do_image_splitting=False, resample=3,
            video_sampling=dict(fps=1.5, max_frames=4, video_size=dict(longest_edge=80))),
        "processor_config.json": dict(image_seq_len=9, chat_template=TEMPLATE),
    },
    # As transformers 5 saves: both processors inside one file, which outweighs the others; exact sizes; bilinear.
    "nested": {
        "processor_config.json": dict(
            image_seq_len=5, processor_class="SmolVLMProcessor",
            image_processor=PUBLISHED | dict(max_image_size=dict(longest_edge=24), size=dict(height=40, width=56),
                                             resample=2, do_normalize=False),
            video_processor=dict(video_processor_type="SmolVLMVideoProcessor", size=dict(height=30, width=50),
                                 max_image_size=dict(longest_edge=20), resample=2, fps=3, num_frames=3,
                                 do_rescale=False, **IMAGENET)),
        "preprocessor_config.json": PUBLISHED | dict(max_image_size=dict(longest_edge=12)),
        "additional_chat_templates/default.jinja": TEMPLATE,
    },
    # Frames as they are, padded to the largest; the nearest pixel; neither rescaled nor normalized.
    "as-is": {
        "video_preprocessor_config.json": dict(video_processor_type="SmolVLMVideoProcessor", do_resize=False,
                                               num_frames=3, fps=1, do_normalize=False),
        "preprocessor_config.json": PUBLISHED | dict(max_image_size=dict(longest_edge=40), resample=0,
                                                     do_resize=False, do_rescale=False, do_normalize=False),
        "processor_config.json": dict(image_seq_len=3),
        "chat_template.jinja": TEMPLATE,
    },
}


def make_tokenizer(folder):
    """A byte-level BPE tokenizer laid out as SmolVLM2's, with a vocabulary of some hundred."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=PROMPT_TOKENS, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens(PICTURE_TOKENS)
    tokenizer.save(str(folder / "tokenizer.json"))
    # <end_of_utterance> is known here only, and <extra> has a role of its own.
    first = tokenizer.get_vocab_size()
    flags = dict(lstrip=False, rstrip=False, normalized=False, single_word=False, special=True)
    json_file(folder / "tokenizer_config.json", dict(
        tokenizer_class="GPT2Tokenizer", bos_token="<|im_start|>", eos_token="<end_of_utterance>",
        pad_token="<|im_end|>", unk_token="<|endoftext|>", model_max_length=8192, add_prefix_space=False,
        clean_up_tokenization_spaces=False, image_token="<image>", fake_image_token="<fake_token_around_image>",
        extra_special_tokens=dict(global_image_token="<global-img>", extra_token="<extra>"),
        added_tokens_decoder={str(first): dict(content="<end_of_utterance>", **flags)}))
    json_file(folder / "config.json", dict(model_type="smolvlm", architectures=["SmolVLMForConditionalGeneration"]))


def make_folder(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content, newline="")
        else:
            json_file(path, content)


def json_file(path, content):
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def noise(width, height, seed, channels=3):
    """Bytes that the Rust tests make too: the upper byte of a linear congruential generator."""
    state, values = seed, bytearray()
    for _ in range(width * height * channels):
        state = (state * 1664525 + 1013904223) % 2**32
        values.append(state >> 24)
    return bytes(values)


def picture(width, height, seed):
    """A gradient with a disc and a little noise: smooth, with an edge, and not flat."""
    grain = noise(width, height, seed)
    pixels = bytearray()
    for y in range(height):
        for x in range(width):
            inside = (x - width * 0.6) ** 2 + (y - height * 0.4) ** 2 < (min(width, height) * 0.3) ** 2
            base = (220, 60, 40) if inside else (255 * x // width, 255 * y // height, 120)
            at = 3 * (y * width + x)
            pixels += bytes(min(255, value + grain[at + c] // 32) for c, value in enumerate(base))
    return Image.frombytes("RGB", (width, height), bytes(pixels))


def ffmpeg(*arguments):
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, arguments)], check=True)


def make_media(folder):
    folder.mkdir(parents=True, exist_ok=True)
    picture(100, 70, 1).save(folder / "wide.png")
    picture(41, 90, 2).save(folder / "tall.png")
    picture(150, 9, 3).save(folder / "strip.png")
    picture(60, 45, 4).convert("L").save(folder / "grey.png")
    picture(50, 60, 5).quantize(32).save(folder / "palette.png")
    clear = picture(64, 48, 6).convert("RGBA")
    clear.putalpha(Image.frombytes("L", (64, 48), noise(64, 48, 7, 1)))
    clear.save(folder / "alpha.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(120, 80, 8).save(folder / "turned.jpg", quality=85, exif=exif)
    picture(96, 96, 9).save(folder / "full.jpg", quality=90, subsampling=0)
    x264 = ["-c:v", "libx264", "-preset", "veryslow", "-crf", "34", "-pix_fmt", "yuv420p", "-threads", "1"]
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=96x64:rate=25:duration=3.2", *x264, folder / "clip.mp4")
    # Long enough for its ends to be left out, and a frame rate that is no whole number.
    ffmpeg("-f", "lavfi", "-i", "color=c=teal:size=64x48:rate=6000/1001:duration=140", "-vf", "hue='H=floor(t/3)'",
           *x264, "-g", "300", folder / "long.mp4")
    # Odd sides, frames at uneven times, in another container.
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=75x53:rate=10:duration=6", "-vf", "select='not(mod(n,3))+lt(n,8)'",
           "-fps_mode", "vfr", "-c:v", "libvpx-vp9", "-crf", "50", "-b:v", "0", "-threads", "1", folder / "uneven.webm")
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=48x32:rate=5:duration=2", folder / "clip.gif")
    # A telephone's video: stored lying, shown standing, moov at the end, with full-range BT.709 colours.
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=80x60:rate=15:duration=2", *x264, "-pix_fmt", "yuvj420p",
           "-colorspace", "bt709", "-color_range", "pc", "-metadata:s:v", "rotate=90", folder / "turned.mov")
