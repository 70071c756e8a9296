//! Tests of the sim over HTTP.

mod answers;
mod choosing;
mod clock;
mod control;
mod misbehaving;

use std::{sync::LazyLock, time::Duration};

use longhand_sim_asr::{Answer, Behaviour, SimAsr};
use reqwest::{
    Client, Response,
    multipart::{Form, Part},
};
use serde_json::Value;

/// A timeout that only a failing test reaches.
const SOON: Duration = Duration::from_secs(10);

async fn start(behaviour: Behaviour) -> SimAsr {
    SimAsr::start(behaviour).await.expect("a free port of the loopback")
}

async fn answering(answer: Answer) -> SimAsr {
    start(Behaviour::answering(answer)).await
}

/// A form with a small file and a model.
fn form(file_name: &str) -> Form {
    let audio = Part::bytes(b"RIFF....WAVEfmt and so on".as_slice()).file_name(file_name.to_owned());
    let audio = audio.mime_str("audio/wav").expect("a content type");
    Form::new().text("model", "sim-1").part("file", audio)
}

/// A client without a connection pool, since each test has its own runtime.
fn client() -> &'static Client {
    static CLIENT: LazyLock<Client> = LazyLock::new(|| {
        let builder = Client::builder().pool_max_idle_per_host(0);
        builder.build().expect("a client")
    });
    &CLIENT
}

fn post(sim: &SimAsr, form: Form) -> impl Future<Output = reqwest::Result<Response>> + use<> {
    let url = format!("{}/v1/audio/transcriptions", sim.base_url());
    client().post(url).multipart(form).send()
}

async fn answer(sim: &SimAsr, form: Form) -> Response {
    post(sim, form).await.expect("an answer")
}

async fn status(sim: &SimAsr, form: Form) -> u16 {
    answer(sim, form).await.status().as_u16()
}

async fn json(response: Response) -> Value {
    response.json().await.expect("JSON")
}
