//! `longhand doctor`: is everything that the services stand on there, and set up as it must be?

use std::time::{Duration, UNIX_EPOCH};

use futures::future::join_all;
use longhand_shared::Timestamp;
use longhand_shared::settings::{List, environment};
use reqwest::{RequestBuilder, Response, Url};
use serde::Serialize;
use tokio::time::timeout;

use super::aws::Aws;
use super::judge::{self, Finding, Trouble, Verdict};
use crate::Context;
use crate::error::{Exit, Failure, chain};
use crate::output;

/// How long anything may take to answer. The checks go on side by side.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the workers ask for when they are told nothing else.
const USUAL_VISIBILITY: u64 = 30;

/// The settings of the services, as far as they name something that can be looked at.
#[derive(Debug, Default, PartialEq, Eq)]
struct Settings {
    table: Option<String>,
    queue: Option<String>,
    dlq: Option<String>,
    buckets: Vec<String>,
    model: Option<String>,
    model_key: Option<String>,
    visibility: u64,
}

#[derive(Serialize)]
struct Report<'a> {
    verdict: Verdict,
    checks: &'a [Finding],
}

/// Runs every check, whatever the others say. An `Err` when one found a fault.
pub(crate) async fn run(context: &Context) -> Result<(), Failure> {
    let (settings, mut findings) = settings(&environment);
    let aws = Aws::load().await;
    let http = reqwest::Client::builder()
        .user_agent(concat!("longhand/", env!("CARGO_PKG_VERSION")))
        .timeout(PATIENCE)
        .build()
        .map_err(|error| Failure::new(Exit::Unavailable, "INTERNAL", chain(&error)))?;
    let (table, queues, buckets, model, api, clock) = futures::join!(
        table(&aws, settings.table.as_deref()),
        queues(&aws, &settings),
        join_all(settings.buckets.iter().map(|name| bucket(&aws, name))),
        model(&http, &settings),
        api(&http, context.api.base()),
        clock(&http, &aws, &settings, context.api.base()),
    );
    findings.extend(table.into_iter().chain(queues).chain(buckets).chain(model));
    findings.extend([api, clock]);
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
    let mut line = format!("{word:<7}  {:<22}  {}", finding.check, finding.detail);
    if let Some(remedy) = &finding.remedy {
        line.push_str(". ");
        line.push_str(remedy);
    }
    // Some of this comes from elsewhere; it must not steer the terminal.
    line.replace(char::is_control, " ")
}

/// Reads what can be read; what is missing or wrong has a finding of its own.
fn settings(lookup: &dyn Fn(&str) -> Option<String>) -> (Settings, Vec<Finding>) {
    let mut findings = Vec::new();
    let value = |name: &str| lookup(name).map(|value| value.trim().to_owned()).filter(|v| !v.is_empty());
    let mut required = |name: &str| {
        let value = value(name);
        if value.is_none() {
            let remedy = "Set it as for the services: the stack's outputs say what it is.";
            findings.push(Finding::fault(name, "is not set", remedy));
        }
        value
    };
    let mut settings = Settings {
        table: required("LONGHAND_TABLE"),
        queue: required("LONGHAND_QUEUE_URL"),
        dlq: required("LONGHAND_DLQ_URL"),
        model: required("ASR_BASE_URL"),
        model_key: value("ASR_API_KEY"),
        visibility: USUAL_VISIBILITY,
        buckets: Vec::new(),
    };
    let List(buckets) =
        value("LONGHAND_AUDIO_BUCKETS").and_then(|list| list.parse().ok()).unwrap_or_default();
    settings.buckets = buckets;
    if settings.buckets.is_empty() {
        findings.push(match (value("LONGHAND_AUDIO_ROOT"), value("LONGHAND_AUDIO_HOSTS")) {
            (Some(root), _) => Finding::ok("bucket", format!("none: audio is under {root}")),
            (None, Some(hosts)) => Finding::ok("bucket", format!("none: audio is at {hosts}")),
            (None, None) => Finding::fault(
                "LONGHAND_AUDIO_BUCKETS",
                "is not set, nor are LONGHAND_AUDIO_HOSTS and LONGHAND_AUDIO_ROOT",
                "Set one of them as for the services: without them there is no audio.",
            ),
        });
    }
    if let Some(text) = value("LONGHAND_VISIBILITY_SECONDS") {
        match text.parse() {
            Ok(seconds @ 3..=43_200) => settings.visibility = seconds,
            _ => findings.push(Finding::fault(
                "LONGHAND_VISIBILITY_SECONDS",
                format!("is {text:?}"),
                "Set it to whole seconds, 3 to 43200: the workers do not start with anything else.",
            )),
        }
    }
    (settings, findings)
}

async fn asked<T>(answer: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    let late = || Trouble::Unreachable(format!("no answer within {} s", PATIENCE.as_secs()));
    timeout(PATIENCE, answer).await.unwrap_or_else(|_| Err(late()))
}

async fn table(aws: &Aws, name: Option<&str>) -> Vec<Finding> {
    let Some(name) = name else { return Vec::new() };
    let what = format!("table {name}");
    let trouble = |check, permission, why| judge::trouble(check, &what, "LONGHAND_TABLE", permission, &why);
    let (table, ttl) = futures::join!(asked(aws.describe_table(name)), asked(aws.describe_ttl(name)));
    let mut findings = match table {
        Ok(table) => judge::table(name, &table),
        Err(why) => vec![trouble("table", "dynamodb:DescribeTable", why)],
    };
    findings.push(match ttl {
        Ok(attribute) => judge::ttl(attribute.as_deref(), aws.has_own_endpoint()),
        Err(why) => trouble("ttl", "dynamodb:DescribeTimeToLive", why),
    });
    findings
}

async fn queues(aws: &Aws, settings: &Settings) -> Vec<Finding> {
    let described = async |url: &Option<String>| match url {
        Some(url) => Some((url.clone(), asked(aws.describe_queue(url)).await)),
        None => None,
    };
    let (queue, dlq) = futures::join!(described(&settings.queue), described(&settings.dlq));
    let trouble = |check, setting, url: &str, why| {
        judge::trouble(check, &format!("queue {url}"), setting, "sqs:GetQueueAttributes", why)
    };
    let mut findings = Vec::new();
    let known_dlq = dlq.as_ref().and_then(|(_, dlq)| dlq.as_ref().ok());
    let known_queue = queue.as_ref().and_then(|(_, queue)| queue.as_ref().ok());
    match &queue {
        Some((_, Ok(queue))) => {
            findings.extend(judge::queue(queue, settings.visibility));
            findings.push(judge::redrive(queue.redrive.as_ref(), known_dlq.map(|dlq| dlq.arn.as_str())));
        }
        Some((url, Err(why))) => findings.push(trouble("queue", "LONGHAND_QUEUE_URL", url, why)),
        None => {}
    }
    match &dlq {
        Some((_, Ok(dlq))) => findings.extend(judge::dead_letters(dlq, known_queue)),
        Some((url, Err(why))) => findings.push(trouble("dead-letter queue", "LONGHAND_DLQ_URL", url, why)),
        None => {}
    }
    findings
}

async fn bucket(aws: &Aws, name: &str) -> Finding {
    match asked(aws.look_at_bucket(name)).await {
        Ok(()) => Finding::ok("bucket", format!("{name} is there")),
        Err(why) => {
            let what = format!("bucket {name}");
            judge::trouble("bucket", &what, "LONGHAND_AUDIO_BUCKETS", "s3:ListBucket", &why)
        }
    }
}

async fn model(http: &reqwest::Client, settings: &Settings) -> Option<Finding> {
    let url = format!("{}/v1/models", settings.model.as_deref()?.trim_end_matches('/'));
    let mut request = http.get(&url);
    if let Some(key) = &settings.model_key {
        request = request.bearer_auth(key);
    }
    Some(match send(request).await {
        Ok(answer) => judge::model(&url, answer.status().as_u16()),
        Err(why) => Finding::fault(
            "model",
            format!("{url} cannot be reached: {why}"),
            "Start the model's server, or correct ASR_BASE_URL (without /v1); until then chunks wait in the queue.",
        ),
    })
}

async fn api(http: &reqwest::Client, base: &Url) -> Finding {
    const CHECK: &str = "api";
    let url = format!("{}/readyz", base.as_str().trim_end_matches('/'));
    match send(http.get(&url)).await {
        Ok(answer) if answer.status().is_success() => Finding::ok(CHECK, format!("{url} is ready")),
        Ok(answer) => {
            let status = answer.status().as_u16();
            let said = timeout(PATIENCE, answer.text()).await.ok().and_then(Result::ok).unwrap_or_default();
            let said: serde_json::Value = serde_json::from_str(&said).unwrap_or_default();
            let why = said["detail"].as_str().map(|detail| format!(": {detail}")).unwrap_or_default();
            Finding::fault(
                CHECK,
                format!("{url} answers {status}{why}"),
                "Mend what it names, and look at the api's log.",
            )
        }
        Err(why) => Finding::fault(
            CHECK,
            format!("{url} cannot be reached: {why}"),
            "Start the api, or say where it is with --url or LONGHAND_URL.",
        ),
    }
}

/// Held against AWS, whose clock is right, and only without its answer against the API's.
async fn clock(http: &reqwest::Client, aws: &Aws, settings: &Settings, api: &Url) -> Finding {
    let whose = aws.endpoint().or(settings.queue.as_deref()).and_then(|url| Url::parse(url).ok());
    let asked = join_all([whose.as_ref(), Some(api)].into_iter().flatten().map(async |url| {
        let origin = url.origin().ascii_serialization();
        let answer = send(http.get(&origin)).await.ok()?;
        let here = Timestamp::now().unix();
        let date = answer.headers().get(reqwest::header::DATE)?.to_str().ok()?;
        let there = httpdate::parse_http_date(date).ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some((here.saturating_sub(i64::try_from(there.as_secs()).ok()?), origin))
    }));
    match asked.await.into_iter().flatten().next() {
        Some((ahead, whose)) => judge::clock(ahead, &whose),
        None => Finding::warning(
            "clock",
            "neither AWS nor the api said what time it is",
            "Mend what keeps them from answering.",
        ),
    }
}

async fn send(request: RequestBuilder) -> Result<Response, String> {
    match timeout(PATIENCE, request.send()).await {
        Ok(answer) => answer.map_err(|error| chain(&error.without_url())),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[(&str, &str)]) -> (Settings, Vec<String>) {
        let lookup =
            |name: &str| values.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned());
        let (settings, findings) = settings(&lookup);
        let faults = findings.into_iter().filter(|finding| finding.verdict == Verdict::Fault);
        (settings, faults.map(|fault| fault.check).collect())
    }

    #[test]
    fn every_missing_setting_is_a_fault_of_its_own() {
        let (settings, faults) = read(&[("LONGHAND_TABLE", " jobs "), ("LONGHAND_VISIBILITY_SECONDS", "2")]);
        assert_eq!(settings.table.as_deref(), Some("jobs"));
        let missing = ["LONGHAND_QUEUE_URL", "LONGHAND_DLQ_URL", "ASR_BASE_URL", "LONGHAND_AUDIO_BUCKETS"];
        assert_eq!(faults, [&missing[..], &["LONGHAND_VISIBILITY_SECONDS"]].concat());
    }

    #[test]
    fn a_folder_does_in_place_of_buckets() {
        let (settings, faults) = read(&[
            ("LONGHAND_TABLE", "jobs"),
            ("LONGHAND_QUEUE_URL", "http://sqs/q"),
            ("LONGHAND_DLQ_URL", "http://sqs/d"),
            ("ASR_BASE_URL", "http://asr"),
            ("LONGHAND_AUDIO_ROOT", "/audio"),
            ("LONGHAND_VISIBILITY_SECONDS", "45"),
        ]);
        assert_eq!((faults, settings.visibility), (Vec::new(), 45));
        let (_, faults) = read(&[("LONGHAND_AUDIO_HOSTS", "good.example")]);
        assert!(!faults.contains(&"LONGHAND_AUDIO_BUCKETS".to_owned()), "{faults:?}");
        let (settings, _) = read(&[("LONGHAND_AUDIO_BUCKETS", "one, two,")]);
        assert_eq!(settings.buckets, ["one", "two"]);
    }

    #[test]
    fn a_line_says_what_is_wrong_and_how_to_mend_it() {
        let fault = Finding::fault("clock", "it is\u{1b} slow", "Wind it.");
        assert_eq!(line(&fault), format!("FAULT    {:<22}  it is  slow. Wind it.", "clock"));
        let fault = report(true, &[fault]).expect_err("a fault");
        assert_eq!((fault.exit, fault.message.as_str()), (Exit::Failed, "1 fault found"));
    }
}
