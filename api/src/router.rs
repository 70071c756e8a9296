//! All routes, and the layers around them.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::captions::Cue;
use crate::error::{ApiError, Problem};
use crate::health::Readiness;
use crate::jobs::search::{JobSummaries, SearchResults};
use crate::jobs::{self, audio, create, erase, read, retry, search};
use crate::state::{App, AppState};
use crate::waiting::events;
use crate::{auth, body, console, edge, error, health, limits, openapi, operations, reads, tickets, uploads};

/// Schemas that no route's answer refers to by its type.
#[derive(OpenApi)]
#[openapi(components(schemas(Cue, JobSummaries, Problem, SearchResults)))]
struct Schemas;

/// The operations that need to know their caller.
fn operations() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Schemas::openapi())
        .routes(routes!(create::create))
        .routes(routes!(search::search))
        .routes(routes!(read::read, erase::erase))
        .routes(routes!(retry::retry))
        .routes(routes!(jobs::tickets::create))
        .routes(routes!(uploads::create))
        .routes(routes!(operations::read))
        .routes(routes!(operations::redrive))
}

/// The operations that accept a ticket in place of a credential.
fn with_tickets() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(events::follow)).routes(routes!(audio::fetch))
}

/// What operators and load balancers call, open to everybody.
fn probes() -> OpenApiRouter<Arc<Readiness>> {
    OpenApiRouter::new()
        .routes(routes!(health::alive))
        .routes(routes!(health::ready))
        .routes(routes!(health::serving))
        .routes(routes!(health::metrics))
}

/// The text of `/openapi.json`.
pub fn description() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let mut api = operations().into_openapi();
        api.merge(with_tickets().into_openapi());
        api.merge(probes().into_openapi());
        openapi::text(&api)
    });
    &TEXT
}

/// All routes, with the layers around them. Every answer is made here, whatever fails.
pub fn router(state: AppState) -> Router {
    let app = Arc::new(state);
    let reads = app.limits.reads().clone();
    let description = openapi::routes(description(), &app.sources);
    let (auth, cors, stop) = (app.auth.clone(), app.origins.layer(), app.stop.clone());
    let gate = (auth.clone(), app.tickets.clone());
    let with_tickets =
        Router::from(with_tickets()).route_layer(from_fn_with_state(gate, tickets::authenticate));
    let router = Router::from(operations())
        .merge(console::session())
        .route_layer(from_fn(limits::report))
        // This authentication is for all routes above this line. Of those below it, only `with_tickets` has one.
        .route_layer(from_fn_with_state(auth, auth::authenticate))
        .merge(with_tickets)
        .merge(console::routes())
        .with_state(Arc::clone(&app))
        .merge(Router::from(probes()).with_state(Arc::new(Readiness::new(app))))
        .merge(description)
        .fallback(async || ApiError::NoSuchRoute)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(DefaultBodyLimit::max(body::MAX_BODY_BYTES))
        .layer(from_fn_with_state(reads, reads::account))
        .layer(CatchPanicLayer::custom(error::panicked))
        .layer(from_fn(edge::bounded));
    // Inside the edge, so that a preflight is logged; outside the rest, since it has no credentials.
    let router = match cors {
        Some(cors) => router.layer(cors),
        None => router,
    };
    router.layer(from_fn_with_state(stop, edge::edge))
}
