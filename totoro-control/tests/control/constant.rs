//! Whoever may not know is told the same, whatever is wrong: nobody learns from an answer whether a
//! key, a node, an invite or a code exists.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::{Answer, Control, Node, answer};

/// Endpoints that take a node's key; `{invite}` stands for one of its invites.
const OF_NODES: [(&str, &str); 22] = [
    ("POST", "/nodes/heartbeat"),
    ("POST", "/nodes/applied"),
    ("POST", "/nodes/events"),
    ("GET", "/nodes/watch"),
    ("GET", "/nodes/self"),
    ("PATCH", "/nodes/self"),
    ("POST", "/nodes/self/key"),
    ("GET", "/nodes/invites"),
    ("POST", "/nodes/invites"),
    ("GET", "/nodes/invites/{invite}"),
    ("PATCH", "/nodes/invites/{invite}"),
    ("DELETE", "/nodes/invites/{invite}"),
    ("POST", "/nodes/invites/{invite}/rotate"),
    ("GET", "/nodes/sessions"),
    ("DELETE", "/nodes/sessions/ses_1"),
    ("GET", "/nodes/bans"),
    ("POST", "/nodes/bans"),
    ("DELETE", "/nodes/bans/b-1"),
    ("GET", "/nodes/audit"),
    ("POST", "/nodes/enroll"),
    ("POST", "/frps/auth/handshake?op=Login"),
    ("POST", "/frps/auth/proxy?op=NewProxy"),
];

/// Endpoints that take an admin's token.
const OF_ADMINS: [(&str, &str); 25] = [
    ("GET", "/admin/nodes"),
    ("POST", "/admin/nodes"),
    ("GET", "/admin/nodes/{node}"),
    ("GET", "/admin/nodes/n-000000000000"),
    ("PATCH", "/admin/nodes/{node}"),
    ("DELETE", "/admin/nodes/{node}"),
    ("POST", "/admin/nodes/{node}/token"),
    ("GET", "/admin/invites"),
    ("POST", "/admin/invites"),
    ("GET", "/admin/invites/{invite}"),
    ("PATCH", "/admin/invites/{invite}"),
    ("DELETE", "/admin/invites/{invite}"),
    ("POST", "/admin/invites/{invite}/rotate"),
    ("GET", "/admin/sessions"),
    ("DELETE", "/admin/sessions/ses_1"),
    ("GET", "/admin/bans"),
    ("POST", "/admin/bans"),
    ("DELETE", "/admin/bans/b-1"),
    ("GET", "/admin/audit"),
    ("GET", "/admin/tokens"),
    ("POST", "/admin/tokens"),
    ("DELETE", "/admin/tokens/x"),
    ("GET", "/admin/ticket-keys"),
    ("POST", "/admin/ticket-keys"),
    ("POST", "/admin/backup"),
];

/// An answer without what is each request's own.
fn bare(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let own = |name: &str| ["x-request-id", "date"].contains(&name);
    let headers = answer
        .headers
        .iter()
        .filter(|(name, _)| !own(name.as_str()));
    let mut headers: Vec<_> = headers
        .map(|(name, value)| (name.to_string(), format!("{value:?}")))
        .collect();
    headers.sort();
    let id = answer.body["request_id"].as_str().unwrap_or_default();
    let text = match id {
        "" => answer.text.clone(),
        id => answer.text.replace(id, ""),
    };
    (answer.status.as_u16(), headers, text)
}

/// All of these are the same; answers it.
#[track_caller]
fn one<T: PartialEq + std::fmt::Debug>(of: Vec<T>) -> T {
    for other in &of[1..] {
        assert_eq!(*other, of[0]);
    }
    of.into_iter().next().unwrap()
}

async fn with_header(control: &Control, method: &str, path: &str, header: Option<&str>) -> Answer {
    let url = format!("{}/api/v1{path}", control.api);
    let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
    let body = match path {
        "/nodes/enroll" => Node::new("").enrolment(),
        _ => json!({}),
    };
    let mut request = control.http.request(method, url).json(&body);
    if let Some(header) = header {
        request = request.header("authorization", header);
    }
    answer(request.header("if-match", "*")).await
}

fn without_lockouts() -> Control {
    let mut control = Control::start();
    control.reconfigure(&[
        ("wrong_key = 120", "wrong_key = 1000000"),
        ("wrong_code = 120", "wrong_code = 1000000"),
        ("resolve = 120", "resolve = 1000000"),
        ("token = 240", "token = 1000000"),
        ("public = 240", "public = 1000000"),
    ]);
    control
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_key_is_not_told() {
    let control = without_lockouts();
    let node = control.node("n1").await;
    let other = control.enrolled("n2", json!({})).await;
    let (invite, code) = control.invite(&node, json!({})).await;
    let unknown = Node::new("n-000000000000").key;
    let short = &node.key[..node.key.len() - 1];
    let bearer = |text: &str| Some(format!("Bearer {text}"));
    let basic = |user: &str, key: &str| {
        let both = STANDARD.encode(format!("{user}:{key}"));
        Some(format!("Basic {both}"))
    };
    let mut wrong = vec![
        None,
        Some(String::new()),
        bearer(""),
        bearer("x"),
        bearer(&unknown),
        bearer(short),
        bearer(&format!("{}A", node.key)),
        bearer(&node.key.to_uppercase()),
        bearer(&"x".repeat(10_000)),
        bearer("ta1-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
        bearer("te1-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
        bearer(&code),
        Some(node.key.clone()),
        Some(format!("Digest {}", node.key)),
        basic("", ""),
        basic(&node.id, &unknown),
        basic("n-000000000000", &node.key),
        basic(&other.id, &node.key),
    ];
    let place = |path: &str| {
        path.replace("{invite}", &invite)
            .replace("{node}", &node.id)
    };
    let mut seen = Vec::new();
    for (endpoints, right_elsewhere) in
        [(&OF_NODES[..], &control.admin), (&OF_ADMINS[..], &node.key)]
    {
        wrong.push(bearer(right_elsewhere));
        for (method, path) in endpoints {
            let path = place(path);
            let mut answers = Vec::new();
            for header in &wrong {
                let said = with_header(&control, method, &path, header.as_deref()).await;
                answers.push(bare(&said));
            }
            let said = one(answers);
            assert_eq!(said.0, 401, "{method} {path}");
            seen.push(said);
        }
        wrong.pop();
    }
    // And all endpoints say it with the same words.
    one(seen);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_yours_is_not_there() {
    let control = without_lockouts();
    let node = control.node("n1").await;
    let other = control.node("n2").await;
    let (theirs, _) = control.invite(&other, json!({})).await;
    let nothing = format!("{}{}", &theirs[..4], "0".repeat(theirs.len() - 4));
    for (method, below) in [
        ("GET", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("POST", "/rotate"),
    ] {
        let ask = async |invite: &str| {
            let path = format!("/nodes/invites/{invite}{below}");
            let key = format!("Bearer {}", node.key);
            bare(&with_header(&control, method, &path, Some(&key)).await)
        };
        let (status, ..) = one(vec![ask(&theirs).await, ask(&nothing).await]);
        assert_eq!(status, 404, "{method}");
    }
    // A private node is nobody's business, by its id as by its name.
    let mut answers = Vec::new();
    let mut tokens = Vec::new();
    for name in [other.id.as_str(), "n2", "n-000000000000", "nowhere", "%00"] {
        let path = format!("/public/nodes/{name}/ticket");
        answers.push(bare(&control.post(&path, "", json!({})).await));
        tokens.push(bare(&control.oauth(&format!("public:{name}")).await));
    }
    assert_eq!(one(answers).0, 404);
    assert_eq!(one(tokens).0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_code_is_told_the_same_everywhere() {
    let control = without_lockouts();
    let node = control.node("n1").await;
    // One that was valid once is as unknown as one that never was.
    let (id, rotated) = control.invite(&node, json!({})).await;
    let path = format!("/nodes/invites/{id}/rotate");
    let headers = [("if-match", "*")];
    let rotating = control.call_with("POST", &path, &node.key, None, &headers);
    assert!(rotating.await.status.is_success());
    let (_, known) = control.invite(&node, json!({})).await;
    let never = ["tn1-000000000000000000000", "tn1-zzzzzzzzzzzzzzzzzzzz"];
    let unknown: Vec<String> = never.iter().map(|text| code_like(text)).collect();
    // One symbol wrong: its check symbol tells anyone that, without us.
    let mistyped = known.replace(known.chars().last().unwrap(), "");
    let no_codes = [
        "",
        "x",
        "tn1-",
        "tn1-ü",
        mistyped.as_str(),
        &"tn1-0".repeat(1000),
    ];

    for path in ["/invites/resolve", "/invites/usage"] {
        let ask = async |code: &str| control.post(path, "", json!({ "code": code })).await;
        let mut same = Vec::new();
        for code in unknown.iter().chain([&rotated]) {
            same.push(bare(&ask(code).await));
        }
        assert_eq!(one(same).0, 404, "{path}");
        for code in no_codes {
            // What is no code is as unknown; the detail says what is wrong with its form.
            ask(code).await.refused(404, "invite_unknown");
        }
    }
    let mut same = Vec::new();
    for code in unknown.iter().chain([&rotated]) {
        same.push(bare(&control.oauth(code).await));
    }
    let (status, _, text) = one(same);
    assert_eq!(status, 401);
    assert!(text.contains("totoro[invite_unknown]"), "{text}");
    for code in no_codes {
        let said = control.oauth(code).await;
        assert_eq!(
            (said.status.as_u16(), &said.body["error"]),
            (401, &json!("invalid_client"))
        );
        let line = said.body["error_description"].as_str().unwrap();
        assert!(line.starts_with("totoro[invite_unknown]: "), "{line}");
    }
    let found: Value = control.oauth(&known).await.with(200);
    assert!(found["access_token"].is_string());
}

/// A code of these symbols that is well-formed, and nobody's.
fn code_like(text: &str) -> String {
    let body = &text[..24];
    let symbols = "0123456789abcdefghjkmnpqrstvwxyz*~$=u";
    let fits = symbols.chars().map(|check| format!("{body}{check}"));
    let mut fits = fits.filter(|text| text.parse::<totoro_api::code::InviteCode>().is_ok());
    fits.next().expect("one check symbol is right")
}
