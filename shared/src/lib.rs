//! Longhand's domain: jobs and chunks, their store and their queue.
//!
//! Start at [`lifecycle`]: the protocol between the table and the queue. [`job`] defines the states.
//! [`store`] and [`queue`] define a trait each, with a real and an in-memory implementation. [`stitch`]
//! joins the chunks to a transcript.

pub mod api_key;
pub mod attempt;
pub mod aws;
pub mod cache;
pub mod clock;
pub mod health;
pub mod id;
pub mod idempotency;
pub mod job;
pub mod lifecycle;
pub mod media;
pub mod metrics;
mod options;
pub mod outbound;
pub mod path;
pub mod queue;
mod schema;
pub mod secret;
pub mod settings;
pub mod shutdown;
pub mod stitch;
pub mod store;
pub mod telemetry;
pub mod trace;
pub mod transcript;
pub mod upload;
pub mod webhook;

pub use attempt::{Attempt, Claimant};
pub use clock::Timestamp;
pub use id::{ChunkIndex, ChunkRef, JobId, UserId};
pub use path::AudioPath;
