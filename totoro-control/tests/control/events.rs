//! A node's events and the trail.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{Answer, Control, Node};

const SPOOL: &str = "00112233445566778899aabbccddeeff";

fn event(seq: u64, invite: Option<&str>) -> Value {
    json!({
        "seq": seq,
        "at_ms": 1_600_000_000_000_u64 + seq,
        "boot": "boot-1",
        "kind": "session.opened",
        "session": format!("s-{seq}"),
        "invite": invite,
        "detail": { "n": seq },
    })
}

async fn send(control: &Control, node: &Node, spool: &str, events: Vec<Value>) -> Answer {
    let batch = json!({ "spool": spool, "events": events });
    control.post("/nodes/events", &node.key, batch).await
}

/// The seqs of a node's spooled events, in the trail's order.
async fn seqs(control: &Control, node: &Node) -> Vec<u64> {
    let events = control
        .audit(&format!("&node={}&kind=session.opened", node.id))
        .await;
    events
        .iter()
        .map(|event| event["seq"].as_u64().unwrap())
        .collect()
}

#[tokio::test]
async fn a_node_that_tells_too_much_waits_and_no_other() {
    let mut control = Control::start();
    control.reconfigure(&[("events = 30000", "events = 5")]);
    let (loud, quiet) = (control.node("n1").await, control.node("n2").await);
    let batch = |from: u64, to: u64| (from..=to).map(|seq| event(seq, None)).collect();
    send(&control, &loud, SPOOL, batch(1, 3)).await.with(200);
    let limited = send(&control, &loud, SPOOL, batch(4, 6)).await;
    let after = limited.headers["retry-after"].to_str().unwrap();
    assert!((1..=12).contains(&after.parse().unwrap()), "{after}");
    limited.refused(429, "rate_limited");
    // What it takes of a trail that all share counts, too.
    let mut large = event(4, None);
    large["detail"] = json!({ "what": "w".repeat(600) });
    let limited = send(&control, &loud, SPOOL, vec![large]).await;
    limited.refused(429, "rate_limited");
    send(&control, &quiet, SPOOL, batch(1, 3)).await.with(200);
    assert_eq!(seqs(&control, &loud).await, [1, 2, 3]);
    assert_eq!(seqs(&control, &quiet).await, [1, 2, 3]);
}

#[tokio::test]
async fn each_event_lands_once_in_order() {
    let control = Control::start();
    let node = control.node("n1").await;
    let (invite, _) = control.invite(&node, json!({})).await;
    let batch = |from: u64, to: u64| (from..=to).map(|seq| event(seq, Some(&invite))).collect();
    assert_eq!(
        send(&control, &node, SPOOL, batch(1, 3)).await.with(200)["seq"],
        3
    );
    assert_eq!(
        send(&control, &node, SPOOL, batch(1, 3)).await.with(200)["seq"],
        3,
        "a repeat"
    );
    assert_eq!(
        send(&control, &node, SPOOL, batch(2, 5)).await.with(200)["seq"],
        5,
        "an overlap"
    );
    let gap = send(&control, &node, SPOOL, batch(8, 9))
        .await
        .refused(409, "conflict");
    assert!(
        gap["detail"].as_str().unwrap().contains("expected seq 6"),
        "{gap}"
    );
    assert_eq!(
        send(&control, &node, SPOOL, vec![]).await.with(200)["seq"],
        5,
        "an empty one asks"
    );

    // The same 20 batches by 8 senders at once, as after a lost answer.
    let senders = (0..8).map(|_| async {
        let mut at = 5;
        while at < 105 {
            let answer = send(&control, &node, SPOOL, batch(at + 1, at + 5)).await;
            at = answer.with(200)["seq"].as_u64().unwrap();
        }
    });
    join_all(senders).await;
    assert_eq!(seqs(&control, &node).await, (1..=105).collect::<Vec<_>>());

    let other = "ff".repeat(16);
    assert_eq!(
        send(&control, &node, &other, batch(1, 1)).await.with(200)["seq"],
        1,
        "a new spool"
    );
    let first = &control
        .audit(&format!("&session=s-1&invite={invite}"))
        .await[0];
    assert_eq!(
        first["at"], "2020-09-13T12:26:40.001Z",
        "when it happened, as the node says"
    );
    assert_eq!((&first["spool"], &first["seq"]), (&json!(SPOOL), &json!(1)));
    assert_eq!(
        (&first["actor"]["kind"], &first["detail"]["n"]),
        (&json!("node"), &json!(1))
    );
}

#[tokio::test]
async fn a_node_tells_nothing_of_anothers_invites() {
    let control = Control::start();
    let (node, other) = (control.node("n1").await, control.node("n2").await);
    let (foreign, _) = control.invite(&other, json!({})).await;
    let events = vec![
        event(1, Some(&foreign)),
        event(2, Some("../x")),
        event(3, None),
    ];
    send(&control, &node, SPOOL, events).await.with(200);
    assert!(
        control
            .audit(&format!("&invite={foreign}&kind=session."))
            .await
            .is_empty()
    );
    assert_eq!(
        seqs(&control, &node).await,
        [1, 2, 3],
        "the spool is not held up"
    );
    // The same spool's name on another node is another spool.
    assert_eq!(
        send(&control, &other, SPOOL, vec![event(1, None)])
            .await
            .with(200)["seq"],
        1
    );
}

#[tokio::test]
async fn a_node_can_neither_speak_for_the_control_plane_nor_hold_up_its_readers() {
    let control = Control::start();
    let node = control.node("n1").await;
    let mut claimed = Vec::new();
    for (seq, kind) in [
        (1, "admin.node_changed"),
        (2, "invite.revoked"),
        (3, "ticket.issued"),
        (4, "node.offline"),
        (5, "ban.added"),
        (6, "session.opened"),
    ] {
        let mut event = event(seq, None);
        event["kind"] = json!(kind);
        claimed.push(event);
    }
    let mut newer = event(7, None);
    newer["reason"] = json!("max_moons");
    claimed.push(newer);
    let mut deep = event(8, None);
    let nested = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    deep["detail"] = serde_json::from_str(&nested).unwrap();
    claimed.push(deep);
    send(&control, &node, SPOOL, claimed).await.with(200);

    let told = control.audit(&format!("&node={}", node.id)).await;
    let told: Vec<&Value> = told
        .iter()
        .filter(|event| event["spool"] == SPOOL)
        .collect();
    let kinds: Vec<&str> = told
        .iter()
        .map(|event| event["kind"].as_str().unwrap())
        .collect();
    let (foreign, session) = ("audit.foreign", "session.opened");
    assert_eq!(
        kinds,
        [
            foreign,
            foreign,
            foreign,
            foreign,
            "ban.added",
            session,
            session,
            session
        ],
        "bans may be a node's own"
    );
    assert_eq!(told[0]["detail"]["kind"], "admin.node_changed");
    assert_eq!(told[0]["detail"]["detail"]["n"], 1);
    assert_eq!(told[6]["detail"]["unknown_reason"], "max_moons");
    assert!(told[7]["detail"]["dropped_bytes"].as_u64().unwrap() > 200);
}

#[tokio::test]
async fn bad_batches_change_nothing() {
    let control = Control::start();
    let node = control.node("n1").await;
    let code = "request_malformed";
    send(&control, &node, "short", vec![event(1, None)])
        .await
        .refused(400, code);
    send(&control, &node, SPOOL, vec![event(2, None), event(1, None)])
        .await
        .refused(400, code);
    let many = (1..=501).map(|seq| event(seq, None)).collect();
    send(&control, &node, SPOOL, many).await.refused(400, code);
    let mut huge = event(1, None);
    huge["detail"] = json!("x".repeat(1 << 20));
    send(&control, &node, SPOOL, vec![huge])
        .await
        .refused(413, "request_too_large");
    assert!(seqs(&control, &node).await.is_empty());

    // A large one is cut, not refused.
    let mut large = event(1, None);
    large["detail"] = json!({ "text": "x".repeat(50_000) });
    send(&control, &node, SPOOL, vec![large]).await.with(200);
    let kept = &control
        .audit(&format!("&node={}&session=s-1", node.id))
        .await[0];
    assert!(
        kept["detail"]["dropped_bytes"].as_u64().unwrap() > 50_000,
        "{kept}"
    );
}

#[tokio::test]
async fn the_trail_pages_filters_and_sorts_by_arrival() {
    let control = Control::start();
    let node = control.node("n1").await;
    send(
        &control,
        &node,
        SPOOL,
        (1..=25).map(|seq| event(seq, None)).collect(),
    )
    .await
    .with(200);
    let all = control.audit("").await;
    let ids: Vec<&str> = all
        .iter()
        .map(|event| event["id"].as_str().unwrap())
        .collect();
    assert!(ids.is_sorted() && ids.len() > 25);

    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = control
            .get(&format!("/admin/audit?limit=10{cursor}"), &control.admin)
            .await
            .with(200);
        paged.extend(page["items"].as_array().unwrap().clone());
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(paged, all);
    let newest = control
        .get("/admin/audit?newest=true&limit=3", &control.admin)
        .await
        .with(200);
    assert_eq!(
        newest["items"].as_array().unwrap()[..],
        all[all.len() - 3..]
    );

    let late = "&kind=session.&since=2020-09-13T12:26:40.020Z";
    assert_eq!(control.audit(late).await.len(), 6);
    let span = "&since=2020-09-13T12:26:40.010Z&until=2020-09-13T12:26:40.012Z";
    assert_eq!(control.audit(span).await.len(), 2);
    assert_eq!(control.audit("&kind=node.").await.len(), 2);
    let own = control
        .get("/nodes/audit?limit=1000", &node.key)
        .await
        .with(200);
    assert_eq!(
        own["items"].as_array().unwrap().len(),
        all.len(),
        "all here is about this node"
    );
    for bad in [
        "cursor=zz",
        "reason=nonsense",
        "since=yesterday",
        "limit=100000",
        "nod=1",
    ] {
        let path = format!("/admin/audit?{bad}");
        control
            .get(&path, &control.admin)
            .await
            .refused(400, "request_malformed");
    }
}
