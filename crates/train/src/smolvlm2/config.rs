//! `config.json` of a SmolVLM2 folder: the parts that decide what is computed.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// The SigLIP tower (`vision_config`).
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    /// Width.
    pub hidden_size: i64,
    /// Width inside the MLPs.
    pub intermediate_size: i64,
    /// Layers.
    pub num_hidden_layers: i64,
    /// Heads.
    pub num_attention_heads: i64,
    /// Colour channels.
    pub num_channels: i64,
    /// Side of a full picture in pixels.
    pub image_size: i64,
    /// Side of a patch in pixels.
    pub patch_size: i64,
    /// Of the layer norms.
    pub layer_norm_eps: f64,
    /// Activation of the MLPs.
    pub hidden_act: Activation,
}

/// The Llama decoder (`text_config`).
#[derive(Clone, Debug, PartialEq)]
pub struct TextConfig {
    /// Width.
    pub hidden_size: i64,
    /// Width inside the MLPs.
    pub intermediate_size: i64,
    /// Layers.
    pub num_hidden_layers: i64,
    /// Query heads.
    pub num_attention_heads: i64,
    /// Key and value heads.
    pub num_key_value_heads: i64,
    /// Width of a head.
    pub head_dim: i64,
    /// Rows of the embedding.
    pub vocab_size: i64,
    /// Longest sequence.
    pub max_position_embeddings: i64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Of the RMS norms.
    pub rms_norm_eps: f64,
    /// Whether the projections of attention have biases.
    pub attention_bias: bool,
    /// Whether those of the MLP do.
    pub mlp_bias: bool,
    /// Activation of the MLPs.
    pub hidden_act: Activation,
}

/// Activations by the names of `transformers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x·sigmoid(x).
    Silu,
    /// GELU with the error function.
    Gelu,
    /// GELU in the approximation with tanh.
    GeluTanh,
}

/// A whole SmolVLM2 (`SmolVLMConfig`).
#[derive(Clone, Debug, PartialEq)]
pub struct SmolVlmConfig {
    /// Vision tower.
    pub vision: VisionConfig,
    /// Decoder.
    pub text: TextConfig,
    /// Patches along an edge that the connector joins into one token.
    pub scale_factor: i64,
    /// Id of `<image>`, which stands for one feature vector.
    pub image_token_id: i64,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
}

impl Activation {
    fn parse(name: &str) -> Result<Self> {
        Ok(match name {
            "silu" | "swish" => Self::Silu,
            "gelu" => Self::Gelu,
            "gelu_pytorch_tanh" | "gelu_new" => Self::GeluTanh,
            other => bail!("hidden_act {other:?} is not supported (silu, gelu, gelu_pytorch_tanh are)"),
        })
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Silu => "silu",
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu_pytorch_tanh",
        }
    }
}

impl SmolVlmConfig {
    /// The model of the shapes world, for a tokenizer of `vocab_size` tokens.
    pub fn shapes(vocab_size: i64, image_token_id: i64) -> Self {
        Self {
            vision: VisionConfig {
                hidden_size: 128,
                intermediate_size: 384,
                num_hidden_layers: 3,
                num_attention_heads: 4,
                num_channels: 3,
                image_size: 64,
                patch_size: 8,
                layer_norm_eps: 1e-6,
                hidden_act: Activation::GeluTanh,
            },
            text: TextConfig {
                hidden_size: 192,
                intermediate_size: 512,
                num_hidden_layers: 4,
                num_attention_heads: 6,
                num_key_value_heads: 2,
                head_dim: 32,
                vocab_size,
                max_position_embeddings: 2048,
                rope_theta: 10_000.0,
                rms_norm_eps: 1e-5,
                attention_bias: false,
                mlp_bias: false,
                hidden_act: Activation::Silu,
            },
            scale_factor: 4,
            image_token_id,
            tie_word_embeddings: false,
        }
    }

    /// Reads `config.json` of a folder.
    ///
    /// # Errors
    /// When the file is missing, is of another model, or asks for something that is not supported.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let value = serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
        Self::from_json(&value).with_context(|| format!("in {}", path.display()))
    }

    /// Reads the value of a `config.json`. What the file leaves out is as in `transformers`.
    ///
    /// # Errors
    /// As [`SmolVlmConfig::load`].
    pub fn from_json(value: &Value) -> Result<Self> {
        let kind = value["model_type"].as_str().unwrap_or("none");
        ensure!(kind == "smolvlm", "model_type is {kind:?}, not \"smolvlm\"");
        let (vision, text) = (&value["vision_config"], &value["text_config"]);
        let text_kind = text["model_type"].as_str().unwrap_or("llama");
        ensure!(text_kind == "llama", "the text model is {text_kind:?}; only \"llama\" is supported");
        let config = Self {
            vision: vision_from(vision)?,
            text: text_from(text)?,
            scale_factor: integer(value, "scale_factor", 2)?,
            image_token_id: integer(value, "image_token_id", 128_257)?,
            tie_word_embeddings: value["tie_word_embeddings"].as_bool().unwrap_or(false),
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        let (v, t) = (&self.vision, &self.text);
        ensure!(v.hidden_size % v.num_attention_heads == 0, "vision hidden_size is not a multiple of its heads");
        ensure!(
            t.num_attention_heads % t.num_key_value_heads == 0,
            "num_attention_heads is not a multiple of num_key_value_heads"
        );
        ensure!(t.head_dim % 2 == 0, "head_dim {} is odd", t.head_dim);
        ensure!(v.patch_size <= v.image_size, "patch_size is larger than image_size");
        ensure!(
            (v.image_size / v.patch_size) % self.scale_factor == 0,
            "{} patches on a side cannot be joined {} by {}",
            v.image_size / v.patch_size,
            self.scale_factor,
            self.scale_factor
        );
        ensure!(
            (0..t.vocab_size).contains(&self.image_token_id),
            "image_token_id {} is not among {} tokens",
            self.image_token_id,
            t.vocab_size
        );
        Ok(())
    }

    /// Tokens that stand for one picture.
    pub const fn image_seq_len(&self) -> i64 {
        let side = self.vision.image_size / self.vision.patch_size / self.scale_factor;
        side * side
    }

    /// The `config.json` that `transformers` reads, with the ids of the special tokens.
    pub fn to_json(&self, bos: i64, eos: i64, pad: i64) -> Value {
        let (v, t) = (&self.vision, &self.text);
        json!({
            "architectures": ["SmolVLMForConditionalGeneration"],
            "model_type": "smolvlm",
            "dtype": "bfloat16",
            "image_token_id": self.image_token_id,
            "pad_token_id": pad,
            "scale_factor": self.scale_factor,
            "tie_word_embeddings": self.tie_word_embeddings,
            "use_cache": true,
            "vision_config": {
                "model_type": "smolvlm_vision",
                "attention_dropout": 0.0,
                "hidden_act": v.hidden_act.name(),
                "hidden_size": v.hidden_size,
                "image_size": v.image_size,
                "initializer_range": 0.02,
                "intermediate_size": v.intermediate_size,
                "layer_norm_eps": v.layer_norm_eps,
                "num_attention_heads": v.num_attention_heads,
                "num_channels": v.num_channels,
                "num_hidden_layers": v.num_hidden_layers,
                "patch_size": v.patch_size,
            },
            "text_config": {
                "model_type": "llama",
                "architectures": ["LlamaForCausalLM"],
                "attention_bias": t.attention_bias,
                "attention_dropout": 0.0,
                "bos_token_id": bos,
                "eos_token_id": eos,
                "head_dim": t.head_dim,
                "hidden_act": t.hidden_act.name(),
                "hidden_size": t.hidden_size,
                "initializer_range": 0.02,
                "intermediate_size": t.intermediate_size,
                "max_position_embeddings": t.max_position_embeddings,
                "mlp_bias": t.mlp_bias,
                "num_attention_heads": t.num_attention_heads,
                "num_hidden_layers": t.num_hidden_layers,
                "num_key_value_heads": t.num_key_value_heads,
                "pad_token_id": pad,
                "rms_norm_eps": t.rms_norm_eps,
                "rope_theta": t.rope_theta,
                "rope_parameters": {"rope_type": "default", "rope_theta": t.rope_theta},
                "tie_word_embeddings": self.tie_word_embeddings,
                "vocab_size": t.vocab_size,
            },
        })
    }
}

fn vision_from(v: &Value) -> Result<VisionConfig> {
    Ok(VisionConfig {
        hidden_size: integer(v, "hidden_size", 1152)?,
        intermediate_size: integer(v, "intermediate_size", 3072)?,
        num_hidden_layers: integer(v, "num_hidden_layers", 12)?,
        num_attention_heads: integer(v, "num_attention_heads", 16)?,
        num_channels: integer(v, "num_channels", 3)?,
        image_size: integer(v, "image_size", 224)?,
        patch_size: integer(v, "patch_size", 32)?,
        layer_norm_eps: v["layer_norm_eps"].as_f64().unwrap_or(1e-6),
        hidden_act: Activation::parse(v["hidden_act"].as_str().unwrap_or("gelu_pytorch_tanh"))?,
    })
}

fn text_from(t: &Value) -> Result<TextConfig> {
    let hidden_size = integer(t, "hidden_size", 4096)?;
    let num_attention_heads = integer(t, "num_attention_heads", 32)?;
    let rope = if t["rope_parameters"].is_object() { &t["rope_parameters"] } else { &t["rope_scaling"] };
    let rope_type = rope["rope_type"].as_str().or_else(|| rope["type"].as_str()).unwrap_or("default");
    ensure!(rope_type == "default", "rope_type {rope_type:?} is not supported (only \"default\" is)");
    Ok(TextConfig {
        hidden_size,
        intermediate_size: integer(t, "intermediate_size", 11_008)?,
        num_hidden_layers: integer(t, "num_hidden_layers", 32)?,
        num_attention_heads,
        num_key_value_heads: integer(t, "num_key_value_heads", num_attention_heads)?,
        head_dim: integer(t, "head_dim", hidden_size / num_attention_heads)?,
        vocab_size: integer(t, "vocab_size", 32_000)?,
        max_position_embeddings: integer(t, "max_position_embeddings", 2048)?,
        rope_theta: rope["rope_theta"].as_f64().or_else(|| t["rope_theta"].as_f64()).unwrap_or(10_000.0),
        rms_norm_eps: t["rms_norm_eps"].as_f64().unwrap_or(1e-5),
        attention_bias: t["attention_bias"].as_bool().unwrap_or(false),
        mlp_bias: t["mlp_bias"].as_bool().unwrap_or(false),
        hidden_act: Activation::parse(t["hidden_act"].as_str().unwrap_or("silu"))?,
    })
}

/// A positive whole number, or `default` where the key is missing or null.
fn integer(value: &Value, key: &str, default: i64) -> Result<i64> {
    match &value[key] {
        Value::Null => Ok(default),
        other => {
            let n = other.as_i64().with_context(|| format!("{key} is {other}, not a whole number"))?;
            ensure!(n > 0 || key == "image_token_id" && n == 0, "{key} is {n}");
            Ok(n)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_config_reads_back() {
        let config = SmolVlmConfig::shapes(700, 650);
        assert_eq!(SmolVlmConfig::from_json(&config.to_json(1, 699, 2)).expect("its own"), config);
        assert_eq!(config.image_seq_len(), 4);
    }

    #[test]
    fn what_is_not_supported_is_said() {
        let good = SmolVlmConfig::shapes(700, 650).to_json(1, 699, 2);
        let spoil = |pointer: &str, value: Value| {
            let mut bad = good.clone();
            *bad.pointer_mut(pointer).expect("there") = value;
            format!("{:#}", SmolVlmConfig::from_json(&bad).expect_err("refused"))
        };
        assert!(spoil("/model_type", json!("idefics3")).contains("idefics3"));
        assert!(spoil("/text_config/rope_parameters/rope_type", json!("yarn")).contains("yarn"));
        assert!(spoil("/text_config/hidden_act", json!("relu")).contains("relu"));
        assert!(spoil("/text_config/hidden_size", json!(-4)).contains("hidden_size"));
        assert!(spoil("/scale_factor", json!(3)).contains("3 by 3"));
        assert!(spoil("/image_token_id", json!(700)).contains("700"));
    }
}
