//! What a scenario says in the end: text for people, JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::audit::Findings;
use crate::fleet::{Kind, app};
use crate::{client, fleet, proxy};

/// A scenario's end.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What was run, with its seed.
    pub name: String,
    /// How long it took.
    pub took: Duration,
    /// Jobs that were to be submitted, and the tries that took.
    pub submitted: (usize, u64),
    /// What the audit found.
    pub findings: Findings,
    /// What was done to the processes.
    pub fleet: fleet::Books,
    /// What clients saw behind nginx.
    pub clients: Option<client::Books>,
    /// What was done to the calls of AWS.
    pub aws: proxy::Books,
    /// The model's books.
    pub model: longhand_sim_asr::Books,
    /// Lines that only this scenario has.
    pub notes: Vec<String>,
}

impl Report {
    /// Whether everything is as promised.
    pub fn is_good(&self) -> bool {
        self.findings.violations.is_empty()
    }

    /// Notes what the programs of each version did. Each kind of each must have done some of the work, or the run says
    /// nothing about it.
    pub fn judge_versions(&mut self) {
        for (kind, old) in
            [(Kind::Api, false), (Kind::Api, true), (Kind::Worker, false), (Kind::Worker, true)]
        {
            let name = app(kind, old);
            let proxy::AppBook { calls, transactions, settled } =
                self.aws.apps.get(&name).copied().unwrap_or_default();
            self.notes.push(format!(
                "{name}: {calls} AWS calls, {transactions} transactions, {settled} verdicts and ends"
            ));
            let idle = if kind == Kind::Api { transactions == 0 } else { settled == 0 };
            if idle {
                self.findings.violations.push(format!("IDLE {name}: it did none of the work"));
            }
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let found = &self.findings;
        let mut out = String::new();
        let mut line = |name: &str, what: String| {
            let _ = writeln!(out, "  {name:<22} {what}");
        };
        line(
            "jobs",
            format!("{} accepted of {} ({} tries)", found.accepted, self.submitted.0, self.submitted.1),
        );
        line("not accepted, yet made", found.unasked.to_string());
        line("completed", found.completed.to_string());
        line("failed with reason", format!("{}{}", found.failed, in_brackets(&found.codes, "chunks: ")));
        line("lost", found.lost.to_string());
        line("stuck", found.stuck.to_string());
        line("chunks settled twice", found.settled_twice.to_string());
        line("jobs finished twice", found.finished_twice.to_string());
        line("transcripts wrong", found.wrong.to_string());
        line("messages left", found.left.to_string());
        let (calls, claims) = found.most_calls;
        line(
            "calls for one chunk",
            format!("{calls} at most ({claims} claims); over the bound: {}", found.over_bound),
        );
        line("claims of one chunk", format!("{} at most", found.most_claims));
        line(
            "calls at once",
            format!("{} at most; {} in all{}", found.most_at_once, self.model.calls, self.statuses()),
        );
        let fleet::Books { kills, stops, reloads, demotions, restarts, struck, exits } = &self.fleet;
        let (well, asked) = (exits.iter().filter(|exit| exit.success).count(), exits.len());
        line(
            "processes",
            format!(
                "{kills} kill -9, {stops} SIGTERM, {demotions} REPLICAOF, {restarts} restarts; {well} of {asked} SIGTERMs in all ended with 0"
            ),
        );
        if let Some(clients) = &self.clients {
            let struck = struck.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect();
            line("struck", format!("{reloads} reloads of nginx{}", in_brackets(&struck, "in all: ")));
            line(
                "clients",
                format!(
                    "{} requests; tried again {}{}; streams resumed {}; errors that clients do not retry {}",
                    clients.asked,
                    clients.again.values().sum::<u64>(),
                    in_brackets(&clients.again, ""),
                    clients.resumed,
                    found.surprises,
                ),
            );
        }
        let calls: u64 = self.aws.operations.values().map(|book| book.calls).sum();
        let faults =
            self.aws.faults().into_iter().map(|(fault, count)| (fault.name().to_owned(), count)).collect();
        let lost = self.aws.messages_lost;
        line("AWS", format!("{calls} calls{}; {lost} messages in lost answers", in_brackets(&faults, "")));
        for note in &self.notes {
            let _ = writeln!(out, "  {note}");
        }
        for violation in &found.violations {
            let _ = writeln!(out, "  VIOLATION {violation}");
        }
        let verdict = if self.is_good() { "as promised" } else { "NOT as promised" };
        format!("{}: {verdict}, in {:.0} s\n{out}", self.name, self.took.as_secs_f64())
    }

    fn statuses(&self) -> String {
        let model = &self.model;
        let mut all: BTreeMap<String, u64> =
            model.by_status.iter().map(|(status, count)| (status.to_string(), *count)).collect();
        all.extend([
            ("cut".to_owned(), model.cut),
            ("hung".to_owned(), model.hung),
            ("left".to_owned(), model.aborted),
        ]);
        in_brackets(&all, "")
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let found = &self.findings;
        let operations: BTreeMap<String, Value> = self
            .aws
            .operations
            .iter()
            .map(|(operation, book)| {
                (operation.to_string(), json!({"calls": book.calls, "faults": book.faults}))
            })
            .collect();
        let exits: Vec<Value> = self
            .fleet
            .exits
            .iter()
            .map(|exit| json!({"process": exit.name, "asked": exit.asked, "how": exit.how}))
            .collect();
        json!({
            "name": self.name,
            "asPromised": self.is_good(),
            "seconds": self.took.as_secs_f64(),
            "jobs": {
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
            },
            "chunks": {
                "settledTwice": found.settled_twice,
                "failedByCode": found.codes,
                "mostCalls": found.most_calls.0,
                "mostCallsClaims": found.most_calls.1,
                "mostClaims": found.most_claims,
                "overTheBound": found.over_bound,
            },
            "messagesLeft": found.left,
            "model": {
                "calls": self.model.calls,
                "mostAtOnce": found.most_at_once,
                "byStatus": self.model.by_status,
                "cut": self.model.cut,
                "hung": self.model.hung,
                "clientLeft": self.model.aborted,
            },
            "processes": {
                "killed": self.fleet.kills,
                "stopped": self.fleet.stops,
                "reloaded": self.fleet.reloads,
                "demoted": self.fleet.demotions,
                "struck": self.fleet.struck,
                "restarted": self.fleet.restarts,
                "exits": exits,
            },
            "clients": self.clients.as_ref().map(|clients| json!({
                "asked": clients.asked,
                "again": clients.again,
                "streamsResumed": clients.resumed,
                "surprises": clients.surprises,
            })),
            "aws": operations,
            "messagesInLostAnswers": self.aws.messages_lost,
            "notes": self.notes,
            "violations": found.violations,
        })
    }
}

fn in_brackets(counts: &BTreeMap<String, impl ToString>, before: &str) -> String {
    if counts.is_empty() {
        return String::new();
    }
    let all: Vec<String> =
        counts.iter().map(|(name, count)| format!("{name} {}", count.to_string())).collect();
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
            report.fleet.kills + report.fleet.stops,
            report.aws.faults().values().sum::<u64>(),
            report.took.as_secs(),
            if report.is_good() { "yes" } else { "NO" },
        );
    }
    out
}
