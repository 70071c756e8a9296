//! Makes the calls for each check; `rules` finds the faults.

use std::time::UNIX_EPOCH;

use futures::future::join_all;
use longhand_shared::Timestamp;
use reqwest::{RequestBuilder, Response, Url};
use tokio::time::timeout;

use super::super::aws::Aws;
use super::super::rules::queue::Pair;
use super::super::rules::{self, DescribeError, Finding, Verdict};
use super::CHECK_TIMEOUT;
use super::settings::{Settings, Urls};
use crate::error::chain;

async fn within_limit<T>(answer: impl Future<Output = Result<T, DescribeError>>) -> Result<T, DescribeError> {
    let late = || DescribeError::Unreachable(format!("no answer within {} s", CHECK_TIMEOUT.as_secs()));
    timeout(CHECK_TIMEOUT, answer).await.unwrap_or_else(|_| Err(late()))
}

pub(super) async fn table(aws: &Aws, name: Option<&str>) -> Vec<Finding> {
    let Some(name) = name else { return Vec::new() };
    let what = format!("table {name}");
    let describe_error =
        |check, permission, why| rules::describe_error(check, &what, "LONGHAND_TABLE", permission, &why);
    let emulator = aws.is_emulator("DYNAMODB");
    let (table, ttl, recovery) = futures::join!(
        within_limit(aws.describe_table(name)),
        within_limit(aws.describe_ttl(name)),
        within_limit(aws.describe_recovery(name)),
    );
    let mut findings = match table {
        Ok(table) => rules::table::table(name, &table, emulator),
        Err(why) => vec![describe_error("table", "dynamodb:DescribeTable", why)],
    };
    findings.push(match ttl {
        Ok(attribute) => rules::table::ttl(attribute.as_deref(), emulator),
        Err(why) => describe_error("ttl", "dynamodb:DescribeTimeToLive", why),
    });
    findings.push(match recovery {
        Ok(on) => rules::table::recovery(on, emulator),
        Err(why) => describe_error("table recovery", "dynamodb:DescribeContinuousBackups", why),
    });
    findings
}

pub(super) async fn queues(aws: &Aws, pair: Pair, urls: &Urls, visibility: u64) -> Vec<Finding> {
    let described = async |url: &Option<String>| match url {
        Some(url) => Some((url.clone(), within_limit(aws.describe_queue(url)).await)),
        None => None,
    };
    let (queue, dlq) = futures::join!(described(&urls.queue), described(&urls.dlq));
    let describe_error = |check, setting, url: &str, why| {
        rules::describe_error(check, &format!("queue {url}"), setting, "sqs:GetQueueAttributes", why)
    };
    let mut findings = Vec::new();
    let known_dlq = dlq.as_ref().and_then(|(_, dlq)| dlq.as_ref().ok());
    let known_queue = queue.as_ref().and_then(|(_, queue)| queue.as_ref().ok());
    match &queue {
        Some((_, Ok(queue))) => {
            findings.extend(pair.queue(queue, visibility));
            findings.push(pair.redrive(queue.redrive.as_ref(), known_dlq.map(|dlq| dlq.arn.as_str())));
        }
        Some((url, Err(why))) => findings.push(describe_error(pair.queue, pair.queue_url, url, why)),
        None => {}
    }
    match &dlq {
        Some((_, Ok(dlq))) => findings.extend(pair.dead_letters(dlq, known_queue)),
        Some((url, Err(why))) => findings.push(describe_error(pair.dlq, pair.dlq_url, url, why)),
        None => {}
    }
    findings
}

/// A bucket that is only read from: its configuration is its owner's concern.
pub(super) async fn bucket(aws: &Aws, name: &str) -> Finding {
    match within_limit(aws.look_at_bucket(name)).await {
        Ok(()) => Finding::ok("bucket", format!("{name} exists")),
        Err(why) => of_bucket("bucket", name, "s3:ListBucket", &why),
    }
}

/// The bucket for uploads, also from web pages of `origins`.
pub(super) async fn uploads(aws: &Aws, name: Option<&str>, origins: &[String]) -> Vec<Finding> {
    let Some(name) = name else { return Vec::new() };
    let there = bucket(aws, name).await;
    if there.verdict == Verdict::Fault {
        return vec![there];
    }
    let cors =
        async { if origins.is_empty() { None } else { Some(within_limit(aws.bucket_cors(name)).await) } };
    let (open, encryption, expiry, policy, cors) = futures::join!(
        within_limit(aws.open_to_the_public(name)),
        within_limit(aws.bucket_encryption(name)),
        within_limit(aws.bucket_expiry(name)),
        within_limit(aws.bucket_policy(name)),
        cors,
    );
    let finding_of = |check, permission, finding: Result<Finding, DescribeError>| {
        finding.unwrap_or_else(|why| of_bucket(check, name, permission, &why))
    };
    let open = open.map(|open| rules::bucket::public_access(name, &open));
    let encryption = encryption.map(|algorithm| rules::bucket::encryption(algorithm.as_deref()));
    let expiry = expiry.map(|rules| rules::bucket::lifecycle(&rules, aws.is_emulator("S3")));
    let policy = policy.map(|policy| rules::bucket::tls(name, policy.as_deref(), aws.partition()));
    let cors = cors.map(|rules| rules.map(|rules| rules::bucket::cors(origins, &rules)));
    let mut findings = vec![
        there,
        finding_of("bucket public access", "s3:GetBucketPublicAccessBlock", open),
        finding_of("bucket encryption", "s3:GetEncryptionConfiguration", encryption),
        finding_of("bucket lifecycle", "s3:GetLifecycleConfiguration", expiry),
        finding_of("bucket TLS", "s3:GetBucketPolicy", policy),
    ];
    findings.extend(cors.map(|cors| finding_of("bucket CORS", "s3:GetBucketCORS", cors)));
    findings
}

fn of_bucket(check: &str, name: &str, permission: &str, why: &DescribeError) -> Finding {
    rules::describe_error(check, &format!("bucket {name}"), "LONGHAND_AUDIO_BUCKETS", permission, why)
}

pub(super) async fn model(http: &reqwest::Client, settings: &Settings) -> Option<Finding> {
    let url = format!("{}/v1/models", settings.model.as_deref()?.trim_end_matches('/'));
    let mut request = http.get(&url);
    if let Some(key) = &settings.model_key {
        request = request.bearer_auth(key);
    }
    Some(match send(request).await {
        Ok(answer) => rules::model(&url, answer.status().as_u16()),
        Err(why) => Finding::fault(
            "model",
            format!("{url} cannot be reached: {why}"),
            "Start the model's server, or correct ASR_BASE_URL (without /v1); until then chunks wait in the queue.",
        ),
    })
}

/// The api's readiness, and whether the queue accepted the messages that it sent.
pub(super) async fn api(http: &reqwest::Client, base: &Url) -> Vec<Finding> {
    let url = format!("{}/readyz", base.as_str().trim_end_matches('/'));
    match send(http.get(&url)).await {
        Ok(answer) => {
            let status = answer.status().as_u16();
            let body =
                timeout(CHECK_TIMEOUT, answer.text()).await.ok().and_then(Result::ok).unwrap_or_default();
            rules::api(&url, status, &serde_json::from_str(&body).unwrap_or_default())
        }
        Err(why) => vec![Finding::fault(
            "api",
            format!("{url} cannot be reached: {why}"),
            "Start the api, or correct --url or LONGHAND_URL.",
        )],
    }
}

/// Compares the clock with AWS's, or with the api's if AWS does not answer.
pub(super) async fn clock(http: &reqwest::Client, aws: &Aws, settings: &Settings, api: &Url) -> Finding {
    let whose = aws.endpoint().or(settings.chunks.queue.as_deref()).and_then(|url| Url::parse(url).ok());
    let asked = join_all([whose.as_ref(), Some(api)].into_iter().flatten().map(async |url| {
        let origin = url.origin().ascii_serialization();
        let answer = send(http.get(&origin)).await.ok()?;
        let here = Timestamp::now().unix();
        let date = answer.headers().get(reqwest::header::DATE)?.to_str().ok()?;
        let there = httpdate::parse_http_date(date).ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some((here.saturating_sub(i64::try_from(there.as_secs()).ok()?), origin))
    }));
    match asked.await.into_iter().flatten().next() {
        Some((ahead, whose)) => rules::clock(ahead, &whose),
        None => Finding::warning(
            "clock",
            "not checked: neither AWS nor the api answered",
            "Fix the connection to them.",
        ),
    }
}

async fn send(request: RequestBuilder) -> Result<Response, String> {
    match timeout(CHECK_TIMEOUT, request.send()).await {
        Ok(answer) => answer.map_err(|error| chain(&error.without_url())),
        Err(_) => Err(format!("no answer within {} s", CHECK_TIMEOUT.as_secs())),
    }
}
