//! Writes to stdout and stderr. Either may be closed at any time.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::Path;

use serde_json::{Value, json};

use crate::error::{Exit, Failure};

/// Writes a result with a newline to stdout. `Ok(false)` if the reader has closed the pipe (`| head -1`).
pub(crate) fn print(text: &str) -> Result<bool, Failure> {
    let mut stdout = io::stdout().lock();
    let text = if stdout.is_terminal() { harmless(text) } else { Cow::Borrowed(text) };
    let written = writeln!(stdout, "{}", text.trim_end_matches('\n')).and_then(|()| stdout.flush());
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(not_written(Exit::NotWritten, "result", "stdout", &error)),
    }
}

/// Writes a result to stdout: this document if `json`, else this text.
pub(crate) fn print_either(json: bool, document: &Value, text: &str) -> Result<(), Failure> {
    print(&if json { document.to_string() } else { text.to_owned() }).map(drop)
}

/// Writes a result to `file`, or to stdout without one.
pub(crate) fn write(text: &str, file: Option<&Path>) -> Result<(), Failure> {
    let Some(file) = file else { return print(text).map(drop) };
    std::fs::write(file, format!("{}\n", text.trim_end_matches('\n')))
        .map_err(|error| not_written(Exit::NotWritten, "result", file.display(), &error))
}

/// The failure of a write of `what` to `place`.
pub(crate) fn not_written(exit: Exit, what: &str, place: impl Display, error: &io::Error) -> Failure {
    Failure::new(exit, "NOT_WRITTEN", format!("the {what} could not be written to {place}: {error}"))
}

/// Writes a prompt to stderr.
pub(crate) fn ask(question: &str) {
    let _ = io::stderr().lock().write_all(question.as_bytes());
}

/// Writes a line to stderr. Errors are ignored.
pub(crate) fn note(line: impl Display) {
    // One write, so that lines of several processes do not mix.
    let mut stderr = io::stderr().lock();
    let line = line.to_string();
    let line = if stderr.is_terminal() { harmless(&line) } else { Cow::Borrowed(line.as_str()) };
    let _ = stderr.write_all(format!("{line}\n").as_bytes());
}

/// Writes a failure to stderr and returns its exit code.
pub(crate) fn report(failure: &Failure, json: bool) -> Exit {
    if json {
        note(json!({ "error": failure }));
    } else {
        note(failure);
    }
    failure.exit
}

/// Removes characters that control a terminal: the text may be a transcript or come from a server.
fn harmless(text: &str) -> Cow<'_, str> {
    // The last ranges change the writing direction, which can disguise a text.
    let steers = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
    };
    if text.contains(steers) { Cow::Owned(text.replace(steers, "")) } else { Cow::Borrowed(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_no_control_characters() {
        let text = "one\ttwo\n\u{1b}[31mred\u{7}\r\u{9b}2Jback\u{202e}";
        assert_eq!(harmless(text), "one\ttwo\n[31mred2Jback");
        assert!(matches!(harmless("語 é\n"), Cow::Borrowed(_)));
    }
}
