//! The faults of the simulated model: every kind that it has.

use longhand_sim_asr::{Answer, Behaviour, ErrorBody, Latency, Odd, Weighted};
use rand::RngExt;

use crate::draw;

/// One file of this many is doomed: all its calls fail permanently.
const DOOMED_ONE_IN: u32 = 100;

/// The number of scripted answers of a doomed file: more than it can have calls.
const DOOMED_ANSWERS: usize = 200;

/// The share of calls that get a good transcript in an odd form.
const ODD_SHARE: f64 = 0.09;

/// A model in which this share of calls (0 to 1) fails temporarily: one half with [`Behaviour::usual_faults`], the other
/// with all other faults. The n-th call for a file always gets the same answer.
pub fn behaviour(seed: u64, faults: f64, latency: Latency, supports_verbose_json: bool) -> Behaviour {
    let mut mix = Behaviour::usual_faults(faults / 2.0);
    mix.extend(shared(faults / 2.0, other_faults()));
    // The shares must not exceed 1.
    mix.extend(shared(ODD_SHARE.min(1.0 - faults), odd_but_good()));
    Behaviour { latency, faults: mix, seed: Some(seed), supports_verbose_json, ..Behaviour::default() }
}

fn shared(share: f64, answers: Vec<Answer>) -> impl Iterator<Item = Weighted> {
    #[expect(clippy::cast_precision_loss, reason = "a dozen answers")]
    let each = share / answers.len() as f64;
    answers.into_iter().map(move |answer| Weighted::new(each, answer))
}

fn other_faults() -> Vec<Answer> {
    vec![
        Answer::Hang,
        Answer::HangMidBody,
        Answer::CutMidBody,
        Answer::status_body(502, ErrorBody::Html),
        Answer::status_body(504, ErrorBody::Plain),
        Answer::status_body(500, ErrorBody::Empty),
        Answer::status_body(408, ErrorBody::Detail),
        Answer::status_body(409, ErrorBody::ErrorString),
        Answer::status_body(425, ErrorBody::ObjectError),
        Answer::status_body(529, ErrorBody::ErrorObject),
        Answer::status_retry_after(503, "2"),
        Answer::status_retry_after(429, "soon"),
    ]
}

fn odd_but_good() -> Vec<Answer> {
    [
        Odd::DurationAsString,
        Odd::NoDuration,
        Odd::WordsAsText,
        Odd::WordsInSegments,
        Odd::NullFields,
        Odd::UnknownFields,
        Odd::PaddedText,
        Odd::WrongContentType,
        Odd::NoContentType,
    ]
    .map(Answer::Odd)
    .to_vec()
}

/// Permanent faults, with the error code of the chunk.
fn permanent_faults() -> Vec<(Answer, &'static str)> {
    let rejected =
        [(400, ErrorBody::Html), (404, ErrorBody::Empty), (413, ErrorBody::Detail), (422, ErrorBody::Plain)]
            .map(|(code, body)| (Answer::status_body(code, body), "ASR_REJECTED"));
    let protocol = [
        Odd::NoText,
        Odd::TextNull,
        Odd::TextNotString,
        Odd::NotObject,
        Odd::NotJson,
        Odd::HalfJson,
        Odd::EmptyBody,
        Odd::NoContent,
        Odd::Html200,
        Odd::Error200,
        Odd::HugeText(5_000_000),
    ]
    .map(|odd| (Answer::Odd(odd), "ASR_PROTOCOL"));
    let mut all = vec![(Answer::Odd(Odd::HugeText(400_000)), "TRANSCRIPT_TOO_LARGE")];
    all.extend(rejected);
    all.extend(protocol);
    all
}

/// The answers to all calls for a doomed file, and the error code that its chunk must have. `None` for other files, which
/// must not fail with such a code.
pub fn doom(seed: u64, file: &str) -> Option<(Vec<Answer>, &'static str)> {
    let mut rng = draw::rng(seed, &["doom", file]);
    if !rng.random_ratio(1, DOOMED_ONE_IN) {
        return None;
    }
    let mut all = permanent_faults();
    let (answer, code) = all.swap_remove(rng.random_range(0..all.len()));
    Some((vec![answer; DOOMED_ANSWERS], code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_have_the_given_rate() {
        let behaviour = behaviour(1, 0.2, Latency::Fixed(0), true);
        let bad = |fault: &&Weighted| fault.answer.expected_text("a.wav").is_none();
        let rate: f64 = behaviour.faults.iter().filter(bad).map(|fault| fault.probability).sum();
        assert!((rate - 0.2).abs() < 1e-9, "{rate}");
        let all: f64 = behaviour.faults.iter().map(|fault| fault.probability).sum();
        assert!(all < 0.3, "{all}");
    }

    #[test]
    fn a_seed_dooms_the_same_files() {
        let doomed =
            |seed| (0..2_000).filter(|n| doom(seed, &format!("{n}.wav")).is_some()).collect::<Vec<_>>();
        assert_eq!(doomed(3), doomed(3));
        assert!((5..50).contains(&doomed(3).len()), "{}", doomed(3).len());
        assert!(
            permanent_faults().iter().all(|(answer, _)| {
                answer.expected_text("a.wav").is_none_or(|text| text.len() >= 400_000)
            })
        );
    }
}
