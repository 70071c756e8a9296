//! What is wrong with a table, a queue, a bucket or a clock, from their descriptions alone.
//!
//! `infra/data.yaml` is what they are held against.

pub(crate) mod bucket;
mod policy;
pub(crate) mod queue;
pub(crate) mod table;

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

    /// Something is not as the template has it, but an emulator is no place to mend that.
    fn on_emulator(check: &str, detail: &str, what: &str) -> Self {
        let remedy = format!(
            "Nothing to do on an emulator: some, ministack among them, do not apply what a template says of {what}."
        );
        Self::warning(check, detail, remedy)
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

const DEPLOY: &str = "Deploy infra/data.yaml";
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

    /// The one finding that is not ok.
    pub(super) fn only(findings: Vec<Finding>) -> (String, Verdict, String) {
        let mut bad = findings.into_iter().filter(|finding| finding.verdict != Verdict::Ok);
        let found = bad.next().expect("something is wrong");
        assert_eq!(bad.next(), None, "one thing is wrong, not two");
        assert!(found.remedy.is_some_and(|remedy| remedy.ends_with('.')), "a sentence says how to mend it");
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
