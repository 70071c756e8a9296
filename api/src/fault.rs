//! One fault of a request.

use std::fmt::Display;

use serde::Serialize;
use utoipa::ToSchema;

/// The most characters of a pointer.
const MAX_POINTER_CHARS: usize = 200;

/// One thing that is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Fault {
    /// Where: a JSON pointer into the body as a URI fragment (RFC 6901 section 6; `#` is the body itself), `?name` for
    /// a query parameter, `/{name}` for a part of the path, or the name of a header.
    pub(crate) pointer: String,
    /// What is wrong, such as "must not be empty".
    pub(crate) detail: String,
}

impl Fault {
    /// A pointer is cut at [`MAX_POINTER_CHARS`]: it may name what the client made up.
    pub(crate) fn new(pointer: impl Into<String>, detail: impl Display) -> Self {
        let mut pointer: String = pointer.into();
        if let Some((end, _)) = pointer.char_indices().nth(MAX_POINTER_CHARS) {
            pointer.truncate(end);
        }
        Self { pointer, detail: detail.to_string() }
    }
}
