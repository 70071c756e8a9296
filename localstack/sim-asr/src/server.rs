//! The connections, the routes, and the answer to each call.

use std::{collections::BTreeMap, future, sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, Path, Request, State as Shared},
    http::{Method, StatusCode},
    response::Response,
    routing::{get, post, put},
};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use serde::Deserialize;
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::answer::{Answer, ErrorBody};
use crate::behaviour::{Behaviour, Schedule};
use crate::books::Books;
use crate::reply::{self, Format};
use crate::state::{Call, State};
use crate::upload::{self, BadUpload, Form};

/// The maximum size of a connection's buffer. The default grows to 400 KB while reads fill it. This bound keeps the memory
/// of a thousand concurrent uploads small.
const MAX_BUFFER_BYTES: usize = 12 * 1024;

/// Serves until the state's stop token is cancelled and every connection is gone.
pub(crate) async fn serve(listener: TcpListener, state: Arc<State>) {
    let stop = state.stop.clone();
    let routes = Router::new()
        .route("/v1/audio/transcriptions", post(transcribe))
        .route("/_sim/behaviour", put(set))
        .route("/_sim/schedule", put(schedule))
        .route("/_sim/script/{file}", put(script))
        .route("/_sim/books", get(books).delete(reset_books))
        .route("/health", get(StatusCode::OK))
        .fallback(not_found)
        .layer(DefaultBodyLimit::disable())
        .with_state(state);
    let connections = TaskTracker::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(connection(stream, routes.clone(), stop.child_token()));
            }
            // There may be too many open sockets. Some will close.
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
    connections.close();
    connections.wait().await;
}

/// Serves a connection until it ends or is cut. Data in transit is lost then.
async fn connection(stream: TcpStream, routes: Router, cut: CancellationToken) {
    let _ = stream.set_nodelay(true);
    let routes = TowerToHyperService::new(routes.layer(Extension(cut.clone())));
    let stream = TokioIo::new(stream);
    let served = http1::Builder::new().max_buf_size(MAX_BUFFER_BYTES).serve_connection(stream, routes);
    cut.run_until_cancelled(served).await;
}

async fn set(Shared(state): Shared<Arc<State>>, Json(behaviour): Json<Behaviour>) -> StatusCode {
    state.set(behaviour);
    StatusCode::NO_CONTENT
}

async fn schedule(Shared(state): Shared<Arc<State>>, Json(steps): Json<Schedule>) -> StatusCode {
    state.schedule(steps);
    StatusCode::NO_CONTENT
}

async fn script(
    Shared(state): Shared<Arc<State>>,
    Path(file_name): Path<String>,
    Json(answers): Json<Vec<Answer>>,
) -> StatusCode {
    state.script(&file_name, answers.into());
    StatusCode::NO_CONTENT
}

async fn books(Shared(state): Shared<Arc<State>>) -> Json<Books> {
    Json(state.books())
}

async fn reset_books(Shared(state): Shared<Arc<State>>) -> StatusCode {
    state.reset_books();
    StatusCode::NO_CONTENT
}

async fn not_found(method: Method, request: Request) -> Response {
    let message = format!("Invalid URL ({method} {})", request.uri().path());
    reply::refusal(StatusCode::NOT_FOUND, &message, None)
}

async fn transcribe(
    Shared(state): Shared<Arc<State>>,
    Extension(cut): Extension<CancellationToken>,
    request: Request,
) -> Response {
    let call = Call::begin(&state);
    tokio::select! {
        // A crash wins over an answer that is ready at the same time.
        biased;
        () = state.crash.notified() => {
            cut.cancel();
            future::pending().await
        }
        response = answer(request, call, &cut) => response,
    }
}

async fn answer(request: Request, mut call: Call, cut: &CancellationToken) -> Response {
    let decided = if call.behaviour.reads_upload {
        match upload::read(request, &mut call).await {
            Ok(form) => decide(&call, &form),
            Err(bad) => Err(bad),
        }
    } else {
        Ok(by_behaviour(&call, Format::Json))
    };
    match decided {
        Ok(Decision { answer, after, format }) => {
            if !after.is_zero() {
                sleep(after).await;
            }
            reply::send(&answer, format, call, cut).await
        }
        Err(BadUpload::Refused { message, param }) => {
            call.answered(StatusCode::BAD_REQUEST.as_u16(), false);
            reply::refusal(StatusCode::BAD_REQUEST, &message, param)
        }
        Err(BadUpload::Disconnected) => Response::default(),
    }
}

/// The answer to a call, its delay after the upload, and the format of a transcript.
struct Decision {
    answer: Answer,
    after: Duration,
    format: Format,
}

/// Applies the rules of the crate's documentation in their order.
fn decide(call: &Call, form: &Form) -> Result<Decision, BadUpload> {
    let format = Format::requested(form)?;
    if let Some(answer) = prompted(call, form)? {
        return Ok(chosen(call, answer, format));
    }
    if format.is_verbose() && !call.behaviour.supports_verbose_json {
        let model = form.get("model").map_or("", String::as_str);
        let message = format!(
            "response_format 'verbose_json' is not compatible with model '{model}'. Use 'json' or 'text' instead."
        );
        return Err(BadUpload::refused(message, Some("response_format")));
    }
    if let Some(answer) = call.state.next_scripted(call.file_name()) {
        return Ok(chosen(call, answer, format));
    }
    Ok(by_behaviour(call, format))
}

/// The answer by the behaviour, without a prompt or a script.
fn by_behaviour(call: &Call, format: Format) -> Decision {
    if call.is_admitted {
        let (answer, latency) = call.draw();
        unfold(answer, latency, format)
    } else {
        call.note(|books, _| books.refused += 1);
        let answer = Answer::Status {
            code: StatusCode::TOO_MANY_REQUESTS.as_u16(),
            body: ErrorBody::default(),
            retry_after: call.behaviour.retry_after.clone(),
            retry_after_ms: None,
        };
        unfold(answer, Duration::ZERO, format)
    }
}

/// The answer by a prompt or a script, with the latency of the behaviour.
fn chosen(call: &Call, answer: Answer, format: Format) -> Decision {
    let (_, latency) = call.draw();
    unfold(answer, latency, format)
}

fn unfold(mut answer: Answer, mut after: Duration, format: Format) -> Decision {
    while let Answer::After { ms, answer: inner } = answer {
        after = Duration::from_millis(ms);
        answer = *inner;
    }
    Decision { answer, after, format }
}

/// The JSON after `sim:` in a prompt.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Prompt {
    Files { files: BTreeMap<String, Vec<Answer>> },
    Each(Vec<Answer>),
    All(Answer),
}

fn prompted(call: &Call, form: &Form) -> Result<Option<Answer>, BadUpload> {
    let Some(json) = form.get("prompt").and_then(|prompt| prompt.strip_prefix("sim:")) else {
        return Ok(None);
    };
    let prompt: Prompt = serde_json::from_str(json).map_err(|error| {
        let message = format!("the text after `sim:` is neither an answer nor a list of answers: {error}");
        BadUpload::refused(message, Some("prompt"))
    })?;
    let file_name = call.file_name();
    Ok(match prompt {
        Prompt::All(answer) => Some(answer),
        Prompt::Each(answers) => call.state.next_prompted(file_name, &answers),
        Prompt::Files { files } => {
            files.get(file_name).and_then(|answers| call.state.next_prompted(file_name, answers))
        }
    })
}
