//! The problems that an operation can answer with, from the table of error codes.

use std::collections::BTreeMap;

use serde_json::json;
use utoipa::ToSchema;
use utoipa::openapi::example::ExampleBuilder;
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::{
    ContentBuilder, Header, HeaderBuilder, Object, Ref, RefOr, Response, ResponseBuilder, Type,
};

use crate::error::Problem;
use crate::error_codes::Code;

/// Of every operation.
pub(crate) const COMMON: &[Code] = &[Code::MethodNotAllowed, Code::Internal, Code::Timeout];

/// Of every operation behind authentication.
pub(crate) const AUTHENTICATED: &[Code] = &[Code::Unauthorized, Code::AuthUnavailable];

/// Of every operation with a JSON body.
pub(crate) const JSON_BODY: &[Code] = &[
    Code::InvalidRequest,
    Code::NoBody,
    Code::InvalidJson,
    Code::BodyIncomplete,
    Code::BodyTimeout,
    Code::BodyTooLarge,
    Code::UnsupportedMediaType,
];

/// Of every operation with a job in its path.
pub(crate) const JOB_PATH: &[Code] = &[Code::InvalidJobId, Code::JobNotFound, Code::StoreUnavailable];

/// Declares a type with the problems of an operation, for the `responses` of `#[utoipa::path]`.
macro_rules! problems {
    ($name:ident: $($codes:expr),+ $(,)?) => {
        struct $name;

        impl utoipa::IntoResponses for $name {
            fn responses()
            -> std::collections::BTreeMap<String, utoipa::openapi::RefOr<utoipa::openapi::Response>> {
                $crate::openapi::problems::responses(&[$($codes),+])
            }
        }
    };
}
pub(crate) use problems;

/// A response for each status of the codes.
pub(crate) fn responses(codes: &[&[Code]]) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for code in codes.iter().copied().flatten() {
        by_status.entry(code.row().status.as_u16()).or_default().push(*code);
    }
    let responses = by_status.into_iter();
    responses.map(|(status, codes)| (status.to_string(), response(status, &codes).into())).collect()
}

fn response(status: u16, codes: &[Code]) -> Response {
    let meanings: Vec<String> =
        codes.iter().map(|code| format!("`{}`: {}.", code.row().code, code.row().meaning)).collect();
    let examples = codes.iter().map(|code| {
        let row = code.row();
        let value = json!({
            "type": "about:blank",
            "title": row.title(),
            "status": status,
            "code": row.code,
            "detail": row.meaning,
            "requestId": "01a20675-b257-704e-82ef-c8afeeeddbef",
        });
        (row.code, ExampleBuilder::new().summary(row.remedy).value(Some(value)))
    });
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(Problem::name())))
        .examples_from_iter(examples)
        .build();
    let mut response = ResponseBuilder::new()
        .description(meanings.join(" "))
        .header("X-Request-Id", header("Quote it when you report a problem to the operator."))
        .content("application/problem+json", content);
    response = match status {
        401 => response.header("WWW-Authenticate", header("The accepted credentials (RFC 6750).")),
        405 => response.header("Allow", header("The methods that the path supports.")),
        429 | 503 => response.header("Retry-After", header("Seconds until a retry is useful.")),
        _ => response,
    };
    response.build()
}

fn header(description: &str) -> Header {
    HeaderBuilder::new()
        .schema(Some(Object::with_type(Type::String)))
        .description(Some(description))
        .extensions(Some(Extensions::from_iter([("required", true)])))
        .build()
}
