//! The operator's commands.
//!
//! `aws/` is the only folder here that uses the AWS SDK. `rules/` makes no calls: it finds the faults of a table, a
//! queue, a bucket or a clock from its description.

pub(crate) mod args;
mod aws;
pub(crate) mod dlq;
pub(crate) mod doctor;
pub(crate) mod job;
mod rules;
pub(crate) mod webhook;
