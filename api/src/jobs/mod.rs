//! The operations on jobs: submit, read, list, retry, erase.

pub(crate) mod audio;
pub(crate) mod create;
pub(crate) mod erase;
mod new_job;
pub(crate) mod path;
pub(crate) mod read;
pub(crate) mod retry;
pub(crate) mod search;
pub(crate) mod tickets;
