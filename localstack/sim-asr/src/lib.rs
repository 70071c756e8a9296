//! A simulated speech-to-text server with the `OpenAI`-compatible `POST /v1/audio/transcriptions`. It records its calls
//! and produces configured faults. Tests run it in their own process; load tests run the program `longhand-sim-asr`.
//!
//! # The answer to a call
//! The first rule that applies decides:
//! 1. A `400` if the call is not a multipart form, or has no `file` with a file name, no `model`, or an unknown
//!    `response_format`.
//! 2. The `prompt` field, if it consists of `sim:` and JSON: an [`Answer`], a list of answers (the n-th call for a file
//!    name gets the n-th), or lists by file name: `sim:{"files": {"a.wav": ["hang", "echo"]}}`. After the end of a list
//!    the next rule applies.
//! 3. A `400` that names `response_format` if the call requests `verbose_json` and [`Behaviour::supports_verbose_json`]
//!    is false. It uses no scripted answer.
//! 4. The next answer of the file's [script](SimAsr::script).
//! 5. A `429` if [`Behaviour::max_concurrent`] calls were in flight when it arrived.
//! 6. A fault of [`Behaviour::faults`], at random.
//! 7. [`Behaviour::answer`].
//!
//! Refusals (1, 3 and 5) are immediate. Other answers come after the [`Latency`].
//!
//! # Control over HTTP
//! | call | what |
//! |---|---|
//! | `PUT /_sim/behaviour` | a [`Behaviour`], from the next call on |
//! | `PUT /_sim/schedule` | a [`Schedule`], from now on |
//! | `PUT /_sim/script/{file}` | a list of [`Answer`]s for a file name; an empty list removes the script |
//! | `GET /_sim/books` | the [`Books`] |
//! | `DELETE /_sim/books` | resets them, like [`SimAsr::reset_books`] |
//! | `GET /health` | `200` |
//!
//! # Under tokio's paused clock
//! The sim uses tokio's clock, so a test may pause it if the sim and its clients share one `current_thread` runtime.
//! Latencies and gaps are then exact and take no real time. Across threads or processes this does not work: the
//! client's runtime seems idle, so its paused clock advances to the timeout before the answer arrives.

mod answer;
mod behaviour;
mod books;
mod reply;
mod server;
mod state;
mod text;
mod upload;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::DropGuard;

pub use crate::answer::{Answer, ErrorBody, Odd};
pub use crate::behaviour::{Behaviour, Latency, Schedule, Step, Weighted, share};
pub use crate::books::{Books, FileBook};
use crate::state::State;
pub use crate::text::{Script, text_for};

/// A running sim. Dropping it stops the sim and closes all connections. [`stop`](Self::stop) also waits for the end.
#[derive(Debug)]
pub struct SimAsr {
    address: SocketAddr,
    state: Arc<State>,
    stop: DropGuard,
    serving: JoinHandle<()>,
}

impl SimAsr {
    /// Starts on a free port of 127.0.0.1.
    pub async fn start(behaviour: Behaviour) -> io::Result<Self> {
        Self::start_on(SocketAddr::from(([127, 0, 0, 1], 0)), behaviour).await
    }

    /// Starts on this address. The sim accepts calls when this returns.
    pub async fn start_on(address: SocketAddr, behaviour: Behaviour) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::new(behaviour));
        let stop = state.stop.clone().drop_guard();
        let serving = tokio::spawn(server::serve(listener, Arc::clone(&state)));
        Ok(Self { address, state, stop, serving })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL, `http://127.0.0.1:PORT`, without `/v1/audio/transcriptions`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets the behaviour from the next call on and ends a schedule. Scripts stay.
    pub fn set(&self, behaviour: Behaviour) {
        self.state.set(behaviour);
    }

    /// Cuts the connections of all calls in flight, as a crash does.
    pub fn cut_calls(&self) {
        self.state.crash.notify_waiters();
    }

    /// Starts a schedule. The current behaviour stays until the first step. The last step has no end.
    pub fn schedule(&self, schedule: Schedule) {
        self.state.schedule(schedule);
    }

    /// Scripts the answers of the next calls for this file name, one answer per call. Replaces an earlier script. The
    /// behaviour decides about further calls.
    pub fn script(&self, file_name: &str, answers: impl IntoIterator<Item = Answer>) {
        self.state.script(file_name, answers.into_iter().collect());
    }

    /// The current records.
    pub fn books(&self) -> Books {
        self.state.books()
    }

    /// Resets the records, except calls in flight. Lists of answers in prompts start again. Scripts stay.
    pub fn reset_books(&self) {
        self.state.reset_books();
    }

    /// Waits until the records satisfy the condition. Returns false after the deadline, by tokio's clock. The condition
    /// is called at once and at every change. It must not call the sim, since the records are locked.
    pub async fn wait_until(&self, cond: impl Fn(&Books) -> bool, deadline: Duration) -> bool {
        self.state.wait_until(cond, deadline).await
    }

    /// Stops and closes all connections. The port is free when this returns.
    pub async fn stop(self) {
        drop(self.stop);
        // The runtime has already reported a panic of the server.
        let _ = self.serving.await;
    }
}
