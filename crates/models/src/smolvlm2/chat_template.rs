//! Conversations as one text, through the folder's Jinja template.

use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value as Jinja};
use serde_json::{Map, Value};

use crate::config::{read_json, read_text};
use crate::error::{ModelError, Result};

/// Steps that a template may take: enough for a thousand turns, an end to a loop that has none.
const FUEL: u64 = 10_000_000;
const NAME: &str = "chat_template";

/// What the reference renders instead of the folder's template when there is a video: the published templates have no
/// branch for one.
const DEFAULT_CHAT_TEMPLATE: &str = "<|im_start|>\
{% for message in messages %}\
{{ message['role'] | capitalize }}\
{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}\
{% for line in message['content'] %}\
{% if line['type'] == 'text' %}{{ line['text'] }}\
{% elif line['type'] == 'image' %}{{ '<image>' }}\
{% elif line['type'] == 'video' %}{{ '<video>' }}\
{% endif %}{% endfor %}<end_of_utterance>\n\
{% endfor %}\
{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}";

/// The template of a folder.
pub(super) struct ChatTemplate {
    own: Option<Environment<'static>>,
    default: Environment<'static>,
}

impl ChatTemplate {
    /// Reads `chat_template` of `processor_config.json`, else `chat_template.json`, else `chat_template.jinja`, else
    /// `additional_chat_templates/default.jinja`, which is the reference's order; else that of
    /// `tokenizer_config.json`, where the reference gives up.
    pub(super) fn load(dir: &Path) -> Result<Self> {
        let own = match source(dir)? {
            None => None,
            Some(source) => Some(environment(source).map_err(|error| {
                let detail = format!("the chat template cannot be read: {}", describe(&error));
                ModelError::Tokenizer { path: dir.to_owned(), detail }
            })?),
        };
        Ok(Self { own, default: environment(DEFAULT_CHAT_TEMPLATE.into()).expect("the default template is valid") })
    }

    /// `messages` as one text. `special_tokens` can be named by the template (`bos_token` and the like).
    pub(super) fn render(
        &self,
        messages: &Value,
        special_tokens: &Map<String, Value>,
        add_generation_prompt: bool,
        has_video: bool,
    ) -> Result<String> {
        let environment = match &self.own {
            _ if has_video => &self.default,
            Some(own) => own,
            None => {
                let detail = "can have no picture or text alone: the model's folder has no chat_template.jinja";
                return Err(ModelError::request("messages", detail));
            }
        };
        let mut context = special_tokens.clone();
        context.insert("messages".into(), messages.clone());
        context.insert("add_generation_prompt".into(), add_generation_prompt.into());
        context.insert("tools".into(), Value::Null);
        context.insert("documents".into(), Value::Null);
        let rendered = environment.get_template(NAME).and_then(|template| template.render(Serde(context)));
        rendered.map_err(|error| {
            ModelError::request("messages", format!("cannot be put into the chat template: {}", describe(&error)))
        })
    }
}

fn source(dir: &Path) -> Result<Option<String>> {
    let of_json = |name: &str| -> Result<Option<String>> {
        let path = dir.join(name);
        if !path.is_file() {
            return Ok(None);
        }
        let json: Value = read_json(&path)?;
        Ok(named_default(&json["chat_template"]).map(str::to_owned))
    };
    for name in ["processor_config.json", "chat_template.json"] {
        if let Some(template) = of_json(name)? {
            return Ok(Some(template));
        }
    }
    for name in ["chat_template.jinja", "additional_chat_templates/default.jinja"] {
        let path = dir.join(name);
        if path.is_file() {
            return read_text(&path).map(Some);
        }
    }
    of_json("tokenizer_config.json")
}

/// A template, or the one called "default" of several, which are an object or a list of names and templates.
fn named_default(value: &Value) -> Option<&str> {
    let of_list = || value.as_array()?.iter().find(|named| named["name"] == "default")?["template"].as_str();
    value.as_str().or_else(|| value["default"].as_str()).or_else(of_list)
}

/// Jinja as the reference sets it up.
fn environment(source: String) -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true);
    environment.set_syntax(syntax.build()?);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<Jinja, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_template_owned(NAME, source)?;
    Ok(environment)
}

fn describe(error: &minijinja::Error) -> String {
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    error.line().map_or_else(|| detail.clone(), |line| format!("{detail} (line {line})"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rendered(source: &str, messages: Value, has_video: bool) -> Result<String> {
        let own = Some(environment(source.to_owned()).expect("a template"));
        let default = environment(DEFAULT_CHAT_TEMPLATE.into()).expect("a template");
        let mut special_tokens = Map::new();
        special_tokens.insert("bos_token".into(), "<s>".into());
        ChatTemplate { own, default }.render(&messages, &special_tokens, true, has_video)
    }

    fn question() -> Value {
        json!([{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Why <b>?"}]}])
    }

    #[test]
    fn a_video_takes_the_default_template() {
        let text = rendered("nothing", question(), true).expect("text");
        assert_eq!(text, "<|im_start|>User: <video>Why <b>?<end_of_utterance>\nAssistant:");
        assert_eq!(rendered("nothing", question(), false).expect("text"), "nothing");
    }

    #[test]
    fn python_methods_and_loops_work() {
        let source = "{{ bos_token }}{% for message in messages %}\n    {% if loop.first %}\n{{ \
                      message.content[1].text.upper().strip('?') }}\n    {% endif %}\n{% continue %}x{% endfor %}\n";
        assert_eq!(rendered(source, question(), false).expect("text"), "<s>WHY <B>\n");
    }

    #[test]
    fn a_template_can_refuse_and_cannot_run_for_ever() {
        let refused = rendered("{{ raise_exception('only one turn') }}", question(), false).expect_err("refused");
        assert!(refused.to_string().contains("only one turn"), "{refused}");
        let endless = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";
        assert!(rendered(endless, question(), false).is_err());
        assert!(environment("{% for %}".into()).is_err());
    }
}
