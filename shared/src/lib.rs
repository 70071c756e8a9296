//! What the programs share: the domain, the store, the queue, the cache and the job protocol.
//!
//! Start at [`lifecycle`]: the protocol between the table and the queue. [`domain::job`] defines the states.
//! [`store`] and [`queue`] define a trait each, with a real and an in-memory implementation.

#[cfg(feature = "server")]
pub mod cache;
#[cfg(not(feature = "server"))]
#[path = "no_cache.rs"]
pub mod cache;
pub mod domain;
pub mod lifecycle;
pub mod net;
pub mod queue;
pub mod service;
pub mod store;
pub mod webhook;

pub use domain::attempt::{Attempt, Claimant};
pub use domain::clock::Timestamp;
pub use domain::id::{ChunkIndex, ChunkRef, JobId, UserId};
pub use domain::path::AudioPath;
