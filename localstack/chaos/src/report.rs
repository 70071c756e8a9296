//! The report of a scenario, as text and as JSON.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::time::Duration;

use serde_json::{Value, json};

use crate::audit::Findings;
use crate::member::{Kind, app};
use crate::{client, fleet, proxy};

#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The scenario and its seed.
    pub name: String,
    pub took: Duration,
    /// The number of jobs to submit, and of attempts to submit them.
    pub submitted: (usize, u64),
    pub findings: Findings,
    pub fleet: fleet::Books,
    /// What clients saw behind nginx.
    pub clients: Option<client::Books>,
    pub aws: proxy::Books,
    pub model: longhand_sim_asr::Books,
    /// Lines that only this scenario has.
    pub notes: Vec<String>,
}

impl Report {
    /// Whether everything is as promised.
    pub fn is_good(&self) -> bool {
        self.findings.violations.is_empty()
    }

    /// Adds a note about the programs of each version. It is a violation if one of them did no work, since the run then
    /// shows nothing about it.
    pub fn judge_versions(&mut self) {
        for (kind, old) in
            [(Kind::Api, false), (Kind::Api, true), (Kind::Worker, false), (Kind::Worker, true)]
        {
            let name = app(kind, old);
            let proxy::AppBook { calls, transactions, settled } =
                self.aws.apps.get(&name).copied().unwrap_or_default();
            self.notes.push(format!(
                "{name}: {calls} AWS calls, {transactions} transactions, {settled} outcomes and ends"
            ));
            let idle = if kind == Kind::Api { transactions == 0 } else { settled == 0 };
            if idle {
                self.findings.violations.push(format!("IDLE {name}: it did no work"));
            }
        }
    }

    /// The report as text.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for (name, what) in self.audit_rows().into_iter().chain(self.load_rows()) {
            let _ = writeln!(out, "  {name:<22} {what}");
        }
        for note in &self.notes {
            let _ = writeln!(out, "  {note}");
        }
        for violation in &self.findings.violations {
            let _ = writeln!(out, "  VIOLATION {violation}");
        }
        let verdict = if self.is_good() { "as promised" } else { "NOT as promised" };
        format!("{}: {verdict}, in {:.0} s\n{out}", self.name, self.took.as_secs_f64())
    }

    /// What the audit found.
    fn audit_rows(&self) -> Vec<(&'static str, String)> {
        let found = &self.findings;
        let (jobs, tries) = self.submitted;
        let (calls, claims) = found.most_calls;
        let calls_at_once = format!(
            "{} at most; {} in all{}",
            found.most_at_once,
            self.model.calls,
            in_brackets(&self.statuses(), "")
        );
        vec![
            ("jobs", format!("{} accepted of {jobs} ({tries} tries)", found.accepted)),
            ("created, not accepted", found.unasked.to_string()),
            ("completed", found.completed.to_string()),
            ("failed with reason", format!("{}{}", found.failed, in_brackets(&found.codes, "chunks: "))),
            ("lost", found.lost.to_string()),
            ("stuck", found.stuck.to_string()),
            ("chunks settled twice", found.settled_twice.to_string()),
            ("jobs finished twice", found.finished_twice.to_string()),
            ("transcripts wrong", found.wrong.to_string()),
            ("messages left", found.left.to_string()),
            (
                "calls for one chunk",
                format!("{calls} at most ({claims} claims); over the limit: {}", found.over_bound),
            ),
            ("claims of one chunk", format!("{} at most", found.most_claims)),
            ("calls at once", calls_at_once),
        ]
    }

    /// What the processes, the clients and AWS went through.
    fn load_rows(&self) -> Vec<(&'static str, String)> {
        let fleet::Books { killed, stopped, reloaded, demoted, restarted, disturbed, exits } = &self.fleet;
        let well = exits.iter().filter(|exit| exit.success).count();
        let mut rows = vec![(
            "processes",
            format!(
                "{killed} kill -9, {stopped} SIGTERM, {demoted} REPLICAOF, {restarted} restarts; {well} of {} SIGTERMs in all ended with 0",
                exits.len()
            ),
        )];
        if let Some(client::Books { asked, again, resumed, .. }) = &self.clients {
            let disturbed = disturbed.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect();
            rows.push((
                "disturbed",
                format!("{reloaded} reloads of nginx{}", in_brackets(&disturbed, "in all: ")),
            ));
            let retries: u64 = again.values().sum();
            let (reasons, surprises) = (in_brackets(again, ""), self.findings.surprises);
            rows.push(("clients", format!("{asked} requests; retried {retries}{reasons}; streams resumed {resumed}; errors that clients do not retry {surprises}")));
        }
        let calls: u64 = self.aws.operations.values().map(|book| book.calls).sum();
        let faults =
            self.aws.faults().into_iter().map(|(fault, count)| (fault.to_string().replace('_', " "), count));
        let (faults, lost) = (in_brackets(&faults.collect(), ""), self.aws.messages_lost);
        rows.push(("AWS", format!("{calls} calls{faults}; {lost} messages in lost answers")));
        rows
    }

    fn statuses(&self) -> BTreeMap<String, u64> {
        let model = &self.model;
        let counts = model.by_status.iter().map(|(status, count)| (status.to_string(), *count));
        let others = [("cut", model.cut), ("hung", model.hung), ("aborted", model.aborted)];
        counts.chain(others.map(|(name, count)| (name.to_owned(), count))).collect()
    }

    /// The report as JSON.
    pub fn json(&self) -> Value {
        let operations = self.aws.operations.iter();
        let operations: BTreeMap<String, Value> = operations
            .map(|(operation, book)| {
                (operation.to_string(), json!({"calls": book.calls, "faults": book.faults}))
            })
            .collect();
        json!({
            "name": self.name,
            "asPromised": self.is_good(),
            "seconds": self.took.as_secs_f64(),
            "jobs": self.jobs_json(),
            "chunks": self.chunks_json(),
            "messagesLeft": self.findings.left,
            "model": {
                "calls": self.model.calls,
                "mostAtOnce": self.findings.most_at_once,
                "byStatus": self.model.by_status,
                "cut": self.model.cut,
                "hung": self.model.hung,
                "clientLeft": self.model.aborted,
            },
            "processes": self.fleet,
            "clients": self.clients,
            "aws": operations,
            "messagesInLostAnswers": self.aws.messages_lost,
            "notes": self.notes,
            "violations": self.findings.violations,
        })
    }

    fn jobs_json(&self) -> Value {
        let found = &self.findings;
        json!({
            "submitted": self.submitted.0,
            "tries": self.submitted.1,
            "accepted": found.accepted,
            "notAcceptedYetMade": found.unasked,
            "completed": found.completed,
            "failed": found.failed,
            "lost": found.lost,
            "stuck": found.stuck,
            "finishedTwice": found.finished_twice,
            "transcriptsWrong": found.wrong,
        })
    }

    fn chunks_json(&self) -> Value {
        let found = &self.findings;
        json!({
            "settledTwice": found.settled_twice,
            "failedByCode": found.codes,
            "mostCalls": found.most_calls.0,
            "mostCallsClaims": found.most_calls.1,
            "mostClaims": found.most_claims,
            "overTheBound": found.over_bound,
        })
    }
}

fn in_brackets(counts: &BTreeMap<String, impl Display>, before: &str) -> String {
    if counts.is_empty() {
        return String::new();
    }
    let all: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    format!(" ({before}{})", all.join(", "))
}

/// All scenarios, one line each.
pub fn summary(reports: &[Report]) -> String {
    let mut out = format!(
        "{:<22} {:>8} {:>9} {:>6} {:>4} {:>5} {:>13} {:>5} {:>4} {:>10} {:>7} {:>5} {:>10} {:>5}  {}\n",
        "scenario",
        "accepted",
        "completed",
        "failed",
        "lost",
        "stuck",
        "settled twice",
        "wrong",
        "left",
        "most calls",
        "at once",
        "kills",
        "AWS faults",
        "time",
        "as promised"
    );
    for report in reports {
        let found = &report.findings;
        let _ = writeln!(
            out,
            "{:<22} {:>8} {:>9} {:>6} {:>4} {:>5} {:>13} {:>5} {:>4} {:>10} {:>7} {:>5} {:>10} {:>3} s  {}",
            report.name,
            found.accepted,
            found.completed,
            found.failed,
            found.lost,
            found.stuck,
            found.settled_twice,
            found.wrong,
            found.left,
            format!("{}/{}", found.most_calls.0, found.most_calls.1),
            found.most_at_once,
            report.fleet.killed + report.fleet.stopped,
            report.aws.faults().values().sum::<u64>(),
            report.took.as_secs(),
            if report.is_good() { "yes" } else { "NO" },
        );
    }
    out
}
