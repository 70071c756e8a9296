//! Reads the multipart form of a call without keeping its audio in memory.

use std::collections::BTreeMap;

use axum::{
    extract::{FromRequest as _, Multipart, Request, multipart::Field},
    http::{StatusCode, header},
};

use crate::books::FIRST_BYTES;
use crate::state::Call;

/// The form fields other than the file, by name. Repeated fields are joined with commas.
pub(crate) type Form = BTreeMap<String, String>;

/// Why a call's form cannot be used.
#[derive(Debug)]
pub(crate) enum BadUpload {
    /// The form is invalid.
    Refused {
        message: String,
        /// The invalid form field.
        param: Option<&'static str>,
    },
    /// The client disconnected during its upload.
    Disconnected,
}

impl BadUpload {
    pub(crate) fn refused(message: impl Into<String>, param: Option<&'static str>) -> Self {
        Self::Refused { message: message.into(), param }
    }
}

impl From<axum::extract::multipart::MultipartError> for BadUpload {
    fn from(error: axum::extract::multipart::MultipartError) -> Self {
        // An invalid form is a 400. All other errors come from the connection.
        if error.status() == StatusCode::BAD_REQUEST {
            Self::refused(error.body_text(), None)
        } else {
            Self::Disconnected
        }
    }
}

/// Reads the whole form and records it.
pub(crate) async fn read(request: Request, call: &mut Call) -> Result<Form, BadUpload> {
    let authorization = request.headers().get(header::AUTHORIZATION);
    let authorization = authorization.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let mut parts = Multipart::from_request(request, &())
        .await
        .map_err(|rejection| BadUpload::refused(rejection.body_text(), None))?;
    let mut form = Form::new();
    while let Some(part) = parts.next_field().await? {
        let name = part.name().unwrap_or_default().to_owned();
        // A part without a file name is a text field, as on real servers.
        if name == "file" && part.file_name().is_some() {
            read_file(part, call).await?;
        } else {
            let value = part.text().await?;
            form.entry(name)
                .and_modify(|values: &mut String| {
                    values.push(',');
                    values.push_str(&value);
                })
                .or_insert(value);
        }
    }
    call.note(|_, file| {
        file.last_form.clone_from(&form);
        file.authorization = authorization;
    });
    if call.file_name().is_empty() {
        let message = "`file` is required, with a file name";
        return Err(BadUpload::refused(message, Some("file")));
    }
    if form.get("model").is_none_or(String::is_empty) {
        return Err(BadUpload::refused("`model` is required", Some("model")));
    }
    Ok(form)
}

async fn read_file(mut part: Field<'_>, call: &mut Call) -> Result<(), BadUpload> {
    let file_name = part.file_name().unwrap_or_default().to_owned();
    call.file_received(&file_name, part.content_type());
    let mut bytes = 0;
    let mut first_bytes = Vec::with_capacity(FIRST_BYTES);
    while let Some(chunk) = part.chunk().await? {
        bytes += chunk.len() as u64;
        let wanted = (FIRST_BYTES - first_bytes.len()).min(chunk.len());
        first_bytes.extend_from_slice(&chunk[..wanted]);
    }
    call.note(|_, file| {
        file.bytes = bytes;
        file.first_bytes = first_bytes;
    });
    Ok(())
}
