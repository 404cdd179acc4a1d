//! Bad input, limits, and what must not be seen.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::support::{Control, PATIENCE};

#[tokio::test]
async fn paths_methods_and_bodies() {
    let control = Control::start();
    let node = control.node("n1").await;
    let admin = control.admin.as_str();
    control.get("/nowhere", "").await.refused(404, "not_found");
    control
        .get("/nodes/heartbeat/x", &node.key)
        .await
        .refused(404, "not_found");
    control
        .call("PUT", "/admin/nodes", admin, None)
        .await
        .refused(405, "unsupported");
    control
        .get("/invites/resolve", "")
        .await
        .refused(405, "unsupported");

    let raw = |body: Vec<u8>| {
        let url = format!("{}/api/v1/invites/resolve", control.api);
        crate::support::answer(control.http.post(url).body(body))
    };
    for body in [
        b"".to_vec(),
        b"{".to_vec(),
        b"null".to_vec(),
        b"\xff\xfe{}".to_vec(),
        b"{\"code\": 5}".to_vec(),
        b"{\"code\": \"x\", \"cod\": 1}".to_vec(),
        [b"[".repeat(10_000), b"]".repeat(10_000)].concat(),
        format!("{{\"code\":{}{}}}", "[".repeat(5000), "]".repeat(5000)).into_bytes(),
    ] {
        raw(body).await.refused(400, "request_malformed");
    }
    raw(vec![b' '; 65 * 1024])
        .await
        .refused(413, "request_too_large");
    // Without a length, too.
    let parts =
        futures_util::stream::iter((0..100).map(|_| Ok::<_, std::io::Error>(vec![b' '; 1024])));
    let url = format!("{}/api/v1/invites/resolve", control.api);
    let chunked = control
        .http
        .post(url)
        .body(reqwest::Body::wrap_stream(parts));
    crate::support::answer(chunked)
        .await
        .refused(413, "request_too_large");

    for path in ["healthz", "readyz"] {
        let url = format!("{}/{path}", control.api);
        crate::support::answer(control.http.get(url))
            .await
            .with(200);
    }
}

#[tokio::test]
async fn a_stranger_makes_us_read_no_large_body() {
    let control = Control::start();
    let announce = |path: &str, length: u32| {
        let at = control.api.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(at).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head =
            format!("POST /api/v1{path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    // Neither sends anything of its body. One is waited for, and is given up before the later one if that is
    // waited for, too.
    let waited_for = announce("/invites/resolve", 40);
    let mut stranger = announce("/nodes/events", 1_000_000);
    let mut answer = [0; 12];
    stranger.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 401");
    waited_for.set_nonblocking(true).unwrap();
    let unheard = waited_for.peek(&mut answer).unwrap_err();
    assert_eq!(unheard.kind(), ErrorKind::WouldBlock);
}

#[tokio::test]
async fn one_address_cannot_ask_without_end() {
    let mut control = Control::start();
    control.reconfigure(&[
        ("resolve = 120", "resolve = 5"),
        ("token = 240", "token = 3"),
        ("wrong_key = 120", "wrong_key = 3"),
    ]);
    let code = json!({ "code": "tn1-000000000000000000000" });
    for _ in 0..5 {
        control
            .post("/invites/resolve", "", code.clone())
            .await
            .refused(404, "invite_unknown");
    }
    let limited = control.post("/invites/resolve", "", code).await;
    assert!(
        limited.headers["retry-after"]
            .to_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
            >= 1
    );
    limited.refused(429, "rate_limited");
    for _ in 0..3 {
        assert_eq!(control.oauth("tn1-x").await.status.as_u16(), 401);
    }
    let limited = control.oauth("tn1-x").await;
    assert_eq!(limited.status.as_u16(), 429);
    let line = limited.body["error_description"].as_str().unwrap();
    assert!(line.starts_with("totoro[rate_limited]: "), "{line}");
    for _ in 0..4 {
        control
            .get("/admin/nodes", "ta1-guess")
            .await
            .refused(401, "not_authorized");
    }
    control
        .get("/admin/nodes", "ta1-guess")
        .await
        .refused(429, "rate_limited");
    // Who guesses from the same address locks nobody out.
    control.get("/admin/nodes", &control.admin).await.with(200);
}

#[tokio::test]
async fn who_guesses_codes_is_locked_out_and_nobody_else() {
    let mut control = Control::start();
    control.reconfigure(&[("wrong_code = 120", "wrong_code = 3")]);
    let node = control.node("n1").await;
    let (_, code) = control.invite(&node, json!({})).await;
    let guess = json!({ "code": "tn1-000000000000000000000" });
    for _ in 0..4 {
        control
            .post("/invites/resolve", "", guess.clone())
            .await
            .refused(404, "invite_unknown");
    }
    let events = control.audit("").await.len();
    for path in ["/invites/resolve", "/invites/usage"] {
        let answer = control.post(path, "", guess.clone()).await;
        answer.refused(429, "rate_limited");
    }
    assert_eq!(control.oauth("tn1-x").await.status.as_u16(), 429);
    assert_eq!(
        control.audit("").await.len(),
        events,
        "locked out, it costs nothing"
    );
    let held = json!({ "code": code });
    control.post("/invites/resolve", "", held).await.with(200);
    control.oauth(&code).await.with(200);
}

#[tokio::test]
async fn behind_a_proxy_each_client_is_its_own() {
    let mut control = Control::start();
    control.reconfigure(&[
        ("resolve = 120", "resolve = 1"),
        (
            "trusted_proxies = []",
            "trusted_proxies = [\"127.0.0.1/32\"]",
        ),
    ]);
    let ask = |client: &'static str| {
        let body = Some(json!({ "code": "tn1-000000000000000000000" }));
        let headers = [("x-forwarded-for", client)];
        let control = &control;
        async move {
            control
                .call_with("POST", "/invites/resolve", "", body, &headers)
                .await
        }
    };
    ask("192.0.2.1").await.refused(404, "invite_unknown");
    ask("192.0.2.1").await.refused(429, "rate_limited");
    ask("192.0.2.2").await.refused(404, "invite_unknown");
    let lie = ask("192.0.2.3, 192.0.2.1").await;
    lie.refused(429, "rate_limited");
    let told = control.audit("&kind=invite.resolve_refused").await;
    let clients: Vec<&Value> = told.iter().map(|event| &event["client"]).collect();
    assert_eq!(clients, ["192.0.2.1", "192.0.2.2"]);
}

/// Every secret that was ever shown or sent, and nothing of any of them in a log or an error.
#[tokio::test]
async fn no_secret_is_ever_told_again() {
    let control = Control::start();
    let new = json!({ "name": "n0", "server_addr": ["192.0.2.1:1"], "pool": { "tcp": ["1-2"] } });
    let made = control
        .post("/admin/nodes", &control.admin, new)
        .await
        .with(201);
    let node = control.node("n1").await;
    let (id, code) = control
        .invite(&node, json!({ "limits": { "max_conns": 5 } }))
        .await;
    let body = json!({ "code": code });
    let resolved = control
        .post("/invites/resolve", "", body.clone())
        .await
        .with(200);
    let token = control.oauth(&code).await.with(200);
    let code_text = code.as_str();
    let mut secrets = vec![
        control.admin.clone(),
        made["token"].as_str().unwrap().to_owned(),
        node.key.clone(),
        code.clone(),
        resolved["ticket"].as_str().unwrap().to_owned(),
        token["access_token"].as_str().unwrap().to_owned(),
    ];
    // Secrets in the wrong place: none comes back in an answer but by the one who asks for it.
    let answers = [
        control.get("/admin/nodes", &node.key).await,
        control.get("/nodes/watch", &control.admin).await,
        control
            .get(&format!("/admin/audit?kind={}", "x"), code_text)
            .await,
        control
            .post("/invites/resolve", "", json!([code_text]))
            .await,
        control
            .post("/invites/resolve", "", json!({ "code": [code_text] }))
            .await,
        control
            .post(
                "/invites/resolve",
                "",
                json!({ "code": { "x": code_text } }),
            )
            .await,
        control.post("/invites/resolve", "", json!(code_text)).await,
        control
            .post(
                "/nodes/invites",
                &node.key,
                json!({ "limits": { "max_conns": code_text } }),
            )
            .await,
        control
            .post("/nodes/enroll", &control.admin, node.enrolment())
            .await,
        control.oauth(&format!("{code_text}x")).await,
        control.oauth(&node.key).await,
    ];
    for answer in answers {
        assert!(answer.status.is_client_error(), "{}", answer.text);
        for secret in &secrets {
            assert!(!answer.text.contains(secret.as_str()), "{}", answer.text);
        }
    }
    control
        .delete(&format!("/nodes/invites/{id}"), &node.key)
        .await
        .with(200);
    control
        .post("/invites/resolve", "", body)
        .await
        .refused(403, "invite_revoked");

    // And in no log, at the most talkative level, nor in the trail.
    secrets.push(code.replace('-', ""));
    secrets.push(code.strip_prefix("tn1-").unwrap().replace('-', ""));
    let trail: Vec<Value> = control.audit("").await;
    let trail = serde_json::to_string(&trail).unwrap();
    let log = control.log();
    assert!(
        log.contains("/api/v1/invites/resolve") && log.contains("refused"),
        "the log is whole"
    );
    for secret in &secrets {
        assert!(!log.contains(secret.as_str()), "a secret is in the log");
        assert!(!trail.contains(secret.as_str()), "a secret is in the trail");
    }
    // Nor in the store: only keyed hashes.
    let db = std::fs::read(control.at().join("data/db")).unwrap();
    for secret in &secrets {
        let found = db
            .windows(secret.len())
            .any(|window| window == secret.as_bytes());
        assert!(!found, "a secret is in the store");
    }
}
