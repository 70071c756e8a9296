//! Natural order of numbered files. A shell sorts `*.wav` as text: `1.wav`, `10.wav`, `2.wav`.

use std::cmp::Ordering;

/// The indexes of the names in natural order, if the names are sorted as text and the two orders differ. Any other
/// order is the user's own.
pub(crate) fn by_number(names: &[String]) -> Option<Vec<usize>> {
    if !names.is_sorted() {
        return None;
    }
    let mut places: Vec<usize> = (0..names.len()).collect();
    places.sort_by(|one, other| natural(&names[*one], &names[*other]));
    (!places.is_sorted()).then_some(places)
}

/// Compares digits as numbers.
fn natural(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one, other);
    loop {
        let (first, second) = (part(one), part(other));
        if first.is_empty() || second.is_empty() {
            return first.len().cmp(&second.len());
        }
        let number = |text: &str| text.as_bytes()[0].is_ascii_digit();
        let order = if number(first) && number(second) {
            let (a, b) = (first.trim_start_matches('0'), second.trim_start_matches('0'));
            a.len().cmp(&b.len()).then_with(|| a.cmp(b)).then_with(|| first.len().cmp(&second.len()))
        } else {
            first.cmp(second)
        };
        if order.is_ne() {
            return order;
        }
        (one, other) = (&one[first.len()..], &other[second.len()..]);
    }
}

/// The leading run of digits or of other characters.
fn part(text: &str) -> &str {
    let digit = text.starts_with(|c: char| c.is_ascii_digit());
    let end = text.find(|c: char| c.is_ascii_digit() != digit).unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordered(names: &[&str]) -> Option<Vec<String>> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        Some(by_number(&names)?.into_iter().map(|place| names[place].clone()).collect())
    }

    #[test]
    fn numbered_files_in_text_order_are_sorted_by_number() {
        let mut names: Vec<String> = (1..=24).map(|n| format!("talk/{n}.wav")).collect();
        let natural = names.clone();
        names.sort();
        assert_eq!(ordered(&names.iter().map(String::as_str).collect::<Vec<_>>()), Some(natural));
        let parts = ["a-1-10.wav", "a-1-9.wav", "a-10-1.wav", "a-2-1.wav"];
        let expected = ["a-1-9.wav", "a-1-10.wav", "a-2-1.wav", "a-10-1.wav"];
        assert_eq!(ordered(&parts), Some(expected.map(str::to_owned).to_vec()));
    }

    #[test]
    fn every_other_order_is_kept() {
        for names in [
            &["2.wav", "10.wav", "1.wav"][..],
            &["10.wav", "9.wav", "1.wav"],
            &["01.wav", "02.wav", "10.wav"],
            &["a.wav", "b.wav"],
            &["end.wav", "begin.wav"],
            &["1.wav"],
        ] {
            assert_eq!(ordered(names), None, "{names:?}");
        }
    }
}
