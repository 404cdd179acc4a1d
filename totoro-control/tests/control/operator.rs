//! What an operator is told in the first hour, and what is not done by mistake.

use serde_json::{Value, json};

use crate::callback::Frps;
use crate::commands::Cli;
use crate::support::{Control, binary};

const ADD: [&str; 8] = [
    "node",
    "add",
    "--name",
    "n1",
    "--pool-tcp",
    "20000-20099",
    "--server-addr",
    "192.0.2.1:7000",
];

/// The value of a field in what `show` prints.
fn field(shown: &str, name: &str) -> String {
    let line = shown.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_default().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_shown_as_it_is() {
    let control = Control::start();
    let cli = Cli(&control);
    cli.text(&ADD);
    // Nothing is enrolled: there is no grade yet.
    let listed = cli.text(&["node", "list"]);
    let cells: Vec<&str> = listed.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(cells[2..5], ["offline", "-", "private"], "{listed}");
    let shown = cli.text(&["node", "show", "n1"]);
    assert_eq!(field(&shown, "grade"), "- (not enrolled)");
    assert!(!shown.contains("unenforced"), "{shown}");
    let shown = cli.json(&["node", "show", "n1"]);
    assert_eq!(
        (&shown["known_grade"], &shown["live"], &shown["draining"]),
        (&Value::Null, &json!(false), &json!(false))
    );

    // Drained, though it is offline: both count.
    cli.text(&["node", "change", "n1", "--draining", "true"]);
    assert!(cli.text(&["node", "list"]).contains("offline, draining"));
    let shown = cli.text(&["node", "show", "n1"]);
    assert_eq!(field(&shown, "state"), "offline, draining");
    assert_eq!(cli.json(&["node", "show", "n1"])["draining"], true);
    cli.text(&["node", "change", "n1", "--draining", "false"]);
    let shown = cli.text(&["node", "show", "n1"]);
    assert_eq!(field(&shown, "state"), "offline");

    // One that reports has a grade of its own.
    let node = control.node("n2").await;
    let shown = cli.json(&["node", "show", "n2"]);
    assert_eq!(
        (&shown["known_grade"], &shown["live"]),
        (&json!("kernel"), &json!(true))
    );
    cli.text(&["node", "change", &node.id, "--draining", "true"]);
    let shown = cli.text(&["node", "show", "n2"]);
    assert_eq!(field(&shown, "state"), "draining");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_is_for_people_can_be_changed() {
    let control = Control::start();
    let cli = Cli(&control);
    cli.text(&ADD);
    let change = "node change n1 --region eu-west --isp Example --tags fast,ipv6 \
                  --abuse-contact abuse@example.org --public-max {\"tenants\":7}";
    let changed = cli.json(&change.split_whitespace().collect::<Vec<_>>());
    assert_eq!(changed["region"], "eu-west");
    assert_eq!(changed["isp"], "Example");
    assert_eq!(changed["tags"], json!(["fast", "ipv6"]));
    assert_eq!(changed["abuse_contact"], "abuse@example.org");
    assert_eq!(changed["public_max"]["tenants"], 7);
    let shown = cli.text(&["node", "show", "n1"]);
    assert_eq!(field(&shown, "tags"), "fast ipv6");
    let changed = cli.json(&["node", "change", "n1", "--tags", "", "--isp", ""]);
    assert_eq!(changed["tags"], json!([]));
    assert_eq!(
        (&changed["isp"], &changed["region"]),
        (&json!(""), &json!("eu-west"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lives_is_not_taken_by_its_name() {
    let mut control = Control::start();
    let daemon = control.node("n1").await;
    Frps::new(&control, "n2", json!({})).await;
    let frps = Frps::new(&control, "n3", json!({})).await;
    let file = control.dir.path().join("new.key");
    let file = file.to_str().unwrap();
    let enrol = |control: &Control, node: &str, more: &[&str]| {
        let enrol = ["node", "enroll-callback", node, "--key-file", file];
        let done = Cli(control).output(&[&enrol, more].concat());
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        (done.status.code(), said)
    };
    // Enrolled, and its key never used: there is nobody to lock out.
    assert_eq!(enrol(&control, "n2", &[]), (Some(0), String::new()));
    std::fs::remove_file(file).unwrap();
    frps.asks(&control).await;
    for node in ["n1", "n3"] {
        let (code, said) = enrol(&control, node, &[]);
        assert_eq!(code, Some(1), "{said}");
        for word in ["conflict: node n", "was heard of", "--replace"] {
            assert!(said.contains(word), "{said}");
        }
        assert!(!std::path::Path::new(file).exists(), "no key is left");
    }
    let tokens = control.kinds("&kind=admin.node_token").await;
    assert_eq!(tokens.len(), 1, "a token would have voided the one before");
    daemon.beat(&control).await;

    // A start of the control plane makes nobody dead.
    assert!(control.terminate().success());
    control.restart();
    let (code, said) = enrol(&control, "n1", &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("may live"), "{said}");

    assert_eq!(enrol(&control, "n1", &["--replace"]).0, Some(0));
    control
        .post("/nodes/heartbeat", &daemon.key, daemon.heartbeat())
        .await
        .refused(401, "not_authorized");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invite_does_not_begin_over() {
    let control = Control::start();
    let node = control.node("n1").await;
    let path = "/nodes/invites";
    for more in [json!({}), json!({ "count": 2 })] {
        let mut new = json!({ "label": "a {n}", "expires_at": "2020-01-01T00:00:00Z" });
        let fields = new.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        let problem = control.post(path, &node.key, new).await;
        let problem = problem.refused(400, "request_malformed");
        let detail = problem["detail"].as_str().unwrap();
        let this_year = time::OffsetDateTime::now_utc().year().to_string();
        assert!(
            detail.starts_with("expires_at: 2020-01-01T00:00:00Z is past, it is ")
                && detail.contains(&this_year),
            "{detail}"
        );
    }
    assert!(control.kinds("&kind=invite.created").await.is_empty());

    // A repeat is answered after the end, too.
    let soon = time::OffsetDateTime::now_utc().unix_timestamp() + 2;
    let new = json!({ "expires_at": totoro_api::ticket::rfc3339(soon) });
    let ask = async || {
        let headers = [("idempotency-key", "k")];
        let asked = control.call_with("POST", path, &node.key, Some(new.clone()), &headers);
        asked.await.with(201)["code"].clone()
    };
    let code = ask().await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(ask().await, code);

    // One name for an end in all commands; the other is understood.
    let cli = Cli(&control);
    for flag in ["--expires", "--expires-at"] {
        let made = cli.json(&["invite", "create", "--node", "n1", flag, "7d"]);
        assert!(made["expires_at"].is_string(), "{flag}: {made}");
        let id = made["id"].as_str().unwrap();
        let changed = cli.json(&["invite", "change", id, flag, "never"]);
        assert!(changed["expires_at"].is_null(), "{flag}: {changed}");
    }
    let wrong = cli.output(&["invite", "create", "--node", "n1", "--expires", "soon"]);
    assert_eq!(wrong.status.code(), Some(2));
}

#[tokio::test]
async fn a_repeated_rotation_is_one_of_the_same_version() {
    let control = Control::start();
    let node = control.node("n1").await;
    let (id, _) = control.invite(&node, json!({})).await;
    let path = format!("/nodes/invites/{id}");
    let seen = control.get(&path, &node.key).await.etag();
    let rotate = format!("{path}/rotate");
    let ask = async |version: &str| {
        let headers = [("if-match", version), ("idempotency-key", "k")];
        control
            .call_with("POST", &rotate, &node.key, None, &headers)
            .await
    };
    let first = ask(&seen).await;
    let newer = first.etag();
    let first = first.with(200);
    assert_eq!(ask(&seen).await.with(200)["code"], first["code"]);
    ask(&newer).await.refused(409, "conflict");
    let bare = control.call_with("POST", &rotate, &node.key, None, &[]);
    assert_eq!(bare.await.status.as_u16(), 428);
}

#[test]
fn init_says_where_everything_is() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("c");
    let done = std::process::Command::new(binary())
        .args(["init", "--json", "--dir"])
        .arg(&at)
        .output()
        .unwrap();
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    let said: Value = serde_json::from_slice(&done.stdout).unwrap();
    for (name, place) in [
        ("config", "control.toml"),
        ("admin_token", "admin.token"),
        ("data_dir", "data"),
    ] {
        let named = std::path::Path::new(said[name].as_str().unwrap());
        assert_eq!(named, at.join(place));
        assert!(named.exists(), "{name}");
    }
}
