//! Failures: their text, their JSON and their exit code.

use std::fmt::{self, Write};
use std::time::Duration;

use longhand_shared::JobId;
use serde::{Deserialize, Serialize};

use crate::chunk;

/// The exit codes. `--help` describes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Ok = 0,
    Failed = 1,
    Refused = 2,
    NoSuchJob = 3,
    Unavailable = 4,
    GaveUp = 5,
    NotWritten = 74,
    Interrupted = 130,
}

/// Why a command failed. Its JSON is the value of `error`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Failure {
    #[serde(skip)]
    pub(crate) exit: Exit,
    /// The service's code, or one of this command's own.
    code: String,
    pub(crate) message: String,
    /// The HTTP status of the service's answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<JobId>,
    /// The faults of the files, of the request or of the chunks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    faults: Vec<Fault>,
    /// Whether a retry may help, and after what pause, if the service named one.
    #[serde(skip)]
    pub(crate) retryable: Option<RetryAfter>,
}

/// The value of `Retry-After`.
pub(crate) type RetryAfter = Option<Duration>;

/// One fault of a file, a field or a chunk.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Fault {
    /// The part of the request, as the service names it; for `load` the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pointer: Option<String>,
    /// The file as the user gave it or as the job names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<String>,
    /// The job, if there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) job_id: Option<JobId>,
    /// The chunk, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) chunk: Option<u8>,
    /// The number of chunks of its job.
    #[serde(skip)]
    pub(crate) chunks: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<String>,
    pub(crate) detail: String,
}

impl Fault {
    pub(crate) fn of_file(file: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { file: Some(file.into()), detail: detail.into(), ..Self::default() }
    }
}

impl Failure {
    pub(crate) fn new(exit: Exit, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            exit,
            code: code.into(),
            message: message.into(),
            status: None,
            job_id: None,
            faults: Vec::new(),
            retryable: None,
        }
    }

    /// The command line or the environment is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Refused, "USAGE", message)
    }

    /// The answer is not one of Longhand.
    pub(crate) fn protocol(message: impl Into<String>) -> Self {
        Self::new(Exit::Unavailable, "PROTOCOL", message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(Exit::Unavailable, "INTERNAL", message)
    }

    #[must_use]
    pub(crate) fn of_job(mut self, job: JobId) -> Self {
        self.job_id = Some(job);
        self
    }

    #[must_use]
    pub(crate) fn with_faults(mut self, faults: Vec<Fault>) -> Self {
        self.faults = faults;
        self
    }

    #[must_use]
    pub(crate) fn retryable(mut self, retry_after: RetryAfter) -> Self {
        self.retryable = Some(retry_after);
        self
    }

    /// Whether the request may have succeeded although no valid answer arrived.
    pub(crate) fn is_ambiguous(&self) -> bool {
        matches!(self.code.as_str(), "TIMEOUT" | "BROKEN_OFF" | "PROTOCOL")
            || matches!(self.status, Some(500 | 502 | 504))
    }

    /// Whether no connection was possible. This is reported at once, since the address may be wrong.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.code == "UNREACHABLE"
    }

    /// Whether a fault is about this field or parameter of the request.
    pub(crate) fn is_about(&self, field: &str) -> bool {
        let names = |pointer: &str| pointer.trim_start_matches(['#', '?', '/']) == field;
        self.faults.iter().any(|fault| fault.pointer.as_deref().is_some_and(names))
    }

    /// Adds the file's name to each fault whose pointer is `#/FIELD/N`.
    #[must_use]
    pub(crate) fn with_file_names(mut self, field: &str, files: &[String]) -> Self {
        for fault in &mut self.faults {
            let pointer = fault.pointer.as_deref().unwrap_or_default().trim_start_matches('#');
            let mut parts = pointer.split('/').skip(1);
            let index = parts.next().filter(|name| *name == field).and(parts.next());
            let index = index.and_then(|index| index.parse().ok());
            fault.file = index.and_then(|index: usize| files.get(index)).cloned();
        }
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!("longhand: {}", self.message);
        for fault in &self.faults {
            text.push_str("\n  ");
            if let Some(job) = fault.job_id {
                write!(text, "job {job} ")?;
            }
            if let Some(index) = fault.chunk {
                write!(text, "{} ", chunk::label(index, fault.chunks))?;
            }
            if let Some(subject) = fault.file.clone().or_else(|| fault.pointer.as_deref().map(named)) {
                write!(text, "{subject}: ")?;
            }
            if let Some(code) = &fault.code {
                write!(text, "{code}: ")?;
            }
            text.push_str(&fault.detail);
        }
        // Parts come from servers and must not control the terminal.
        f.write_str(&text.replace(|c: char| c.is_control() && c != '\n', " "))
    }
}

/// The option that sets the field of a JSON pointer.
fn named(pointer: &str) -> String {
    let path = pointer.trim_start_matches(['#', '?', '/']);
    let (field, inside) = path.split_once('/').unwrap_or((path, ""));
    let option = match field {
        "userId" => "--user",
        "language" => "--language",
        "prompt" => "--prompt",
        "metadata" => "--metadata",
        "callbackUrl" => "--callback-url",
        "jobStatus" => "--status",
        "submittedAfter" => "--after",
        "submittedBefore" => "--before",
        "limit" => "--limit",
        "cursor" => "--cursor",
        "maxLineChars" => "--max-line-chars",
        "timestamps" => "--timestamps",
        "translate" => "--translate",
        "split" => "--split",
        "words" => "--words",
        other => other,
    };
    if inside.is_empty() { option.to_owned() } else { format!("{option} {}", inside.replace('/', " ")) }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let cause = error.to_string();
        // Many errors contain the text of their cause.
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = error.source();
    }
    text
}
