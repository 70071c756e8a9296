//! Calls to addresses that clients supply.

pub mod outbound;
