//! Frames of Phoenix Channels V2: `[join_ref, ref, topic, event, payload]`.

use sango_jobs::JobError;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A reference that a client makes up and gets back as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Ref {
    /// What every Phoenix client sends.
    Text(String),
    /// What people type.
    Number(i64),
}

/// One frame, either way.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Message {
    pub(super) join_ref: Option<Ref>,
    pub(super) reference: Option<Ref>,
    pub(super) topic: String,
    pub(super) event: String,
    pub(super) payload: Value,
}

/// References, topics and events are short; what is longer is no client's.
const MAX_NAME: usize = 256;

impl Message {
    /// Reads a text frame.
    ///
    /// # Errors
    /// A sentence for the person who wrote the frame.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        type Frame = (Option<Ref>, Option<Ref>, String, String, Value);
        let (join_ref, reference, topic, event, payload): Frame = serde_json::from_str(text)
            .map_err(|error| format!("a frame is [join_ref, ref, topic, event, payload]: {error}"))?;
        let long = |text: &str| text.len() > MAX_NAME;
        let long_ref = |r: &Option<Ref>| matches!(r, Some(Ref::Text(text)) if long(text));
        if long(&topic) || long(&event) || long_ref(&join_ref) || long_ref(&reference) {
            return Err(format!("references, topics and events have at most {MAX_NAME} bytes"));
        }
        Ok(Self { join_ref, reference, topic, event, payload })
    }

    /// The frame as text.
    pub(super) fn encode(&self) -> String {
        json!([self.join_ref, self.reference, self.topic, self.event, self.payload]).to_string()
    }

    /// The `phx_reply` to this message.
    pub(super) fn reply(&self, outcome: Result<Value, JobError>) -> Self {
        let payload = match outcome {
            Ok(response) => json!({"status": "ok", "response": response}),
            Err(error) => json!({"status": "error", "response": error.body()}),
        };
        Self { event: "phx_reply".into(), payload, ..self.clone_header() }
    }

    /// A push on a topic that was joined with `join_ref`.
    pub(super) fn push(join_ref: Option<Ref>, topic: &str, event: &str, payload: Value) -> Self {
        Self { join_ref, reference: None, topic: topic.into(), event: event.into(), payload }
    }

    /// The end of a topic that was joined with `join_ref`.
    pub(super) fn close(join_ref: Option<Ref>, topic: &str) -> Self {
        let reference = join_ref.clone();
        Self { join_ref, reference, topic: topic.into(), event: "phx_close".into(), payload: json!({}) }
    }

    fn clone_header(&self) -> Self {
        Self {
            join_ref: self.join_ref.clone(),
            reference: self.reference.clone(),
            topic: self.topic.clone(),
            event: String::new(),
            payload: Value::Null,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sango_jobs::ErrorKind;

    #[test]
    fn a_heartbeat_and_its_reply_are_those_of_phoenix() {
        let message = Message::parse(r#"[null,"7","phoenix","heartbeat",{}]"#).unwrap();
        let reply = message.reply(Ok(json!({}))).encode();
        assert_eq!(reply, r#"[null,"7","phoenix","phx_reply",{"response":{},"status":"ok"}]"#);
        let error = message.reply(Err(JobError::new(ErrorKind::UnknownTopic, "no")));
        assert_eq!(error.payload["response"]["error"]["code"], "unknown_topic");
    }

    #[test]
    fn what_is_no_frame_is_told_apart() {
        let long = format!(r#"[null,null,"{}","e",{{}}]"#, "t".repeat(MAX_NAME + 1));
        for text in ["", "{}", "[]", "[1,2,3,4,5]", r#"["1","2","t","e"]"#, r#"[[],"2","t","e",{}]"#, long.as_str()] {
            assert!(Message::parse(text).is_err(), "{text}");
        }
        assert!(Message::parse(r#"[1,2,"t","e",null]"#).is_ok());
    }

    fn reference() -> impl Strategy<Value = Option<Ref>> {
        prop_oneof![
            Just(None),
            ".{0,12}".prop_map(|t| Some(Ref::Text(t))),
            any::<i64>().prop_map(|n| Some(Ref::Number(n)))
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]
        #[test]
        fn no_text_makes_it_panic(text in ".{0,200}") {
            let _ = Message::parse(&text);
        }

        #[test]
        fn text_like_a_frame_does_not_either(text in r#"\[("[a-z\\"]{0,4}"|null|[0-9eE.+-]{1,20}|\{\}|\[|,){0,12}\]?"#) {
            let _ = Message::parse(&text);
        }

        #[test]
        fn every_message_survives_the_wire(join_ref in reference(), reference in reference(), topic in ".{0,40}",
                                           event in ".{0,40}", value in any::<i64>(), text in ".{0,40}") {
            let payload = json!({"value": value, "text": text});
            let message = Message { join_ref, reference, topic, event, payload };
            prop_assert_eq!(Message::parse(&message.encode()).unwrap(), message);
        }
    }
}
