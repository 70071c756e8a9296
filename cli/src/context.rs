//! What every command gets.

use std::sync::{Arc, OnceLock};

use longhand_shared::JobId;

use crate::client::Api;
use crate::options::Format;

pub(crate) struct Context {
    pub(crate) api: Api,
    /// Whether results and errors are JSON.
    pub(crate) json: bool,
    pub(crate) format: Format,
    /// The longest line of captions, in characters.
    pub(crate) max_line_chars: Option<u32>,
    /// The accepted job, which continues after Ctrl-C.
    pub(crate) job: Arc<OnceLock<JobId>>,
    /// The beginning of a command line for the same service, for hints.
    pub(crate) command: String,
}

impl Context {
    pub(crate) fn get_command(&self, job: JobId) -> String {
        format!("{} get {job} --wait", self.command)
    }
}
