//! The choice of the answer to a call.

use longhand_sim_asr::{Answer, Behaviour, Weighted, text_for};

use crate::{answer, form, json, start, status};

#[tokio::test]
async fn a_script_applies_to_its_file_until_it_ends() {
    let sim = start(Behaviour::answering(Answer::status(500))).await;
    sim.script("a", [Answer::status(503), Answer::Echo]);
    sim.script("b", [Answer::status(429)]);
    assert_eq!(status(&sim, form("a")).await, 503);
    assert_eq!(status(&sim, form("b")).await, 429);
    assert_eq!(json(answer(&sim, form("a")).await).await["text"], text_for("a"));
    assert_eq!(status(&sim, form("a")).await, 500);
    assert_eq!(status(&sim, form("b")).await, 500);

    let books = sim.books();
    assert_eq!((books.calls, books.status(500)), (5, 2));
    let book = books.file("a");
    assert_eq!((book.calls, book.ok, book.errors), (3, 1, 2));
    assert_eq!(book.gaps().len(), 2);
}

#[tokio::test]
async fn a_prompt_takes_precedence_over_script_and_behaviour() {
    let sim =
        start(Behaviour { supports_verbose_json: false, ..Behaviour::answering(Answer::status(500)) }).await;
    sim.script("a", [Answer::status(503)]);
    let one = || form("a").text("prompt", r#"sim:{"status": {"code": 418, "body": "plain"}}"#);
    assert_eq!(status(&sim, one()).await, 418);
    assert_eq!(status(&sim, one().text("response_format", "verbose_json")).await, 418);

    let each = |file| form(file).text("prompt", r#"sim:[{"status": {"code": 408}}, "echo"]"#);
    assert_eq!(status(&sim, each("b")).await, 408);
    assert_eq!(status(&sim, each("c")).await, 408);
    assert_eq!(status(&sim, each("b")).await, 200);
    assert_eq!(status(&sim, each("b")).await, 500, "after the end of the list");

    let files = |file| form(file).text("prompt", r#"sim:{"files": {"d": [{"status": {"code": 425}}]}}"#);
    assert_eq!(status(&sim, files("d")).await, 425);
    assert_eq!(status(&sim, files("e")).await, 500, "not in the prompt");
    assert_eq!(status(&sim, form("a").text("prompt", "similar")).await, 503, "an ordinary prompt");
}

#[tokio::test]
async fn faults_have_their_rate_and_repeat_with_the_same_seed() {
    let behaviour =
        |seed| Behaviour { faults: Behaviour::usual_faults(0.3), seed: Some(seed), ..Behaviour::default() };
    let run = async |seed, reversed: bool| {
        let sim = start(behaviour(seed)).await;
        let mut files: Vec<usize> = (0..200).collect();
        if reversed {
            files.reverse();
        }
        for file in &files {
            // The faults include a cut connection.
            let _ = crate::post(&sim, form(&file.to_string())).await;
        }
        files.sort_unstable();
        let books = sim.books();
        let ok: Vec<u64> = files.iter().map(|file| books.file(&file.to_string()).ok).collect();
        ok
    };
    let once = run(1, false).await;
    let faults = once.iter().filter(|&&ok| ok == 0).count();
    assert!((40..=80).contains(&faults), "{faults} of 200 at a rate of 0.3");
    assert_eq!(once, run(1, true).await, "in any order");
    assert_ne!(once, run(2, false).await);
}

#[tokio::test]
async fn a_fault_with_probability_1_always_happens() {
    let sim =
        start(Behaviour { faults: vec![Weighted::new(1.0, Answer::status(502))], ..Behaviour::default() })
            .await;
    for _ in 0..20 {
        assert_eq!(status(&sim, form("a")).await, 502);
    }
}

#[tokio::test]
async fn an_unread_upload_gets_an_answer() {
    let sim = start(Behaviour { reads_upload: false, ..Behaviour::answering(Answer::status(503)) }).await;
    sim.script("a", [Answer::Echo]);
    assert_eq!(status(&sim, form("a")).await, 503);
    assert_eq!(sim.books().file("a").calls, 0);
    assert_eq!(sim.books().status(503), 1);
}
