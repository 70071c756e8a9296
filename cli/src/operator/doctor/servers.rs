//! The model, the api, and the clock in comparison with theirs.

use std::time::UNIX_EPOCH;

use futures::future::join_all;
use longhand_shared::Timestamp;
use longhand_shared::net;
use reqwest::{Client, RequestBuilder, Response, Url};
use serde_json::Value;

use super::finding::{Finding, fault, ok, warning};
use super::policy::one_or_many;
use crate::error::{Failure, chain};
use crate::operator::aws::{Aws, CHECK_TIMEOUT};

const MOST_SKEW_SECONDS: i64 = 30;

pub(super) fn client() -> Result<Client, Failure> {
    let builder = Client::builder().user_agent(concat!("longhand/", env!("CARGO_PKG_VERSION")));
    builder.timeout(CHECK_TIMEOUT).build().map_err(|error| Failure::internal(chain(&error)))
}

async fn send(request: RequestBuilder) -> Result<Response, String> {
    request.send().await.map_err(|error| {
        let late = error.is_timeout().then(|| format!("no answer within {} s", CHECK_TIMEOUT.as_secs()));
        late.unwrap_or_else(|| chain(&error.without_url()))
    })
}

pub(super) async fn model(http: &Client, base: Option<&str>, key: Option<&str>) -> Vec<Finding> {
    let Some(base) = base else { return Vec::new() };
    let url = format!("{}/v1/models", net::model::server(base));
    let request = key.into_iter().fold(http.get(&url), RequestBuilder::bearer_auth);
    vec![model_answer(&url, send(request).await.map(|answer| answer.status().as_u16())).of("model")]
}

fn model_answer(url: &str, status: Result<u16, String>) -> Finding {
    match status {
        Ok(status @ (401 | 403)) => warning(format!("{url} answers, but with {status}"))
            .remedy("Check ASR_API_KEY, unless this server protects only its list of models."),
        Ok(status) => ok(format!("{url} answers ({status})")),
        Err(why) => fault(format!("{url} cannot be reached: {why}")).remedy(
            "Start the model's server, or correct ASR_BASE_URL; until then chunks wait in the queue.",
        ),
    }
}

/// The api's readiness, and whether the queue accepted the messages that it sent.
pub(super) async fn api(http: &Client, base: &Url) -> Vec<Finding> {
    const REMEDY: &str = "Start the api, or correct --url or LONGHAND_URL.";
    let url = format!("{}/readyz", base.as_str().trim_end_matches('/'));
    match send(http.get(&url)).await {
        Ok(answer) => {
            let status = answer.status().as_u16();
            readiness(&url, status, &answer.json().await.unwrap_or_default())
        }
        Err(why) => vec![fault(format!("{url} cannot be reached: {why}")).remedy(REMEDY).of("api")],
    }
}

fn readiness(url: &str, status: u16, body: &Value) -> Vec<Finding> {
    const REMEDY: &str = "Correct the cause. The api's log has more about it.";
    let reasons: Vec<_> = one_or_many(&body["reasons"]).filter_map(Value::as_str).collect();
    let readiness = match status {
        200..300 if reasons.is_empty() => ok(format!("{url} is ready")),
        200..300 => warning(format!("{url} is degraded: {}", reasons.join("; "))).remedy(REMEDY),
        _ => {
            let why = body["detail"].as_str().map(|detail| format!(": {detail}")).unwrap_or_default();
            fault(format!("{url} answers {status}{why}")).remedy(REMEDY)
        }
    };
    let groups =
        warning("the queue rejects MessageGroupId: jobs still end, but one user's backlog may delay others")
            .remedy("Use SQS, or a newer emulator: LocalStack 4.7, ElasticMQ 1.6.14.");
    let rejects_groups = body["messageGroups"] == false;
    [readiness.of("api")].into_iter().chain(rejects_groups.then(|| groups.of("queue groups"))).collect()
}

/// Compares the clock with AWS's, or with the api's if AWS does not answer.
pub(super) async fn clock(http: &Client, aws: &Aws, queue: Option<&str>, api: &Url) -> Vec<Finding> {
    let aws = aws.config.endpoint_url().or(queue).and_then(|url| Url::parse(url).ok());
    let answers = join_all([aws.as_ref(), Some(api)].into_iter().flatten().map(async |url| {
        let origin = url.origin().ascii_serialization();
        let answer = send(http.get(&origin)).await.ok()?;
        let here = Timestamp::now().unix();
        let date = answer.headers().get(reqwest::header::DATE)?.to_str().ok()?;
        let there = httpdate::parse_http_date(date).ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some((here.saturating_sub(i64::try_from(there.as_secs()).ok()?), origin))
    }));
    let unknown =
        warning("not checked: neither AWS nor the api answered").remedy("Fix the connection to them.");
    let answer = answers.await.into_iter().flatten().next();
    vec![answer.map_or(unknown, |(ahead, whose)| skew(ahead, &whose)).of("clock")]
}

/// `ahead`: seconds by which this machine's clock is ahead of `whose`.
fn skew(ahead: i64, whose: &str) -> Finding {
    const REMEDY: &str = "Let NTP set the clock: claims and expiry depend on it, and AWS rejects calls that \
                          are 5 minutes off.";
    let side = if ahead > 0 { "ahead of" } else { "behind" };
    fault(format!("this machine is {} s {side} {whose}", ahead.abs()))
        .remedy(REMEDY)
        .unless(ahead.abs() <= MOST_SKEW_SECONDS, format!("within {MOST_SKEW_SECONDS} s of {whose}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::finding::tests::{Fault, Ok, Warning};
    use super::*;

    #[test]
    fn a_clock_that_is_off_and_a_model_that_refuses_are_found() {
        for good in [
            skew(30, "AWS"),
            skew(-30, "AWS"),
            model_answer("http://asr", Result::Ok(404)),
            model_answer("", Result::Ok(500)),
        ] {
            assert_eq!(good.verdict, Ok, "{good:?}");
        }
        assert_eq!(skew(31, "AWS").detail, "this machine is 31 s ahead of AWS");
        assert_eq!(skew(-31, "AWS").detail, "this machine is 31 s behind AWS");
        assert_eq!(skew(31, "AWS").verdict, Fault);
        assert_eq!(model_answer("http://asr", Result::Ok(401)).verdict, Warning);
    }

    #[test]
    fn the_readiness_of_the_api_and_its_queue_is_reported() {
        let refusal = "the queue refuses messages: AccessDenied";
        for (status, body, verdict, detail) in [
            (200, json!({"status": "ready", "missing": []}), Ok, "http://api is ready".to_owned()),
            (200, Value::Null, Ok, "http://api is ready".to_owned()),
            (200, json!({"reasons": [refusal]}), Warning, format!("http://api is degraded: {refusal}")),
            (503, json!({"detail": "no table"}), Fault, "http://api answers 503: no table".to_owned()),
        ] {
            let found = readiness("http://api", status, &body);
            assert_eq!((found.len(), found[0].check.as_str()), (1, "api"));
            assert_eq!((found[0].verdict, &found[0].detail), (verdict, &detail));
        }
        let found = readiness("http://api", 200, &json!({"messageGroups": false}));
        assert_eq!((found[1].check.as_str(), found[1].verdict), ("queue groups", Warning));
    }
}
