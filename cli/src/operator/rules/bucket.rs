//! The bucket for uploads.

use super::policy::is_tls_only;
use super::{DEPLOY, Finding};

/// The prefix of uploads.
const UPLOADS: &str = "uploads/";
/// The signed header of an upload that CORS must allow. Browsers may always send the other one, the size.
const SIGNED_HEADER: &str = "content-type";

/// A rule that deletes objects by age.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expiry {
    pub(crate) prefix: String,
    pub(crate) days: u64,
}

/// A CORS rule.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cors {
    pub(crate) origins: Vec<String>,
    pub(crate) methods: Vec<String>,
    pub(crate) headers: Vec<String>,
}

/// `open` are the settings of the public access block that are off.
pub(crate) fn public_access(name: &str, open: &[&str]) -> Finding {
    const CHECK: &str = "bucket public access";
    if open.is_empty() {
        return Finding::ok(CHECK, "blocked");
    }
    Finding::fault(
        CHECK,
        format!("{name} could be made public: {} is off", open.join(", ")),
        format!("{DEPLOY}, or block all public access to the bucket: it holds recordings of people."),
    )
}

pub(crate) fn encryption(algorithm: Option<&str>) -> Finding {
    const CHECK: &str = "bucket encryption";
    match algorithm {
        Some(algorithm) => Finding::ok(CHECK, algorithm),
        None => Finding::fault(CHECK, "none", format!("{DEPLOY}, or switch on SSE-S3 or SSE-KMS.")),
    }
}

pub(crate) fn lifecycle(rules: &[Expiry], emulator: bool) -> Finding {
    const CHECK: &str = "bucket lifecycle";
    let ours = rules.iter().filter(|rule| UPLOADS.starts_with(&rule.prefix));
    match ours.map(|rule| rule.days).min() {
        Some(days) => Finding::ok(CHECK, format!("uploads are deleted after {days} days")),
        None if emulator => Finding::on_emulator(CHECK, "none: uploads are kept", "lifecycle rules"),
        None => Finding::fault(
            CHECK,
            "no rule deletes uploads: recordings are kept forever",
            format!("{DEPLOY}, or add a rule that expires {UPLOADS}."),
        ),
    }
}

/// `partition` is `aws`, `aws-cn` or `aws-us-gov`.
pub(crate) fn tls(name: &str, policy: Option<&str>, partition: &str) -> Finding {
    const CHECK: &str = "bucket TLS";
    let bucket = format!("arn:{partition}:s3:::{name}");
    let objects = format!("{bucket}/*");
    if policy.is_some_and(|policy| is_tls_only(policy, "s3:*", &[&bucket, &objects])) {
        Finding::ok(CHECK, "plain HTTP is refused")
    } else {
        Finding::warning(CHECK, "plain HTTP is not refused", format!("{DEPLOY}: its policy refuses it."))
    }
}

/// Whether pages of `LONGHAND_CORS_ORIGINS`, which may call the api, may also upload.
pub(crate) fn cors(origins: &[String], rules: &[Cors]) -> Finding {
    const CHECK: &str = "bucket CORS";
    let may = |origin: &String| rules.iter().any(|rule| rule.allows(origin));
    let kept_out: Vec<_> = origins.iter().filter(|origin| !may(origin)).map(String::as_str).collect();
    if kept_out.is_empty() {
        return Finding::ok(CHECK, format!("pages of {} may upload", origins.join(", ")));
    }
    Finding::warning(
        CHECK,
        format!("pages of {} may call the api, but not upload into the bucket", kept_out.join(", ")),
        format!(
            "If they should upload, allow PUT with {SIGNED_HEADER} for these origins in the bucket's CORS configuration."
        ),
    )
}

impl Cors {
    fn allows(&self, origin: &str) -> bool {
        let any = |patterns: &[String], text: &str| {
            patterns.iter().any(|pattern| fits(&pattern.to_ascii_lowercase(), &text.to_ascii_lowercase()))
        };
        any(&self.origins, origin)
            && self.methods.iter().any(|method| method == "PUT")
            && any(&self.headers, SIGNED_HEADER)
    }
}

/// S3 allows one `*` in an origin or a header.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        Some((before, after)) => {
            text.len() >= before.len() + after.len() && text.starts_with(before) && text.ends_with(after)
        }
        None => pattern == text,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    const TLS: &str = r#"{"Statement":[{"Effect":"Deny","Principal":"*","Action":"s3:*",
        "Resource":["arn:aws:s3:::audio","arn:aws:s3:::audio/*"],
        "Condition":{"Bool":{"aws:SecureTransport":"false"}}}]}"#;

    fn expiry(prefix: &str, days: u64) -> Expiry {
        Expiry { prefix: prefix.to_owned(), days }
    }

    #[test]
    fn a_bucket_as_the_template_has_it_is_ok() {
        let all = [
            public_access("audio", &[]),
            encryption(Some("AES256")),
            lifecycle(&[expiry("", 30), expiry("uploads/", 7), expiry("logs/", 1)], false),
            tls("audio", Some(TLS), "aws"),
        ];
        assert!(all.iter().all(|finding| finding.verdict == Verdict::Ok), "{all:?}");
        assert_eq!(all[2].detail, "uploads are deleted after 7 days");
    }

    #[test]
    fn each_fault_of_a_bucket_is_found() {
        let open = public_access("audio", &["BlockPublicAcls", "RestrictPublicBuckets"]);
        assert_eq!(open.verdict, Verdict::Fault);
        assert!(open.detail.ends_with("BlockPublicAcls, RestrictPublicBuckets is off"), "{}", open.detail);
        assert_eq!(encryption(None).verdict, Verdict::Fault);
        assert_eq!(lifecycle(&[], false).verdict, Verdict::Fault);
        assert_eq!(lifecycle(&[expiry("logs/", 1)], false).verdict, Verdict::Fault);
        assert_eq!(lifecycle(&[], true).verdict, Verdict::Warning);
        assert_eq!(tls("audio", None, "aws").verdict, Verdict::Warning);
        assert_eq!(tls("other", Some(TLS), "aws").verdict, Verdict::Warning);
        let half = TLS.replace(r#","arn:aws:s3:::audio/*""#, "");
        assert_eq!(tls("audio", Some(&half), "aws").verdict, Verdict::Warning);
    }

    #[test]
    fn pages_that_cannot_upload_are_found() {
        let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let origins = own(&["https://app.example", "https://b.example"]);
        let rule = |origins: &[&str], method: &str, header: &str| Cors {
            origins: own(origins),
            methods: own(&["GET", method]),
            headers: own(&[header]),
        };
        let found = |rules: &[Cors]| cors(&origins, rules);
        assert_eq!(found(&[rule(&["*"], "PUT", "*")]).verdict, Verdict::Ok);
        assert_eq!(found(&[rule(&["https://*.example"], "PUT", "Content-*")]).verdict, Verdict::Ok);
        let each = [
            rule(&["https://app.example"], "PUT", "Content-Type"),
            rule(&["https://b.example"], "PUT", "content-type"),
        ];
        assert_eq!(found(&each).verdict, Verdict::Ok);
        for rules in [
            &[][..],
            &each[..1],
            &[rule(&["*"], "POST", "*")],
            &[rule(&["*"], "PUT", "x-other")],
            &[rule(&["https://*.other"], "PUT", "*")],
        ] {
            let finding = found(rules);
            assert_eq!(finding.verdict, Verdict::Warning, "{rules:?}");
            assert!(finding.detail.contains("https://b.example"), "{}", finding.detail);
        }
        // `*` is every page, which needs a rule for every page.
        let all = own(&["*"]);
        assert_eq!(cors(&all, &[rule(&["https://b.example"], "PUT", "*")]).verdict, Verdict::Warning);
        assert_eq!(cors(&all, &[rule(&["*"], "PUT", "*")]).verdict, Verdict::Ok);
    }
}
