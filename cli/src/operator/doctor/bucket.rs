//! The buckets.

use aws_sdk_s3::types::{
    CorsRule, ExpirationStatus, LifecycleRule, LifecycleRuleFilter, PublicAccessBlockConfiguration,
    ServerSideEncryptionConfiguration,
};
use futures::future::join_all;
use longhand_shared::service::aws;

use super::finding::{DEPLOY, Finding, Verdict, fault, listed, ok, undescribed, warning};
use super::policy;
use crate::operator::aws::{Aws, DescribeError, Described, describe};

const UPLOADS: &str = "uploads/";

/// The signed header of an upload that CORS must allow. Browsers may always send the other one, the size.
const SIGNED_HEADER: &str = "content-type";

/// The first bucket is for uploads, also from web pages of `origins`.
pub(super) async fn check(aws: &Aws, names: &[String], origins: &[String]) -> Vec<Finding> {
    let (uploads, others) = futures::join!(
        join_all(names.first().map(|name| uploads(aws, name, origins))),
        join_all(names.iter().skip(1).map(|name| exists(aws, name))),
    );
    uploads.into_iter().flatten().chain(others).collect()
}

/// The only check of a bucket that is only read from: its configuration is its owner's concern.
async fn exists(aws: &Aws, name: &str) -> Finding {
    let found = describe(aws::s3(&aws.config).head_bucket().bucket(name).send()).await;
    finding(name, "", "ListBucket", found.map(|_| ok(format!("{name} exists"))))
}

async fn uploads(aws: &Aws, name: &str, origins: &[String]) -> Vec<Finding> {
    let there = exists(aws, name).await;
    if there.verdict == Verdict::Fault {
        return vec![there];
    }
    let s3 = aws::s3(&aws.config);
    let (block, sse, expiry, policy, cors) = futures::join!(
        describe(s3.get_public_access_block().bucket(name).send()),
        describe(s3.get_bucket_encryption().bucket(name).send()),
        describe(s3.get_bucket_lifecycle_configuration().bucket(name).send()),
        describe(s3.get_bucket_policy().bucket(name).send()),
        // Asked only if pages of other origins may call the api.
        join_all(origins.first().map(|_| describe(s3.get_bucket_cors().bucket(name).send()))),
    );
    let block = configured(block, |answer| answer.public_access_block_configuration);
    let sse = configured(sse, |answer| answer.server_side_encryption_configuration);
    let expiry = configured(expiry, |answer| answer.rules).map(Option::unwrap_or_default);
    let policy = configured(policy, |answer| answer.policy);
    let emulator = aws.is_emulator("S3");
    let mut checks = vec![
        (" public access", "GetBucketPublicAccessBlock", block.map(|block| public_access(name, block))),
        (" encryption", "GetEncryptionConfiguration", sse.map(encryption)),
        (" lifecycle", "GetLifecycleConfiguration", expiry.map(|rules| lifecycle(&rules, emulator))),
        (" TLS", "GetBucketPolicy", policy.map(|policy| tls(name, policy.as_deref(), aws.partition()))),
    ];
    checks.extend(cors.into_iter().map(|rules| {
        let rules = configured(rules, |answer| answer.cors_rules).map(Option::unwrap_or_default);
        (" CORS", "GetBucketCORS", rules.map(|rules| self::cors(origins, &rules)))
    }));
    let findings = checks.into_iter().map(|(check, call, found)| finding(name, check, call, found));
    [there].into_iter().chain(findings).collect()
}

fn finding(name: &str, check: &str, permission: &str, found: Described<Finding>) -> Finding {
    let (what, permission) = (format!("bucket {name}"), format!("s3:{permission}"));
    let found = found.unwrap_or_else(|why| undescribed(why, &what, "LONGHAND_AUDIO_BUCKETS", &permission));
    found.of(format!("bucket{check}"))
}

/// S3 answers 404 for a configuration that was never set. [`exists`] checks the bucket itself.
fn configured<T, C>(answer: Described<T>, part: impl FnOnce(T) -> Option<C>) -> Described<Option<C>> {
    match answer {
        Ok(answer) => Ok(part(answer)),
        Err(DescribeError::Missing) => Ok(None),
        Err(other) => Err(other),
    }
}

fn public_access(name: &str, block: Option<PublicAccessBlockConfiguration>) -> Finding {
    let block = block.unwrap_or_else(|| PublicAccessBlockConfiguration::builder().build());
    let settings = [
        ("BlockPublicAcls", block.block_public_acls),
        ("IgnorePublicAcls", block.ignore_public_acls),
        ("BlockPublicPolicy", block.block_public_policy),
        ("RestrictPublicBuckets", block.restrict_public_buckets),
    ];
    let off = listed(settings.into_iter().filter(|(_, on)| *on != Some(true)).map(|(setting, _)| setting));
    fault(format!("{name} could be made public: {off} is off"))
        .remedy(format!("{DEPLOY}, or block all public access to the bucket: it holds recordings of people."))
        .unless(off.is_empty(), "blocked")
}

fn encryption(configuration: Option<ServerSideEncryptionConfiguration>) -> Finding {
    let mut rules = configuration.into_iter().flat_map(|configuration| configuration.rules);
    match rules.find_map(|rule| rule.apply_server_side_encryption_by_default) {
        Some(default) => ok(default.sse_algorithm.as_str()),
        None => fault("none").remedy(format!("{DEPLOY}, or switch on SSE-S3 or SSE-KMS.")),
    }
}

fn lifecycle(rules: &[LifecycleRule], emulator: bool) -> Finding {
    match rules.iter().filter_map(upload_expiry).min() {
        Some(days) => ok(format!("uploads are deleted after {days} days")),
        None => fault("no rule deletes uploads: recordings are kept forever")
            .remedy(format!("{DEPLOY}, or add a rule that expires {UPLOADS}."))
            .on_emulator(emulator, "none: uploads are kept", "lifecycle rules"),
    }
}

/// After how many days the rule deletes all uploads. `None` if it is disabled, or applies by tag or size.
fn upload_expiry(rule: &LifecycleRule) -> Option<i32> {
    #[expect(deprecated, reason = "old rules still have it")]
    let old_prefix = rule.prefix.as_deref();
    let filter = rule.filter.as_ref();
    let partial = filter.is_some_and(|filter| {
        *filter != LifecycleRuleFilter::builder().set_prefix(filter.prefix.clone()).build()
    });
    let prefix = filter.and_then(|filter| filter.prefix.as_deref()).or(old_prefix).unwrap_or_default();
    let applies = rule.status == ExpirationStatus::Enabled && !partial && UPLOADS.starts_with(prefix);
    rule.expiration.as_ref()?.days.filter(|_| applies)
}

/// `partition` is `aws`, `aws-cn` or `aws-us-gov`.
fn tls(name: &str, policy: Option<&str>, partition: &str) -> Finding {
    let bucket = format!("arn:{partition}:s3:::{name}");
    policy::tls(policy, "s3:*", &[&bucket, &format!("{bucket}/*")])
}

/// Whether pages of `LONGHAND_CORS_ORIGINS`, which may call the api, may also upload.
fn cors(origins: &[String], rules: &[CorsRule]) -> Finding {
    let refused = listed(origins.iter().filter(|origin| !rules.iter().any(|rule| allows(rule, origin))));
    warning(format!("pages of {refused} may call the api, but not upload into the bucket"))
        .remedy(format!(
            "If they should upload, allow PUT with {SIGNED_HEADER} for these origins in the bucket's CORS \
             configuration."
        ))
        .unless(refused.is_empty(), format!("pages of {} may upload", origins.join(", ")))
}

fn allows(rule: &CorsRule, origin: &str) -> bool {
    match_one(rule.allowed_origins(), origin)
        && rule.allowed_methods().iter().any(|method| method == "PUT")
        && match_one(rule.allowed_headers(), SIGNED_HEADER)
}

/// S3 allows one `*` in an origin or a header.
fn match_one(patterns: &[String], text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    patterns.iter().map(|pattern| pattern.to_ascii_lowercase()).any(|pattern| match pattern.split_once('*') {
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| rest.ends_with(after)),
        None => pattern == text,
    })
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::types::{
        LifecycleExpiration, ServerSideEncryption, ServerSideEncryptionByDefault, ServerSideEncryptionRule,
        Tag,
    };

    use super::super::finding::tests::{Fault, Ok, Warning};
    use super::*;

    const TLS: &str = r#"{"Statement":[{"Effect":"Deny","Principal":"*","Action":"s3:*",
        "Resource":["arn:aws:s3:::audio","arn:aws:s3:::audio/*"],
        "Condition":{"Bool":{"aws:SecureTransport":"false"}}}]}"#;

    fn expiry(status: ExpirationStatus, days: i32, filter: LifecycleRuleFilter) -> LifecycleRule {
        let after = LifecycleExpiration::builder().days(days).build();
        LifecycleRule::builder().status(status).expiration(after).filter(filter).build().expect("a status")
    }

    #[test]
    fn public_access_encryption_and_tls_are_checked() {
        let block =
            PublicAccessBlockConfiguration::builder().block_public_acls(true).ignore_public_acls(true);
        let open = public_access("audio", Some(block.clone().build()));
        assert_eq!(open.verdict, Fault);
        assert!(open.detail.ends_with("BlockPublicPolicy, RestrictPublicBuckets is off"), "{}", open.detail);
        let closed = block.block_public_policy(true).restrict_public_buckets(true).build();
        assert_eq!(public_access("audio", Some(closed)).verdict, Ok);
        assert_eq!(public_access("audio", None).verdict, Fault);
        let default = ServerSideEncryptionByDefault::builder().sse_algorithm(ServerSideEncryption::Aes256);
        let rule = ServerSideEncryptionRule::builder()
            .apply_server_side_encryption_by_default(default.build().expect("an algorithm"));
        let encrypted = ServerSideEncryptionConfiguration::builder().rules(rule.build()).build();
        assert_eq!(encryption(encrypted.ok()).verdict, Ok);
        assert_eq!(encryption(None).verdict, Fault);
        assert_eq!(tls("audio", Some(TLS), "aws").verdict, Ok);
        let half = TLS.replace(r#","arn:aws:s3:::audio/*""#, "");
        for (name, policy) in [("audio", None), ("other", Some(TLS)), ("audio", Some(half.as_str()))] {
            assert_eq!(tls(name, policy, "aws").verdict, Warning);
        }
    }

    #[test]
    fn only_rules_that_delete_all_uploads_by_age_count() {
        let prefix = |prefix: &str| LifecycleRuleFilter::builder().prefix(prefix);
        let on = |days, at: &str| expiry(ExpirationStatus::Enabled, days, prefix(at).build());
        let found = lifecycle(&[on(30, ""), on(7, UPLOADS), on(1, "logs/")], false);
        assert_eq!((found.verdict, found.detail.as_str()), (Ok, "uploads are deleted after 7 days"));
        let tag = Tag::builder().key("keep").value("no").build().expect("a tag");
        for rule in [
            on(1, "logs/"),
            expiry(ExpirationStatus::Disabled, 1, prefix("").build()),
            expiry(ExpirationStatus::Enabled, 1, prefix("").tag(tag).build()),
            LifecycleRule::builder().status(ExpirationStatus::Enabled).build().expect("a status"),
        ] {
            assert_eq!(lifecycle(std::slice::from_ref(&rule), false).verdict, Fault, "{rule:?}");
        }
        assert_eq!(lifecycle(&[], true).verdict, Warning);
    }

    #[test]
    fn pages_that_cannot_upload_are_found() {
        let all = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let rule = |origin: &str, method: &str, header: &str| {
            let rule = CorsRule::builder().allowed_origins(origin).allowed_headers(header);
            rule.allowed_methods("GET").allowed_methods(method).build().expect("complete")
        };
        let origins = all(&["https://app.example", "https://b.example"]);
        let found = |rules: &[CorsRule]| cors(&origins, rules);
        let each = [
            rule("https://app.example", "PUT", "Content-Type"),
            rule("https://b.example", "PUT", "content-type"),
        ];
        for rules in [&[rule("*", "PUT", "*")], &[rule("https://*.example", "PUT", "Content-*")], &each[..]] {
            assert_eq!(found(rules).verdict, Ok);
        }
        for rules in [
            &[][..],
            &each[..1],
            &[rule("*", "POST", "*")],
            &[rule("*", "PUT", "x-other")],
            &[rule("https://*.other", "PUT", "*")],
        ] {
            let finding = found(rules);
            assert_eq!(finding.verdict, Warning, "{rules:?}");
            assert!(finding.detail.contains("https://b.example"), "{}", finding.detail);
        }
        // `*` is every page, which needs a rule for every page.
        let every = all(&["*"]);
        assert_eq!(cors(&every, &[rule("https://b.example", "PUT", "*")]).verdict, Warning);
        assert_eq!(cors(&every, &[rule("*", "PUT", "*")]).verdict, Ok);
    }
}
