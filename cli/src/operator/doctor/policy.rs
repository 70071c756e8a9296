//! Policies of queues and buckets.

use serde_json::Value;

use super::finding::{DEPLOY, Finding, warning};

/// A queue or a bucket must deny plain HTTP by its policy.
pub(super) fn tls(policy: Option<&str>, actions: &str, resources: &[&str]) -> Finding {
    let denied = is_tls_only(policy.unwrap_or_default(), actions, resources);
    warning("plain HTTP is not refused")
        .remedy(format!("{DEPLOY}: its policies refuse plain HTTP."))
        .unless(denied, "plain HTTP is refused")
}

/// Whether the policy denies plain HTTP to everyone, for all `actions` (`sqs:*`) on each of `resources`.
///
/// A statement with further conditions denies less and does not count.
fn is_tls_only(policy: &str, actions: &str, resources: &[&str]) -> bool {
    let policy: Value = serde_json::from_str(policy).unwrap_or_default();
    let refusing = one_or_many(&policy["Statement"]).filter(|one| refuses_plain_http(one, actions));
    let named: Vec<_> = refusing.flat_map(|statement| one_or_many(&statement["Resource"])).collect();
    resources.iter().all(|resource| named.iter().any(|named| *named == "*" || *named == resource))
}

fn refuses_plain_http(statement: &Value, actions: &str) -> bool {
    let principal = &statement["Principal"];
    let everybody = principal == "*" || one_or_many(&principal["AWS"]).any(|who| who == "*");
    let mut named = one_or_many(&statement["Action"]).filter_map(Value::as_str);
    let all = named.any(|action| action == "*" || action.eq_ignore_ascii_case(actions));
    statement["Effect"] == "Deny" && everybody && all && is_about_plain_http_alone(&statement["Condition"])
}

fn is_about_plain_http_alone(condition: &Value) -> bool {
    let mut operators = condition.as_object().into_iter().flatten();
    let (Some((operator, keys)), None) = (operators.next(), operators.next()) else { return false };
    let mut keys = keys.as_object().into_iter().flatten();
    let (Some((key, value)), None) = (keys.next(), keys.next()) else { return false };
    matches!(operator.as_str(), "Bool" | "BoolIfExists")
        && key.eq_ignore_ascii_case("aws:SecureTransport")
        && one_or_many(value).all(|value| value == "false" || *value == Value::Bool(false))
}

/// A list with one element may be written without brackets.
pub(super) fn one_or_many(value: &Value) -> impl Iterator<Item = &Value> {
    let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    values.iter().filter(|value| !value.is_null())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const QUEUE: &str = "arn:aws:sqs:us-east-1:000000000000:q";

    fn statement() -> Value {
        json!({
            "Effect": "Deny", "Principal": "*", "Action": "sqs:*", "Resource": QUEUE,
            "Condition": { "Bool": { "aws:SecureTransport": "false" } }
        })
    }

    fn refuses(statement: &Value) -> bool {
        is_tls_only(&json!({ "Statement": [statement] }).to_string(), "sqs:*", &[QUEUE])
    }

    #[test]
    fn equivalent_policies_are_recognised() {
        assert!(refuses(&statement()));
        for (name, other) in [
            ("Principal", json!({ "AWS": ["*"] })),
            ("Action", json!(["SQS:*"])),
            ("Action", json!("*")),
            ("Resource", json!(["*"])),
            ("Condition", json!({ "BoolIfExists": { "aws:securetransport": [false] } })),
        ] {
            let mut statement = statement();
            statement[name] = other;
            assert!(refuses(&statement), "{statement}");
            let alone = json!({ "Statement": statement }).to_string();
            assert!(is_tls_only(&alone, "sqs:*", &[QUEUE]), "{alone}");
        }
    }

    #[test]
    fn policies_that_deny_less_do_not_count() {
        for (name, other) in [
            ("Effect", json!("Allow")),
            ("Principal", json!({ "AWS": "arn:aws:iam::000000000000:root" })),
            ("Action", json!("sqs:SendMessage")),
            ("Resource", json!("arn:aws:sqs:us-east-1:000000000000:other")),
            ("Condition", json!({ "Bool": { "aws:SecureTransport": "true" } })),
            (
                "Condition",
                json!({ "Bool": { "aws:SecureTransport": "false", "aws:ViaAWSService": "false" } }),
            ),
            ("Condition", json!({ "Bool": { "aws:SecureTransport": "false" }, "Null": { "a": "b" } })),
            ("Condition", json!(null)),
        ] {
            let mut statement = statement();
            statement[name] = other;
            assert!(!refuses(&statement), "{statement}");
        }
        for none in ["", "{}", "no JSON"] {
            assert!(!is_tls_only(none, "sqs:*", &[QUEUE]), "{none}");
        }
        let one_of_two = json!({ "Statement": [statement()] }).to_string();
        assert!(!is_tls_only(&one_of_two, "sqs:*", &[QUEUE, "arn:another"]));
    }
}
