//! The queues and their dead-letter queues.

use std::collections::HashMap;

use aws_sdk_sqs::types::QueueAttributeName as Name;
use serde_json::Value;

use super::finding::{DEPLOY, Finding, fault, listed, ok, undescribed, warning};
use super::policy::{self, one_or_many};
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

const RETENTION: Name = Name::MessageRetentionPeriod;
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
    let get = async |url: &Option<String>, setting| {
        let url = url.as_ref().ok_or(None)?;
        let answer =
            describe(aws.sqs.get_queue_attributes().queue_url(url).attribute_names(Name::All).send()).await;
        let fault = |why| undescribed(why, &format!("queue {url}"), setting, "sqs:GetQueueAttributes");
        answer.map(|answer| Queue(answer.attributes.unwrap_or_default())).map_err(|why| Some(fault(why)))
    };
    let (queue, dlq) = futures::join!(get(&urls.queue, pair.queue_url), get(&urls.dlq, pair.dlq_url));
    let sides = [(&queue, &dlq, pair.queue, &QUEUE[..]), (&dlq, &queue, pair.dlq, &DLQ[..])];
    let findings = sides.into_iter().flat_map(|(own, other, name, checks)| match own {
        Ok(own) => {
            let side = Side { pair, own, other: other.as_ref().ok(), visibility };
            checks.iter().map(|(check, of)| of(&side).of(format!("{name}{check}"))).collect()
        }
        Err(fault) => fault.iter().map(|fault| fault.clone().of(name)).collect::<Vec<_>>(),
    });
    findings.collect()
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

    /// The number of messages, and their states: `3 waiting, 1 hidden`.
    fn depth(&self) -> (u64, String) {
        let count = |name| self.number(&name).unwrap_or(0);
        let waiting = count(Name::ApproximateNumberOfMessages);
        let hidden = count(Name::ApproximateNumberOfMessagesNotVisible);
        let delayed = count(Name::ApproximateNumberOfMessagesDelayed);
        let also = if delayed > 0 { format!(", {delayed} delayed") } else { String::new() };
        (waiting + hidden + delayed, format!("{waiting} waiting, {hidden} hidden{also}"))
    }
}

fn queue(side: &Side<'_>) -> Finding {
    let arn = side.own.arn();
    fault("it is a FIFO queue, which rejects messages without a deduplication id")
        .remedy(format!("{DEPLOY}, and correct {}.", side.pair.queue_url))
        .unless(arn.rsplit('.').next() != Some("fifo"), format!("{}, {}", last(arn), side.own.depth().1))
}

fn visibility(side: &Side<'_>) -> Finding {
    let asked = side.visibility;
    let set = side.own.number(&Name::VisibilityTimeout);
    let text = set.map_or_else(|| "unknown".to_owned(), |set| format!("{set} s"));
    // Not a fault: each receive of a worker sets the visibility timeout.
    warning(format!("the queue has {text}, LONGHAND_VISIBILITY_SECONDS is {asked} s"))
        .remedy("Make them equal: the workers use the setting, other readers the queue's.")
        .unless(set == Some(asked), format!("{asked} s, as for the workers"))
}

fn retention(side: &Side<'_>) -> Finding {
    let why = "so that they survive an outage of the model or of a receiver";
    long_enough(side.own.number(&RETENTION), "messages", why)
}

/// `kept`: for how many seconds; unknown if `None`.
fn long_enough(kept: Option<u64>, what: &str, why: &str) -> Finding {
    let text = kept.map_or_else(|| "an unknown time".to_owned(), age);
    warning(format!("{what} are kept for only {text}"))
        .remedy(format!("Keep them for 14 days, {why}."))
        .unless(kept.is_some_and(|kept| kept >= SHORT_RETENTION), text)
}

fn polling(side: &Side<'_>) -> Finding {
    const REMEDY: &str =
        "Set ReceiveMessageWaitTimeSeconds to 20: empty receives cost money, and short polls miss messages.";
    let wait = side.own.number(&Name::ReceiveMessageWaitTimeSeconds).unwrap_or(0);
    warning("receives do not wait by default")
        .remedy(REMEDY)
        .unless(wait > 0, format!("a receive waits for {wait} s"))
}

fn encryption(side: &Side<'_>) -> Finding {
    let sqs_key = side.own.text(&Name::SqsManagedSseEnabled) == Some("true");
    let on = sqs_key || side.own.text(&Name::KmsMasterKeyId).is_some();
    warning("off: messages name users and their files")
        .remedy(format!("{DEPLOY}, or switch on SSE-SQS or SSE-KMS."))
        .unless(on, "on")
}

fn tls(side: &Side<'_>) -> Finding {
    policy::tls(side.own.text(&Name::Policy), "sqs:*", &[side.own.arn()])
}

fn redrive(side: &Side<'_>) -> Finding {
    const REMEDY: &str = "Set maxReceiveCount to 3.";
    let Pair { dlq_url, message, list, .. } = side.pair;
    let policy = side.own.json(&Name::RedrivePolicy);
    // The count is a number on AWS, a string with some templates and emulators.
    let count = &policy["maxReceiveCount"];
    let count = count.as_u64().or_else(|| count.as_str()?.parse().ok());
    let Some((target, count)) = policy["deadLetterTargetArn"].as_str().zip(count) else {
        return fault(format!("no policy: {message} that crashes its worker is received forever"))
            .remedy(format!("{DEPLOY}, or set a redrive policy to {dlq_url} with maxReceiveCount 3."));
    };
    if let Some(arn) = side.other.map(Queue::arn).filter(|arn| *arn != target) {
        return fault(format!("dead letters go to {}, not to {}", last(target), last(arn))).remedy(format!(
            "Correct {dlq_url} or the redrive policy: `{list}` and the alarms watch another queue."
        ));
    }
    let set_to = format!("maxReceiveCount is {count}");
    match count {
        0 | 1 => fault(format!("{set_to}: the first crash of a worker causes dead letters")).remedy(REMEDY),
        2..=MANY_RECEIVES => ok(format!("to {} after {count} receives", last(target))),
        _ => warning(format!("{set_to}: {message} that crashes its worker can crash {count} workers"))
            .remedy(REMEDY),
    }
}

fn dead_letters(side: &Side<'_>) -> Finding {
    let Pair { queue_url, dlq_url, list, .. } = side.pair;
    let (arn, name) = (side.own.arn(), last(side.own.arn()));
    match side.own.depth() {
        _ if side.other.is_some_and(|queue| queue.arn() == arn) => {
            fault("it is its own dead-letter queue").remedy(format!("Correct {dlq_url} or {queue_url}."))
        }
        (0, _) => ok(format!("{name} is empty")),
        (_, depth) => warning(format!("{name} has {depth}")).remedy(format!("List them with `{list}`.")),
    }
}

fn dead_letter_retention(side: &Side<'_>) -> Finding {
    let kept = side.own.number(&RETENTION);
    match kept.zip(side.other.and_then(|queue| queue.number(&RETENTION))) {
        // A dead letter keeps its original send time.
        Some((kept, queue)) if kept < queue => {
            let (kept, queue) = (age(kept), age(queue));
            fault(format!("{kept}, less than the queue's {queue}: old messages expire on arrival"))
                .remedy("Make it at least as long as the queue's; 14 days is the longest.")
        }
        _ => long_enough(kept, "dead letters", "to have time to look at them"),
    }
}

/// Without a redrive allow policy, SQS accepts dead letters from every queue.
fn sources(side: &Side<'_>) -> Finding {
    let Pair { queue_url, dlq_url, .. } = side.pair;
    let policy = side.own.json(&Name::RedriveAllowPolicy);
    let sources: Vec<_> = one_or_many(&policy["sourceQueueArns"]).filter_map(Value::as_str).collect();
    let names = listed(sources.iter().map(|arn| last(arn)));
    let refused = |allowed: &str| {
        fault(format!("its redrive allow policy allows {allowed}"))
            .remedy(format!("{DEPLOY}, or correct {dlq_url} or {queue_url}."))
    };
    match (policy["redrivePermission"].as_str(), side.other.map(Queue::arn)) {
        (Some("denyAll"), _) => refused("no dead letters"),
        (Some("byQueue"), Some(arn)) if !sources.contains(&arn) => {
            refused(&format!("the dead letters of {names}, not of {}", last(arn)))
        }
        (Some("byQueue"), _) => ok(format!("only {names}")),
        _ => warning("any queue of this account and region may send dead letters here")
            .remedy(format!("{DEPLOY}: its redrive allow policy names one queue.")),
    }
}

/// The last part of an ARN.
fn last(arn: &str) -> &str {
    arn.rsplit(':').next().unwrap_or(arn)
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
