//! Segments as models return them: with times that are missing, negative, or run backwards. Their order is kept, and so
//! is every word; times that cannot be right are replaced by times between their neighbours.

use longhand_shared::domain::job::Segment;
use serde_json::Value;

use super::words;

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

/// Starts and ends, repaired.
pub(super) struct Times {
    /// The start and the end of each entry, in one row that does not run backwards.
    pub row: Vec<(f64, f64)>,
    /// Whether an entry's start or end is an estimate.
    pub repaired: Vec<bool>,
}

/// The `start` and `end` of entries that follow each other. `duration`: the length of the audio, if it is known.
pub(super) fn times<'a>(entries: impl Iterator<Item = &'a Value>, duration: Option<f64>) -> Times {
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
    Times {
        row: row.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect(),
        repaired: known.chunks_exact(2).map(|pair| pair.contains(&None)).collect(),
    }
}

/// The segments of an answer, with their words. `duration` is the length that it states.
pub(super) fn read(answer: &Value, text: &str, duration: Option<f64>) -> Vec<Segment> {
    let segments = answer.get("segments").and_then(Value::as_array);
    let texts: Vec<(&Value, &str)> = segments
        .into_iter()
        .flatten()
        .filter_map(|segment| Some((segment, segment.get("text")?.as_str()?.trim())))
        .filter(|(_, text)| !text.is_empty())
        .collect();
    let times = times(texts.iter().map(|(segment, _)| *segment), duration);
    let segments =
        texts.iter().zip(times.row.iter().zip(times.repaired)).map(|((segment, text), (times, repaired))| {
            Segment {
                start: times.0,
                end: times.1,
                text: (*text).to_owned(),
                repaired,
                speaker: speaker(segment),
                confidence: confidence(segment),
                words: vec![],
            }
        });
    words::add(segments.collect(), answer, text, duration)
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

/// Times for what is not known, evenly between the known neighbours: 0 at first, and at last `duration`, or one second
/// a time.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn segments(times: &[(Value, Value)], duration: Option<f64>) -> Vec<(f64, f64, bool)> {
        let segments: Vec<Value> =
            times.iter().map(|(start, end)| json!({"start": start, "end": end, "text": "a"})).collect();
        let read = read(&json!({"segments": segments}), "", duration);
        read.iter().map(|segment| (segment.start, segment.end, segment.repaired)).collect()
    }

    #[test]
    fn good_times_are_kept_and_bad_ones_are_replaced_in_the_models_order() {
        let cases = [
            (
                vec![(json!(0), json!(1)), (json!(1.5), json!("2"))],
                vec![(0.0, 1.0, false), (1.5, 2.0, false)],
            ),
            (
                vec![(json!(-0.02), json!(1)), (json!(1), json!(2))],
                vec![(0.0, 1.0, false), (1.0, 2.0, false)],
            ),
            (
                vec![(json!(0), json!(2)), (json!(2), json!(null)), (json!(-0.02), json!(1))],
                vec![(0.0, 2.0, false), (2.0, 2.667, true), (3.333, 4.0, true)],
            ),
            (
                vec![(json!(0), json!(1)), (json!(3), json!(2)), (json!(2), json!(3.5))],
                vec![(0.0, 1.0, false), (1.0, 2.0, true), (2.0, 3.5, false)],
            ),
            (vec![(json!(null), json!(null))], vec![(2.0, 4.0, true)]),
        ];
        for (times, expected) in cases {
            assert_eq!(segments(&times, Some(4.0)), expected, "{times:?}");
        }
    }

    fn any_time() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(json!(null)),
            (-2.0..20.0).prop_map(|seconds: f64| json!(seconds)),
            Just(json!("1e9")),
            Just(json!("3.5")),
        ]
    }

    proptest! {
        /// Whatever the times are: no segment is lost, and none begins before the one before ends.
        #[test]
        fn every_segment_is_kept_and_none_runs_backwards(
            times in prop::collection::vec((any_time(), any_time()), 0..12),
            duration in prop::option::of(0.0..20.0),
        ) {
            let read = segments(&times, duration);
            prop_assert_eq!(read.len(), times.len());
            let row: Vec<f64> = read.iter().flat_map(|(start, end, _)| [*start, *end]).collect();
            prop_assert!(row.is_sorted(), "{:?}", row);
        }
    }
}
