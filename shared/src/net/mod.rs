//! Calls to other servers: backoff, and addresses that clients supply.

pub mod backoff;
pub mod outbound;
