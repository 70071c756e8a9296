//! What a check finds.

use serde::Serialize;

use crate::operator::aws::DescribeError;

pub(super) const DEPLOY: &str = "Deploy infra/data.yaml";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Ok,
    /// The service works, but an operator should look at this.
    Warning,
    /// The service does not work, or may lose data.
    Fault,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// The name of the check. Set by [`Finding::of`].
    pub(super) check: String,
    pub(super) verdict: Verdict,
    pub(super) detail: String,
    /// What to do, in one sentence. `None` if the verdict is ok.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

pub(super) fn ok(detail: impl Into<String>) -> Finding {
    Finding { check: String::new(), verdict: Verdict::Ok, detail: detail.into(), remedy: None }
}

pub(super) fn warning(detail: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Warning, remedy: Some(remedy.into()), ..ok(detail) }
}

pub(super) fn fault(detail: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Fault, ..warning(detail, remedy) }
}

/// A difference from the template that an emulator causes.
pub(super) fn on_emulator(detail: &str, what: &str) -> Finding {
    warning(detail, format!("Nothing to do on an emulator: some ignore {what} in templates."))
}

/// A queue or a bucket must deny plain HTTP by its policy.
pub(super) fn tls_only(denied: bool) -> Finding {
    if denied {
        return ok("plain HTTP is refused");
    }
    warning("plain HTTP is not refused", format!("{DEPLOY}: its policy refuses it."))
}

/// The finding of a check that describes a resource. `setting` names the resource; the call needs `permission`.
pub(super) fn described(
    found: Result<Finding, DescribeError>,
    what: &str,
    setting: &str,
    permission: &str,
) -> Finding {
    found.unwrap_or_else(|why| match why {
        DescribeError::Missing => {
            fault(format!("{what} does not exist"), format!("{DEPLOY}, or correct {setting} or AWS_REGION."))
        }
        DescribeError::Denied(why) => fault(
            format!("no permission to look at {what}: {why}"),
            format!("Allow {permission} for these credentials, or use others."),
        ),
        DescribeError::Unreachable(why) => fault(
            format!("{what} cannot be checked: {why}"),
            "Check AWS_REGION, AWS_ENDPOINT_URL, the credentials and the network.",
        ),
    })
}

impl Finding {
    pub(super) fn of(self, check: impl Into<String>) -> Self {
        Self { check: check.into(), ..self }
    }

    pub(super) fn line(&self) -> String {
        let word = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Fault => "FAULT",
        };
        let remedy = self.remedy.as_ref().map(|remedy| format!(". {remedy}")).unwrap_or_default();
        // Parts come from servers and must not control the terminal.
        format!("{word:<7}  {:<24}  {}{remedy}", self.check, self.detail).replace(char::is_control, " ")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) use Verdict::{Fault, Ok, Warning};

    #[test]
    fn what_cannot_be_described_is_a_fault_with_a_reason() {
        for (why, remedy) in [
            (DescribeError::Missing, "LONGHAND_TABLE"),
            (DescribeError::Denied("no".to_owned()), "dynamodb:DescribeTable"),
            (DescribeError::Unreachable("no route".to_owned()), "AWS_ENDPOINT_URL"),
        ] {
            let found = described(Err(why.clone()), "table jobs", "LONGHAND_TABLE", "dynamodb:DescribeTable");
            assert_eq!(found.verdict, Fault);
            assert!(found.remedy.is_some_and(|text| text.contains(remedy)), "{why:?}");
        }
    }
}
