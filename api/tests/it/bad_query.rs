//! What the reading calls do not take.

use serde_json::json;

use crate::support::{Api, good_body};

#[tokio::test]
async fn job_ids() {
    let api = Api::new();
    for bad in ["x", "7", "0198c1d27a3e7cc080001c2d3e4f5a6b", "%ff", "%00", "a%2fb", "searc%68x", "%zz"] {
        let problem = api.get(&format!("/transcript/{bad}")).await.problem(400, "INVALID_JOB_ID");
        let fault = "is not valid: expected a UUID such as 0198c1d2-7a3e-7cc0-8000-1c2d3e4f5a6b";
        assert_eq!(problem["errors"], json!([{"pointer": "/{jobId}", "detail": fault}]), "{bad}");
        assert_eq!(problem["detail"], format!("the job id {fault}"));
    }
    let unknown = "0198c1d2-7a3e-7cc0-8000-1c2d3e4f5a6b";
    let problem = api.get(&format!("/transcript/{unknown}")).await.problem(404, "JOB_NOT_FOUND");
    assert_eq!(problem["detail"], format!("the job {unknown} does not exist"));
}

#[tokio::test]
async fn searches() {
    let api = Api::new();
    let known =
        "is unknown: expected userId, jobStatus, submittedAfter, submittedBefore, limit, fields, cursor";
    let rows = [
        ("jobStatus=FAILED", "?userId", "is required"),
        ("userId=&jobStatus=FAILED", "?userId", "must not be empty"),
        ("userId=a%0Ab&jobStatus=FAILED", "?userId", "no control characters"),
        ("userId=%ff&jobStatus=FAILED", "?userId", "character 1 is not allowed"),
        ("userId=ana&jobStatus=DONE", "?jobStatus", "must be IN_PROGRESS, COMPLETED or FAILED"),
        ("userId=ana&jobStatus=failed", "?jobStatus", "must be IN_PROGRESS, COMPLETED or FAILED"),
        ("userId=ana&submittedAfter=yesterday", "?submittedAfter", "is not a time: expected RFC 3339"),
        ("userId=ana&submittedBefore=", "?submittedBefore", "is not a time: expected RFC 3339"),
        ("userId=ana&jobStatus=FAILED&limit=0", "?limit", "must be a number from 1 to 100"),
        ("userId=ana&jobStatus=FAILED&limit=101", "?limit", "must be a number from 1 to 100"),
        ("userId=ana&jobStatus=FAILED&limit=-1", "?limit", "must be a number from 1 to 100"),
        ("userId=ana&jobStatus=FAILED&limit=", "?limit", "must be a number from 1 to 100"),
        ("userId=ana&jobStatus=FAILED&limit=ten", "?limit", "must be a number from 1 to 100"),
        ("userId=ana&jobStatus=FAILED&user=bob", "?user", known),
        ("userId=ana&jobStatus=FAILED&a%2Fb", "?a~1b", known),
        ("userId=ana&jobStatus=FAILED&userId=bob", "?userId", "is repeated"),
        ("userId=ana&fields=all", "?fields", "must be summary"),
        ("userId=ana&jobStatus=FAILED&cursor=x", "?cursor", "is not a cursor: send the nextCursor of"),
        ("userId=ana&jobStatus=FAILED&cursor=", "?cursor", "is not a cursor"),
        ("userId=ana&jobStatus=FAILED&cursor=bnVsbA", "?cursor", "is not a cursor"),
        ("userId=ana&jobStatus=FAILED&cursor=%F0%9F%98%80", "?cursor", "is not a cursor"),
    ];
    for (query, pointer, detail) in rows {
        api.get(&format!("/transcript/search?{query}")).await.assert_fault(pointer, detail);
    }
}

/// In a query a plus sign is a space, unless it is escaped, which clients forget.
#[tokio::test]
async fn a_time_with_a_plus_that_is_not_escaped_is_understood() {
    let api = Api::new();
    api.transcribe(&good_body()).await.json(202);
    let found = async |after: &str| {
        let page = api.get(&format!("/transcript/search?userId=ana&submittedAfter={after}")).await.json(200);
        page["results"].as_array().expect("results").len()
    };
    for past in ["2020-01-01T00:00:00+02:00", "2020-01-01T00:00:00.5%2B02:00", "2020-01-01t00:00:00%2002:00"]
    {
        assert_eq!(found(past).await, 1, "{past}");
    }
    for future in ["2999-01-01T00:00:00+02:00", "2999-01-01T00:00:00-02:00"] {
        assert_eq!(found(future).await, 0, "{future}");
    }
    for bad in ["2020-01-01+00:00:00", "2020-01-01T00:00:00+", "2020-01-01T00:00:00++02:00", "+02:00"] {
        let answer = api.get(&format!("/transcript/search?userId=ana&submittedAfter={bad}")).await;
        answer.assert_fault("?submittedAfter", "is not a time");
    }
}

#[tokio::test]
async fn all_faults_of_a_search_at_once() {
    let answer = Api::new().get("/transcript/search?userId=a%20b&jobStatus=x&limit=x&x=1&limit=2").await;
    let pointers: Vec<String> = answer.faults().into_iter().map(|(pointer, _)| pointer).collect();
    assert_eq!(pointers, ["?limit", "?userId", "?jobStatus", "?limit", "?x"]);
    let answer = Api::new().get("/transcript/search").await;
    let pointers: Vec<String> = answer.faults().into_iter().map(|(pointer, _)| pointer).collect();
    assert_eq!(pointers, ["?userId"]);
}

#[tokio::test]
async fn a_cursor_of_another_search() {
    let api = Api::new();
    for _ in 0..2 {
        api.transcribe(&good_body()).await.json(202);
    }
    let page = api.get("/transcript/search?userId=ana&jobStatus=IN_PROGRESS&limit=1").await.json(200);
    let cursor = page["nextCursor"].as_str().expect("a next page");
    for query in ["userId=bob&jobStatus=IN_PROGRESS", "userId=ana&jobStatus=COMPLETED"] {
        let answer = api.get(&format!("/transcript/search?{query}&cursor={cursor}")).await;
        answer.assert_fault("?cursor", "belongs to another search: send the previous page's parameters");
    }
    // Another limit is the same search.
    let uri = format!("/transcript/search?userId=ana&jobStatus=IN_PROGRESS&limit=7&cursor={cursor}");
    let rest = api.get(&uri).await.json(200);
    assert_eq!(rest["results"].as_array().map(Vec::len), Some(1));
    let cut = &cursor[..cursor.len() - 1];
    let uri = format!("/transcript/search?userId=ana&jobStatus=IN_PROGRESS&cursor={cut}");
    api.get(&uri).await.assert_fault("?cursor", "is not a cursor");
}
