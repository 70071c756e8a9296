//! What an operator asks: is everything set up as it must be, what is in the dead-letter queue, and what of
//! a job that failed?
//!
//! `aws/` is the only folder here that names the SDK. `judge/` has no calls in it: it tells what is wrong with a
//! table, a queue, a bucket or a clock that is described to it.

pub(crate) mod args;
mod aws;
pub(crate) mod dlq;
pub(crate) mod doctor;
pub(crate) mod job;
mod judge;
pub(crate) mod webhook;
