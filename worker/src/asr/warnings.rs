//! What may be wrong with a transcription.

use std::time::Duration;

use longhand_shared::domain::job::{Timestamps, TranscribeOptions, Transcription, Warning, WarningCode};

/// The part of the stated length that must be decoded, and the seconds that may always be missing: stated lengths are
/// rounded and estimated.
const DECODED_PART: f64 = 0.9;
const DECODED_SLACK_SECONDS: f64 = 2.0;

/// Adds the warnings. `stated`: the length that the file states.
pub(super) fn add(
    mut transcription: Transcription,
    stated: Option<Duration>,
    options: &TranscribeOptions,
) -> Transcription {
    let mut warnings = Vec::new();
    let mut warn = |code, message: String| warnings.push(Warning { code, message });
    let lengths = stated.map(|stated| stated.as_secs_f64()).zip(transcription.duration_seconds());
    if let Some((stated, decoded)) = lengths
        && decoded < stated * DECODED_PART - DECODED_SLACK_SECONDS
    {
        let message = format!(
            "the model decoded {decoded:.1} s of audio; the file states {stated:.1} s and may be cut off or damaged"
        );
        warn(WarningCode::AudioShorter, message);
    }
    if transcription.text().contains('\u{fffd}') {
        warn(
            WarningCode::TextDamaged,
            "the model sent characters that are not valid, shown as \u{fffd}".to_owned(),
        );
    }
    let segments = transcription.segments();
    let repaired = segments.iter().filter(|segment| segment.repaired).count();
    if repaired > 0 {
        let message = format!("the times of {repaired} of {} segments are estimates", segments.len());
        warn(WarningCode::TimesEstimated, message);
    }
    let no_words = segments.iter().all(|segment| segment.words.is_empty());
    if options.timestamps == Timestamps::Word && no_words && !transcription.text().is_empty() {
        warn(WarningCode::NoWords, "the model returned no times of words".to_owned());
    }
    transcription.warnings = warnings;
    transcription
}

#[cfg(test)]
mod tests {
    use longhand_shared::domain::job::Segment;

    use super::*;

    fn codes(
        text: &str,
        decoded: Option<f64>,
        stated: Option<u64>,
        repaired: bool,
        timestamps: Timestamps,
    ) -> Vec<WarningCode> {
        let segment = Segment { text: text.to_owned(), repaired, ..Segment::default() };
        let transcription = Transcription::new(text, decoded, vec![segment]).expect("small");
        let options = TranscribeOptions { timestamps, ..TranscribeOptions::default() };
        let warned = add(transcription, stated.map(Duration::from_secs), &options);
        warned.warnings.into_iter().map(|warning| warning.code).collect()
    }

    #[test]
    fn each_warning_has_its_cause() {
        let plain = Timestamps::Segment;
        assert_eq!(codes("a", Some(300.0), Some(300), false, plain), []);
        assert_eq!(codes("a", Some(2.0), Some(4), false, plain), [], "a short file may be rounded");
        assert_eq!(codes("a", Some(310.0), Some(300), false, plain), []);
        assert_eq!(codes("a", None, Some(300), false, plain), []);
        assert_eq!(codes("a", Some(100.0), Some(300), false, plain), [WarningCode::AudioShorter]);
        assert_eq!(
            codes("a\u{fffd}", None, None, true, Timestamps::Word),
            [WarningCode::TextDamaged, WarningCode::TimesEstimated, WarningCode::NoWords,]
        );
    }
}
