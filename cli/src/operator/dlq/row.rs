//! A dead letter in a list.

use longhand_shared::Timestamp;
use longhand_shared::queue::ChunkMessage;
use longhand_shared::webhook::WebhookMessage;
use serde::Serialize;
use serde_json::Value;

use super::args::Which;
use crate::operator::aws::DeadLetter;
use crate::operator::queues::age;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    pub(super) message_id: String,
    pub(super) job_id: Option<String>,
    pub(super) chunk_index: Option<u64>,
    pub(super) receive_count: u32,
    sent_time: Option<Timestamp>,
    #[serde(skip)]
    pub(super) age: String,
    pub(super) reason: String,
    /// Whether no worker can read it, so that it cannot be redriven.
    pub(super) foreign: bool,
}

impl Row {
    pub(super) fn new(which: Which, letter: &DeadLetter, now: Timestamp) -> Self {
        let DeadLetter { delivery, .. } = letter;
        let sent = &delivery.sent;
        let foreign = match which {
            Which::Chunks => ChunkMessage::parse(&delivery.body).err().map(|error| error.to_string()),
            Which::Webhooks => WebhookMessage::parse(&delivery.body).err(),
        };
        let reason = match (&delivery.envelope.reason, &foreign) {
            (Some(reason), _) => reason.clone(),
            (None, Some(error)) => error.clone(),
            (None, None) => "received too often, never finished".to_owned(),
        };
        // A message of another version cannot be parsed, but may name its job.
        let body: Value = serde_json::from_str(&delivery.body).unwrap_or_default();
        Self {
            message_id: delivery.message_id.clone(),
            job_id: body["jobId"].as_str().map(str::to_owned),
            chunk_index: body["chunkIndex"].as_u64(),
            receive_count: delivery.receive_count,
            sent_time: *sent,
            age: sent.map_or_else(|| "-".to_owned(), |sent| age(now.since(sent).as_secs())),
            reason,
            foreign: foreign.is_some(),
        }
    }

    /// Counted from 1, as in all texts for people.
    pub(super) fn chunk_number(&self) -> Option<u64> {
        self.chunk_index.map(|index| index.saturating_add(1))
    }

    pub(super) fn line(&self) -> String {
        let chunk = self.chunk_number().map_or_else(|| "-".to_owned(), |number| number.to_string());
        let receives = self.receive_count.to_string();
        let job = self.job_id.as_deref().unwrap_or("-");
        columns([&self.message_id, job, &chunk, &receives, &self.age, &self.reason])
    }
}

pub(super) fn columns([message, job, chunk, receives, age, reason]: [&str; 6]) -> String {
    let line = format!("{message:<36}  {job:<36}  {chunk:>5}  {receives:>8}  {age:>7}  {reason}");
    clean(line.trim_end())
}

/// Bodies may come from anyone and must not control the terminal.
pub(super) fn clean(text: &str) -> String {
    text.replace(char::is_control, " ")
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use longhand_shared::queue::{Delivery, Envelope, Receipt};

    use super::*;

    pub(in super::super) const BODY: &str = r#"{"version":1,"jobId":"0198c1d2-7a3e-7cc0-8000-1c2d3e4f5a6b","chunkIndex":7,"audioChunkPath":"s3://audio/a.wav"}"#;

    pub(in super::super) fn letter(body: &str, reason: Option<&str>) -> DeadLetter {
        let envelope = Envelope { reason: reason.map(str::to_owned), requeues: 2, ..Envelope::default() };
        DeadLetter {
            delivery: Delivery {
                body: body.to_owned(),
                receipt: Receipt("r".to_owned()),
                message_id: "m".to_owned(),
                receive_count: 4,
                sent: Some(Timestamp::from_unix(100)),
                group: Some("ana".to_owned()),
                envelope,
            },
            attributes: BTreeMap::new(),
            system: BTreeMap::new(),
        }
    }

    #[test]
    fn a_row_shows_the_message_and_its_reason() {
        let now = Timestamp::from_unix(100 + 3 * 3600);
        let ours = Row::new(Which::Chunks, &letter(BODY, None), now);
        assert_eq!((ours.foreign, ours.chunk_index, ours.age.as_str()), (false, Some(7), "3 h"));
        assert_eq!(ours.chunk_number(), Some(8));
        assert_eq!(ours.reason, "received too often, never finished");
        let foreign = Row::new(Which::Chunks, &letter("\u{1b}[2J", None), now);
        assert!(foreign.foreign && foreign.reason.starts_with("not a chunk message"), "{}", foreign.reason);
        assert!(!foreign.line().contains('\u{1b}'));
        let rejected = Row::new(Which::Chunks, &letter("x", Some("unreadable")), now);
        assert_eq!(rejected.reason, "unreadable");
    }

    #[test]
    fn a_webhook_has_a_job_and_no_chunk() {
        let body = r#"{"version":1,"jobId":"0198c1d2-7a3e-7cc0-8000-1c2d3e4f5a6b","completedTime":"2025-11-22T23:00:00.000Z"}"#;
        let now = Timestamp::from_unix(200);
        let ours = Row::new(Which::Webhooks, &letter(body, Some("gave up after 12 attempts")), now);
        assert_eq!(
            (ours.foreign, ours.chunk_index, ours.reason.as_str()),
            (false, None, "gave up after 12 attempts")
        );
        assert!(ours.job_id.is_some());
        // Messages of the other queue are foreign.
        assert!(Row::new(Which::Chunks, &letter(body, None), now).foreign);
        assert!(Row::new(Which::Webhooks, &letter(BODY, None), now).foreign);
    }
}
