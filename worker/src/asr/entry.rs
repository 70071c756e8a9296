//! Fields of an answer's segments and words: times, speaker, confidence. Servers differ in names and types.
//!
//! Times can be missing, negative, or run backwards. A time that cannot be right is replaced by one between its
//! neighbours.

use serde_json::Value;

/// Models round: a first time this little before the beginning is the beginning.
const ROUNDING_SECONDS: f64 = 0.5;

/// The latest time that is believed: less than two weeks. `DynamoDB` refuses numbers beyond its range.
const LATEST_SECONDS: f64 = 1e6;

/// A number, or a number in a string: servers differ. To the millisecond.
pub(super) fn seconds(value: &Value) -> Option<f64> {
    let seconds = number(value)?;
    (0.0..=LATEST_SECONDS).contains(&seconds).then(|| (seconds * 1000.0).round() / 1000.0)
}

pub(super) fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.trim().parse().ok()).filter(|number| number.is_finite())
}

/// The `start` and `end` of entries that follow each other, repaired so that they do not run backwards, and whether one
/// of the two is an estimate. `duration`: the length of the audio, if it is known.
pub(super) fn times<'a>(
    entries: impl Iterator<Item = &'a Value>,
    duration: Option<f64>,
) -> Vec<(f64, f64, bool)> {
    let first_seconds = |value: &Value| {
        let rounded = number(value).is_some_and(|seconds| (-ROUNDING_SECONDS..0.0).contains(&seconds));
        if rounded { Some(0.0) } else { seconds(value) }
    };
    let stated = entries.flat_map(|entry| ["start", "end"].map(|name| entry.get(name)));
    let read = |(place, time): (usize, Option<&Value>)| {
        time.and_then(if place == 0 { first_seconds } else { seconds })
    };
    let stated: Vec<Option<f64>> = stated.enumerate().map(read).collect();
    let known = in_order(&stated);
    let row = fill(&known, duration);
    let repaired = known.chunks_exact(2).map(|pair| pair.contains(&None));
    row.chunks_exact(2).zip(repaired).map(|(pair, repaired)| (pair[0], pair[1], repaired)).collect()
}

/// A speaker's name. Some servers number the speakers.
pub(super) fn speaker(entry: &Value) -> Option<String> {
    /// The longest name that is kept, in characters.
    const MAX_CHARS: usize = 100;
    let named =
        ["speaker", "speaker_id", "speaker_label", "speakerId"].iter().find_map(|name| {
            match entry.get(name)? {
                Value::String(name) => Some(name.clone()),
                Value::Number(number) => Some(number.to_string()),
                _ => None,
            }
        })?;
    let named: String = named.trim().chars().filter(|c| !c.is_control()).take(MAX_CHARS).collect();
    (!named.is_empty()).then_some(named)
}

/// How sure the model is, from 0 to 1 with three decimals: as it says, or from Whisper's log probabilities.
pub(super) fn confidence(entry: &Value) -> Option<f64> {
    let get = |name: &str| entry.get(name).and_then(number);
    let stated = ["confidence", "probability", "score"].iter().find_map(|name| get(name));
    let sure =
        stated.or_else(|| Some(get("avg_logprob")?.exp() * (1.0 - get("no_speech_prob").unwrap_or(0.0))))?;
    Some((sure.clamp(0.0, 1.0) * 1000.0).round() / 1000.0)
}

/// Keeps the longest row of times that never run backwards, and forgets the others.
fn in_order(times: &[Option<f64>]) -> Vec<Option<f64>> {
    // The last time of the best row of each length, by its place; and the place before each.
    let mut ends: Vec<usize> = Vec::new();
    let mut before = vec![None; times.len()];
    let at = |place: usize| times[place].unwrap_or(0.0);
    for (place, time) in times.iter().enumerate() {
        let Some(time) = time else { continue };
        let length = ends.partition_point(|end| at(*end) <= *time);
        before[place] = length.checked_sub(1).map(|shorter| ends[shorter]);
        if length < ends.len() {
            ends[length] = place;
        } else {
            ends.push(place);
        }
    }
    let mut kept = vec![None; times.len()];
    let mut next = ends.last().copied();
    while let Some(place) = next {
        kept[place] = times[place];
        next = before[place];
    }
    kept
}

/// Times for what is not known, evenly between the known neighbours. The neighbour before the first time is 0. After the
/// last known time they end with `duration`; without it they are one second apart.
#[expect(clippy::cast_precision_loss, reason = "segments of one chunk are few")]
fn fill(times: &[Option<f64>], duration: Option<f64>) -> Vec<f64> {
    let mut filled: Vec<f64> = Vec::with_capacity(times.len());
    while filled.len() < times.len() {
        let place = filled.len();
        if let Some(time) = times[place] {
            filled.push(time);
            continue;
        }
        let gap = times[place..].iter().take_while(|time| time.is_none()).count();
        let from = filled.last().copied().unwrap_or(0.0);
        let (to, parts) = match times.get(place + gap).copied().flatten() {
            Some(next) => (next, gap + 1),
            None => (duration.unwrap_or(from + gap as f64).max(from), gap),
        };
        // A segment that only lacks its beginning begins where the one before ends.
        let begins = usize::from(place.is_multiple_of(2) && place > 0);
        for part in 0..gap {
            let share = (part + 1 - begins) as f64 / (parts - begins).max(1) as f64;
            filled.push(((from + (to - from) * share) * 1000.0).round() / 1000.0);
        }
    }
    filled
}
