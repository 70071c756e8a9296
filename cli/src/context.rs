//! What every command gets.

use std::sync::{Arc, Mutex, PoisonError};

use longhand_shared::JobId;

use crate::client::{Api, Layout};
use crate::options::Format;

pub(crate) struct Context {
    pub(crate) api: Api,
    /// Whether results and errors are JSON.
    pub(crate) json: bool,
    pub(crate) format: Format,
    pub(crate) layout: Layout,
    /// The jobs that are known to exist.
    pub(crate) jobs: Arc<Jobs>,
    /// The beginning of a command line for the same service, for hints.
    pub(crate) command: String,
}

/// Jobs that are known to exist. They continue after Ctrl-C.
#[derive(Debug, Default)]
pub(crate) struct Jobs(Mutex<Vec<JobId>>);

impl Jobs {
    pub(crate) fn add(&self, job: JobId) {
        let mut jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !jobs.contains(&job) {
            jobs.push(job);
        }
    }

    pub(crate) fn all(&self) -> Vec<JobId> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Context {
    pub(crate) fn get_command(&self, jobs: &[JobId]) -> String {
        get_command(&self.command, jobs)
    }

    /// All known jobs, which include this one.
    pub(crate) fn jobs_with(&self, job: JobId) -> Vec<JobId> {
        self.jobs.add(job);
        self.jobs.all()
    }
}

/// The command that gets the transcript of these jobs, which are parts of one.
pub(crate) fn get_command(command: &str, jobs: &[JobId]) -> String {
    format!("{command} get {} --wait", listed(jobs, " "))
}

/// `job ID continues`.
pub(crate) fn continuing(jobs: &[JobId]) -> String {
    match jobs {
        [job] => format!("job {job} continues"),
        jobs => format!("jobs {} continue", listed(jobs, ", ")),
    }
}

pub(crate) fn listed(jobs: &[JobId], separator: &str) -> String {
    jobs.iter().map(JobId::to_string).collect::<Vec<_>>().join(separator)
}
