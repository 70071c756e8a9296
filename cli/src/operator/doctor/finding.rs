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
    /// The service does not work, or may lose, expose or never delete data.
    Fault,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// The name of the check. Set by [`Finding::of`].
    pub(super) check: String,
    pub(super) verdict: Verdict,
    pub(super) detail: String,
    /// `None` if the verdict is ok.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

/// A warning or a fault, which needs a remedy.
pub(super) struct Problem(Finding);

pub(super) fn ok(detail: impl Into<String>) -> Finding {
    Finding { check: String::new(), verdict: Verdict::Ok, detail: detail.into(), remedy: None }
}

pub(super) fn warning(detail: impl Into<String>) -> Problem {
    Problem(Finding { verdict: Verdict::Warning, ..ok(detail) })
}

pub(super) fn fault(detail: impl Into<String>) -> Problem {
    Problem(Finding { verdict: Verdict::Fault, ..ok(detail) })
}

impl Problem {
    /// What to do, with a full stop at the end.
    pub(super) fn remedy(self, remedy: impl Into<String>) -> Finding {
        Finding { remedy: Some(remedy.into()), ..self.0 }
    }
}

pub(super) fn listed(names: impl Iterator<Item = impl AsRef<str>>) -> String {
    names.map(|name| name.as_ref().to_owned()).collect::<Vec<_>>().join(", ")
}

/// The finding about a resource that cannot be described. `setting` names it; the call needs `permission`.
pub(super) fn undescribed(why: DescribeError, what: &str, setting: &str, permission: &str) -> Finding {
    match why {
        DescribeError::Missing => fault(format!("{what} does not exist"))
            .remedy(format!("{DEPLOY}, or correct {setting} or AWS_REGION.")),
        DescribeError::Denied(why) => fault(format!("no permission to look at {what}: {why}"))
            .remedy(format!("Allow {permission} for these credentials, or use others.")),
        DescribeError::Unreachable(why) => fault(format!("{what} cannot be checked: {why}"))
            .remedy("Check AWS_REGION, AWS_ENDPOINT_URL, the credentials and the network."),
    }
}

impl Finding {
    /// Replaces this problem by ok if `good`.
    pub(super) fn unless(self, good: bool, detail: impl Into<String>) -> Self {
        if good { ok(detail) } else { self }
    }

    /// Replaces this problem on an emulator, which may ignore `what` in the template.
    pub(super) fn on_emulator(self, emulator: bool, detail: &str, what: &str) -> Self {
        let remedy = format!("Nothing to do on an emulator: some ignore {what} in templates.");
        if emulator { warning(detail).remedy(remedy) } else { self }
    }

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
            let found = undescribed(why.clone(), "table jobs", "LONGHAND_TABLE", "dynamodb:DescribeTable");
            assert_eq!(found.verdict, Fault);
            assert!(found.remedy.is_some_and(|text| text.contains(remedy)), "{why:?}");
        }
    }
}
