//! Runs the CLI against resources in the emulator.

use std::time::Duration;

use longhand_e2e::processes::binary;
use longhand_e2e::service::Service;
use serde_json::Value;
use tokio::process::Command;

/// The result of a command.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|_| panic!("{} {}", self.stdout, self.stderr))
    }

    /// The doctor's finding for a check.
    pub(crate) fn finding(&self, check: &str) -> Value {
        let document = self.json();
        let checks = document["checks"].as_array().expect("checks");
        let found = checks.iter().find(|found| found["check"] == check);
        found.unwrap_or_else(|| panic!("no check {check}: {document}")).clone()
    }

    /// The doctor's verdict for a check.
    pub(crate) fn verdict(&self, check: &str) -> String {
        self.finding(check)["verdict"].as_str().expect("a verdict").to_owned()
    }
}

/// Runs `longhand` with the settings of the services and these changes.
pub(crate) async fn longhand(service: &Service, changes: &[(&str, &str)], args: &[&str]) -> Ran {
    let resources = &service.aws.resources;
    let ran = Command::new(binary("longhand"))
        .args(args)
        .env("LONGHAND_TABLE", &resources.table)
        .env("LONGHAND_QUEUE_URL", &resources.queue_url)
        .env("LONGHAND_DLQ_URL", &resources.dlq_url)
        .env("LONGHAND_WEBHOOK_QUEUE_URL", &resources.webhook_queue_url)
        .env("LONGHAND_WEBHOOK_DLQ_URL", &resources.webhook_dlq_url)
        .env("LONGHAND_WEBHOOK_SECRET", "0123456789abcdef0123456789abcdef")
        .env("LONGHAND_AUDIO_BUCKETS", &resources.bucket)
        .env("LONGHAND_URL", &service.url)
        .env("ASR_BASE_URL", service.asr.base_url())
        .env_remove("LONGHAND_VISIBILITY_SECONDS")
        .envs(changes.iter().copied())
        .kill_on_drop(true)
        .output();
    let ran =
        tokio::time::timeout(Duration::from_mins(1), ran).await.expect("in time").expect("the command runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Ran { code: ran.status.code(), stdout: text(ran.stdout), stderr: text(ran.stderr) }
}
