//! The operator's commands, which call AWS themselves.

mod aws;
pub(crate) mod dlq;
pub(crate) mod doctor;
pub(crate) mod job;
mod queues;
pub(crate) mod webhook;
