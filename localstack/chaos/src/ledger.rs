//! The ledger: every outcome of a chunk and every end of a job that the table has accepted, whether or not the client
//! got the answer. It has two entries for a chunk that was settled twice and for a job that was finished twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

/// An outcome or an end that the table has accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// `COMPLETED` or `FAILED`.
    pub status: String,
    /// Milliseconds since the start of the ledger.
    pub at_ms: u64,
    /// The program's `AWS_SDK_UA_APP_ID`.
    pub by: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Outcomes by job and the chunk's key.
    pub outcomes: BTreeMap<(String, String), Vec<Entry>>,
    /// Ends by job.
    pub ends: BTreeMap<String, Vec<Entry>>,
    /// The tokens of transactions. A repeated transaction succeeds without a write.
    tokens: BTreeSet<String>,
}

impl Ledger {
    /// Records a successful call. Returns the number of its outcomes and ends.
    pub fn note(&mut self, operation: &str, request: &[u8], at: Duration, by: Option<&str>) -> u64 {
        if !matches!(operation, "UpdateItem" | "PutItem" | "TransactWriteItems") {
            return 0;
        }
        let Ok(request) = serde_json::from_slice::<Value>(request) else { return 0 };
        if let Some(token) = request["ClientRequestToken"].as_str()
            && !self.tokens.insert(token.to_owned())
        {
            return 0;
        }
        let before = self.entries();
        let at_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        let write = Entry { status: String::new(), at_ms, by: by.map(str::to_owned) };
        match operation {
            "UpdateItem" => self.update(&request, &write),
            "PutItem" => self.put(&request["Item"], &write),
            _ => {
                for item in request["TransactItems"].as_array().into_iter().flatten() {
                    self.update(&item["Update"], &write);
                    self.put(&item["Put"]["Item"], &write);
                }
            }
        }
        self.entries() - before
    }

    fn entries(&self) -> u64 {
        self.outcomes.values().chain(self.ends.values()).map(|entries| entries.len() as u64).sum()
    }

    fn update(&mut self, update: &Value, write: &Entry) {
        let Some(expression) = update["UpdateExpression"].as_str() else { return };
        let assigned = |attribute: &str| assigned(update, expression, attribute);
        self.enter(&update["Key"], assigned("chunkStatus"), assigned("jobStatus"), write);
    }

    fn put(&mut self, item: &Value, write: &Entry) {
        self.enter(item, item["chunkStatus"]["S"].as_str(), item["jobStatus"]["S"].as_str(), write);
    }

    fn enter(&mut self, key: &Value, chunk: Option<&str>, job: Option<&str>, write: &Entry) {
        let (Some(id), Some(item)) = (key["jobId"]["S"].as_str(), key["item"]["S"].as_str()) else { return };
        let last = |status: Option<&str>| {
            let status = status.filter(|status| matches!(*status, "COMPLETED" | "FAILED"))?.to_owned();
            Some(Entry { status, ..write.clone() })
        };
        if let Some(entry) = last(chunk) {
            self.outcomes.entry((id.to_owned(), item.to_owned())).or_default().push(entry);
        }
        if let Some(entry) = last(job) {
            self.ends.entry(id.to_owned()).or_default().push(entry);
        }
    }
}

/// The string that the `SET` of an update assigns to an attribute.
fn assigned<'a>(update: &'a Value, expression: &str, attribute: &str) -> Option<&'a str> {
    let mut words = expression.split([' ', ',', '\n']).filter(|word| !word.is_empty());
    let real = |name: &str| update["ExpressionAttributeNames"][name].as_str().unwrap_or(name) == attribute;
    while let Some(word) = words.next() {
        if real(word) && words.next() == Some("=") {
            return update["ExpressionAttributeValues"][words.next()?]["S"].as_str();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn outcome(status: &str) -> Value {
        json!({
            "TableName": "jobs",
            "Key": {"jobId": {"S": "j"}, "item": {"S": "chunk#07"}},
            "UpdateExpression": "SET chunkStatus = :status, settledTime = :now, #value = :value",
            "ExpressionAttributeNames": {"#value": "transcription"},
            "ExpressionAttributeValues": {":status": {"S": status}, ":now": {"S": "now"}, ":value": {"M": {}}},
        })
    }

    fn end(token: &str) -> Value {
        json!({"ClientRequestToken": token, "TransactItems": [
            {"Put": {"Item": {"jobId": {"S": "j"}, "item": {"S": "transcript"}, "result": {"S": "{}"}}}},
            {"Update": {
                "Key": {"jobId": {"S": "j"}, "item": {"S": "job"}},
                "UpdateExpression": "SET #status = :status, jobStatusTime = :t REMOVE openShard",
                "ExpressionAttributeNames": {"#status": "jobStatus"},
                "ExpressionAttributeValues": {":status": {"S": "COMPLETED"}, ":t": {"S": "t"}},
            }},
        ]})
    }

    fn noted(calls: &[(&str, Value)]) -> Ledger {
        let mut ledger = Ledger::default();
        for (operation, request) in calls {
            ledger.note(operation, request.to_string().as_bytes(), Duration::from_millis(5), None);
        }
        ledger
    }

    #[test]
    fn outcomes_are_counted_and_claims_are_not() {
        let ledger = noted(&[
            ("UpdateItem", outcome("IN_PROGRESS")),
            ("UpdateItem", outcome("COMPLETED")),
            ("UpdateItem", outcome("FAILED")),
            ("GetItem", outcome("FAILED")),
        ]);
        let chunk = ("j".to_owned(), "chunk#07".to_owned());
        let statuses: Vec<&str> = ledger.outcomes[&chunk].iter().map(|entry| entry.status.as_str()).collect();
        assert_eq!(statuses, ["COMPLETED", "FAILED"]);
        assert!(ledger.ends.is_empty());
    }

    #[test]
    fn an_end_that_is_repeated_under_its_token_is_one() {
        let call = |token| ("TransactWriteItems", end(token));
        assert_eq!(noted(&[call("a"), call("a")]).ends["j"].len(), 1);
        assert_eq!(noted(&[call("a"), call("b")]).ends["j"].len(), 2);
    }

    #[test]
    fn a_job_that_is_made_has_not_ended() {
        let item = |name: &str, status: &str, value: &str| json!({"Put": {"Item": {"jobId": {"S": "j"}, "item": {"S": name}, status: {"S": value}}}});
        let create = json!({"ClientRequestToken": "j", "TransactItems": [
            item("job", "jobStatus", "IN_PROGRESS"), item("chunk#00", "chunkStatus", "PENDING"),
        ]});
        let ledger = noted(&[("TransactWriteItems", create)]);
        assert!(ledger.outcomes.is_empty() && ledger.ends.is_empty());
    }
}
