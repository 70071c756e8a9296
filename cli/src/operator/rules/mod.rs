//! Finds the faults of a table, a queue, a bucket or a clock from its description.
//!
//! The rules follow `infra/data.yaml`.

pub(crate) mod bucket;
mod policy;
pub(crate) mod queue;
pub(crate) mod table;

use serde::Serialize;
use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Ok,
    /// The service works, but an operator should look at this.
    Warning,
    /// The service does not work, or may lose data.
    Fault,
}

/// One line of the doctor's report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) check: String,
    pub(crate) verdict: Verdict,
    pub(crate) detail: String,
    /// What to do, in one sentence.
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

    /// A difference from the template that an emulator causes.
    fn on_emulator(check: &str, detail: &str, what: &str) -> Self {
        let remedy = format!("Nothing to do on an emulator: some ignore {what} in templates.");
        Self::warning(check, detail, remedy)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DescribeError {
    /// It does not exist.
    Missing,
    /// No permission.
    Denied(String),
    /// No answer, or an unexpected one.
    Unreachable(String),
}

const DEPLOY: &str = "Deploy infra/data.yaml";
const MOST_SKEW_SECONDS: i64 = 30;

/// The finding for something that could not be described. `permission` is the one that the call needs.
pub(crate) fn describe_error(
    check: &str,
    what: &str,
    setting: &str,
    permission: &str,
    describe_error: &DescribeError,
) -> Finding {
    match describe_error {
        DescribeError::Missing => Finding::fault(
            check,
            format!("{what} does not exist"),
            format!("{DEPLOY}, or correct {setting} or AWS_REGION."),
        ),
        DescribeError::Denied(why) => Finding::fault(
            check,
            format!("no permission to look at {what}: {why}"),
            format!("Allow {permission} for these credentials, or use others."),
        ),
        DescribeError::Unreachable(why) => Finding::fault(
            check,
            format!("{what} cannot be checked: {why}"),
            "Check AWS_REGION, AWS_ENDPOINT_URL, the credentials and the network.",
        ),
    }
}

/// `ahead`: seconds by which this machine's clock is ahead of `whose`.
pub(crate) fn clock(ahead: i64, whose: &str) -> Finding {
    if ahead.abs() > MOST_SKEW_SECONDS {
        let side = if ahead > 0 { "ahead of" } else { "behind" };
        Finding::fault(
            "clock",
            format!("this machine is {} s {side} {whose}", ahead.abs()),
            "Let NTP set the clock: claims and expiry depend on it, and AWS rejects calls that are 5 minutes off.",
        )
    } else {
        Finding::ok("clock", format!("within {MOST_SKEW_SECONDS} s of {whose}"))
    }
}

/// The model's answer to `GET /v1/models`.
pub(crate) fn model(url: &str, status: u16) -> Finding {
    match status {
        401 | 403 => Finding::warning(
            "model",
            format!("{url} answers, but with {status}"),
            "Check ASR_API_KEY, unless this server protects only its list of models.",
        ),
        _ => Finding::ok("model", format!("{url} answers ({status})")),
    }
}

/// The api's answer to `GET /readyz`.
pub(crate) fn api(url: &str, status: u16, body: &Value) -> Vec<Finding> {
    const REMEDY: &str = "Fix what it names, and look at the api's log.";
    let reasons: Vec<&str> =
        body["reasons"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut findings = vec![match status {
        200..300 if reasons.is_empty() => Finding::ok("api", format!("{url} is ready")),
        200..300 => Finding::warning("api", format!("{url} is degraded: {}", reasons.join("; ")), REMEDY),
        _ => {
            let why = body["detail"].as_str().map(|detail| format!(": {detail}")).unwrap_or_default();
            Finding::fault("api", format!("{url} answers {status}{why}"), REMEDY)
        }
    }];
    if body["messageGroups"] == false {
        findings.push(Finding::warning(
            "queue groups",
            "the queue rejects MessageGroupId: jobs still end, but one user's backlog may delay others",
            "Use SQS, or a newer emulator: LocalStack 4.7, ElasticMQ 1.6.14.",
        ));
    }
    findings
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
    use serde_json::json;

    use super::*;

    /// The only finding that is not ok.
    pub(super) fn only(findings: Vec<Finding>) -> (String, Verdict, String) {
        let mut bad = findings.into_iter().filter(|finding| finding.verdict != Verdict::Ok);
        let found = bad.next().expect("something is wrong");
        assert_eq!(bad.next(), None, "one thing is wrong, not two");
        assert!(found.remedy.is_some_and(|remedy| remedy.ends_with('.')), "the remedy is a sentence");
        (found.check, found.verdict, found.detail)
    }

    #[test]
    fn a_clock_that_is_off_and_a_model_that_refuses_are_found() {
        for good in [clock(30, "AWS"), clock(-30, "AWS"), model("http://asr", 404), model("http://asr", 500)]
        {
            assert_eq!(good.verdict, Verdict::Ok, "{good:?}");
        }
        assert_eq!(clock(31, "AWS").detail, "this machine is 31 s ahead of AWS");
        assert_eq!(clock(-31, "AWS").detail, "this machine is 31 s behind AWS");
        assert_eq!(clock(31, "AWS").verdict, Verdict::Fault);
        assert_eq!(model("http://asr", 401).verdict, Verdict::Warning);
    }

    #[test]
    fn the_readiness_of_the_api_and_its_queue_is_reported() {
        let found = |status, body: Value| {
            let findings = api("http://api/readyz", status, &body);
            findings.into_iter().map(|found| (found.check, found.verdict, found.detail)).collect::<Vec<_>>()
        };
        let (name, ready) = ("api".to_owned(), "http://api/readyz is ready".to_owned());
        let fine = json!({"status": "ready", "missing": []});
        assert_eq!(found(200, fine), [(name.clone(), Verdict::Ok, ready.clone())]);
        let reasons = json!({"reasons": ["the queue refuses messages: AccessDenied"]});
        let degraded = "http://api/readyz is degraded: the queue refuses messages: AccessDenied".to_owned();
        assert_eq!(found(200, reasons), [(name.clone(), Verdict::Warning, degraded)]);
        let refused = found(200, json!({"messageGroups": false}));
        assert_eq!(
            (&refused[0].1, &refused[1].0, &refused[1].1),
            (&Verdict::Ok, &"queue groups".to_owned(), &Verdict::Warning)
        );
        let not_ready = "http://api/readyz answers 503: not ready: table".to_owned();
        assert_eq!(found(503, json!({"detail": "not ready: table"})), [(name, Verdict::Fault, not_ready)]);
        assert_eq!(found(200, Value::Null)[0].2, ready);
    }

    #[test]
    fn what_cannot_be_described_is_a_fault_with_a_reason() {
        for (why, remedy) in [
            (DescribeError::Missing, "LONGHAND_TABLE"),
            (DescribeError::Denied("no".to_owned()), "dynamodb:DescribeTable"),
            (DescribeError::Unreachable("no route".to_owned()), "AWS_ENDPOINT_URL"),
        ] {
            let found =
                describe_error("table", "table jobs", "LONGHAND_TABLE", "dynamodb:DescribeTable", &why);
            assert_eq!(found.verdict, Verdict::Fault);
            assert!(found.remedy.is_some_and(|text| text.contains(remedy)), "{why:?}");
        }
    }
}
