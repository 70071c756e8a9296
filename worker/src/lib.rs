//! Longhand's worker: takes chunks from the queue, has the model transcribe them, settles them.
//!
//! [`process`] is one chunk from message to settled. [`runner`] is everything about messages that
//! has nothing to do with transcription: slots, long polling, leases, deletes, drain.

pub mod asr;
pub mod audio;
pub mod dead_letters;
pub mod failure;
pub mod health;
pub mod lease;
pub mod process;
pub mod runner;
pub mod settings;
pub mod slots;
pub mod sweeper;
pub mod webhooks;

mod backoff;
mod deleter;
mod pulse;
mod receiving;
mod service;

pub use service::{Parts, WebhookSources, Worker};
