//! The queues and their dead-letter queues.

use std::collections::HashMap;
use std::fmt::Write;

use aws_sdk_sqs::types::QueueAttributeName as Name;
use serde_json::Value;

use super::finding::{self, DEPLOY, Finding, fault, ok, tls_only, warning};
use super::policy::is_tls_only;
use super::settings::Urls;
use crate::operator::aws::{Aws, describe};
use crate::operator::queues::{Pair, age};

type Check = fn(&Side<'_>) -> Finding;

/// The names follow that of the queue.
const QUEUE: [(&str, Check); 7] = [
    ("", queue),
    (" visibility", visibility),
    (" retention", retention),
    (" polling", polling),
    (" encryption", encryption),
    (" TLS", tls),
    (" redrive", redrive),
];
const DLQ: [(&str, Check); 6] = [
    ("", dead_letters),
    (" retention", dead_letter_retention),
    (" sources", sources),
    (" polling", polling),
    (" encryption", encryption),
    (" TLS", tls),
];

/// SQS's own default: four days, in seconds.
const SHORT_RETENTION: u64 = 4 * 86_400;
const MANY_RECEIVES: u64 = 10;

/// The attributes of a queue.
#[derive(Clone, Debug)]
struct Queue(HashMap<Name, String>);

/// A queue to check, and the other queue of its pair, if that is known.
struct Side<'a> {
    pair: Pair,
    own: &'a Queue,
    other: Option<&'a Queue>,
    /// `LONGHAND_VISIBILITY_SECONDS`.
    visibility: u64,
}

pub(super) async fn check(aws: &Aws, pair: Pair, urls: &Urls, visibility: u64) -> Vec<Finding> {
    let described = async |url: Option<&String>| {
        let request = aws.sqs.get_queue_attributes().queue_url(url?).attribute_names(Name::All);
        Some(describe(request.send()).await.map(|answer| Queue(answer.attributes.unwrap_or_default())))
    };
    let (queue, dlq) = futures::join!(described(urls.queue.as_ref()), described(urls.dlq.as_ref()));
    let sides = [
        (&queue, &dlq, &QUEUE[..], pair.queue, pair.queue_url, &urls.queue),
        (&dlq, &queue, &DLQ[..], pair.dlq, pair.dlq_url, &urls.dlq),
    ];
    let mut findings = Vec::new();
    for (own, other, checks, name, setting, url) in sides {
        match own {
            Some(Ok(own)) => {
                let other = other.as_ref().and_then(|other| other.as_ref().ok());
                let side = Side { pair, own, other, visibility };
                findings.extend(checks.iter().map(|(check, of)| of(&side).of(format!("{name}{check}"))));
            }
            Some(Err(why)) => {
                let what = format!("queue {}", url.as_deref().unwrap_or_default());
                let why = Err(why.clone());
                findings.push(finding::described(why, &what, setting, "sqs:GetQueueAttributes").of(name));
            }
            None => {}
        }
    }
    findings
}

impl Queue {
    fn text(&self, name: &Name) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }

    fn number(&self, name: &Name) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    fn json(&self, name: &Name) -> Value {
        self.text(name).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    fn arn(&self) -> &str {
        self.text(&Name::QueueArn).unwrap_or_default()
    }

    fn retention(&self) -> Option<u64> {
        self.number(&Name::MessageRetentionPeriod)
    }

    /// `3 waiting, 1 hidden`; `None` if the queue is empty.
    fn depth(&self) -> Option<String> {
        let count = |name| self.number(&name).unwrap_or(0);
        let waiting = count(Name::ApproximateNumberOfMessages);
        let hidden = count(Name::ApproximateNumberOfMessagesNotVisible);
        let delayed = count(Name::ApproximateNumberOfMessagesDelayed);
        let mut text = format!("{waiting} waiting, {hidden} hidden");
        if delayed > 0 {
            let _ = write!(text, ", {delayed} delayed");
        }
        (waiting + hidden + delayed > 0).then_some(text)
    }
}

fn queue(side: &Side<'_>) -> Finding {
    let arn = side.own.arn();
    if arn.rsplit('.').next() == Some("fifo") {
        let detail = "it is a FIFO queue, which rejects messages without a deduplication id";
        return fault(detail, format!("{DEPLOY}, and correct {}.", side.pair.queue_url));
    }
    ok(format!("{}, {}", last(arn), side.own.depth().as_deref().unwrap_or("0 waiting, 0 hidden")))
}

fn visibility(side: &Side<'_>) -> Finding {
    let asked = side.visibility;
    let set = match side.own.number(&Name::VisibilityTimeout) {
        Some(set) if set == asked => return ok(format!("{asked} s, as for the workers")),
        set => set.map_or_else(|| "unknown".to_owned(), |set| format!("{set} s")),
    };
    // Not a fault: each receive of a worker sets the visibility timeout.
    warning(
        format!("the queue has {set}, LONGHAND_VISIBILITY_SECONDS is {asked} s"),
        "Make them equal: the workers use the setting, other readers the queue's.",
    )
}

fn retention(side: &Side<'_>) -> Finding {
    match side.own.retention() {
        Some(kept) if kept >= SHORT_RETENTION => ok(age(kept)),
        kept => warning(
            format!("messages are kept for only {}", age_or_unknown(kept)),
            "Keep them for 14 days, so that they survive an outage of the model or of a receiver.",
        ),
    }
}

fn polling(side: &Side<'_>) -> Finding {
    match side.own.number(&Name::ReceiveMessageWaitTimeSeconds) {
        Some(wait @ 1..) => ok(format!("a receive waits for {wait} s")),
        _ => warning(
            "receives do not wait by default",
            "Set ReceiveMessageWaitTimeSeconds to 20: empty receives cost money, and short polls miss messages.",
        ),
    }
}

fn encryption(side: &Side<'_>) -> Finding {
    let sqs_key = side.own.text(&Name::SqsManagedSseEnabled) == Some("true");
    if sqs_key || side.own.text(&Name::KmsMasterKeyId).is_some() {
        return ok("on");
    }
    warning("off: messages name users and their files", format!("{DEPLOY}, or switch on SSE-SQS or SSE-KMS."))
}

fn tls(side: &Side<'_>) -> Finding {
    let policy = side.own.text(&Name::Policy);
    tls_only(policy.is_some_and(|policy| is_tls_only(policy, "sqs:*", &[side.own.arn()])))
}

fn redrive(side: &Side<'_>) -> Finding {
    let Pair { dlq_url, message, .. } = side.pair;
    let policy = side.own.json(&Name::RedrivePolicy);
    // The count is a number on AWS, a string with some templates and emulators.
    let count = &policy["maxReceiveCount"];
    let count = count.as_u64().or_else(|| count.as_str()?.parse().ok());
    let Some((target, count)) = policy["deadLetterTargetArn"].as_str().zip(count) else {
        return fault(
            format!("no policy: {message} that crashes its worker is received forever"),
            format!("{DEPLOY}, or set a redrive policy to {dlq_url} with maxReceiveCount 3."),
        );
    };
    if let Some(arn) = side.other.map(Queue::arn).filter(|arn| *arn != target) {
        return fault(
            format!("dead letters go to {}, not to {}", last(target), last(arn)),
            format!("Correct {dlq_url} or the redrive policy: no worker reads that queue."),
        );
    }
    match count {
        0 | 1 => fault(
            format!("maxReceiveCount is {count}: the first crash of a worker causes dead letters"),
            "Set maxReceiveCount to 3.",
        ),
        2..=MANY_RECEIVES => ok(format!("to {} after {count} receives", last(target))),
        _ => warning(
            format!(
                "maxReceiveCount is {count}: {message} that crashes its worker crashes that many workers"
            ),
            "Set maxReceiveCount to 3.",
        ),
    }
}

fn dead_letters(side: &Side<'_>) -> Finding {
    let Pair { queue_url, dlq_url, list, .. } = side.pair;
    let arn = side.own.arn();
    if side.other.is_some_and(|queue| queue.arn() == arn) {
        return fault("it is its own dead-letter queue", format!("Correct {dlq_url} or {queue_url}."));
    }
    match side.own.depth() {
        None => ok(format!("{} is empty", last(arn))),
        Some(depth) => warning(format!("{} has {depth}", last(arn)), format!("List them with `{list}`.")),
    }
}

fn dead_letter_retention(side: &Side<'_>) -> Finding {
    match (side.own.retention(), side.other.and_then(Queue::retention)) {
        // A dead letter keeps its original send time.
        (Some(kept), Some(queue)) if kept < queue => fault(
            format!("{}, less than the queue's {}: old messages expire on arrival", age(kept), age(queue)),
            "Make it at least as long as the queue's; 14 days is the longest.",
        ),
        (Some(kept), _) if kept >= SHORT_RETENTION => ok(age(kept)),
        (kept, _) => warning(
            format!("dead letters are kept for only {}", age_or_unknown(kept)),
            "Keep them for 14 days, to have time to look at them.",
        ),
    }
}

/// Without a redrive allow policy, SQS accepts dead letters from every queue.
fn sources(side: &Side<'_>) -> Finding {
    let refused = |allowed: &str| {
        let remedy = format!("{DEPLOY}, or correct {} or {}.", side.pair.dlq_url, side.pair.queue_url);
        fault(format!("its redrive allow policy allows {allowed}"), remedy)
    };
    let policy = side.own.json(&Name::RedriveAllowPolicy);
    match policy["redrivePermission"].as_str() {
        Some("denyAll") => return refused("no dead letters"),
        Some("byQueue") => {}
        _ => {
            return warning(
                "any queue of this account and region may send dead letters here",
                format!("{DEPLOY}: its redrive allow policy names one queue."),
            );
        }
    }
    let allowed = policy["sourceQueueArns"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let allowed: Vec<_> = allowed.collect();
    let names = allowed.iter().map(|arn| last(arn)).collect::<Vec<_>>().join(", ");
    match side.other.map(Queue::arn) {
        Some(arn) if !allowed.contains(&arn) => {
            refused(&format!("the dead letters of {names}, not of {}", last(arn)))
        }
        _ => ok(format!("only {names}")),
    }
}

/// The last part of an ARN.
fn last(arn: &str) -> &str {
    arn.rsplit(':').next().unwrap_or(arn)
}

fn age_or_unknown(seconds: Option<u64>) -> String {
    seconds.map_or_else(|| "an unknown time".to_owned(), age)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::super::finding::tests::{Fault, Ok, Warning};
    use super::*;
    use crate::operator::queues::{CHUNKS, WEBHOOKS};

    const SOURCE: &str = "arn:aws:sqs:us-east-1:000000000000:longhand-chunks";
    const DLQ_ARN: &str = "arn:aws:sqs:us-east-1:000000000000:longhand-chunks-dlq";

    fn good_queue(arn: &str) -> Queue {
        let policy = format!(
            r#"{{"Statement":[{{"Effect":"Deny","Principal":"*","Action":"sqs:*","Resource":"{arn}",
               "Condition":{{"Bool":{{"aws:SecureTransport":"false"}}}}}}]}}"#
        );
        let redrive = format!(r#"{{"deadLetterTargetArn":"{DLQ_ARN}","maxReceiveCount":3}}"#);
        let allow = format!(r#"{{"redrivePermission":"byQueue","sourceQueueArns":["{SOURCE}"]}}"#);
        let attributes = [
            (Name::QueueArn, arn),
            (Name::VisibilityTimeout, "30"),
            (Name::MessageRetentionPeriod, "1209600"),
            (Name::ReceiveMessageWaitTimeSeconds, "20"),
            (Name::SqsManagedSseEnabled, "true"),
            (Name::Policy, &policy),
            (Name::RedrivePolicy, &redrive),
            (Name::RedriveAllowPolicy, &allow),
        ];
        Queue(attributes.map(|(name, value)| (name, value.to_owned())).into())
    }

    /// The checks of `own` that are not ok.
    fn found(
        pair: Pair,
        checks: &[(&str, Check)],
        own: &Queue,
        other: Option<&Queue>,
    ) -> Vec<(String, Finding)> {
        let side = Side { pair, own, other, visibility: 30 };
        let outcomes = checks.iter().map(|(name, check)| ((*name).trim().to_owned(), check(&side)));
        outcomes.filter(|(_, outcome)| outcome.verdict != Ok).collect()
    }

    /// Asserts that each value of an attribute affects one check. An empty value is a missing attribute.
    fn assert_changes(checks: &[(&str, Check)], arn: &str, changes: &[(Name, &str, &str, Verdict)]) {
        for (name, value, check, verdict) in changes {
            let mut own = good_queue(arn);
            own.0.insert(name.clone(), (*value).to_owned());
            let other = good_queue(if arn == SOURCE { DLQ_ARN } else { SOURCE });
            let found = found(CHUNKS, checks, &own, Some(&other));
            let [(affected, outcome)] = &found[..] else { panic!("{name} {value}: {found:?}") };
            assert_eq!((affected.as_str(), outcome.verdict), (*check, *verdict), "{name} {value}");
            assert!(outcome.remedy.as_ref().is_some_and(|remedy| remedy.ends_with('.')), "{outcome:?}");
        }
    }

    const OF_BOTH: [(Name, &str, &str, Verdict); 4] = [
        (Name::ReceiveMessageWaitTimeSeconds, "0", "polling", Warning),
        (Name::ReceiveMessageWaitTimeSeconds, "", "polling", Warning),
        (Name::SqsManagedSseEnabled, "false", "encryption", Warning),
        (Name::Policy, "", "TLS", Warning),
    ];

    #[test]
    fn queues_as_the_template_has_them_are_ok() {
        let (queue, dlq) = (good_queue(SOURCE), good_queue(DLQ_ARN));
        for pair in [CHUNKS, WEBHOOKS] {
            assert_eq!(found(pair, &QUEUE, &queue, Some(&dlq)), []);
            assert_eq!(found(pair, &DLQ, &dlq, Some(&queue)), []);
            // A queue that cannot be described has its own line.
            assert_eq!(found(pair, &QUEUE, &queue, None), []);
            assert_eq!(found(pair, &DLQ, &dlq, None), []);
        }
    }

    #[test]
    fn each_fault_of_a_queue_is_found() {
        assert_changes(&QUEUE, SOURCE, &OF_BOTH);
        let other_policy = good_queue(DLQ_ARN).text(&Name::Policy).unwrap_or_default().to_owned();
        let redrive = |target: &str, count: &str| {
            format!(r#"{{"deadLetterTargetArn":"{target}","maxReceiveCount":{count}}}"#)
        };
        assert_changes(
            &QUEUE,
            SOURCE,
            &[
                (Name::VisibilityTimeout, "60", "visibility", Warning),
                (Name::VisibilityTimeout, "", "visibility", Warning),
                (Name::MessageRetentionPeriod, "3600", "retention", Warning),
                (Name::Policy, &other_policy, "TLS", Warning),
                (Name::RedrivePolicy, "", "redrive", Fault),
                (Name::RedrivePolicy, r#"{"maxReceiveCount":3}"#, "redrive", Fault),
                (
                    Name::RedrivePolicy,
                    &redrive("arn:aws:sqs:us-east-1:000000000000:other", "3"),
                    "redrive",
                    Fault,
                ),
                (Name::RedrivePolicy, &redrive(DLQ_ARN, "1"), "redrive", Fault),
                (Name::RedrivePolicy, &redrive(DLQ_ARN, "\"50\""), "redrive", Warning),
            ],
        );
        let fifo = found(CHUNKS, &QUEUE, &good_queue(&format!("{SOURCE}.fifo")), None);
        assert_eq!((fifo.len(), fifo[0].1.verdict), (1, Fault));
    }

    #[test]
    fn each_fault_of_a_dead_letter_queue_is_found() {
        assert_changes(&DLQ, DLQ_ARN, &OF_BOTH);
        let only = |arn: &str| format!(r#"{{"redrivePermission":"byQueue","sourceQueueArns":["{arn}"]}}"#);
        assert_changes(
            &DLQ,
            DLQ_ARN,
            &[
                (Name::ApproximateNumberOfMessagesNotVisible, "2", "", Warning),
                (Name::MessageRetentionPeriod, "604800", "retention", Fault),
                (Name::MessageRetentionPeriod, "", "retention", Warning),
                (Name::RedriveAllowPolicy, r#"{"redrivePermission":"denyAll"}"#, "sources", Fault),
                (Name::RedriveAllowPolicy, &only(DLQ_ARN), "sources", Fault),
                (Name::RedriveAllowPolicy, r#"{"redrivePermission":"allowAll"}"#, "sources", Warning),
                (Name::RedriveAllowPolicy, "", "sources", Warning),
            ],
        );
        let mut dlq = good_queue(DLQ_ARN);
        dlq.0.insert(Name::ApproximateNumberOfMessagesDelayed, "1".to_owned());
        let letters = &found(CHUNKS, &DLQ, &dlq, None)[0].1;
        assert_eq!(letters.detail, "longhand-chunks-dlq has 0 waiting, 0 hidden, 1 delayed");
        let queue = good_queue(SOURCE);
        assert_eq!(found(CHUNKS, &DLQ, &queue, Some(&queue))[0].1.detail, "it is its own dead-letter queue");
    }
}
