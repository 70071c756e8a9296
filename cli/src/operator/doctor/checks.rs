//! Looking at each thing that the settings name; what is wrong with it is told by `judge`.

use std::time::UNIX_EPOCH;

use futures::future::join_all;
use longhand_shared::Timestamp;
use reqwest::{RequestBuilder, Response, Url};
use tokio::time::timeout;

use super::super::aws::Aws;
use super::super::judge::queue::Pair;
use super::super::judge::{self, Finding, Trouble, Verdict};
use super::PATIENCE;
use super::settings::{Settings, Urls};
use crate::error::chain;

async fn asked<T>(answer: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    let late = || Trouble::Unreachable(format!("no answer within {} s", PATIENCE.as_secs()));
    timeout(PATIENCE, answer).await.unwrap_or_else(|_| Err(late()))
}

pub(super) async fn table(aws: &Aws, name: Option<&str>) -> Vec<Finding> {
    let Some(name) = name else { return Vec::new() };
    let what = format!("table {name}");
    let trouble = |check, permission, why| judge::trouble(check, &what, "LONGHAND_TABLE", permission, &why);
    let emulator = aws.is_emulator("DYNAMODB");
    let (table, ttl, recovery) = futures::join!(
        asked(aws.describe_table(name)),
        asked(aws.describe_ttl(name)),
        asked(aws.describe_recovery(name)),
    );
    let mut findings = match table {
        Ok(table) => judge::table::table(name, &table, emulator),
        Err(why) => vec![trouble("table", "dynamodb:DescribeTable", why)],
    };
    findings.push(match ttl {
        Ok(attribute) => judge::table::ttl(attribute.as_deref(), emulator),
        Err(why) => trouble("ttl", "dynamodb:DescribeTimeToLive", why),
    });
    findings.push(match recovery {
        Ok(on) => judge::table::recovery(on, emulator),
        Err(why) => trouble("table recovery", "dynamodb:DescribeContinuousBackups", why),
    });
    findings
}

pub(super) async fn queues(aws: &Aws, pair: Pair, urls: &Urls, visibility: u64) -> Vec<Finding> {
    let described = async |url: &Option<String>| match url {
        Some(url) => Some((url.clone(), asked(aws.describe_queue(url)).await)),
        None => None,
    };
    let (queue, dlq) = futures::join!(described(&urls.queue), described(&urls.dlq));
    let trouble = |check, setting, url: &str, why| {
        judge::trouble(check, &format!("queue {url}"), setting, "sqs:GetQueueAttributes", why)
    };
    let mut findings = Vec::new();
    let known_dlq = dlq.as_ref().and_then(|(_, dlq)| dlq.as_ref().ok());
    let known_queue = queue.as_ref().and_then(|(_, queue)| queue.as_ref().ok());
    match &queue {
        Some((_, Ok(queue))) => {
            findings.extend(pair.queue(queue, visibility));
            findings.push(pair.redrive(queue.redrive.as_ref(), known_dlq.map(|dlq| dlq.arn.as_str())));
        }
        Some((url, Err(why))) => findings.push(trouble(pair.queue, pair.queue_url, url, why)),
        None => {}
    }
    match &dlq {
        Some((_, Ok(dlq))) => findings.extend(pair.dead_letters(dlq, known_queue)),
        Some((url, Err(why))) => findings.push(trouble(pair.dlq, pair.dlq_url, url, why)),
        None => {}
    }
    findings
}

/// A bucket that is only read from. How it is set up is its owner's to say.
pub(super) async fn bucket(aws: &Aws, name: &str) -> Finding {
    match asked(aws.look_at_bucket(name)).await {
        Ok(()) => Finding::ok("bucket", format!("{name} is there")),
        Err(why) => of_bucket("bucket", name, "s3:ListBucket", &why),
    }
}

/// The bucket that uploads go to, from pages of `origins` too.
pub(super) async fn uploads(aws: &Aws, name: Option<&str>, origins: &[String]) -> Vec<Finding> {
    let Some(name) = name else { return Vec::new() };
    let there = bucket(aws, name).await;
    if there.verdict == Verdict::Fault {
        return vec![there];
    }
    let cors = async { if origins.is_empty() { None } else { Some(asked(aws.bucket_cors(name)).await) } };
    let (open, encryption, expiry, policy, cors) = futures::join!(
        asked(aws.open_to_the_public(name)),
        asked(aws.bucket_encryption(name)),
        asked(aws.bucket_expiry(name)),
        asked(aws.bucket_policy(name)),
        cors,
    );
    let judged = |check, permission, finding: Result<Finding, Trouble>| {
        finding.unwrap_or_else(|why| of_bucket(check, name, permission, &why))
    };
    let open = open.map(|open| judge::bucket::public_access(name, &open));
    let encryption = encryption.map(|algorithm| judge::bucket::encryption(algorithm.as_deref()));
    let expiry = expiry.map(|rules| judge::bucket::lifecycle(&rules, aws.is_emulator("S3")));
    let policy = policy.map(|policy| judge::bucket::tls(name, policy.as_deref(), aws.partition()));
    let cors = cors.map(|rules| rules.map(|rules| judge::bucket::cors(origins, &rules)));
    let mut findings = vec![
        there,
        judged("bucket public access", "s3:GetBucketPublicAccessBlock", open),
        judged("bucket encryption", "s3:GetEncryptionConfiguration", encryption),
        judged("bucket lifecycle", "s3:GetLifecycleConfiguration", expiry),
        judged("bucket TLS", "s3:GetBucketPolicy", policy),
    ];
    findings.extend(cors.map(|cors| judged("bucket CORS", "s3:GetBucketCORS", cors)));
    findings
}

fn of_bucket(check: &str, name: &str, permission: &str, why: &Trouble) -> Finding {
    judge::trouble(check, &format!("bucket {name}"), "LONGHAND_AUDIO_BUCKETS", permission, why)
}

pub(super) async fn model(http: &reqwest::Client, settings: &Settings) -> Option<Finding> {
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

pub(super) async fn api(http: &reqwest::Client, base: &Url) -> Finding {
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
