//! `longhand doctor`: checks the resources that the services need.
//!
//! `settings.rs` reads the services' environment, `checks.rs` makes the calls, `rules/` finds the faults.

mod checks;
mod settings;

use std::time::Duration;

use futures::future::join_all;
use longhand_shared::service::settings::environment;
use serde::Serialize;

use super::aws::Aws;
use super::rules::queue::{CHUNKS, WEBHOOKS};
use super::rules::{Finding, Verdict};
use crate::Context;
use crate::error::{Exit, Failure, chain};
use crate::output;

/// The time limit of each check. The checks run concurrently.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Serialize)]
struct Report<'a> {
    verdict: Verdict,
    checks: &'a [Finding],
}

/// Runs all checks. Fails if one finds a fault.
pub(crate) async fn run(context: &Context) -> Result<(), Failure> {
    let (settings, mut findings) = settings::read(&environment);
    let aws = Aws::load().await;
    let http = reqwest::Client::builder()
        .user_agent(concat!("longhand/", env!("CARGO_PKG_VERSION")))
        .timeout(CHECK_TIMEOUT)
        .build()
        .map_err(|error| Failure::new(Exit::Unavailable, "INTERNAL", chain(&error)))?;
    let (uploads, others) =
        settings.buckets.split_first().map_or((None, &[][..]), |(first, rest)| (Some(first), rest));
    let (table, chunks, webhooks, uploads, others, model, api, clock) = futures::join!(
        checks::table(&aws, settings.table.as_deref()),
        checks::queues(&aws, CHUNKS, &settings.chunks, settings.visibility),
        checks::queues(&aws, WEBHOOKS, &settings.webhooks, settings.visibility),
        checks::uploads(&aws, uploads.map(String::as_str), &settings.origins),
        join_all(others.iter().map(|name| checks::bucket(&aws, name))),
        checks::model(&http, &settings),
        checks::api(&http, context.api.base()),
        checks::clock(&http, &aws, &settings, context.api.base()),
    );
    findings
        .extend(table.into_iter().chain(chunks).chain(webhooks).chain(uploads).chain(others).chain(model));
    findings.extend(api);
    findings.push(clock);
    report(context.json, &findings)
}

fn report(json: bool, findings: &[Finding]) -> Result<(), Failure> {
    let verdict = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok);
    let text = if json {
        let report = Report { verdict, checks: findings };
        serde_json::to_string(&report).expect("texts fit in JSON")
    } else {
        findings.iter().map(line).collect::<Vec<_>>().join("\n")
    };
    output::print(&text)?;
    let faults = findings.iter().filter(|finding| finding.verdict == Verdict::Fault).count();
    match faults {
        0 => Ok(()),
        1 => Err(Failure::new(Exit::Failed, "FAULTS", "1 fault found")),
        _ => Err(Failure::new(Exit::Failed, "FAULTS", format!("{faults} faults found"))),
    }
}

fn line(finding: &Finding) -> String {
    let word = match finding.verdict {
        Verdict::Ok => "ok",
        Verdict::Warning => "warning",
        Verdict::Fault => "FAULT",
    };
    let mut line = format!("{word:<7}  {:<24}  {}", finding.check, finding.detail);
    if let Some(remedy) = &finding.remedy {
        line.push_str(". ");
        line.push_str(remedy);
    }
    // Parts come from servers and must not control the terminal.
    line.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_fault_and_the_remedy() {
        let fault = Finding::fault("clock", "it is\u{1b} slow", "Wind it.");
        assert_eq!(line(&fault), format!("FAULT    {:<24}  it is  slow. Wind it.", "clock"));
        let fault = report(true, &[fault]).expect_err("a fault");
        assert_eq!((fault.exit, fault.message.as_str()), (Exit::Failed, "1 fault found"));
    }
}
