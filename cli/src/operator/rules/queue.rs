//! The queues and the dead-letter queues.

use std::fmt::Write;

use longhand_shared::queue::Depth;

use super::policy::is_tls_only;
use super::{DEPLOY, Finding, age};

/// SQS's own default: four days.
const SHORT_RETENTION: u64 = 4 * 86_400;
const MANY_RECEIVES: u64 = 10;

#[derive(Clone, Debug)]
pub(crate) struct Queue {
    pub(crate) arn: String,
    pub(crate) visibility: Option<u64>,
    pub(crate) retention: Option<u64>,
    /// The default wait of a receive, in seconds.
    pub(crate) wait: Option<u64>,
    pub(crate) encrypted: bool,
    pub(crate) policy: Option<String>,
    pub(crate) redrive: Option<Redrive>,
    pub(crate) sources: Sources,
    pub(crate) depth: Depth,
}

#[derive(Clone, Debug)]
pub(crate) struct Redrive {
    pub(crate) target: String,
    pub(crate) max_receives: u64,
}

/// The redrive allow policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sources {
    Any,
    None,
    These(Vec<String>),
}

/// A queue and its dead-letter queue, with their names in settings and messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    /// The prefix of the names of the checks.
    pub(crate) queue: &'static str,
    pub(crate) dlq: &'static str,
    /// The settings that name them.
    pub(crate) queue_url: &'static str,
    pub(crate) dlq_url: &'static str,
    pub(crate) list: &'static str,
    /// The kind of message, for texts.
    pub(crate) message: &'static str,
}

pub(crate) const CHUNKS: Pair = Pair {
    queue: "queue",
    dlq: "dlq",
    queue_url: "LONGHAND_QUEUE_URL",
    dlq_url: "LONGHAND_DLQ_URL",
    list: "longhand dlq list",
    message: "a chunk",
};

pub(crate) const WEBHOOKS: Pair = Pair {
    queue: "webhook queue",
    dlq: "webhook dlq",
    queue_url: "LONGHAND_WEBHOOK_QUEUE_URL",
    dlq_url: "LONGHAND_WEBHOOK_DLQ_URL",
    list: "longhand dlq list --queue webhooks",
    message: "a webhook",
};

impl Pair {
    /// `asked` is `LONGHAND_VISIBILITY_SECONDS`.
    pub(crate) fn queue(self, queue: &Queue, asked: u64) -> Vec<Finding> {
        let name = self.queue;
        let mut findings = vec![if queue.arn.rsplit('.').next() == Some("fifo") {
            let detail = "it is a FIFO queue, which rejects messages without a deduplication id";
            Finding::fault(name, detail, format!("{DEPLOY}, and correct {}.", self.queue_url))
        } else {
            Finding::ok(name, format!("{}, {}", last(&queue.arn), depth(queue.depth)))
        }];
        let check = format!("{name} visibility");
        findings.push(match queue.visibility {
            Some(set) if set == asked => Finding::ok(&check, format!("{asked} s, as for the workers")),
            // Not a fault: each receive of a worker sets the visibility timeout.
            set => Finding::warning(
                &check,
                format!("the queue has {}, LONGHAND_VISIBILITY_SECONDS is {asked} s", seconds(set)),
                "Make them equal: the workers use the setting, other readers the queue's.",
            ),
        });
        let check = format!("{name} retention");
        findings.push(match queue.retention {
            Some(kept) if kept >= SHORT_RETENTION => Finding::ok(&check, age(kept)),
            kept => Finding::warning(
                &check,
                format!("messages are kept for only {}", unknown_or_age(kept)),
                "Keep them for 14 days, so that they survive an outage of the model or of a receiver.",
            ),
        });
        findings.extend(attributes(name, queue));
        findings
    }

    /// The redrive policy. Its target must be `dlq_arn`, if that is known.
    pub(crate) fn redrive(self, policy: Option<&Redrive>, dlq_arn: Option<&str>) -> Finding {
        let check = format!("{} redrive", self.queue);
        let Some(Redrive { target, max_receives }) = policy else {
            return Finding::fault(
                &check,
                format!("no policy: {} that crashes its worker is received forever", self.message),
                format!("{DEPLOY}, or set a redrive policy to {} with maxReceiveCount 3.", self.dlq_url),
            );
        };
        if let Some(arn) = dlq_arn.filter(|arn| arn != target) {
            return Finding::fault(
                &check,
                format!("dead letters go to {}, not to {}", last(target), last(arn)),
                format!("Correct {} or the redrive policy: no worker reads that queue.", self.dlq_url),
            );
        }
        match *max_receives {
            0 | 1 => Finding::fault(
                &check,
                format!("maxReceiveCount is {max_receives}: the first crash of a worker causes dead letters"),
                "Set maxReceiveCount to 3.",
            ),
            many if many > MANY_RECEIVES => Finding::warning(
                &check,
                format!(
                    "maxReceiveCount is {many}: {} that crashes its worker crashes that many workers",
                    self.message
                ),
                "Set maxReceiveCount to 3.",
            ),
            _ => Finding::ok(&check, format!("to {} after {max_receives} receives", last(target))),
        }
    }

    /// The dead-letter queue of `source`.
    pub(crate) fn dead_letters(self, dlq: &Queue, source: Option<&Queue>) -> Vec<Finding> {
        let letters = last(&dlq.arn);
        let mut findings = vec![match source {
            Some(source) if source.arn == dlq.arn => Finding::fault(
                self.dlq,
                "it is its own dead-letter queue",
                format!("Correct {} or {}.", self.dlq_url, self.queue_url),
            ),
            _ if dlq.depth == Depth::default() => Finding::ok(self.dlq, format!("{letters} is empty")),
            _ => Finding::warning(
                self.dlq,
                format!("{letters} has {}", depth(dlq.depth)),
                format!("List them with `{}`.", self.list),
            ),
        }];
        let check = format!("{} retention", self.dlq);
        findings.push(match (dlq.retention, source.and_then(|source| source.retention)) {
            // A dead letter keeps its original send time.
            (Some(kept), Some(source)) if kept < source => Finding::fault(
                &check,
                format!(
                    "{}, less than the queue's {}: old messages expire on arrival",
                    age(kept),
                    age(source)
                ),
                "Make it at least as long as the queue's; 14 days is the longest.",
            ),
            (Some(kept), _) if kept >= SHORT_RETENTION => Finding::ok(&check, age(kept)),
            (kept, _) => Finding::warning(
                &check,
                format!("dead letters are kept for only {}", unknown_or_age(kept)),
                "Keep them for 14 days, to have time to look at them.",
            ),
        });
        findings.push(self.sources(dlq, source));
        findings.extend(attributes(self.dlq, dlq));
        findings
    }

    fn sources(self, dlq: &Queue, source: Option<&Queue>) -> Finding {
        let check = format!("{} sources", self.dlq);
        let refused = |allowed: &str| {
            let remedy = format!("{DEPLOY}, or correct {} or {}.", self.dlq_url, self.queue_url);
            Finding::fault(&check, format!("its redrive allow policy allows {allowed}"), remedy)
        };
        match (&dlq.sources, source) {
            (Sources::None, _) => refused("no dead letters"),
            (Sources::These(all), Some(source)) if !all.contains(&source.arn) => {
                let all: Vec<_> = all.iter().map(|arn| last(arn)).collect();
                refused(&format!("the dead letters of {}, not of {}", all.join(", "), last(&source.arn)))
            }
            (Sources::These(all), _) => {
                let all: Vec<_> = all.iter().map(|arn| last(arn)).collect();
                Finding::ok(&check, format!("only {}", all.join(", ")))
            }
            (Sources::Any, _) => Finding::warning(
                &check,
                "any queue of this account and region may send dead letters here",
                format!("{DEPLOY}: its redrive allow policy names one queue."),
            ),
        }
    }
}

/// Checks for every queue.
fn attributes(name: &str, queue: &Queue) -> [Finding; 3] {
    let (polling, encryption, tls) =
        (format!("{name} polling"), format!("{name} encryption"), format!("{name} TLS"));
    [
        match queue.wait {
            Some(wait @ 1..) => Finding::ok(&polling, format!("a receive waits for {wait} s")),
            _ => Finding::warning(
                &polling,
                "receives do not wait by default",
                "Set ReceiveMessageWaitTimeSeconds to 20: empty receives cost money, and short polls miss messages.",
            ),
        },
        if queue.encrypted {
            Finding::ok(&encryption, "on")
        } else {
            Finding::warning(
                &encryption,
                "off: messages name users and their files",
                format!("{DEPLOY}, or switch on SSE-SQS or SSE-KMS."),
            )
        },
        if queue.policy.as_deref().is_some_and(|policy| is_tls_only(policy, "sqs:*", &[&queue.arn])) {
            Finding::ok(&tls, "plain HTTP is refused")
        } else {
            Finding::warning(&tls, "plain HTTP is not refused", format!("{DEPLOY}: its policy refuses it."))
        },
    ]
}

/// `3 waiting, 1 hidden`.
fn depth(depth: Depth) -> String {
    let mut text = format!("{} waiting, {} hidden", depth.visible, depth.in_flight);
    if depth.delayed > 0 {
        let _ = write!(text, ", {} delayed", depth.delayed);
    }
    text
}

/// The last part of an ARN.
fn last(arn: &str) -> &str {
    arn.rsplit(':').next().unwrap_or(arn)
}

fn seconds(count: Option<u64>) -> String {
    count.map_or_else(|| "unknown".to_owned(), |count| format!("{count} s"))
}

fn unknown_or_age(seconds: Option<u64>) -> String {
    seconds.map_or_else(|| "an unknown time".to_owned(), age)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::tests::only;
    use super::*;

    const SOURCE: &str = "arn:aws:sqs:us-east-1:000000000000:longhand-chunks";
    const DLQ: &str = "arn:aws:sqs:us-east-1:000000000000:longhand-chunks-dlq";

    fn good_queue(arn: &str) -> Queue {
        let policy = format!(
            r#"{{"Statement":[{{"Effect":"Deny","Principal":"*","Action":"sqs:*","Resource":"{arn}",
               "Condition":{{"Bool":{{"aws:SecureTransport":"false"}}}}}}]}}"#
        );
        Queue {
            arn: arn.to_owned(),
            visibility: Some(30),
            retention: Some(14 * 86_400),
            wait: Some(20),
            encrypted: true,
            policy: Some(policy),
            redrive: Some(Redrive { target: DLQ.to_owned(), max_receives: 3 }),
            sources: Sources::These(vec![SOURCE.to_owned()]),
            depth: Depth::default(),
        }
    }

    #[test]
    fn queues_as_the_template_has_them_are_ok() {
        for pair in [CHUNKS, WEBHOOKS] {
            let source = good_queue(SOURCE);
            let mut all = pair.queue(&source, 30);
            all.extend(pair.dead_letters(&good_queue(DLQ), Some(&source)));
            all.push(pair.redrive(source.redrive.as_ref(), Some(DLQ)));
            assert!(all.iter().all(|finding| finding.verdict == Verdict::Ok), "{all:?}");
            assert_eq!(all.len(), 6 + 6 + 1);
        }
    }

    #[test]
    fn each_fault_of_a_redrive_policy_is_found() {
        let policy = |target: &str, max_receives| Some(Redrive { target: target.to_owned(), max_receives });
        let verdict = |policy: Option<Redrive>| CHUNKS.redrive(policy.as_ref(), Some(DLQ)).verdict;
        assert_eq!(verdict(None), Verdict::Fault);
        assert_eq!(verdict(policy("arn:aws:sqs:us-east-1:000000000000:other", 3)), Verdict::Fault);
        assert_eq!(verdict(policy(DLQ, 1)), Verdict::Fault);
        assert_eq!(verdict(policy(DLQ, 50)), Verdict::Warning);
        assert_eq!(verdict(policy(DLQ, 3)), Verdict::Ok);
        // A dead-letter queue that cannot be looked at has its own line.
        assert_eq!(CHUNKS.redrive(policy("other", 3).as_ref(), None).verdict, Verdict::Ok);
    }

    #[test]
    fn each_fault_of_a_queue_is_found() {
        let with_fault = |change: fn(&mut Queue)| {
            let mut described = good_queue(SOURCE);
            change(&mut described);
            let (check, verdict, _) = only(WEBHOOKS.queue(&described, 30));
            (check, verdict)
        };
        let warning = |check: &str| (format!("webhook queue {check}"), Verdict::Warning);
        assert_eq!(with_fault(|queue| queue.visibility = Some(60)), warning("visibility"));
        assert_eq!(with_fault(|queue| queue.visibility = None), warning("visibility"));
        assert_eq!(with_fault(|queue| queue.retention = Some(3600)), warning("retention"));
        assert_eq!(with_fault(|queue| queue.wait = Some(0)), warning("polling"));
        assert_eq!(with_fault(|queue| queue.wait = None), warning("polling"));
        assert_eq!(with_fault(|queue| queue.encrypted = false), warning("encryption"));
        assert_eq!(with_fault(|queue| queue.policy = None), warning("TLS"));
        // A policy of another queue.
        assert_eq!(with_fault(|queue| queue.policy = good_queue(DLQ).policy), warning("TLS"));
        let fifo = Queue { arn: format!("{SOURCE}.fifo"), ..good_queue(&format!("{SOURCE}.fifo")) };
        assert_eq!(only(CHUNKS.queue(&fifo, 30)).1, Verdict::Fault);
    }

    #[test]
    fn each_fault_of_a_dead_letter_queue_is_found() {
        let source = good_queue(SOURCE);
        let with_fault = |change: fn(&mut Queue)| {
            let mut dlq = good_queue(DLQ);
            change(&mut dlq);
            only(CHUNKS.dead_letters(&dlq, Some(&source)))
        };
        let (check, verdict, detail) = with_fault(|dlq| dlq.depth.in_flight = 2);
        assert_eq!((check.as_str(), verdict), ("dlq", Verdict::Warning));
        assert_eq!(detail, "longhand-chunks-dlq has 0 waiting, 2 hidden");
        let found = |change| {
            let (check, verdict, _) = with_fault(change);
            (check, verdict)
        };
        let fault = |check: &str| (format!("dlq {check}"), Verdict::Fault);
        let warning = |check: &str| (format!("dlq {check}"), Verdict::Warning);
        assert_eq!(found(|dlq| dlq.retention = Some(7 * 86_400)), fault("retention"));
        assert_eq!(found(|dlq| dlq.retention = None), warning("retention"));
        assert_eq!(found(|dlq| dlq.sources = Sources::None), fault("sources"));
        assert_eq!(found(|dlq| dlq.sources = Sources::These(vec![DLQ.to_owned()])), fault("sources"));
        assert_eq!(found(|dlq| dlq.sources = Sources::Any), warning("sources"));
        assert_eq!(found(|dlq| dlq.wait = Some(0)), warning("polling"));
        assert_eq!(found(|dlq| dlq.encrypted = false), warning("encryption"));
        assert_eq!(found(|dlq| dlq.policy = None), warning("TLS"));
        let itself = CHUNKS.dead_letters(&source, Some(&source));
        assert_eq!(itself[0].verdict, Verdict::Fault);
    }
}
