//! Longhand's HTTP API. [`router`] is all of it: a server listens with it, a Lambda function runs it, and tests call it.
//! Start at `router.rs`, the list of all operations.

mod accept;
pub mod auth;
mod body;
pub mod captions;
mod conditional;
mod console;
mod cors;
mod cursor;
mod edge;
mod error;
pub mod error_codes;
mod fault;
mod forms;
mod health;
mod input;
mod jobs;
pub mod lambda;
pub mod limits;
mod openapi;
mod operations;
pub mod reads;
mod rendered;
mod request_id;
mod router;
pub mod server;
pub mod settings;
mod signer;
mod state;
pub mod tickets;
mod uploads;
pub mod waiting;

pub use auth::Auth;
pub use cors::Origins;
pub use limits::Limits;
pub use rendered::Rendered;
pub use router::{description, router};
pub use signer::Signer;
pub use state::AppState;
pub use tickets::Tickets;
