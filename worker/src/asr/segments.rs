//! The segments of an answer. The order of the model and every word are kept.

use longhand_shared::domain::job::Segment;
use serde_json::Value;

use super::entry::{confidence, speaker, times};
use super::words;

/// The segments of an answer, with their words. `duration` is the length that it states.
pub(super) fn read(answer: &Value, text: &str, duration: Option<f64>) -> Vec<Segment> {
    let texts: Vec<(&Value, &str)> = words::list(answer, "segments")
        .filter_map(|segment| Some((segment, segment.get("text")?.as_str()?.trim())))
        .filter(|(_, text)| !text.is_empty())
        .collect();
    let times = times(texts.iter().map(|(segment, _)| *segment), duration);
    let segments = texts.iter().zip(times).map(|((segment, text), (start, end, repaired))| Segment {
        start,
        end,
        text: (*text).to_owned(),
        repaired,
        speaker: speaker(segment),
        confidence: confidence(segment),
        words: vec![],
    });
    words::add(segments.collect(), answer, text, duration)
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
