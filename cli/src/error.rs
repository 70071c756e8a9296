//! What went wrong: for a person, for a program and for a shell.

use std::fmt::{self, Write};
use std::time::Duration;

use longhand_shared::JobId;
use serde::Serialize;

use crate::output;

/// The exit codes, as `--help` lists them.
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

impl From<Exit> for i32 {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what was asked. Serialized, it is what stands under `error`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Failure {
    #[serde(skip)]
    pub(crate) exit: Exit,
    /// For a program: the service's own code, or one of those made here.
    code: String,
    /// For a person.
    pub(crate) message: String,
    /// The status that the service answered with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<JobId>,
    /// The faults one by one: of the files, of the request, or of the chunks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    faults: Vec<Fault>,
    /// Whether asking again may help, and after how long when the service said so.
    #[serde(skip)]
    pub(crate) passing: Option<RetryAfter>,
}

#[derive(Serialize)]
struct Document<'a> {
    error: &'a Failure,
}

/// What the service said about when to ask again.
pub(crate) type RetryAfter = Option<Duration>;

/// One thing that is wrong with one file, one field or one chunk.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Fault {
    /// The field of the request, as a JSON pointer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pointer: Option<String>,
    /// The file, as the user gave it or as the job names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<String>,
    /// The chunk, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) chunk: Option<u8>,
    /// For a program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<String>,
    /// For a person.
    pub(crate) detail: String,
}

impl Fault {
    /// What is wrong with a file.
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
            passing: None,
        }
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
    pub(crate) fn passing(mut self, retry_after: RetryAfter) -> Self {
        self.passing = Some(retry_after);
        self
    }

    /// Whether the request may have been carried out although no good answer came.
    pub(crate) fn is_doubtful(&self) -> bool {
        matches!(self.code.as_str(), "TIMEOUT" | "BROKEN_OFF" | "PROTOCOL")
            || matches!(self.status, Some(500 | 502 | 504))
    }

    /// Puts a file's name to each fault that points into `#/FIELD/N`.
    #[must_use]
    pub(crate) fn naming(mut self, field: &str, files: &[String]) -> Self {
        for fault in &mut self.faults {
            let pointer = fault.pointer.as_deref().unwrap_or_default().trim_start_matches('#');
            let mut parts = pointer.split('/').skip(1);
            let index = parts.next().filter(|name| *name == field).and(parts.next());
            let index = index.and_then(|index| index.parse().ok());
            fault.file = index.and_then(|index: usize| files.get(index)).cloned();
        }
        self
    }

    /// Says on stderr what went wrong, and gives the code to end with.
    pub(crate) fn report(&self, json: bool) -> Exit {
        if json {
            let document = Document { error: self };
            output::note(serde_json::to_string(&document).expect("texts and numbers fit in JSON"));
        } else {
            output::note(self);
        }
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!("longhand: {}", self.message);
        for fault in &self.faults {
            text.push_str("\n  ");
            if let Some(chunk) = fault.chunk {
                write!(text, "chunk {chunk} ")?;
            }
            if let Some(subject) = fault.file.as_ref().or(fault.pointer.as_ref()) {
                write!(text, "{subject}: ")?;
            }
            if let Some(code) = &fault.code {
                write!(text, "{code}: ")?;
            }
            text.push_str(&fault.detail);
        }
        // Some of this comes from elsewhere; it must not steer the terminal.
        f.write_str(&text.replace(|c: char| c.is_control() && c != '\n', " "))
    }
}

/// An error with all that caused it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let cause = error.to_string();
        // Many errors repeat their cause in their own text.
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = error.source();
    }
    text
}
