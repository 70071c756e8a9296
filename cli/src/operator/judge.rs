//! What is wrong with a table, a queue or a clock, from their descriptions alone.
//!
//! `infra/data.yaml` is what they are held against.

use std::fmt::Write;

use longhand_shared::queue::Depth;
use serde::Serialize;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// As it must be.
    Ok,
    /// The service works, but somebody should look.
    Warning,
    /// The service does not work, or loses something.
    Fault,
}

/// One line of the doctor's report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What was looked at.
    pub(crate) check: String,
    /// How it came out.
    pub(crate) verdict: Verdict,
    /// What is so, or what is wrong.
    pub(crate) detail: String,
    /// How to mend it, in one sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remedy: Option<String>,
}

impl Finding {
    pub(crate) fn ok(check: &str, detail: impl Into<String>) -> Self {
        Self { check: check.to_owned(), verdict: Verdict::Ok, detail: detail.into(), remedy: None }
    }

    pub(crate) fn warning(check: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warning, remedy: Some(remedy.into()), ..Self::ok(check, detail) }
    }

    pub(crate) fn fault(check: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fault, remedy: Some(remedy.into()), ..Self::ok(check, detail) }
    }
}

/// Why something could not be described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// There is no such thing.
    Missing,
    /// We may not look.
    Denied(String),
    /// No answer, or none that says anything.
    Unreachable(String),
}

/// A table.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) status: String,
    pub(crate) keys: Keys,
    pub(crate) indexes: Vec<Index>,
}

/// Partition key and sort key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Keys {
    pub(crate) partition: String,
    pub(crate) sort: String,
}

/// A global secondary index.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    pub(crate) name: String,
    /// AWS always has one; some emulators (ministack) have none for a stack's indexes.
    pub(crate) status: Option<String>,
    pub(crate) keys: Keys,
    pub(crate) projection: Projection,
}

/// What an index holds beside keys.
#[derive(Clone, Debug)]
pub(crate) enum Projection {
    All,
    KeysOnly,
    Include(Vec<String>),
}

/// A queue.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    pub(crate) arn: String,
    pub(crate) visibility: Option<u64>,
    pub(crate) retention: Option<u64>,
    pub(crate) redrive: Option<Redrive>,
    pub(crate) depth: Depth,
}

/// A redrive policy.
#[derive(Clone, Debug)]
pub(crate) struct Redrive {
    pub(crate) target: String,
    pub(crate) max_receives: u64,
}

const DEPLOY: &str = "Deploy infra/data.yaml";
/// The keys of the table, and of each index with what it must hold.
const TABLE_KEYS: (&str, &str) = ("jobId", "item");
const INDEXES: [(&str, (&str, &str), &[&str]); 2] = [
    (
        "userId-jobStatus",
        ("userId", "jobStatusTime"),
        &["jobStatus", "submittedTime", "completedTime", "chunkCount", "metadata"],
    ),
    ("openJobs", ("openShard", "nextCheckTime"), &[]),
];
const TTL_ATTRIBUTE: &str = "ttl";
/// SQS's own default: four days.
const SHORT_RETENTION: u64 = 4 * 86_400;
const MANY_RECEIVES: u64 = 10;
const MOST_SKEW_SECONDS: i64 = 30;

/// What cannot be looked at. `permission` is what the looking needs.
pub(crate) fn trouble(
    check: &str,
    what: &str,
    setting: &str,
    permission: &str,
    trouble: &Trouble,
) -> Finding {
    match trouble {
        Trouble::Missing => Finding::fault(
            check,
            format!("there is no {what}"),
            format!("{DEPLOY}, or correct {setting} or AWS_REGION."),
        ),
        Trouble::Denied(why) => Finding::fault(
            check,
            format!("{what} may not be looked at: {why}"),
            format!("Allow {permission} to these credentials, or use others."),
        ),
        Trouble::Unreachable(why) => Finding::fault(
            check,
            format!("{what} cannot be looked at: {why}"),
            "Check AWS_REGION, AWS_ENDPOINT_URL, the credentials and the network.",
        ),
    }
}

/// The table and both its indexes.
pub(crate) fn table(name: &str, table: &Table) -> Vec<Finding> {
    let mut findings = vec![one_table(name, table)];
    for (index, keys, needed) in INDEXES {
        let check = format!("index {index}");
        let found = table.indexes.iter().find(|found| found.name == index);
        findings.push(found.map_or_else(
            || Finding::fault(&check, format!("{name} has no such index"), format!("{DEPLOY}.")),
            |found| one_index(&check, found, keys, needed),
        ));
    }
    findings
}

fn one_table(name: &str, table: &Table) -> Finding {
    if !is_keyed(&table.keys, TABLE_KEYS) {
        let detail = format!("{name} has the keys {}, not {}", shown(&table.keys), pair(TABLE_KEYS));
        let remedy =
            format!("Keys cannot be changed: {DEPLOY} under another name, and correct LONGHAND_TABLE.");
        return Finding::fault("table", detail, remedy);
    }
    match table.status.as_str() {
        "ACTIVE" => Finding::ok("table", format!("{name} is ACTIVE, keys {}", pair(TABLE_KEYS))),
        "UPDATING" => {
            Finding::warning("table", format!("{name} is UPDATING"), "Look again when that is done.")
        }
        other => Finding::fault(
            "table",
            format!("{name} is {other}"),
            "Wait until it is ACTIVE; a table that is archived or being deleted has to be restored.",
        ),
    }
}

fn one_index(check: &str, index: &Index, keys: (&str, &str), needed: &[&str]) -> Finding {
    if !is_keyed(&index.keys, keys) {
        let detail = format!("it has the keys {}, not {}", shown(&index.keys), pair(keys));
        return Finding::fault(check, detail, format!("Delete the index, then: {DEPLOY}."));
    }
    let held: &[String] = match &index.projection {
        Projection::All | Projection::KeysOnly => &[],
        Projection::Include(attributes) => attributes,
    };
    let all = matches!(index.projection, Projection::All);
    let missing: Vec<_> =
        needed.iter().copied().filter(|name| !all && !held.iter().any(|held| held == name)).collect();
    if !missing.is_empty() {
        let detail = format!("it leaves out {}, which a listing shows", missing.join(", "));
        return Finding::fault(check, detail, format!("Delete the index, then: {DEPLOY}."));
    }
    if let Some(status) = index.status.as_deref().filter(|status| *status != "ACTIVE") {
        let remedy = "Wait until it is ACTIVE; until then listings and the sweeper see only a part.";
        return Finding::fault(check, format!("it is {status}"), remedy);
    }
    let status = index.status.as_deref().unwrap_or("there");
    Finding::ok(check, format!("{status}, keys {}", pair(keys)))
}

fn is_keyed(keys: &Keys, (partition, sort): (&str, &str)) -> bool {
    keys.partition == partition && keys.sort == sort
}

fn shown(keys: &Keys) -> String {
    pair((&keys.partition, &keys.sort))
}

fn pair((partition, sort): (&str, &str)) -> String {
    format!("{partition} + {}", if sort.is_empty() { "none" } else { sort })
}

/// The attribute by which items expire, `None` when they do not.
pub(crate) fn ttl(attribute: Option<&str>, emulator: bool) -> Finding {
    let remedy = format!("Switch TTL on, by the attribute {TTL_ATTRIBUTE}, as infra/data.yaml has it.");
    match attribute {
        Some(TTL_ATTRIBUTE) => Finding::ok("ttl", format!("items expire by {TTL_ATTRIBUTE}")),
        Some(other) => Finding::fault("ttl", format!("items expire by {other}, which no item has"), remedy),
        None if emulator => Finding::warning(
            "ttl",
            "off: items do not expire",
            "Nothing to do on an emulator: some, ministack among them, do not apply a template's TTL.",
        ),
        None => Finding::fault("ttl", "off: transcripts are kept for ever", remedy),
    }
}

/// The queue of chunks. `asked` is what the workers are told (`LONGHAND_VISIBILITY_SECONDS`).
pub(crate) fn queue(queue: &Queue, asked: u64) -> Vec<Finding> {
    let depth = depth(queue.depth);
    let mut findings = vec![if queue.arn.rsplit('.').next() == Some("fifo") {
        let detail = "it is a FIFO queue, which takes no message without a deduplication id";
        Finding::fault("queue", detail, format!("{DEPLOY}, and correct LONGHAND_QUEUE_URL."))
    } else {
        Finding::ok("queue", format!("{}, {depth}", last(&queue.arn)))
    }];
    findings.push(match queue.visibility {
        Some(set) if set == asked => Finding::ok("visibility", format!("{asked} s, as the workers ask for")),
        // Not a fault: a worker says with every receive how long it takes the messages.
        set => Finding::warning(
            "visibility",
            format!("the queue's is {}, LONGHAND_VISIBILITY_SECONDS is {asked} s", seconds(set)),
            "Make them the same; the workers ask for theirs at each receive, other readers get the queue's.",
        ),
    });
    findings.push(match queue.retention {
        Some(kept) if kept >= SHORT_RETENTION => Finding::ok("queue retention", age(kept)),
        kept => Finding::warning(
            "queue retention",
            format!("messages are kept for {} only", kept.map_or_else(|| "an unknown time".to_owned(), age)),
            "Keep them for 14 days, so that the chunks outlast a model that is down.",
        ),
    });
    findings
}

/// The redrive policy of the queue, which is to lead to the queue with this ARN (when it is known).
pub(crate) fn redrive(policy: Option<&Redrive>, dlq_arn: Option<&str>) -> Finding {
    const CHECK: &str = "redrive policy";
    let Some(Redrive { target, max_receives }) = policy else {
        return Finding::fault(
            CHECK,
            "none: a chunk that crashes its worker comes again for ever",
            format!("{DEPLOY}, or set a redrive policy to LONGHAND_DLQ_URL with maxReceiveCount 3."),
        );
    };
    if let Some(arn) = dlq_arn.filter(|arn| arn != target) {
        return Finding::fault(
            CHECK,
            format!("dead letters go to {}, not to {}", last(target), last(arn)),
            "Correct LONGHAND_DLQ_URL or the redrive policy: nobody reads that queue, and its jobs hang.",
        );
    }
    match *max_receives {
        0 | 1 => Finding::fault(
            CHECK,
            format!("maxReceiveCount is {max_receives}: the first crash of a worker makes dead letters"),
            "Set maxReceiveCount to 3.",
        ),
        many if many > MANY_RECEIVES => Finding::warning(
            CHECK,
            format!("maxReceiveCount is {many}: a chunk that crashes its worker crashes as many"),
            "Set maxReceiveCount to 3.",
        ),
        _ => Finding::ok(CHECK, format!("to {} after {max_receives} receives", last(target))),
    }
}

/// The dead-letter queue, whose letters come from `source` when that is known.
pub(crate) fn dead_letters(dlq: &Queue, source: Option<&Queue>) -> Vec<Finding> {
    let name = last(&dlq.arn);
    let mut findings = vec![match source {
        Some(source) if source.arn == dlq.arn => Finding::fault(
            "dead-letter queue",
            "it is the queue of chunks itself",
            "Correct LONGHAND_DLQ_URL or LONGHAND_QUEUE_URL.",
        ),
        _ if dlq.depth == Depth::default() => Finding::ok("dead-letter queue", format!("{name} is empty")),
        _ => Finding::warning(
            "dead-letter queue",
            format!("{name} has {}", depth(dlq.depth)),
            "See what they are with `longhand dlq list`.",
        ),
    }];
    let source_kept = source.and_then(|source| source.retention);
    findings.push(match (dlq.retention, source_kept) {
        // A dead letter keeps the time it was first sent.
        (Some(kept), Some(source)) if kept < source => Finding::fault(
            "dead-letter retention",
            format!("{}, less than the queue's {}: old chunks are lost on arrival", age(kept), age(source)),
            "Make it at least as long as the queue's; 14 days is the longest.",
        ),
        (Some(kept), _) if kept >= SHORT_RETENTION => Finding::ok("dead-letter retention", age(kept)),
        (kept, _) => Finding::warning(
            "dead-letter retention",
            format!(
                "dead letters are kept for {} only",
                kept.map_or_else(|| "an unknown time".to_owned(), age)
            ),
            "Keep them for 14 days, so that somebody has the time to look.",
        ),
    });
    findings
}

/// How far the clock here is ahead of the clock there, in seconds.
pub(crate) fn clock(ahead: i64, whose: &str) -> Finding {
    if ahead.abs() > MOST_SKEW_SECONDS {
        let side = if ahead > 0 { "ahead of" } else { "behind" };
        Finding::fault(
            "clock",
            format!("this machine is {} s {side} {whose}", ahead.abs()),
            "Let NTP set the clock: claims and expiry are judged by it, and AWS refuses calls 5 minutes off.",
        )
    } else {
        Finding::ok("clock", format!("within {MOST_SKEW_SECONDS} s of {whose}"))
    }
}

/// What the model answered to a plain question.
pub(crate) fn model(url: &str, status: u16) -> Finding {
    match status {
        401 | 403 => Finding::warning(
            "model",
            format!("{url} answers, but with {status}"),
            "Check ASR_API_KEY, unless this server only guards its list of models.",
        ),
        _ => Finding::ok("model", format!("{url} answers ({status})")),
    }
}

/// `3 waiting, 1 in hand or hidden`.
pub(crate) fn depth(depth: Depth) -> String {
    let mut text = format!("{} waiting, {} in hand or hidden", depth.visible, depth.in_flight);
    if depth.delayed > 0 {
        let _ = write!(text, ", {} delayed", depth.delayed);
    }
    text
}

/// The name at the end of an ARN.
fn last(arn: &str) -> &str {
    arn.rsplit(':').next().unwrap_or(arn)
}

fn seconds(count: Option<u64>) -> String {
    count.map_or_else(|| "unknown".to_owned(), |count| format!("{count} s"))
}

/// `45 s`, `12 min`, `3 h`, `14 days`: whole, rounded down.
pub(crate) fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNKS: &str = "arn:aws:sqs:us-east-1:000000000000:longhand-chunks";
    const DLQ: &str = "arn:aws:sqs:us-east-1:000000000000:longhand-chunks-dlq";

    fn keys(partition: &str, sort: &str) -> Keys {
        Keys { partition: partition.to_owned(), sort: sort.to_owned() }
    }

    fn good_table() -> Table {
        let shown = ["jobStatus", "submittedTime", "completedTime", "chunkCount", "metadata"];
        let index = |name: &str, keys, projection| Index {
            name: name.to_owned(),
            status: Some("ACTIVE".to_owned()),
            keys,
            projection,
        };
        let include = Projection::Include(shown.map(str::to_owned).to_vec());
        Table {
            status: "ACTIVE".to_owned(),
            keys: keys("jobId", "item"),
            indexes: vec![
                index("userId-jobStatus", keys("userId", "jobStatusTime"), include),
                index("openJobs", keys("openShard", "nextCheckTime"), Projection::KeysOnly),
            ],
        }
    }

    fn good_queue(arn: &str) -> Queue {
        Queue {
            arn: arn.to_owned(),
            visibility: Some(30),
            retention: Some(14 * 86_400),
            redrive: Some(Redrive { target: DLQ.to_owned(), max_receives: 3 }),
            depth: Depth::default(),
        }
    }

    /// The one finding that is not ok.
    fn only(findings: Vec<Finding>) -> (String, Verdict, String) {
        let mut bad = findings.into_iter().filter(|finding| finding.verdict != Verdict::Ok);
        let found = bad.next().expect("something is wrong");
        assert_eq!(bad.next(), None, "one thing is wrong, not two");
        assert!(found.remedy.is_some_and(|remedy| remedy.ends_with('.')), "a sentence says how to mend it");
        (found.check, found.verdict, found.detail)
    }

    fn planted(plant: impl FnOnce(&mut Table)) -> (String, Verdict, String) {
        let mut described = good_table();
        plant(&mut described);
        only(table("jobs", &described))
    }

    #[test]
    fn what_is_as_the_template_has_it_is_ok() {
        let source = good_queue(CHUNKS);
        let mut all = table("jobs", &good_table());
        all.extend(queue(&source, 30));
        all.extend(dead_letters(&good_queue(DLQ), Some(&source)));
        all.push(redrive(source.redrive.as_ref(), Some(DLQ)));
        all.push(ttl(Some("ttl"), false));
        all.extend([clock(30, "AWS"), clock(-30, "AWS"), model("http://asr", 404)]);
        let bad: Vec<_> = all.iter().filter(|finding| finding.verdict != Verdict::Ok).collect();
        assert!(bad.is_empty(), "{bad:?}");
        assert_eq!(all.len(), 3 + 3 + 2 + 1 + 1 + 3);
    }

    #[test]
    fn an_index_that_holds_everything_or_has_no_status_is_ok() {
        let mut described = good_table();
        described.indexes[0].projection = Projection::All;
        described.indexes[1].status = None;
        assert!(table("jobs", &described).iter().all(|finding| finding.verdict == Verdict::Ok));
    }

    #[test]
    fn each_fault_of_a_table_is_found() {
        let fault = |check: &str, detail: &str| (check.to_owned(), Verdict::Fault, detail.to_owned());
        let by_user = "index userId-jobStatus";
        assert_eq!(planted(|table| table.status = "DELETING".to_owned()), fault("table", "jobs is DELETING"));
        assert_eq!(
            planted(|table| table.keys = keys("jobId", "")),
            fault("table", "jobs has the keys jobId + none, not jobId + item")
        );
        assert_eq!(
            planted(|table| drop(table.indexes.pop())),
            fault("index openJobs", "jobs has no such index")
        );
        assert_eq!(
            planted(|table| table.indexes[0].keys.sort = "jobStatus".to_owned()),
            fault(by_user, "it has the keys userId + jobStatus, not userId + jobStatusTime")
        );
        assert_eq!(
            planted(|table| table.indexes[0].projection = Projection::Include(vec!["jobStatus".to_owned()])),
            fault(
                by_user,
                "it leaves out submittedTime, completedTime, chunkCount, metadata, which a listing shows"
            )
        );
        assert_eq!(planted(|table| table.indexes[0].projection = Projection::KeysOnly).1, Verdict::Fault);
        assert_eq!(
            planted(|table| table.indexes[1].status = Some("CREATING".to_owned())),
            fault("index openJobs", "it is CREATING")
        );
        assert_eq!(planted(|table| table.status = "UPDATING".to_owned()).1, Verdict::Warning);
    }

    #[test]
    fn expiry_that_is_off_is_a_fault_but_on_an_emulator() {
        assert_eq!(ttl(None, false).verdict, Verdict::Fault);
        assert_eq!(ttl(Some("expires"), true).verdict, Verdict::Fault);
        assert_eq!(ttl(None, true).verdict, Verdict::Warning);
    }

    #[test]
    fn each_fault_of_a_redrive_policy_is_found() {
        let policy = |target: &str, max_receives| Some(Redrive { target: target.to_owned(), max_receives });
        let verdict = |policy: Option<Redrive>| redrive(policy.as_ref(), Some(DLQ)).verdict;
        assert_eq!(verdict(None), Verdict::Fault);
        assert_eq!(verdict(policy("arn:aws:sqs:us-east-1:000000000000:other", 3)), Verdict::Fault);
        assert_eq!(verdict(policy(DLQ, 1)), Verdict::Fault);
        assert_eq!(verdict(policy(DLQ, 50)), Verdict::Warning);
        assert_eq!(verdict(policy(DLQ, 3)), Verdict::Ok);
        // A dead-letter queue that cannot be looked at has its own line.
        assert_eq!(redrive(policy("other", 3).as_ref(), None).verdict, Verdict::Ok);
    }

    #[test]
    fn each_fault_of_the_queues_is_found() {
        let source = good_queue(CHUNKS);
        assert_eq!(only(queue(&source, 60)).0, "visibility");
        let short = Queue { retention: Some(3600), ..source.clone() };
        assert_eq!(only(queue(&short, 30)).0, "queue retention");
        let fifo = Queue { arn: format!("{CHUNKS}.fifo"), ..source.clone() };
        assert_eq!(only(queue(&fifo, 30)).1, Verdict::Fault);

        let dlq = good_queue(DLQ);
        let letters = Queue { depth: Depth { visible: 0, in_flight: 2, delayed: 0 }, ..dlq.clone() };
        let (check, verdict, detail) = only(dead_letters(&letters, Some(&source)));
        assert_eq!((check.as_str(), verdict), ("dead-letter queue", Verdict::Warning));
        assert_eq!(detail, "longhand-chunks-dlq has 0 waiting, 2 in hand or hidden");
        assert_eq!(only(dead_letters(&source, Some(&source))).1, Verdict::Fault);
        let shorter = Queue { retention: Some(7 * 86_400), ..dlq.clone() };
        assert_eq!(only(dead_letters(&shorter, Some(&source))).1, Verdict::Fault);
        let unknown = Queue { retention: None, ..dlq };
        assert_eq!(only(dead_letters(&unknown, None)).1, Verdict::Warning);
    }

    #[test]
    fn a_clock_that_is_off_and_a_model_that_refuses_are_found() {
        assert_eq!(clock(31, "AWS").detail, "this machine is 31 s ahead of AWS");
        assert_eq!(clock(-31, "AWS").detail, "this machine is 31 s behind AWS");
        assert_eq!(clock(31, "AWS").verdict, Verdict::Fault);
        assert_eq!(model("http://asr", 401).verdict, Verdict::Warning);
        assert_eq!(model("http://asr", 500).verdict, Verdict::Ok);
    }

    #[test]
    fn what_cannot_be_looked_at_is_a_fault_that_says_why() {
        for (why, remedy) in [
            (Trouble::Missing, "LONGHAND_TABLE"),
            (Trouble::Denied("no".to_owned()), "dynamodb:DescribeTable"),
            (Trouble::Unreachable("no route".to_owned()), "AWS_ENDPOINT_URL"),
        ] {
            let found = trouble("table", "table jobs", "LONGHAND_TABLE", "dynamodb:DescribeTable", &why);
            assert_eq!(found.verdict, Verdict::Fault);
            assert!(found.remedy.is_some_and(|said| said.contains(remedy)), "{why:?}");
        }
    }
}
