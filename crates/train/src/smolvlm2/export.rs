//! The folder that `AutoProcessor` and `AutoModelForImageTextToText` open.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tch::Kind;

use super::config::SmolVlmConfig;
use super::prompt::{FPS, MAX_FRAMES};
use super::tokenizer::ShapesTokenizer;
use crate::checkpoint;
use crate::files::write_json;

/// The template that `SmolVLMProcessor` uses for conversations with videos; here it serves pictures too.
const CHAT_TEMPLATE: &str = "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}\
    {% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}\
    {% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}\
    {% elif line['type'] == 'image' %}{{ '<image>' }}{% elif line['type'] == 'video' %}{{ '<video>' }}{% endif %}\
    {% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}";

/// Writes the averaged weights of the run in `dir` as a Hugging Face folder, in bf16; with scores in
/// `dir/evaluation.json`, a model card too, which names the run's seed.
///
/// # Errors
/// When a part of the run is missing or a file cannot be written.
pub fn export(dir: &Path, out: &Path, seed: u64) -> Result<()> {
    let tokenizer = ShapesTokenizer::load(&dir.join("tokenizer.json"))?;
    let config = SmolVlmConfig::shapes(tokenizer.vocab_size(), tokenizer.image);
    let weights = checkpoint::load(&dir.join("smolvlm2.safetensors"))
        .context("the model is not trained yet: run `sango-train smolvlm2 train` first")?;
    let weights = weights.into_iter().map(|(name, tensor)| (name, tensor.to_kind(Kind::BFloat16))).collect();
    checkpoint::save_weights(&out.join("model.safetensors"), &weights)?;
    write_settings(&config, &tokenizer, out)?;
    if let Some(card) = super::card::write(dir, seed)? {
        std::fs::write(out.join("README.md"), card).context("writing the model card")?;
    }
    Ok(())
}

/// Everything of the folder but the weights.
///
/// # Errors
/// When a file cannot be written.
pub fn write_settings(config: &SmolVlmConfig, tokenizer: &ShapesTokenizer, out: &Path) -> Result<()> {
    let put = |name: &str, value: Value| write_json(&out.join(name), &value);
    put("config.json", config.to_json(tokenizer.bos, tokenizer.eos, tokenizer.pad))?;
    put(
        "generation_config.json",
        json!({
            "_from_model_config": true,
            "bos_token_id": tokenizer.bos,
            "eos_token_id": tokenizer.eos,
            "pad_token_id": tokenizer.pad,
        }),
    )?;
    tokenizer.save(out, config.text.max_position_embeddings)?;
    let side = config.vision.image_size;
    let image = json!({
        "do_convert_rgb": true,
        "do_image_splitting": false,
        "do_normalize": true,
        "do_pad": true,
        "do_rescale": true,
        "do_resize": true,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "SmolVLMImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "max_image_size": {"longest_edge": side},
        "processor_class": "SmolVLMProcessor",
        "resample": 1,
        "rescale_factor": 1.0 / 255.0,
        "size": {"longest_edge": side},
        "video_sampling": {"fps": FPS as i64, "max_frames": MAX_FRAMES, "video_size": {"longest_edge": side}},
    });
    let mut video = image.clone();
    if let Some(video) = video.as_object_mut() {
        for key in ["do_image_splitting", "image_processor_type"] {
            video.remove(key);
        }
        video.insert("video_processor_type".into(), json!("SmolVLMVideoProcessor"));
        video.insert("do_sample_frames".into(), json!(true));
        video.insert("fps".into(), json!(FPS as i64));
        video.insert("num_frames".into(), json!(MAX_FRAMES));
    }
    put("preprocessor_config.json", image)?;
    put("video_preprocessor_config.json", video)?;
    put(
        "processor_config.json",
        json!({"image_seq_len": config.image_seq_len(), "processor_class": "SmolVLMProcessor"}),
    )?;
    std::fs::write(out.join("chat_template.jinja"), CHAT_TEMPLATE).context("writing the chat template")
}
