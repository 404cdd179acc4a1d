//! Pages, exports and long polls.

use std::time::Duration;

use serde_json::json;

use super::{all_moved, export, ids, moving};
use crate::support::Control;

#[tokio::test]
async fn pages_of_the_newest_go_back_and_exports_go_on() {
    let mut control = Control::start();
    control.enrolled("n1", json!({})).await;
    control
        .invite(&control.enrolled("n2", json!({})).await, json!({}))
        .await;
    moving(&mut control);
    let all = all_moved(&control).await;
    assert!(all.len() > 4);
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/admin/audit?newest=true&limit=2{cursor}");
        let page = control.get(&path, &control.admin).await.with(200);
        let items = ids(page["items"].as_array().unwrap());
        assert_eq!(page["follow"].is_null(), !cursor.is_empty());
        paged.splice(0..0, items);
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(paged, all);
    let (first, _) = export(&control, "limit=3").await;
    let (rest, _) = export(&control, &format!("cursor={}", all[2])).await;
    assert_eq!([ids(&first), ids(&rest)].concat(), all);
    let (enrolled, _) = export(&control, "kind=node.enrolled").await;
    assert_eq!(enrolled.len(), 2);
    let accept = [("accept", "text/html, application/x-ndjson;q=0.9")];
    for bad in ["limit=0", "newest=true", "wait=1s", "cursor=zz"] {
        let path = format!("/admin/audit?{bad}");
        let admin = &control.admin;
        let answer = control.call_with("GET", &path, admin, None, &accept).await;
        answer.refused(400, "request_malformed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_poll_answers_when_there_is_something() {
    let control = Control::start();
    let (node, other) = (control.node("n1").await, control.node("n2").await);
    let page = control
        .get("/nodes/audit?newest=true", &node.key)
        .await
        .with(200);
    let follow = page["follow"].as_str().unwrap().to_owned();
    let wait = |wait: &str| format!("/nodes/audit?wait={wait}&cursor={follow}");
    let none = control.get(&wait("100ms"), &node.key).await.with(200);
    assert_eq!(none["items"], json!([]));
    assert!(none["follow"].as_str().unwrap() >= follow.as_str());

    // From beyond the end, so that nothing answers it. It is older than the next and waits as long: it would
    // end first if it were the wait's end that answers.
    let beyond = "f".repeat(28);
    let path = format!("/nodes/audit?wait=55s&cursor={beyond}");
    let asleep = control.get(&path, &other.key);
    let path = wait("55s");
    let poll = control.get(&path, &node.key);
    let change = async {
        // What is another's wakes it, and is not for it.
        control.invite(&other, json!({})).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        control.invite(&node, json!({})).await.0
    };
    let (page, invite) = tokio::select! {
        biased;
        never = asleep => panic!("{}", never.text),
        both = async { tokio::join!(poll, change) } => both,
    };
    let page = page.with(200);
    let items = page["items"].as_array().unwrap();
    assert_eq!((items.len(), &items[0]["invite"]), (1, &json!(invite)));

    let never = format!("/nodes/audit?wait=10s&cursor={beyond}");
    let poll = |_| {
        let request = control.http.get(format!("{}/api/v1{never}", control.api));
        tokio::spawn(request.bearer_auth(&node.key).send())
    };
    let polls: Vec<_> = (0..4).map(poll).collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let fifth = control.get(&never, &node.key).await;
    fifth.refused(429, "rate_limited");
    for poll in polls {
        poll.abort();
    }
}
