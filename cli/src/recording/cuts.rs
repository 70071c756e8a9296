//! Chooses where to cut a recording, from the levels of its frames.

use std::ops::Range;

/// The longest piece in frames of 20 ms: 290 s, with room to the 300 s of a chunk.
const LONGEST: usize = 14_500;

/// A cut is in the last third of a longest piece, so that pieces are not needlessly short.
const EARLIEST: usize = LONGEST * 2 / 3;

/// The shortest last piece: 30 s, as much as Whisper reads at once.
const SHORTEST: usize = 1_500;

/// The shortest pause: 300 ms. Gaps within words are shorter.
const PAUSE: usize = 15;

/// The least difference in decibels between speech and pauses. With less there are no pauses.
const CONTRAST: f32 = 10.0;

/// The pieces of a recording with these levels, in frames. They cover it without a gap or an overlap.
pub(super) fn pieces(levels: &[f32]) -> Vec<Range<usize>> {
    let (mut pieces, mut begin) = (Vec::new(), 0);
    while levels.len() - begin > LONGEST {
        let earliest = begin + EARLIEST;
        let latest = (begin + LONGEST).min(levels.len() - SHORTEST);
        let cut = earliest + cut(&levels[earliest..latest]);
        pieces.push(begin..cut);
        begin = cut;
    }
    pieces.push(begin..levels.len());
    pieces
}

/// The best frame for a cut: in the middle of the longest pause, or in the quietest place of a recording without pauses.
fn cut(levels: &[f32]) -> usize {
    let (start, quiet) = quietest(levels);
    longest_pause(levels, quiet).unwrap_or_else(|| {
        let window = levels[start..].iter().take(PAUSE).enumerate();
        start + window.min_by(|one, other| one.1.total_cmp(other.1)).map_or(0, |(place, _)| place)
    })
}

/// The quietest 300 ms, the latest of several: its first frame, and its level.
fn quietest(levels: &[f32]) -> (usize, f32) {
    #[expect(clippy::cast_precision_loss, reason = "15")]
    let power =
        |window: &[f32]| window.iter().map(|level| 10_f32.powf(level / 10.0)).sum::<f32>() / PAUSE as f32;
    let powers = levels.windows(PAUSE).map(power).enumerate();
    let least = powers.reduce(|least, next| if next.1 <= least.1 { next } else { least });
    least.map_or((0, 0.0), |(start, power)| (start, 10.0 * power.log10()))
}

/// The middle of the longest pause, the latest of several. The level of a pause is at most a quarter of the way, in
/// decibels, from the quietest place to the loud ones.
fn longest_pause(levels: &[f32], quiet: f32) -> Option<usize> {
    let mut sorted = levels.to_vec();
    sorted.sort_by(f32::total_cmp);
    let loud = *sorted.get(levels.len() * 9 / 10)?;
    let limit = quiet + (loud - quiet) / 4.0;
    let mut end = 0;
    let runs = levels.chunk_by(|one, next| (*one > limit) == (*next > limit)).map(|run| {
        end += run.len();
        (run, end)
    });
    let pauses = runs.filter(|(run, _)| loud - quiet >= CONTRAST && run[0] <= limit && run.len() >= PAUSE);
    pauses.max_by_key(|(run, _)| run.len()).map(|(run, end)| end - run.len() / 2)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::levels::{RATE, SILENCE};
    use super::*;

    const SPEECH: f32 = -20.0;

    /// Levels of these lengths in seconds.
    fn levels(parts: &[(f64, f32)]) -> Vec<f32> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "short")]
        let frames = |seconds: f64| (seconds * RATE).round() as usize;
        parts.iter().flat_map(|(seconds, level)| vec![*level; frames(*seconds)]).collect()
    }

    /// The cuts in seconds.
    #[expect(clippy::cast_precision_loss, reason = "short")]
    fn cuts(levels: &[f32]) -> Vec<f64> {
        pieces(levels).iter().skip(1).map(|piece| piece.start as f64 / RATE).collect()
    }

    #[test]
    fn a_cut_is_in_the_middle_of_the_longest_pause() {
        let pauses =
            [(210.0, SPEECH), (0.5, -60.0), (20.0, SPEECH), (1.0, -60.0), (20.0, SPEECH), (0.5, -62.0)];
        let talk = levels(&[&pauses[..], &[(200.0, SPEECH)]].concat());
        assert_eq!(cuts(&talk), [231.0]);
    }

    #[test]
    fn of_equal_pauses_the_latest_is_taken() {
        let turn = [(8.0, SPEECH), (2.0, SILENCE)];
        assert_eq!(cuts(&levels(&turn.repeat(60))), [289.0, 569.0]);
    }

    #[test]
    fn a_pause_may_be_loud_if_the_rest_is_louder() {
        let turn = [(7.9, -8.0), (0.1, -60.0), (0.6, -30.0)];
        let [cut] = cuts(&levels(&turn.repeat(50)))[..] else { panic!("one cut") };
        assert!(cut % 8.6 > 7.9, "{cut}");
    }

    #[test]
    fn without_a_pause_the_cut_is_between_words() {
        // Words of 400 ms with gaps of 60 ms, one gap quieter than the others.
        let word = [(0.4, SPEECH), (0.06, -38.0)];
        let quiet = [(0.4, SPEECH), (0.06, -45.0)];
        let talk = levels(&[word.repeat(500), quiet.to_vec(), word.repeat(300)].concat());
        let [cut] = cuts(&talk)[..] else { panic!("one cut") };
        let gap = 500.0 * 0.46 + 0.4;
        assert!(cut >= gap && cut < gap + 0.06, "{cut} is not in {gap}");
    }

    #[test]
    fn music_is_cut_where_it_is_quietest() {
        let bar = [(0.3, -10.0), (0.3, -14.0), (0.3, -12.0)];
        let soft = [(0.3, -16.0)];
        let music = levels(&[bar.repeat(280), soft.to_vec(), bar.repeat(100)].concat());
        let [cut] = cuts(&music)[..] else { panic!("one cut") };
        assert!((252.0..252.3).contains(&cut), "{cut}");
    }

    #[test]
    fn silence_is_cut_into_the_longest_pieces() {
        assert_eq!(cuts(&levels(&[(900.0, SILENCE)])), [289.7, 579.4, 869.1]);
        assert!(pieces(&[]).len() == 1 && cuts(&[]).is_empty());
    }

    #[test]
    fn a_recording_a_little_too_long_leaves_no_short_end() {
        for seconds in [290.02, 300.0, 319.0] {
            let talk = levels(&[(seconds, SPEECH)]);
            let [cut] = cuts(&talk)[..] else { panic!("one cut") };
            assert!(seconds - cut >= 30.0 && cut >= 193.0, "{seconds}: {cut}");
        }
        assert!(cuts(&levels(&[(290.0, SPEECH)])).is_empty());
    }

    proptest! {
        #[test]
        fn pieces_cover_the_recording_and_keep_the_limits(parts in vec((1_usize..12_000, -90_f32..0.0), 0..30)) {
            let levels: Vec<_> = parts.iter().flat_map(|(frames, level)| vec![*level; *frames]).collect();
            let pieces = pieces(&levels);
            let ends = pieces.iter().map(|piece| piece.end);
            prop_assert!(pieces.iter().map(|piece| piece.start).eq(std::iter::once(0).chain(ends).take(pieces.len())));
            prop_assert_eq!(pieces.last().map(|piece| piece.end), Some(levels.len()));
            prop_assert!(pieces.iter().all(|piece| piece.len() <= LONGEST));
            prop_assert!(pieces.len() == 1 || pieces.iter().all(|piece| piece.len() >= SHORTEST));
            prop_assert!(pieces.len() <= levels.len() / EARLIEST + 1);
        }

        #[test]
        fn no_cut_is_in_speech_that_has_pauses(
            parts in vec((100_usize..3_000, -30_f32..-5.0, 20_usize..200, -70_f32..-45.0), 20..60),
        ) {
            let parts = parts.iter();
            let levels: Vec<_> = parts.flat_map(|(speech, loud, pause, quiet)| {
                [vec![*loud; *speech], vec![*quiet; *pause]].concat()
            }).collect();
            for piece in pieces(&levels).iter().skip(1) {
                prop_assert!(levels[piece.start] <= -45.0, "{} {}", piece.start, levels[piece.start]);
            }
        }
    }
}
