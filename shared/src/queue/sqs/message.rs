//! The attributes of messages.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_sqs::error::BuildError;
use aws_sdk_sqs::types::{Message, MessageAttributeValue, MessageSystemAttributeName};

use super::super::{Delivery, Envelope, Progress, Receipt};
use crate::domain::clock::Timestamp;
use crate::queue::TRACEPARENT;

const ORIGIN: &str = "origin";
const REQUEUES: &str = "requeues";
const REASON: &str = "reason";
const TRIES: &str = "tries";
const OUTAGES: &str = "outages";
const AUDIO: &str = "audio";

pub(super) fn attributes(
    envelope: &Envelope,
) -> Result<Option<HashMap<String, MessageAttributeValue>>, BuildError> {
    let text = |value: &str| MessageAttributeValue::builder().data_type("String").string_value(value).build();
    let mut attributes = HashMap::new();
    let texts =
        [(TRACEPARENT, &envelope.traceparent), (ORIGIN, &envelope.origin), (REASON, &envelope.reason)];
    for (name, value) in texts {
        if let Some(value) = value {
            attributes.insert(name.to_owned(), text(value)?);
        }
    }
    let Progress { tries, outages, audio } = envelope.progress;
    for (name, count) in [(REQUEUES, envelope.requeues), (TRIES, tries), (OUTAGES, outages), (AUDIO, audio)] {
        if count > 0 {
            let number = MessageAttributeValue::builder().data_type("Number");
            attributes.insert(name.to_owned(), number.string_value(count.to_string()).build()?);
        }
    }
    Ok(Some(attributes).filter(|attributes| !attributes.is_empty()))
}

/// Reads a received message.
pub fn delivery(message: Message) -> Option<Delivery> {
    let attribute = |name: &str| {
        let value = message.message_attributes.as_ref()?.get(name)?;
        value.string_value.clone()
    };
    let system = |name: MessageSystemAttributeName| message.attributes.as_ref()?.get(&name).cloned();
    let count = |name| attribute(name).and_then(|count| count.parse().ok()).unwrap_or(0);
    let envelope = Envelope {
        traceparent: attribute(TRACEPARENT),
        origin: attribute(ORIGIN),
        requeues: count(REQUEUES),
        reason: attribute(REASON),
        progress: Progress { tries: count(TRIES), outages: count(OUTAGES), audio: count(AUDIO) },
    };
    let receive_count = system(MessageSystemAttributeName::ApproximateReceiveCount);
    Some(Delivery {
        receive_count: receive_count.and_then(|count| count.parse().ok()).unwrap_or(1),
        sent: system(MessageSystemAttributeName::SentTimestamp)
            .and_then(|millis| millis.parse().ok())
            .map(|millis| Timestamp::from_unix(0).plus(Duration::from_millis(millis))),
        group: system(MessageSystemAttributeName::MessageGroupId),
        envelope,
        message_id: message.message_id.unwrap_or_default(),
        body: message.body.unwrap_or_default(),
        // A message without a receipt handle cannot be deleted or extended, so it is ignored.
        receipt: Receipt(message.receipt_handle?),
    })
}
