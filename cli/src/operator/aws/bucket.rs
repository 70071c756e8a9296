//! The configuration of the bucket.

use aws_sdk_s3::types::{ExpirationStatus, LifecycleRule};
use longhand_shared::service::aws;

use super::super::rules::DescribeError;
use super::super::rules::bucket::{Cors, Expiry};
use super::{Aws, describe_error};

impl Aws {
    /// Fails if the bucket does not exist or is not accessible.
    pub(crate) async fn look_at_bucket(&self, name: &str) -> Result<(), DescribeError> {
        let asked = aws::s3(&self.config).head_bucket().bucket(name).send().await;
        asked.map(drop).map_err(|error| describe_error(&error))
    }

    /// The settings of the public access block that are off.
    pub(crate) async fn open_to_the_public(&self, bucket: &str) -> Result<Vec<&'static str>, DescribeError> {
        let asked = aws::s3(&self.config).get_public_access_block().bucket(bucket).send().await;
        let blocked = set_up(asked.map_err(|error| describe_error(&error)))?
            .and_then(|answer| answer.public_access_block_configuration);
        let is_blocked = |way: fn(&aws_sdk_s3::types::PublicAccessBlockConfiguration) -> Option<bool>| {
            blocked.as_ref().and_then(way).unwrap_or(false)
        };
        let ways = [
            ("BlockPublicAcls", is_blocked(|block| block.block_public_acls)),
            ("IgnorePublicAcls", is_blocked(|block| block.ignore_public_acls)),
            ("BlockPublicPolicy", is_blocked(|block| block.block_public_policy)),
            ("RestrictPublicBuckets", is_blocked(|block| block.restrict_public_buckets)),
        ];
        Ok(ways.into_iter().filter(|(_, blocked)| !blocked).map(|(way, _)| way).collect())
    }

    /// The encryption algorithm of new objects.
    pub(crate) async fn bucket_encryption(&self, bucket: &str) -> Result<Option<String>, DescribeError> {
        let asked = aws::s3(&self.config).get_bucket_encryption().bucket(bucket).send().await;
        let rules = set_up(asked.map_err(|error| describe_error(&error)))?
            .and_then(|answer| answer.server_side_encryption_configuration)
            .map(|configuration| configuration.rules)
            .unwrap_or_default();
        let first = rules.into_iter().find_map(|rule| rule.apply_server_side_encryption_by_default);
        Ok(first.map(|default| default.sse_algorithm.as_str().to_owned()))
    }

    /// The enabled rules that delete objects by age.
    pub(crate) async fn bucket_expiry(&self, bucket: &str) -> Result<Vec<Expiry>, DescribeError> {
        let asked = aws::s3(&self.config).get_bucket_lifecycle_configuration().bucket(bucket).send().await;
        let rules = set_up(asked.map_err(|error| describe_error(&error)))?.and_then(|answer| answer.rules);
        Ok(rules.unwrap_or_default().iter().filter_map(expiry).collect())
    }

    pub(crate) async fn bucket_policy(&self, bucket: &str) -> Result<Option<String>, DescribeError> {
        let asked = aws::s3(&self.config).get_bucket_policy().bucket(bucket).send().await;
        Ok(set_up(asked.map_err(|error| describe_error(&error)))?.and_then(|answer| answer.policy))
    }

    pub(crate) async fn bucket_cors(&self, bucket: &str) -> Result<Vec<Cors>, DescribeError> {
        let asked = aws::s3(&self.config).get_bucket_cors().bucket(bucket).send().await;
        let rules =
            set_up(asked.map_err(|error| describe_error(&error)))?.and_then(|answer| answer.cors_rules);
        let rules = rules.unwrap_or_default().into_iter();
        Ok(rules
            .map(|rule| Cors {
                origins: rule.allowed_origins,
                methods: rule.allowed_methods,
                headers: rule.allowed_headers.unwrap_or_default(),
            })
            .collect())
    }
}

/// S3 answers 404 for a configuration that was never set. `look_at_bucket` checks the bucket itself.
fn set_up<T>(asked: Result<T, DescribeError>) -> Result<Option<T>, DescribeError> {
    match asked {
        Ok(answer) => Ok(Some(answer)),
        Err(DescribeError::Missing) => Ok(None),
        Err(other) => Err(other),
    }
}

/// `None` for a rule that is disabled, does not expire objects, or applies by tag or size.
fn expiry(rule: &LifecycleRule) -> Option<Expiry> {
    let days = rule.expiration.as_ref()?.days?;
    #[expect(deprecated, reason = "old rules still have it")]
    let old_prefix = rule.prefix.as_deref();
    let filter = rule.filter.as_ref();
    let some = filter.is_some_and(|filter| {
        filter.tag.is_some()
            || filter.and.is_some()
            || filter.object_size_greater_than.is_some()
            || filter.object_size_less_than.is_some()
    });
    let prefix = filter.and_then(|filter| filter.prefix.as_deref()).or(old_prefix).unwrap_or_default();
    let on = rule.status == ExpirationStatus::Enabled && !some;
    on.then(|| Expiry { prefix: prefix.to_owned(), days: u64::try_from(days).unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::types::{LifecycleExpiration, LifecycleRuleFilter, Tag};

    use super::*;

    #[test]
    fn only_rules_that_delete_whole_prefixes_by_age_count() {
        let rule = |status, filter| {
            let after = LifecycleExpiration::builder().days(30).build();
            let rule = LifecycleRule::builder().status(status).expiration(after);
            rule.set_filter(filter).build().expect("a status")
        };
        let filter = || LifecycleRuleFilter::builder().prefix("uploads/");
        let days = |prefix: &str| Some(Expiry { prefix: prefix.to_owned(), days: 30 });
        assert_eq!(expiry(&rule(ExpirationStatus::Enabled, None)), days(""));
        assert_eq!(expiry(&rule(ExpirationStatus::Enabled, Some(filter().build()))), days("uploads/"));
        assert_eq!(expiry(&rule(ExpirationStatus::Disabled, None)), None);
        let tag = Tag::builder().key("keep").value("no").build().expect("a tag");
        let tagged = filter().tag(tag).build();
        assert_eq!(expiry(&rule(ExpirationStatus::Enabled, Some(tagged))), None);
        let other = LifecycleRule::builder().status(ExpirationStatus::Enabled).build().expect("a status");
        assert_eq!(expiry(&other), None);
    }
}
