//! Captions that are short enough to read: a long segment becomes several cues, cut between words.
//!
//! The limits are those of broadcasters: two lines, seven seconds, and 17 characters a second. The last cannot always
//! be kept, since no word is left out: a cue lasts longer if the time after it is free.

use super::format::wrapped;
use super::{Cue, CueWord, Timeline};
use longhand_shared::domain::stitch::join;

/// The most characters of a line, if the client sets no limit.
pub const DEFAULT_LINE_CHARS: usize = 42;

const MOST_LINES: usize = 2;

/// The longest cue, in milliseconds.
const MOST_MILLIS: u64 = 7000;

/// The reading speed, in milliseconds for a character.
const MILLIS_PER_CHARACTER: u64 = 1000 / 17;

impl Timeline {
    /// The same with cues of at most two lines of `line_chars` characters.
    #[must_use]
    pub fn split(mut self, line_chars: usize) -> Self {
        self.segments = self.segments.into_iter().flat_map(|cue| split(cue, line_chars)).collect();
        for place in 0..self.segments.len() {
            let free_until = self.segments.get(place + 1).map_or(u64::MAX, |next| next.start);
            let cue = &mut self.segments[place];
            let to_read = cue.start + cue.text.chars().count() as u64 * MILLIS_PER_CHARACTER;
            cue.end = cue.end.max(to_read.min(free_until));
        }
        self
    }
}

fn split(cue: Cue, line_chars: usize) -> Vec<Cue> {
    let words = timed_words(&cue, line_chars * MOST_LINES);
    if cue.gap || words.is_empty() || fits(&cue, &words, line_chars) {
        return vec![cue];
    }
    // As few cues as the limits allow, of about equal length.
    let mut parts = greedy(&cue, &words, line_chars, usize::MAX);
    let letters = |words: &[CueWord]| words.iter().map(|word| word.word.chars().count() + 1).sum::<usize>();
    let mean = letters(&words) / parts.len();
    let balanced = (mean..).step_by(4).take(line_chars).map(|most| greedy(&cue, &words, line_chars, most));
    if let Some(balanced) = balanced.into_iter().find(|balanced| balanced.len() <= parts.len()) {
        parts = balanced;
    }
    let last = parts.len() - 1;
    let part = |(place, words): (usize, &[CueWord])| Cue {
        start: if place == 0 { cue.start } else { words[0].start },
        end: if place == last { cue.end } else { words[words.len() - 1].end },
        text: join(words.iter().map(|word| word.word.as_str())),
        words: if cue.words.is_empty() { vec![] } else { words.to_vec() },
        ..cue.clone()
    };
    let mut cues: Vec<Cue> = parts.into_iter().enumerate().map(part).collect();
    super::separate(&mut cues);
    cues
}

/// Fills cue after cue, each with at most `most` characters.
fn greedy<'a>(cue: &Cue, words: &'a [CueWord], line_chars: usize, most: usize) -> Vec<&'a [CueWord]> {
    let mut parts = Vec::new();
    let mut rest = words;
    while !rest.is_empty() {
        let mut characters = 0;
        let take = (1..=rest.len()).take_while(|count| {
            characters += rest[count - 1].word.chars().count() + 1;
            *count == 1 || (characters <= most.saturating_add(1) && fits(cue, &rest[..*count], line_chars))
        });
        let (part, after) = rest.split_at(take.last().unwrap_or(1));
        parts.push(part);
        rest = after;
    }
    parts
}

fn fits(cue: &Cue, words: &[CueWord], line_chars: usize) -> bool {
    let text = cue.named(&join(words.iter().map(|word| word.word.as_str())));
    let lines = wrapped(&text, Some(line_chars)).lines().count();
    lines <= MOST_LINES && words[words.len() - 1].end - words[0].start <= MOST_MILLIS
}

/// The words of a cue. Without usable ones from the model, each gets a share of the time by its number of characters.
fn timed_words(cue: &Cue, most_chars: usize) -> Vec<CueWord> {
    let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
    let stated: String = cue.words.iter().map(|word| letters(&word.word)).collect();
    let in_time =
        cue.words.iter().all(|word| word.start <= word.end && word.start >= cue.start && word.end <= cue.end);
    if in_time && !cue.words.is_empty() && stated == letters(&cue.text) {
        return cue.words.clone();
    }
    let all = (cue.text.chars().count() as u64).max(1);
    let at = |characters: u64| cue.start + (cue.end - cue.start) * characters.min(all) / all;
    let mut before = 0;
    let mut words = Vec::new();
    for word in cue.text.split_whitespace() {
        // A text without spaces is cut anywhere.
        let characters: Vec<char> = word.chars().collect();
        for part in characters.chunks((most_chars / 4).max(1)) {
            let (start, length) = (at(before), part.len() as u64);
            before += length;
            let word = part.iter().collect();
            words.push(CueWord { word, start, end: at(before), confidence: None, speaker: None });
        }
        before += 1;
    }
    words
}
