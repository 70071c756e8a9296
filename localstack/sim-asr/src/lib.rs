//! A simulated speech-to-text server: it speaks the `OpenAI`-compatible `POST /v1/audio/transcriptions`, keeps books of
//! the calls it gets, and misbehaves as it is told. Tests run it in their own process, load tests as `longhand-sim-asr`.
//!
//! # What a call is answered with
//! In this order, the first that applies:
//! 1. A `400` if it is no multipart form, or has no `file` with a file name, no `model`, or an unknown
//!    `response_format`.
//! 2. What its `prompt` field says, if that begins with `sim:` and goes on with JSON: an [`Answer`], a list of them (the
//!    n-th call for a file name gets the n-th), or such lists by file name: `sim:{"files": {"a.wav": ["hang", "echo"]}}`.
//!    A call for which nothing is left goes on to the next rule.
//! 3. A `400` that names `response_format` if it asks for `verbose_json` and [`Behaviour::supports_verbose_json`] is
//!    false. It uses nothing of a script.
//! 4. The next answer of the file's [script](SimAsr::script).
//! 5. A `429` if [`Behaviour::max_concurrent`] calls were being served when it arrived.
//! 6. A fault of [`Behaviour::faults`], by chance.
//! 7. [`Behaviour::answer`].
//!
//! Refusals (1, 3 and 5) come at once, all else after the [`Latency`].
//!
//! # Control over HTTP
//! | call | what |
//! |---|---|
//! | `PUT /_sim/behaviour` | a [`Behaviour`], from the next call on |
//! | `PUT /_sim/schedule` | a [`Schedule`], from now on |
//! | `PUT /_sim/script/{file}` | a list of [`Answer`]s for a file name; an empty one forgets the script |
//! | `GET /_sim/books` | the [`Books`] |
//! | `DELETE /_sim/books` | forgets them, as [`SimAsr::reset_books`] does |
//! | `GET /health` | `200` |
//!
//! # Under tokio's paused clock
//! The sim's times are tokio's, so a test may pause the clock, as long as the sim and its clients share one
//! `current_thread` runtime: latencies and gaps are then exact and take no real time. From another thread or process an
//! answer arrives at a runtime that seems idle, whose paused clock has jumped to the client's timeout by then.

mod answer;
mod behaviour;
mod books;
mod connection;
mod reply;
mod server;
mod state;
mod text;
mod upload;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpListener, task::JoinHandle};

pub use crate::{
    answer::{Answer, ErrorBody, Odd},
    behaviour::{BadLatency, Behaviour, Latency, Schedule, Step, Weighted},
    books::{Books, FileBook},
    text::{SECONDS_PER_WORD, SILENCE_SECONDS, Script, duration_of, text_for},
};
use crate::{connection::Door, state::State};

/// A running sim. It stops, and drops every connection, when this is dropped; [`stop`](Self::stop) also waits for that.
#[derive(Debug)]
pub struct SimAsr {
    address: SocketAddr,
    state: Arc<State>,
    serving: Option<JoinHandle<()>>,
}

impl SimAsr {
    /// Starts on a free port of 127.0.0.1.
    pub async fn start(behaviour: Behaviour) -> io::Result<Self> {
        Self::start_on(SocketAddr::from(([127, 0, 0, 1], 0)), behaviour).await
    }

    /// Starts on this address. Calls are answered from when this returns.
    pub async fn start_on(address: SocketAddr, behaviour: Behaviour) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::new(behaviour));
        let door = Door::new(listener, state.stop_token());
        let serving = tokio::spawn(server::serve(door, Arc::clone(&state)));
        Ok(Self { address, state, serving: Some(serving) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base of its URLs, `http://127.0.0.1:PORT`, to which a client adds `/v1/audio/transcriptions`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Behaves like this from the next call on; ends a schedule. Scripts stay.
    pub fn set(&self, behaviour: Behaviour) {
        self.state.set(behaviour);
    }

    /// Follows this schedule from now on. Until its first step the behaviour stays as it is, after its last one as that
    /// says.
    pub fn schedule(&self, schedule: Schedule) {
        self.state.schedule(schedule);
    }

    /// The next calls for this file name get these answers, one each, in place of what an earlier script left; calls
    /// after the last are answered by the behaviour.
    pub fn script(&self, file_name: &str, answers: impl IntoIterator<Item = Answer>) {
        self.state.script(file_name, answers.into_iter().collect());
    }

    /// The books as they are now.
    pub fn books(&self) -> Books {
        self.state.books()
    }

    /// Begins new books: all is forgotten but the calls in flight. Lists of answers in prompts start again; scripts are
    /// left as they are.
    pub fn reset_books(&self) {
        self.state.reset_books();
    }

    /// Waits until the books satisfy the condition, which is asked at once and at every change. False if they do not
    /// within the deadline, by tokio's clock. The condition must not call the sim: it is asked under the books' lock.
    pub async fn wait_until(&self, cond: impl Fn(&Books) -> bool, deadline: Duration) -> bool {
        self.state.wait_until(cond, deadline).await
    }

    /// Stops at once: connections are dropped, the port is free when this returns.
    pub async fn stop(mut self) {
        self.state.stop_token().cancel();
        if let Some(serving) = self.serving.take() {
            // A panic of the server has been reported by the runtime; there is nothing left to stop.
            let _ = serving.await;
        }
    }
}

impl Drop for SimAsr {
    fn drop(&mut self) {
        self.state.stop_token().cancel();
    }
}
