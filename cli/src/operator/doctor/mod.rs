//! `longhand doctor`: checks the resources that the services need, against `infra/data.yaml`.
//!
//! Each file has the checks of one resource: functions from the description that AWS returns to a [`Finding`].

mod bucket;
mod finding;
mod policy;
mod queue;
mod servers;
mod settings;
mod table;

use longhand_shared::service::settings::environment;
use serde::Serialize;

use super::aws::Aws;
use super::queues::{CHUNKS, WEBHOOKS};
use crate::context::Context;
use crate::error::{Exit, Failure};
use crate::output;
use finding::{Finding, Verdict};

pub(crate) const HELP: &str = "\
Set the same environment as for the services. Required: LONGHAND_TABLE, LONGHAND_QUEUE_URL, LONGHAND_DLQ_URL,
ASR_BASE_URL, and one of LONGHAND_AUDIO_BUCKETS, LONGHAND_AUDIO_HOSTS and LONGHAND_AUDIO_ROOT. If the services have
them: ASR_API_KEY, LONGHAND_VISIBILITY_SECONDS, LONGHAND_WEBHOOK_QUEUE_URL, LONGHAND_WEBHOOK_DLQ_URL,
LONGHAND_WEBHOOK_SECRET, LONGHAND_CALLBACK_HOSTS, LONGHAND_CORS_ORIGINS, and the AWS SDK's variables.

doctor changes nothing. It needs these permissions: dynamodb:DescribeTable, DescribeTimeToLive and
DescribeContinuousBackups; sqs:GetQueueAttributes; on the bucket s3:ListBucket, GetBucketPublicAccessBlock,
GetEncryptionConfiguration, GetLifecycleConfiguration, GetBucketPolicy and GetBucketCORS. A missing permission is a
FAULT that names it.

Each line of the report is ok, warning or FAULT. The exit code is 1 if there is a FAULT, else 0.";

#[derive(Serialize)]
struct Report<'a> {
    verdict: Verdict,
    checks: &'a [Finding],
}

/// Runs all checks at the same time. Fails if one finds a fault.
pub(crate) async fn run(context: &Context) -> Result<(), Failure> {
    let (settings, mut findings) = settings::read(&environment);
    let (aws, http) = (Aws::load().await, servers::client()?);
    let (table, chunks, webhooks, buckets, model, api, clock) = futures::join!(
        table::check(&aws, settings.table.as_deref()),
        queue::check(&aws, CHUNKS, &settings.chunks, settings.visibility),
        queue::check(&aws, WEBHOOKS, &settings.webhooks, settings.visibility),
        bucket::check(&aws, &settings.buckets, &settings.origins),
        servers::model(&http, settings.model.as_deref(), settings.model_key.as_deref()),
        servers::api(&http, context.api.base()),
        servers::clock(&http, &aws, settings.chunks.queue.as_deref(), context.api.base()),
    );
    findings.extend([table, chunks, webhooks, buckets, model, api, clock].into_iter().flatten());
    report(context.json, &findings)
}

fn report(json: bool, findings: &[Finding]) -> Result<(), Failure> {
    let verdict = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok);
    output::print(&if json {
        serde_json::to_string(&Report { verdict, checks: findings }).expect("texts fit in JSON")
    } else {
        findings.iter().map(Finding::line).collect::<Vec<_>>().join("\n")
    })?;
    match findings.iter().filter(|finding| finding.verdict == Verdict::Fault).count() {
        0 => Ok(()),
        1 => Err(Failure::new(Exit::Failed, "FAULTS", "1 fault found")),
        faults => Err(Failure::new(Exit::Failed, "FAULTS", format!("{faults} faults found"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_fault_and_the_remedy() {
        let fault = finding::fault("it is\u{1b} slow").remedy("Wind it.").of("clock");
        assert_eq!(fault.line(), format!("FAULT    {:<24}  it is  slow. Wind it.", "clock"));
        let fault = report(true, &[fault]).expect_err("a fault");
        assert_eq!((fault.exit, fault.message.as_str()), (Exit::Failed, "1 fault found"));
    }
}
