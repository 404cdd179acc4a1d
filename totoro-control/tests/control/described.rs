//! What the API says of itself is what it is.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::stream::{self, StreamExt as _};
use reqwest::Method;
use serde_json::{Value, json};
use totoro_api::Reason;
use totoro_api::reason::Lang;

use crate::support::{Answer, Control, answer, quiet};

/// Those that any path may have here.
const METHODS: [&str; 4] = ["GET", "POST", "PATCH", "DELETE"];

async fn ask(control: &Control, base: &str, method: &str, path: &str) -> Answer {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let url = format!("{base}{path}");
    answer(control.http.request(method, url)).await
}

async fn document(control: &Control, base: &str) -> Value {
    let path = "/api/v1/openapi.json";
    ask(control, base, "GET", path).await.with(200)
}

/// Each documented path and its methods, as `Allow` would say them.
fn paths(document: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let members = document["paths"].as_object().unwrap().iter();
    let methods = |methods: &Value| {
        let mut methods: BTreeSet<String> = methods
            .as_object()
            .unwrap()
            .keys()
            .map(|method| method.to_uppercase())
            .collect();
        if methods.contains("GET") {
            methods.insert("HEAD".to_owned());
        }
        methods
    };
    members
        .map(|(path, of)| (path.clone(), methods(of)))
        .collect()
}

/// Whether a route took the request.
fn is_served(answer: &Answer) -> bool {
    let nowhere = answer.status == 404 && answer.body["detail"] == "there is no such path";
    !nowhere && answer.status != 405
}

fn quiet_control() -> Control {
    Control::over(Control::init(&[]), &[quiet()])
}

#[tokio::test]
async fn every_documented_call_is_served_and_every_other_method_refused() {
    let control = quiet_control();
    let paths = paths(&document(&control, &control.api).await);
    assert!(paths.len() > 40, "{paths:?}");
    for (path, methods) in paths {
        let at = path.replace("{id}", "x-1");
        for method in METHODS
            .into_iter()
            .chain(["HEAD", "PUT", "OPTIONS", "TRACE"])
        {
            let answer = ask(&control, &control.api, method, &at).await;
            if methods.contains(method) {
                assert!(is_served(&answer), "{method} {path}: {}", answer.text);
                continue;
            }
            assert_eq!(answer.status, 405, "{method} {path}");
            let allowed = answer.headers["allow"].to_str().unwrap().split(", ");
            let allowed: BTreeSet<String> = allowed.map(str::to_owned).collect();
            assert_eq!(allowed, methods, "{path}");
            assert_eq!(answer.headers["cache-control"], "no-store");
            if method != "HEAD" {
                answer.refused(405, "unsupported");
            }
        }
    }
}

/// Routes cannot be made without being described; this looks for some all the same, at every path of
/// two words of the API's own and one word below each that is documented.
#[tokio::test]
async fn nothing_is_served_that_is_not_documented() {
    let control = quiet_control();
    let documented = paths(&document(&control, &control.api).await);
    let words: BTreeSet<&str> = documented
        .keys()
        .flat_map(|path| path.split('/'))
        .filter(|word| !word.is_empty() && *word != "{id}")
        .chain(["x-1"])
        .collect();
    let mut tried: BTreeSet<String> = BTreeSet::new();
    for first in &words {
        tried.extend([format!("/{first}"), format!("/api/v1/{first}")]);
        tried.extend(
            words
                .iter()
                .map(|second| format!("/api/v1/{first}/{second}")),
        );
        let below = |path: &String| format!("{}/{first}", path.replace("{id}", "x-1"));
        tried.extend(documented.keys().map(below));
    }
    let is_documented = |path: &str, method: &str| {
        let fits = |pattern: &str| {
            let (path, pattern) = (path.split('/'), pattern.split('/'));
            path.clone().count() == pattern.clone().count()
                && path
                    .zip(pattern)
                    .all(|(is, wanted)| wanted == "{id}" || is == wanted)
        };
        documented
            .iter()
            .any(|(pattern, methods)| fits(pattern) && methods.contains(method))
    };
    let asked = tried.iter().flat_map(|path| {
        let methods = ["GET", "POST"].into_iter();
        methods.map(move |method| (path.as_str(), method))
    });
    let asked: Vec<(&str, &str)> = asked
        .filter(|(path, method)| !is_documented(path, method))
        .collect();
    let (count, control) = (asked.len(), &control);
    let secret: Vec<String> = stream::iter(asked)
        .map(|(path, method)| async move {
            let answer = ask(control, &control.api, method, path).await;
            is_served(&answer).then(|| format!("{method} {path}"))
        })
        .buffer_unordered(16)
        .filter_map(|found| async { found })
        .collect()
        .await;
    println!(
        "{count} calls that are not documented, {} served",
        secret.len()
    );
    assert!(secret.is_empty(), "{secret:?}");
}

#[tokio::test]
async fn each_address_describes_what_it_serves() {
    let mut control = Control::start();
    let admin = control.with_admin_address();
    let of = |document: &Value, group: &str| {
        let paths = paths(document);
        paths.keys().filter(|path| path.starts_with(group)).count()
    };
    let main = document(&control, &control.api).await;
    let ours = document(&control, &admin).await;
    assert_eq!(
        (of(&main, "/api/v1/admin"), of(&ours, "/api/v1/nodes")),
        (0, 0)
    );
    assert!(of(&main, "/api/v1/nodes") > 10 && of(&ours, "/api/v1/admin") > 10);
    assert_eq!((of(&main, "/metrics"), of(&ours, "/metrics")), (0, 1));
    for both in ["/healthz", "/api/v1/docs", "/api/v1/openapi.json"] {
        assert_eq!((of(&main, both), of(&ours, both)), (1, 1), "{both}");
    }
}

#[tokio::test]
async fn whatever_changes_or_removes_takes_an_idempotency_key() {
    let control = quiet_control();
    let document = document(&control, &control.api).await;
    let mut changes = 0;
    for (path, of) in document["paths"].as_object().unwrap() {
        for method in ["patch", "delete"] {
            let Some(call) = of.get(method) else {
                continue;
            };
            let mut parameters = call["parameters"].as_array().unwrap().iter();
            let takes = parameters.any(|one| one["name"] == "Idempotency-Key");
            assert!(
                takes && call["responses"].get("409").is_some(),
                "{method} {path}"
            );
            changes += 1;
        }
    }
    assert_eq!(changes, 12);
}

#[tokio::test]
async fn every_reason_is_documented_and_a_problem_points_to_it() {
    let control = Control::start();
    let document = document(&control, &control.api).await;
    let codes = document["components"]["schemas"]["Reason"]["enum"].clone();
    let page = ask(&control, &control.api, "GET", "/api/v1/docs").await;
    for (index, reason) in Reason::ALL.iter().enumerate() {
        assert_eq!(codes[index], reason.code());
        let anchor = format!("id=\"{reason}\"");
        for text in [&anchor, reason.what(Lang::Zh), reason.next(Lang::Zh)] {
            assert!(page.text.contains(text), "{text}");
        }
    }
    let problem = control.get("/nowhere", "").await.refused(404, "not_found");
    assert_eq!(problem["type"], "/api/v1/docs#not_found");
    // Each refusal that a call may have is told with its reasons, their lines and the next steps.
    let refused = &document["paths"]["/api/v1/invites/resolve"]["post"]["responses"]["403"];
    let text = refused["description"].as_str().unwrap();
    let told = format!("`invite_paused`: {}; ", Reason::InvitePaused.what(Lang::En));
    assert!(text.contains(&told), "{text}");
}

#[tokio::test]
async fn the_page_is_whole_without_anything_from_elsewhere() {
    let control = Control::start();
    let page = ask(&control, &control.api, "GET", "/api/v1/docs").await;
    for path in paths(&document(&control, &control.api).await).keys() {
        assert!(
            page.text.contains(&format!("<code>{path}</code>")),
            "{path}"
        );
    }
    for foreign in [
        "<script", "style=\"", "src=", "http://", "https://", "@import", "url(",
    ] {
        assert!(!page.text.contains(foreign), "{foreign}");
    }
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(
        policy.starts_with("default-src 'none'; style-src 'sha256-"),
        "{policy}"
    );
    assert!(!policy.contains("unsafe"), "{policy}");
    let style = page.text.split_once("<style>").unwrap().1;
    let style = style.split_once("</style>").unwrap().0;
    let hash = ring::digest::digest(&ring::digest::SHA256, style.as_bytes());
    let hash = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, hash);
    assert!(
        policy.contains(&hash),
        "the style is the one that is allowed"
    );
    // Kept by caches, and asked for again cheaply.
    let etag = page.etag();
    let cached = page.headers["cache-control"].to_str().unwrap();
    assert!(cached.starts_with("public, max-age="), "{cached}");
    let headers = [("if-none-match", etag.as_str())];
    let again = control.call_with("GET", "/docs", "", None, &headers).await;
    assert_eq!((again.status.as_u16(), again.text.as_str()), (304, ""));
}

/// The examples are what the server takes.
#[tokio::test]
async fn the_examples_are_true() {
    let control = Control::start();
    let node = control.node("n0").await;
    let document = document(&control, &control.api).await;
    let mut told = 0;
    for (path, calls) in document["paths"].as_object().unwrap() {
        let Some(call) = calls.get("post").or_else(|| calls.get("patch")) else {
            continue;
        };
        let example = &call["requestBody"]["content"]["application/json"]["example"];
        if example.is_null() || path.contains("/frps/") {
            continue;
        }
        told += 1;
        let mut body = example.clone();
        let key = if path.contains("/admin/") {
            &control.admin
        } else {
            &node.key
        };
        // What only a real installation can say.
        match path.as_str() {
            "/api/v1/nodes/heartbeat" => body["instance"] = json!(node.instance),
            "/api/v1/admin/invites" => body["node"] = json!("n0"),
            "/api/v1/nodes/enroll" | "/api/v1/invites/resolve" | "/api/v1/invites/usage" => {
                continue;
            }
            _ => {}
        }
        let (id, _) = control.invite(&node, json!({})).await;
        let id = if path.contains("/admin/nodes/") {
            &node.id
        } else {
            &id
        };
        let at = path.strip_prefix("/api/v1").unwrap().replace("{id}", id);
        let method = if calls.get("post").is_some() {
            "POST"
        } else {
            "PATCH"
        };
        let headers = [("if-match", "*")];
        let answer = control
            .call_with(method, &at, key, Some(body), &headers)
            .await;
        let status = answer.status.as_u16();
        assert!(
            answer.status.is_success(),
            "{method} {path}: {}",
            answer.text
        );
        assert!(
            call["responses"].get(status.to_string()).is_some(),
            "{status} {path}"
        );
    }
    assert!(told > 10, "{told}");
}
