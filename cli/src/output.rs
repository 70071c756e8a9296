//! Writing to stdout and stderr, either of which may be closed at any time.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use crate::error::{Exit, Failure};

/// Writes a result to stdout, with a newline at its end. `Ok(false)` when nobody reads any more
/// (`| head -1`), which is no failure.
pub(crate) fn print(text: &str) -> Result<bool, Failure> {
    let mut stdout = io::stdout().lock();
    let written = writeln!(stdout, "{}", text.trim_end_matches('\n')).and_then(|()| stdout.flush());
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new(
            Exit::NotWritten,
            "NOT_WRITTEN",
            format!("the result could not be written to stdout: {error}"),
        )),
    }
}

/// Writes a result to a file where one is named, else to stdout.
pub(crate) fn write(text: &str, file: Option<&Path>) -> Result<(), Failure> {
    let Some(file) = file else { return print(text).map(drop) };
    std::fs::write(file, format!("{}\n", text.trim_end_matches('\n'))).map_err(|error| {
        let message = format!("the result could not be written to {}: {error}", file.display());
        Failure::new(Exit::NotWritten, "NOT_WRITTEN", message)
    })
}

/// Writes the beginning of a line to stderr, for an answer to follow.
pub(crate) fn ask(question: &str) {
    let _ = io::stderr().lock().write_all(question.as_bytes());
}

/// Writes a line to stderr. There is nowhere to complain when it cannot be written.
pub(crate) fn note(line: impl Display) {
    // One write, so that lines of several processes do not mix.
    let _ = io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}
