//! The services' settings, and the faults of those that are missing or contradict each other.

use longhand_shared::service::settings::List;
use longhand_shared::webhook::signature::MasterSecret;

use super::finding::{Finding, fault, listed, ok};
use crate::operator::queues::{CHUNKS, WEBHOOKS};

/// The workers' default.
const DEFAULT_VISIBILITY: u64 = 12;

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) table: Option<String>,
    pub(super) chunks: Urls,
    pub(super) webhooks: Urls,
    /// The first one is for uploads.
    pub(super) buckets: Vec<String>,
    /// The origins of web pages that may call the api.
    pub(super) origins: Vec<String>,
    pub(super) model: Option<String>,
    pub(super) model_key: Option<String>,
    pub(super) visibility: u64,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Urls {
    pub(super) queue: Option<String>,
    pub(super) dlq: Option<String>,
}

struct Reader<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    findings: Vec<Finding>,
}

/// Reads the settings, with a finding for each fault.
pub(super) fn read(lookup: &dyn Fn(&str) -> Option<String>) -> (Settings, Vec<Finding>) {
    let mut reader = Reader { lookup, findings: Vec::new() };
    let settings = Settings {
        table: reader.required("LONGHAND_TABLE"),
        chunks: Urls { queue: reader.required(CHUNKS.queue_url), dlq: reader.required(CHUNKS.dlq_url) },
        webhooks: reader.webhooks(),
        buckets: reader.buckets(),
        origins: reader.list("LONGHAND_CORS_ORIGINS"),
        model: reader.required("ASR_BASE_URL"),
        model_key: reader.value("ASR_API_KEY"),
        visibility: reader.visibility(),
    };
    reader.check_distinct(&settings);
    (settings, reader.findings)
}

impl Reader<'_> {
    fn value(&self, name: &str) -> Option<String> {
        (self.lookup)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    fn list(&self, name: &str) -> Vec<String> {
        self.value(name).and_then(|list| list.parse().ok()).map(|List(all)| all).unwrap_or_default()
    }

    fn fault(&mut self, name: &str, detail: impl Into<String>, remedy: &str) {
        self.findings.push(fault(detail).remedy(remedy).of(name));
    }

    fn required(&mut self, name: &str) -> Option<String> {
        let remedy =
            "Set it to the services' value (on AWS: in the parameter file or the outputs of the data stack).";
        self.present(name, "is not set", remedy)
    }

    fn present(&mut self, name: &str, missing: &str, remedy: &str) -> Option<String> {
        let value = self.value(name);
        if value.is_none() {
            self.fault(name, missing, remedy);
        }
        value
    }

    fn webhooks(&mut self) -> Urls {
        const SECRET: &str = "LONGHAND_WEBHOOK_SECRET";
        let (queue, dlq) = (WEBHOOKS.queue_url, WEBHOOKS.dlq_url);
        let urls = Urls { queue: self.value(queue), dlq: self.value(dlq) };
        if urls.queue.is_none() {
            let others = ["LONGHAND_CALLBACK_HOSTS", dlq, SECRET];
            let set = listed(others.into_iter().filter(|name| self.value(name).is_some()));
            self.findings.push(if set.is_empty() {
                ok("none: webhooks are disabled").of(WEBHOOKS.queue)
            } else {
                let remedy = "Set it, or remove the others: webhooks are disabled without the queue.";
                fault(format!("is not set, but {set} is")).remedy(remedy).of(queue)
            });
            return urls;
        }
        let missing = format!("is not set, but {queue} is");
        let remedy = "Set it to the queue's dead-letter queue: the workers do not start without it.";
        self.present(dlq, &missing, remedy);
        let remedy = "Set it to the workers' value: they do not start without it.";
        if let Some(Err(error)) = self.present(SECRET, &missing, remedy).as_deref().map(MasterSecret::new) {
            self.fault(SECRET, error.to_string(), "Correct it: the workers do not start with it.");
        }
        urls
    }

    fn buckets(&mut self) -> Vec<String> {
        let buckets = self.list("LONGHAND_AUDIO_BUCKETS");
        if buckets.is_empty() {
            let places = [("LONGHAND_AUDIO_ROOT", "under"), ("LONGHAND_AUDIO_HOSTS", "at")];
            let place =
                places.into_iter().find_map(|(name, side)| Some(format!("{side} {}", self.value(name)?)));
            self.findings.push(match place {
                Some(place) => ok(format!("none: audio is {place}")).of("bucket"),
                None => fault("is not set, nor are LONGHAND_AUDIO_HOSTS and LONGHAND_AUDIO_ROOT")
                    .remedy("Set at least one of them as for the services.")
                    .of("LONGHAND_AUDIO_BUCKETS"),
            });
        }
        buckets
    }

    fn visibility(&mut self) -> u64 {
        const NAME: &str = "LONGHAND_VISIBILITY_SECONDS";
        let Some(text) = self.value(NAME) else { return DEFAULT_VISIBILITY };
        if let Ok(seconds @ 3..=43_200) = text.parse() {
            return seconds;
        }
        let remedy = "Set it to whole seconds from 3 to 43200: the workers do not start otherwise.";
        self.fault(NAME, format!("is {text:?}"), remedy);
        DEFAULT_VISIBILITY
    }

    /// Finds two settings with the same queue.
    fn check_distinct(&mut self, Settings { chunks, webhooks, .. }: &Settings) {
        let pairs = [(CHUNKS, chunks), (WEBHOOKS, webhooks)].into_iter();
        let all = pairs.flat_map(|(pair, urls)| [(pair.queue_url, &urls.queue), (pair.dlq_url, &urls.dlq)]);
        let all: Vec<_> = all.filter_map(|(name, url)| Some((name, url.as_ref()?))).collect();
        for (place, (name, url)) in all.iter().enumerate() {
            for (other, _) in all[..place].iter().filter(|(_, before)| before == url) {
                let detail = format!("is {url}, the same queue as {other}");
                self.fault(name, detail, "Correct one of them: each needs a queue of its own.");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    const GOOD: [(&str, &str); 8] = [
        ("LONGHAND_TABLE", "jobs"),
        ("LONGHAND_QUEUE_URL", "http://sqs/q"),
        ("LONGHAND_DLQ_URL", "http://sqs/d"),
        ("LONGHAND_WEBHOOK_QUEUE_URL", "http://sqs/w"),
        ("LONGHAND_WEBHOOK_DLQ_URL", "http://sqs/wd"),
        ("LONGHAND_WEBHOOK_SECRET", "0123456789abcdef0123456789abcdef"),
        ("LONGHAND_AUDIO_BUCKETS", "one, two,"),
        ("ASR_BASE_URL", "http://asr"),
    ];

    fn read(values: &[(&str, &str)]) -> (Settings, Vec<String>) {
        // The last value counts, so that a test can override one of GOOD.
        let lookup = |name: &str| {
            let found = values.iter().rev().find(|(set, _)| *set == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let (settings, findings) = super::read(&lookup);
        let faults = findings.into_iter().filter(|finding| finding.verdict == Verdict::Fault);
        (settings, faults.map(|fault| fault.check).collect())
    }

    fn with_fault(name: &str, value: &str) -> Vec<String> {
        read(&[&GOOD[..], &[(name, value)]].concat()).1
    }

    #[test]
    fn every_missing_setting_is_a_fault() {
        let (settings, faults) = read(&[("LONGHAND_TABLE", " jobs "), ("LONGHAND_VISIBILITY_SECONDS", "2")]);
        assert_eq!(settings.table.as_deref(), Some("jobs"));
        let missing = ["LONGHAND_QUEUE_URL", "LONGHAND_DLQ_URL", "LONGHAND_AUDIO_BUCKETS", "ASR_BASE_URL"];
        assert_eq!(faults, [&missing[..], &["LONGHAND_VISIBILITY_SECONDS"]].concat());
    }

    #[test]
    fn valid_settings_have_no_faults() {
        let all = [
            &GOOD[..],
            &[("LONGHAND_VISIBILITY_SECONDS", "45"), ("LONGHAND_CORS_ORIGINS", "https://a.example")],
        ];
        let (settings, faults) = read(&all.concat());
        assert_eq!((faults, settings.visibility), (Vec::new(), 45));
        assert_eq!(
            (settings.buckets, settings.origins),
            (vec!["one".to_owned(), "two".to_owned()], vec!["https://a.example".to_owned()])
        );
        // A folder, or hosts, in place of buckets; no webhooks at all.
        for place in [("LONGHAND_AUDIO_ROOT", "/audio"), ("LONGHAND_AUDIO_HOSTS", "good.example")] {
            let (_, faults) = read(&[&GOOD[..3], &GOOD[7..], &[place]].concat());
            assert_eq!(faults, Vec::<String>::new());
        }
    }

    #[test]
    fn settings_that_contradict_each_other_are_found() {
        assert_eq!(with_fault("LONGHAND_WEBHOOK_SECRET", ""), ["LONGHAND_WEBHOOK_SECRET"]);
        assert_eq!(with_fault("LONGHAND_WEBHOOK_SECRET", "short"), ["LONGHAND_WEBHOOK_SECRET"]);
        assert_eq!(with_fault("LONGHAND_WEBHOOK_DLQ_URL", ""), ["LONGHAND_WEBHOOK_DLQ_URL"]);
        assert_eq!(with_fault("LONGHAND_WEBHOOK_QUEUE_URL", ""), ["LONGHAND_WEBHOOK_QUEUE_URL"]);
        let hosts = [&GOOD[..3], &GOOD[6..], &[("LONGHAND_CALLBACK_HOSTS", "*")]].concat();
        assert_eq!(read(&hosts).1, ["LONGHAND_WEBHOOK_QUEUE_URL"]);
        assert_eq!(with_fault("LONGHAND_DLQ_URL", "http://sqs/q"), ["LONGHAND_DLQ_URL"]);
        assert_eq!(with_fault("LONGHAND_WEBHOOK_QUEUE_URL", "http://sqs/q"), ["LONGHAND_WEBHOOK_QUEUE_URL"]);
    }
}
