//! Timelines, and the files made of them.

use longhand_shared::Timestamp;
use longhand_shared::domain::job::{ChunkError, ChunkState, ErrorCode, Segment, Verdict, Word};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::json;

use super::format::wrapped;
use super::*;

/// A text, its length in seconds, and its segments.
type Words<'a> = (&'a str, Option<f64>, &'a [(f64, f64, &'a str)]);

fn completed((text, duration, segments): Words<'_>) -> Verdict {
    let segment = |(start, end, text): &(f64, f64, &str)| Segment {
        start: *start,
        end: *end,
        text: (*text).to_owned(),
        ..Segment::default()
    };
    let segments = segments.iter().map(segment).collect();
    Verdict::Completed(Transcription::new(text, duration, segments).expect("small"))
}

fn failed() -> Verdict {
    Verdict::Failed(ChunkError::new(ErrorCode::AudioNotFound, "gone"))
}

/// `None` is a chunk in progress.
fn timeline(verdicts: Vec<Option<Verdict>>) -> Timeline {
    let chunk = |(index, verdict): (ChunkIndex, Option<Verdict>)| {
        let mut chunk = Chunk::new(index, "a.wav".parse().expect("a path"));
        if let Some(verdict) = verdict {
            chunk.state = ChunkState::Settled { at: Timestamp::from_unix(0), verdict };
        }
        chunk
    };
    Timeline::new(&ChunkIndex::first(verdicts.len()).zip(verdicts).map(chunk).collect::<Vec<_>>())
}

fn times(timeline: &Timeline) -> Vec<(u64, u64, &str)> {
    timeline.segments.iter().map(|cue| (cue.start, cue.end, cue.text.as_str())).collect()
}

#[test]
fn lines_are_wrapped_on_request() {
    let sentence =
        "And Mr. John Dashwood had then leisure to consider how much there might be prudently in his power.";
    let timeline = timeline(vec![Some(completed((sentence, Some(9.0), &[])))]);
    let expected = "And Mr. John Dashwood had then leisure to\nconsider how much there might be prudently\n\
                    in his power.";
    assert!(timeline.vtt(Some(42)).ends_with(&format!("09.000\n{expected}\n")), "{}", timeline.vtt(Some(42)));
    assert!(timeline.srt(Some(42)).ends_with(&format!("09,000\n{expected}\n\n")));
    assert!(timeline.vtt(None).contains(sentence), "one line without a limit");
}

#[test]
fn measured_lengths_move_what_follows() {
    let timeline = timeline(vec![
        Some(completed(("And so,", Some(2.5), &[(0.1, 1.0, "And"), (1.0, 2.9, "so,")]))),
        Some(completed(("", Some(60.0), &[]))),
        Some(completed(("my fellow", Some(3.0), &[]))),
        Some(completed(("Americans.", Some(3600.0), &[(0.0, 3600.0, "Americans.")]))),
    ]);
    let expected = [
        (100, 1000, "And"),
        (1000, 2500, "so,"),
        (62_500, 65_500, "my fellow"),
        (65_500, 3_665_500, "Americans."),
    ];
    assert_eq!(times(&timeline), expected);
    assert!(timeline.times_exact && !timeline.partial());
    assert_eq!(
        json!(timeline.segments[2]),
        json!({"chunk": 2, "start": 62.5, "end": 65.5, "text": "my fellow"})
    );
    assert!(
        timeline.vtt(None).starts_with("WEBVTT\n\n00:00:00.100 --> 00:00:01.000\nAnd\n\n"),
        "{}",
        timeline.vtt(None)
    );
    assert!(
        timeline.srt(None).ends_with("\n4\n00:01:05,500 --> 01:01:05,500\nAmericans.\n\n"),
        "{}",
        timeline.srt(None)
    );
}

#[test]
fn estimated_times_are_marked() {
    let words = |text| Some(completed((text, Some(2.0), &[])));
    let timeline = timeline(vec![words("One."), Some(failed()), words("Three."), None]);
    let expected = [
        (0, 2000, "One."),
        (2000, 3000, "[chunk 1 failed]"),
        (3000, 5000, "Three."),
        (5000, 6000, "[chunk 3 pending]"),
    ];
    assert_eq!(times(&timeline), expected);
    assert!(!timeline.times_exact && timeline.partial());
    assert_eq!(timeline.segments.iter().map(|cue| cue.gap).collect::<Vec<_>>(), [false, true, false, true]);
    let vtt = "WEBVTT\n\nNOTE This transcript is partial: 2 chunks are missing.\n\n\
        00:00:00.000 --> 00:00:02.000\nOne.\n\n00:00:02.000 --> 00:00:03.000\n[chunk 1 failed]\n\n\
        NOTE Times from here on are estimated: the length of chunk 1 is not known.\n\n\
        00:00:03.000 --> 00:00:05.000\nThree.\n\n00:00:05.000 --> 00:00:06.000\n[chunk 3 pending]\n";
    assert_eq!(timeline.vtt(None), vtt);
}

#[test]
fn only_words_after_an_estimate_are_inexact() {
    let exact = |verdicts| timeline(verdicts).times_exact;
    let segments: &[_] = &[(0.0, 4.0, "a")];
    assert!(exact(vec![Some(completed(("a", Some(1.0), &[]))), None]), "nothing is after the gap");
    assert!(exact(vec![Some(completed(("a", None, segments)))]), "segments need no length");
    assert!(!exact(vec![Some(completed(("a", None, segments))), Some(completed(("b", Some(1.0), &[])))]));
    assert!(!exact(vec![Some(completed(("a", None, &[])))]), "its end is estimated");
    assert!(!exact(vec![Some(completed(("a", Some(0.0), &[])))]), "a word takes time");
}

#[test]
fn lengths_are_estimated_by_segments_or_by_text() {
    let thirty_letters = "abcdefghij".repeat(3);
    let timeline = timeline(vec![
        Some(completed(("a b", None, &[(0.0, 4.0, "a"), (1.0, 3.0, "b")]))),
        Some(completed((&thirty_letters, None, &[]))),
        Some(completed(("こんにちは世界です。", None, &[]))),
        Some(completed(("c", None, &[]))),
    ]);
    let starts: Vec<_> = timeline.segments.iter().map(|cue| (cue.start, cue.end)).collect();
    assert_eq!(starts, [(0, 1000), (1000, 3000), (4000, 6000), (6000, 8000), (8000, 9000)]);
}

#[test]
fn texts_cannot_break_out_of_their_cue() {
    let text = "a\r\n\r\n2\n00:00:00.000 --> 00:00:01.000 <b>&amp;\u{0}b\u{2028}c";
    let timeline = timeline(vec![Some(completed((text, Some(1.0), &[])))]);
    let vtt = "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n\
        a 2 00:00:00.000 --&gt; 00:00:01.000 &lt;b&gt;&amp;amp; b c\n";
    assert_eq!(timeline.vtt(None), vtt);
    let srt = "1\n00:00:00,000 --> 00:00:01,000\na 2 00:00:00.000 -- > 00:00:01.000 <\u{2060}b>&amp; b c\n\n";
    assert_eq!(timeline.srt(None), srt);
}

#[test]
fn segments_without_all_words_do_not_replace_the_text() {
    for segments in [&[(0.0, 1.0, "a"), (1.0, 2.0, "b")][..], &[(0.0, 2.0, "a b c x")]] {
        let timeline = timeline(vec![Some(completed(("a b c", Some(4.0), segments)))]);
        assert_eq!(times(&timeline), [(0, 4000, "a b c")]);
        assert!(!timeline.times_exact);
    }
    let spaces =
        timeline(vec![Some(completed(("a  b,c", Some(4.0), &[(0.0, 1.0, "a"), (1.0, 2.0, "b, c")])))]);
    assert_eq!((spaces.segments.len(), spaces.times_exact), (2, true));
}

#[test]
fn times_that_were_repaired_are_not_exact() {
    let segment =
        |repaired| Segment { start: 0.0, end: 1.0, text: "a".to_owned(), repaired, ..Segment::default() };
    for repaired in [true, false] {
        let words = Transcription::new("a", Some(2.0), vec![segment(repaired)]).expect("small");
        let timeline = timeline(vec![Some(Verdict::Completed(words))]);
        assert_eq!(timeline.times_exact, !repaired);
        assert!(!timeline.vtt(None).contains("NOTE"), "all lengths are known");
    }
}

#[test]
fn a_note_precedes_no_repaired_time_before_an_estimate() {
    let segment = Segment { end: 1.0, text: "a".to_owned(), repaired: true, ..Segment::default() };
    let words = |seconds| Transcription::new("a", seconds, vec![segment.clone()]).expect("small");
    let unmeasured = timeline(vec![Some(Verdict::Completed(words(None)))]);
    assert!(!unmeasured.vtt(None).contains("NOTE"), "its segments need no length");
    let words = words(Some(2.0));
    let after = completed(("c", Some(1.0), &[]));
    let vtt = timeline(vec![Some(Verdict::Completed(words)), Some(failed()), Some(after)]).vtt(None);
    let place = |part: &str| vtt.find(part).expect(part);
    let note = place("NOTE Times from here on are estimated: the length of chunk 1 is not known.");
    assert!(place("\na\n") < note && note < place("\nc\n"), "{vtt}");
}

#[test]
fn silence_has_no_cue() {
    let silence = timeline(vec![Some(completed(("", Some(3.0), &[(0.0, 3.0, " ")])))]);
    assert_eq!((silence.vtt(None).as_str(), silence.srt(None).as_str()), ("WEBVTT\n", ""));
    assert!(silence.times_exact && !silence.partial());
}

/// `HH:MM:SS.mmm` or with a comma, in milliseconds.
fn parse_stamp(stamp: &str, decimal: char) -> u64 {
    let (whole, millis) = stamp.split_once(decimal).expect("a decimal sign");
    assert_eq!(millis.len(), 3, "{stamp}");
    let parts: Vec<&str> = whole.split(':').collect();
    assert!(parts.len() == 3 && parts.iter().all(|part| part.len() >= 2), "{stamp}");
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let seconds = parts.iter().fold(0, |sum, part| sum * 60 + number(part));
    seconds * 1000 + number(millis)
}

/// The cues of a file: blocks between blank lines, without notes.
fn parse(file: &str, decimal: char, heading_lines: usize) -> Vec<(u64, u64, String)> {
    let blocks = file.split("\n\n").map(str::trim_end).filter(|block| !block.is_empty());
    let cues = blocks.filter(|block| !block.starts_with("WEBVTT") && !block.starts_with("NOTE "));
    cues.map(|block| {
        let lines: Vec<&str> = block.lines().skip(heading_lines).collect();
        let [times, text] = lines[..] else { panic!("not a cue: {block:?}") };
        let (start, end) = times.split_once(" --> ").expect("an arrow");
        (parse_stamp(start, decimal), parse_stamp(end, decimal), text.to_owned())
    })
    .collect()
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z<>&\\-\n\r ]{0,30}", any::<String>(), Just(String::new())]
}

fn any_verdict() -> impl Strategy<Value = Option<Verdict>> {
    let segment = (0.0..400.0, 0.0..400.0, any_text()).prop_map(|(start, end, text)| Segment {
        start,
        end,
        text,
        ..Segment::default()
    });
    let words =
        (any_text(), option::of(0.0..300.0), vec(segment, 0..5)).prop_map(|(text, duration, segments)| {
            Some(Verdict::Completed(Transcription::new(text, duration, segments).expect("small")))
        });
    prop_oneof![4 => words, 1 => Just(Some(failed())), 1 => Just(None)]
}

proptest! {
    /// Every line is short enough, no line is empty, and no character is lost.
    #[test]
    fn wrapped_lines_lose_nothing(text in "[a-z<>& 語é\u{301}-]{0,200}", most in 1..60_usize) {
        let lines = wrapped(&text, Some(most));
        for line in lines.lines() {
            prop_assert!((1..=most).contains(&line.chars().count()), "{line:?} of {lines:?}");
        }
        let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
        prop_assert_eq!(letters(&lines), letters(&text));
    }

    #[test]
    fn files_read_back_whole_and_in_order(verdicts in vec(any_verdict(), 1..25)) {
        let timeline = timeline(verdicts);
        let cues = times(&timeline);
        prop_assert!(cues.iter().all(|(start, end, text)| start < end && !text.is_empty()));
        prop_assert!(cues.is_sorted_by_key(|(start, _, _)| *start));
        prop_assert!(cues.windows(2).all(|pair| pair[0].1 <= pair[1].0), "no cue overlaps the next");
        let vtt = parse(&timeline.vtt(None), '.', 0);
        let unescaped = vtt.iter().map(|(start, end, text)| {
            prop_assert!(!text.contains(['<', '>']));
            Ok((*start, *end, text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")))
        });
        let unescaped = unescaped.collect::<Result<Vec<_>, TestCaseError>>()?;
        let expected: Vec<_> = cues.iter().map(|(start, end, text)| (*start, *end, (*text).to_owned())).collect();
        prop_assert_eq!(unescaped, expected);
        let srt: Vec<_> = parse(&timeline.srt(None), ',', 1);
        prop_assert_eq!(srt.len(), cues.len());
        let same_times = srt.iter().zip(&cues).all(|(a, b)| (a.0, a.1) == (b.0, b.1));
        prop_assert!(same_times);
    }
}

/// A segment with a time for each word.
fn spoken_by_word(text: &str, seconds: f64) -> Segment {
    let count = f64::from(u32::try_from(text.split_whitespace().count()).expect("few").max(1));
    let word = |(place, text): (u32, &str)| Word {
        text: text.to_owned(),
        start: seconds / count * f64::from(place),
        end: seconds / count * f64::from(place + 1),
        confidence: None,
        speaker: None,
    };
    let words = (0..).zip(text.split_whitespace()).map(word).collect();
    Segment { start: 0.0, end: seconds, text: text.to_owned(), words, ..Segment::default() }
}

#[test]
fn long_segments_are_split_between_words() {
    let text = "And Mr. John Dashwood had then leisure to consider how much there might be prudently in his power to \
                do for them.";
    let split = |segment: Segment| {
        let words = Transcription::new(text, Some(12.0), vec![segment]).expect("small");
        timeline(vec![Some(Verdict::Completed(words))]).split(42)
    };
    let expected = [
        (0, 6000, "And Mr. John Dashwood had then leisure to consider how much"),
        (6000, 12_000, "there might be prudently in his power to do for them."),
    ];
    let by_word = split(spoken_by_word(text, 12.0));
    assert_eq!(times(&by_word), expected);
    assert!(by_word.segments.iter().all(|cue| cue.words.len() == 11), "each cue keeps its words");
    let by_letters = split(Segment { words: vec![], ..spoken_by_word(text, 12.0) });
    assert_eq!(by_letters.segments.len(), 2, "without words the time is divided by letters");
    assert!(by_letters.segments.iter().all(|cue| cue.words.is_empty()));
}

#[test]
fn a_cue_stays_long_enough_to_read_if_there_is_time() {
    let segments: &[_] = &[(0.0, 0.5, "These words take two seconds to read.."), (5.0, 5.5, "Few.")];
    let timeline =
        timeline(vec![Some(completed(("These words take two seconds to read.. Few.", Some(6.0), segments)))]);
    let times: Vec<_> = timeline.split(42).segments.iter().map(|cue| (cue.start, cue.end)).collect();
    assert_eq!(times, [(0, 38 * 58), (5000, 5500)]);
}

proptest! {
    /// Two lines at most, no letter lost, nothing overlaps, for texts with and without spaces.
    #[test]
    fn split_cues_lose_nothing(text in "([a-z]{1,12} |語{1,9}。?){1,60}", seconds in 1.0..200.0, by_word: bool, line_chars in 10..60_usize) {
        let mut segment = spoken_by_word(&text, seconds);
        if !by_word {
            segment.words.clear();
        }
        let words = Transcription::new(text.as_str(), Some(seconds), vec![segment]).expect("small");
        let split = timeline(vec![Some(Verdict::Completed(words)), Some(completed(("end", Some(3.0), &[])))]).split(line_chars);
        let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
        let all: String = split.segments.iter().map(|cue| letters(&cue.text)).collect();
        prop_assert_eq!(all, letters(&text) + "end");
        for cue in &split.segments {
            let lines = wrapped(&cue.text, Some(line_chars)).lines().count();
            let one_word = cue.text.split_whitespace().count() == 1;
            prop_assert!(lines <= 2 || one_word, "{:?}", cue.text);
        }
        prop_assert!(split.segments.windows(2).all(|pair| pair[0].end <= pair[1].start));
        prop_assert!(split.segments.iter().all(|cue| cue.start < cue.end));
    }
}
