//! Captions as files: `WebVTT` and `SubRip`.

use std::fmt::Write;

use super::{Cue, Timeline};

impl Timeline {
    /// `WebVTT` (<https://www.w3.org/TR/webvtt1/>), with lines of at most `line_chars` characters.
    pub fn vtt(&self, line_chars: Option<usize>) -> String {
        let mut text = "WEBVTT\n".to_owned();
        match self.segments.iter().filter(|cue| cue.gap).count() {
            0 => {}
            1 => text.push_str("\nNOTE This transcript is partial: 1 chunk is missing.\n"),
            gaps => _ = write!(text, "\nNOTE This transcript is partial: {gaps} chunks are missing.\n"),
        }
        let mut noted = false;
        for cue in &self.segments {
            if let (false, true, Some(chunk)) = (noted, cue.length_estimated && !cue.gap, self.estimated) {
                noted = true;
                let _ = write!(
                    text,
                    "\nNOTE Times from here on are estimated: the length of chunk {chunk} is not known.\n"
                );
            }
            // An arrow must not be in a text; it has a bracket, so the escapes break it.
            let words = escaped(&wrapped(&cue.text, line_chars));
            let voice = cue.speaker.as_ref().map_or(String::new(), |name| format!("<v {}>", escaped(name)));
            let (start, end) = (stamp(cue.start, '.'), stamp(cue.end, '.'));
            let _ = write!(text, "\n{start} --> {end}\n{voice}{words}\n");
        }
        text
    }

    /// `SubRip`, with lines of at most `line_chars` characters. It has neither notes nor escapes: an arrow, which would
    /// be read as a time, is split, and a bracket, which players read as a tag, is followed by a word joiner (U+2060).
    pub fn srt(&self, line_chars: Option<usize>) -> String {
        let mut text = String::new();
        for (number, cue) in (1..).zip(&self.segments) {
            let words =
                wrapped(&cue.named(&cue.text).replace("-->", "-- >").replace('<', "<\u{2060}"), line_chars);
            let (start, end) = (stamp(cue.start, ','), stamp(cue.end, ','));
            let _ = write!(text, "{number}\n{start} --> {end}\n{words}\n\n");
        }
        text
    }
}

impl Cue {
    /// A text with the speaker's name before it, if there is one.
    pub(super) fn named(&self, text: &str) -> String {
        self.speaker.as_ref().map_or_else(|| text.to_owned(), |name| format!("{name}: {text}"))
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A text on lines of at most `line_chars` characters. A longer word is split, as texts without spaces are.
pub(super) fn wrapped(text: &str, line_chars: Option<usize>) -> String {
    let Some(most) = line_chars else { return text.to_owned() };
    let (mut lines, mut used) = (String::with_capacity(text.len() + 8), 0);
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if used > 0 && used + 1 + length <= most {
            lines.push(' ');
            used += 1;
        } else if used > 0 {
            lines.push('\n');
            used = 0;
        }
        for character in word.chars() {
            if used == most {
                lines.push('\n');
                used = 0;
            }
            lines.push(character);
            used += 1;
        }
    }
    lines
}

/// `HH:MM:SS.mmm`, with more digits for the hours where needed.
fn stamp(millis: u64, decimal: char) -> String {
    let (seconds, millis) = (millis / 1000, millis % 1000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{hours:02}:{minutes:02}:{seconds:02}{decimal}{millis:03}")
}
